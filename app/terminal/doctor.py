"""`tutti doctor`: one page of what is wrong and what to do about it. Changes nothing, calls no provider."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from app import settings
from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.errors import GatewayError
from app.ready_file import find_metrics, find_server
from app.storage.place import Place
from app.terminal import doctor_probes as probes
from app.terminal.client import HttpDesk
from app.terminal.connect import Target, checked_address
from app.terminal.doctor_probes import Finding
from app.terminal.output import ExitStatus, emit_json, standard_output
from app.terminal.words import printable

_MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}


async def doctor(target: Target, *, as_json: bool) -> int:
    """Look at everything; the status is 4 where something is wrong, as for a command without an answer."""
    findings = [finding async for finding in examine(target)]
    bad = [finding for finding in findings if finding.level == "wrong"]
    if as_json:
        rows: list[Json] = [{**asdict(finding)} for finding in findings]
        emit_json({"ok": not bad, "findings": rows})
    else:
        _print(findings)
    return int(ExitStatus.NO_ANSWER if bad else ExitStatus.ANSWERED)


async def examine(target: Target) -> AsyncIterator[Finding]:
    """Yield what is found, what everything else stands on first."""
    try:
        orchestra = settings.load(target.config)
    except GatewayError as error:
        yield probes.of_error("configuration", error)
        if target.server is not None:
            async for finding in _of_server(checked_address(target.server)):
                yield finding
        return
    for finding in _of_machine(orchestra, target.server):
        yield finding
    url = checked_address(target.server) if target.server else find_server(Path(orchestra.data_dir))
    if url is not None:
        async for finding in _of_server(url):
            yield finding


def _of_machine(orchestra: Orchestra, server: str | None) -> Iterable[Finding]:
    directory = Path(orchestra.data_dir)
    yield from probes.look_at_configuration(orchestra)
    yield from probes.look_at_directory(directory)
    place = Place(directory, orchestra.store_url)
    yield from probes.look_at_store(place)
    yield from probes.look_at_events(directory, ships=orchestra.events.ships)
    yield from probes.look_at_outbox(place, ships=orchestra.events.ships)
    yield from probes.look_at_receivers(orchestra)
    yield probes.look_at_port(directory, server)
    metrics = find_metrics(directory)
    if metrics:
        yield probes.ok("metrics", f"stand on {', '.join(metrics)}")


async def _of_server(url: str) -> AsyncIterator[Finding]:
    desk = HttpDesk(url)
    try:
        sent_s = time.time()
        date = await desk.date()
        yield probes.judge_clock(date, sent_s, time.time())
        for finding in probes.judge_parts(dict(await desk.ready())):
            yield finding
        rows = await desk.accounts()
        judged = [found for row in rows if (found := probes.judge_account(row)) is not None]
        for finding in judged or [probes.ok("accounts", f"{len({row.account for row in rows})} serve")]:
            yield finding
    except GatewayError as error:
        yield probes.of_error("server", error)
    finally:
        await desk.aclose()


def _print(findings: list[Finding]) -> None:
    console = standard_output()
    for finding in findings:
        mark, style = _MARKS[finding.level]
        console.print(Text.assemble((mark, style), f" {finding.part}: {printable(finding.says)}"), soft_wrap=True)
        if finding.remedy and finding.level != "ok":
            console.print(Text(f"      → {printable(finding.remedy)}"), soft_wrap=True)
    bad = sum(finding.level == "wrong" for finding in findings)
    notes = sum(finding.level == "note" for finding in findings)
    console.print(Text(f"{bad} wrong, {notes} to note" if bad or notes else "nothing is wrong", "bold"))
