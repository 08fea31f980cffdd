"""Ends processes of a running server with SIGKILL at the times that the seed chose."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from typing import Any

from app.domain.hosting import CALLERS_HOST
from tests.torture.evidence import Kill
from tests.torture.setting import Planned, Setting, Victim
from tests.torture.stage import LookError, Stage

REPLICA = "SERVE_REPLICA"
CHOICE_S = 0.5


async def kill_as_planned(stage: Stage, setting: Setting, began_s: float, kills: list[Kill]) -> None:
    """Kill one after the other; where a victim is just being restarted, wait for it."""
    chance = setting.chance("victims")
    for planned in setting.planned():
        await asyncio.sleep(max(0.0, began_s + planned.at_s - time.monotonic()))
        kills.append(await _kill(stage, planned, chance))


async def _kill(stage: Stage, planned: Planned, chance: random.Random) -> Kill:
    while True:
        try:
            seen = await stage.look()
        except LookError:
            seen = {"actors": [], "hosts": {}}
        able = [actor for actor in seen["actors"] if is_victim(actor, planned.victim, seen["hosts"])]
        if able:
            victim = chance.choice(sorted(able, key=lambda actor: str(actor["name"])))
            at_s = time.monotonic()
            os.kill(int(victim["pid"]), signal.SIGKILL)
            name = str(victim["name"])
            accounts = tuple(account for account, host in seen["hosts"].items() if host == name)
            return Kill(at_s=at_s, victim=planned.victim, name=name, accounts=accounts)
        await asyncio.sleep(CHOICE_S)


def is_victim(actor: dict[str, Any], victim: Victim, hosts: dict[str, str]) -> bool:
    """Tell whether an actor is of the kind that is to be killed."""
    match victim:
        case "replica":
            return str(actor["name"]).startswith(REPLICA)
        case "account":
            return actor["name"] in hosts.values() and actor["name"] != CALLERS_HOST
        case "callers":
            return bool(actor["name"] == CALLERS_HOST)
