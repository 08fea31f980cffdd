"""Progress lines are all written when a log closes, and a refusal that comes late stops nobody but its run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from actors.store import Store
from app.domain.errors import CancelledError, ConflictError, GatewayError, RunTakenError
from app.domain.run import RunEvent, RunRecord, RunRequest, RunStatus
from app.services import run_log
from app.services.conduct import Conductor, Tools
from app.services.prompts import Prompts
from app.services.run_journal import RunJournal
from app.services.run_log import RunLog
from tests.fakes.clock import RunningClock
from tests.fakes.journal import InProcessJournal
from tests.fakes.models import Reply, ScriptedCaller, orchestra

CLOCK = RunningClock()


class Slow:
    """A journal whose write takes until it is let go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go_on = asyncio.Event()
        self.written: list[str] = []

    async def append_events(self, events: Sequence[RunEvent]) -> None:
        self.began.set()
        await self.go_on.wait()
        self.written.extend(event.kind for event in events)


async def test_closing_waits_for_lines_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes the journal next would cut a write in the middle."""
    monkeypatch.setattr(run_log, "FLUSH_S", 0.0)
    journal = Slow()
    log = RunLog("run-1", journal, CLOCK)
    log.emit("run.note", text="one")
    await journal.began.wait()

    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0)
    assert not closing.done()
    journal.go_on.set()
    await closing

    assert journal.written == ["run.note"]


class Refusing(InProcessJournal):
    """A journal that refuses progress lines with ``error``."""

    def __init__(self, store: Store, error: GatewayError) -> None:
        super().__init__(store)
        self.error = error

    async def append_events(self, events: Sequence[RunEvent], epoch: int = 0) -> None:
        raise self.error


def a_journal(store: Store, error: GatewayError) -> tuple[RunJournal, list[str]]:
    lost: list[str] = []
    return RunJournal(Refusing(store, error), "run-1", 0, on_lost=lambda: lost.append("run-1")), lost


async def test_only_another_conductor_takes_a_run_away(tmp_path: Path) -> None:
    """A directory that is in use for a moment, say, says nothing about who conducts."""
    store = Store(str(tmp_path))
    kept, lost = a_journal(store, ConflictError("the data directory is in use by another process"))
    with pytest.raises(ConflictError, match="in use"):
        await kept.append_events(())
    assert (kept.lost, lost) == (False, [])

    taken, lost = a_journal(store, RunTakenError("the run 'run-1' has another conductor by now"))
    with pytest.raises(CancelledError):
        await taken.append_events(())
    assert (taken.lost, lost) == (True, ["run-1"])


async def test_a_conductor_that_has_ended_stops_nobody(tmp_path: Path) -> None:
    """Its caller goes on in the same task: a refusal that comes afterwards must not cancel that."""

    def by_purpose(_call: object) -> Reply:
        return "It is so."

    store = Store(str(tmp_path))
    journal = InProcessJournal(store)
    request = RunRequest(text="Say so.")
    now_s = CLOCK.wall_s()
    record = await journal.create_run(
        RunRecord(run_id="run-1", status=RunStatus.ACCEPTED, request=request, created_s=now_s, updated_s=now_s)
    )
    tools = Tools(
        caller=ScriptedCaller(by_purpose), journal=journal, clock=CLOCK, orchestra=orchestra(), prompts=Prompts.load()
    )
    conductor = Conductor(record, tools)
    await conductor.conduct()
    await store.take_run("run-1", record.epoch, "another")

    conductor.emit("run.note", text="late")
    late = asyncio.create_task(conductor.log.close())
    await asyncio.wait([late])  # a cancellation of this test would end it here

    assert isinstance(late.exception(), CancelledError)
    this = asyncio.current_task()
    assert this is not None
    assert this.cancelling() == 0
    await store.close()
