"""Plays one soak: starts the processes, lets clients call and kills happen, gathers the evidence, ends everything."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from tests.torture import clients, kills, stage
from tests.torture.evidence import Evidence, Row
from tests.torture.setting import RATES, Setting
from tests.torture.stage import LookError, Stage

LOOK_EVERY_S = 1.0
PATIENCE_S = 75.0
"""For everything to be given back after the load: the silence of a holder that was killed, restarts, some more."""
SETTLE_PAUSE_S = 0.5
OVER_LIMIT = ("rpm", "tpm", "itpm", "otpm", "rpd", "concurrency")
GONE_S = 1e9

Tell = Callable[[str], None]


async def play(setting: Setting, tell: Tell) -> Evidence:
    """Return what a soak left behind."""
    with stage.opened(setting) as opened:
        evidence = Evidence(began_s=time.monotonic(), wanted_replicas=setting.replicas)
        tell(f"{opened.url} is up; the load begins")
        watching = [
            asyncio.create_task(_weigh(opened, setting, evidence)),
            asyncio.create_task(_count(opened, evidence)),
        ]
        killing = asyncio.create_task(kills.kill_as_planned(opened, setting, evidence.began_s, evidence.kills))
        try:
            await clients.play(opened.url, setting, evidence.calls)
            evidence.ended_s = time.monotonic()
            tell(f"{len(evidence.calls)} calls are through; waiting for everything to be given back")
            await killing
            await _settle(opened, evidence)
        finally:
            for task in (*watching, killing):
                task.cancel()
            await asyncio.gather(*watching, killing, return_exceptions=True)
        _read_books(opened, evidence)
        tell("ending the server")
        await asyncio.to_thread(opened.end, evidence)
    return evidence


async def _weigh(opened: Stage, setting: Setting, evidence: Evidence) -> None:
    """Read memory until cancelled; names of processes come with the looks at the actors."""
    names: dict[int, str] = {}
    while True:
        with contextlib.suppress(LookError, TimeoutError):
            names.update({int(actor["pid"]): str(actor["name"]) for actor in (await opened.look())["actors"]})
        await asyncio.to_thread(opened.weigh, evidence, names)
        await asyncio.sleep(setting.sample_s)


async def _count(opened: Stage, evidence: Evidence) -> None:
    """Note the accounts' counts until cancelled: those of a killed actor are gone after it."""
    while True:
        with contextlib.suppress(LookError, TimeoutError):
            evidence.counted.note(_of_accounts(await opened.look()))
        await asyncio.sleep(LOOK_EVERY_S)


async def _settle(opened: Stage, evidence: Evidence) -> None:
    """Wait until nothing is open at the provider and nothing is held, or patience ends."""
    began_s = time.monotonic()
    while True:
        evidence.open_upstream = await opened.open_upstream()
        seen: dict[str, Any] = {"views": [], "silent": ["no answer"], "actors": []}
        with contextlib.suppress(LookError, TimeoutError):
            seen = await opened.look()
        evidence.held = {
            f"{view['account']}/{view['model']}": view["in_flight"] for view in seen["views"] if view["in_flight"]
        }
        evidence.held |= {f"{host} (silent)": 0 for host in seen["silent"]}
        evidence.replicas = sum(str(actor["name"]).startswith(kills.REPLICA) for actor in seen["actors"])
        evidence.counted.note(_of_accounts(seen))
        evidence.settled_s = time.monotonic() - began_s
        settled = not evidence.held and not evidence.open_upstream and evidence.replicas == evidence.wanted_replicas
        if settled or evidence.settled_s > PATIENCE_S:
            return
        await asyncio.sleep(SETTLE_PAUSE_S)


def _of_accounts(seen: dict[str, Any]) -> list[Any]:
    return [view for view in seen["views"] if str(view["account"]) in RATES]


def _read_books(opened: Stage, evidence: Evidence) -> None:
    """Take the simulator's log and counts over."""
    stats = opened.provider.stats()
    zero_s = time.monotonic() - stats["elapsed_s"]
    rejected = stats["total"]["rejected"]
    evidence.over_limit = {kind: rejected[kind] for kind in OVER_LIMIT if rejected.get(kind)}
    evidence.rows = [
        Row(
            ask=row["text"].partition(" ")[0],
            account=row["key"].removeprefix("sk-"),
            model=row["model"],
            began_s=zero_s + row["at_ns"] / 1e9,
            ended_s=zero_s + row["end_ns"] / 1e9 if row["end_ns"] is not None else GONE_S,
            status=row["status"] or 0,
            fault=row["fault"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
        )
        for row in stats["log"]
        if row["rejected"] is None
    ]
