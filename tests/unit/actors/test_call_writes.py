"""Calls of many callers are written together, and each stands for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.store import Store
from app.domain.errors import InternalError, NotFoundError, QuotaError, RunTakenError
from app.domain.run import CallRecord, CallState
from tests.fakes.ledger_commands import NOON_S, a_budget, a_hold, a_settle, an_entry
from tests.unit.actors.test_store import a_run


def a_call(key: str, run_id: str = "run-1", **fields: Any) -> CallRecord:
    return CallRecord(
        key=key, run_id=run_id, task_id="t1", purpose="task", attempt=1, **{"state": CallState.SENT, **fields}
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with two runs, the second conducted by a later epoch, and a budget with room for one hold of 100."""
    opened = Store(str(tmp_path), wall_s=lambda: NOON_S)
    await opened.create_run(a_run())
    await opened.create_run(replace(a_run("run-2"), epoch=1))
    await opened.sync_books([a_budget(name="alice", limit_nano=150)], [])
    yield opened
    await opened.close()


async def test_what_is_refused_of_one_caller_is_nothing_to_the_others(store: Store) -> None:
    """A full budget, a run that somebody else conducts, a run that is not there: their neighbours are written."""
    answers = await store.write_batch(
        [
            ("record_calls", ([a_call("a")], [a_hold("a", 100)])),
            ("append_events", ([], 0)),
            ("record_calls", ([a_call("too-dear")], [a_hold("too-dear", 100)])),
            ("record_calls", ([a_call("stale", "run-2")], [])),
            ("record_calls", ([a_call("nowhere", "run-3")], [])),
            ("record_calls", ([a_call("b"), a_call("c", answer="paid for", state=CallState.DONE)], [])),
        ]
    )

    refused = [None, None, QuotaError, RunTakenError, NotFoundError, None]
    assert [None if answer is None else type(answer) for answer in answers] == refused
    assert {call.key: call.answer for call in await store.calls_of("run-1")} == {"a": None, "b": None, "c": "paid for"}
    assert await store.calls_of("run-2") == []
    (figures,) = await store.budget_figures()
    assert figures.held == 100


async def test_a_call_and_its_command_are_written_both_or_not_at_all(store: Store) -> None:
    """A command without its row would book what nobody can find; the entry that another writes stays."""
    await store.record_calls([a_call("a")], [a_hold("a", 100)])
    bad = replace(a_call("b"), attempt=None)  # type: ignore[arg-type]  # what no caller would say: the schema refuses it

    answers = await store.write_batch(
        [
            ("record_calls", ([bad], [a_hold("b", 10)])),
            ("record_calls", ([a_call("a", state=CallState.DONE)], [a_settle("a", an_entry("a", 40))])),
        ]
    )

    assert [type(answer) for answer in answers] == [InternalError, type(None)]
    assert [call.state for call in await store.calls_of("run-1")] == [CallState.DONE]
    (figures,) = await store.budget_figures()
    assert (figures.held, figures.spent) == (0, 40)


async def test_a_hold_comes_with_no_other_command(store: Store) -> None:
    """It may be refused, and what comes with it would be booked."""
    with pytest.raises(AssertionError):
        await store.record_calls([a_call("a")], [a_hold("a", 100), a_settle("a", an_entry("a"))])
