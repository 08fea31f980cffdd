"""A run is one trace in all its lives: stages, tasks and calls under it, whoever conducts it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from actors.store import Store
from app.domain.books.budgets import Owners
from app.domain.calls import CallAnswer, ModelCall
from app.domain.run import RunRecord
from app.domain.trace_context import TraceContext, enter, trace_id
from app.services.conduct import Conductor, Tools
from app.services.prompts import Prompts
from app.services.telemetry.tracing import Recorder, record_into
from tests.fakes.clock import RunningClock
from tests.fakes.journal import InProcessJournal
from tests.fakes.models import ScriptedCaller, orchestra
from tests.unit.app.services.test_conduct import a_record, by_purpose

TRACE = TraceContext(trace_id="ab" * 16, span_id="cd" * 8, sampled=True, state="vendor=1")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    record_into(recorder)
    yield recorder
    record_into(None)
    enter(None)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(str(tmp_path))
    yield store
    await store.close()


class Seen:
    """A caller that notes in which trace it was asked; after ``answers`` calls it lets everybody wait."""

    def __init__(self, answers: int) -> None:
        self.traces: set[str] = set()
        self.left = answers
        self.waiting = asyncio.Event()
        self._script = ScriptedCaller(by_purpose)

    async def call(self, call: ModelCall) -> CallAnswer:
        self.traces.add(trace_id())
        self.left -= 1
        if self.left < 0:
            self.waiting.set()
            await asyncio.Event().wait()
        return await self._script.call(call)


def conductor(record: RunRecord, store: Store, caller: Seen) -> Conductor:
    tools = Tools(
        caller=caller,
        journal=InProcessJournal(store),
        clock=RunningClock(),
        orchestra=orchestra(redo_max=1),
        prompts=Prompts.load(),
    )
    return Conductor(record, tools)


async def test_run_that_is_taken_up_again_goes_on_in_its_trace(store: Store, recorder: Recorder) -> None:
    """Its trace is in the journal with it: what the second life does stands beside what the first one did."""
    record = a_record()
    record = replace(record, request=replace(record.request, trace=TRACE))
    await store.create_run(record)
    first = Seen(answers=2)
    life = asyncio.create_task(conductor(record, store, first).conduct())
    await first.waiting.wait()
    spans_before = {span.name for span in recorder.ended}
    taken = await store.take_run(record.run_id, record.epoch, "second")
    # The first life is gone without a word, as after a kill.
    life.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await life
    second = Seen(answers=1_000)
    ended = await conductor(taken, store, second).conduct()
    names = [span.name for span in recorder.ended]

    assert ended.status.ended
    assert taken.request.trace == TRACE
    assert first.traces == second.traces == {TRACE.trace_id}
    assert {span.context.trace_id for span in recorder.ended} == {TRACE.trace_id}
    assert names.count("run") == 2
    assert {span.parent_id for span in recorder.ended if span.name == "run"} == {TRACE.span_id}
    assert {"task", "merge", "evaluate", "settle", "judge"} <= set(names)
    assert "merge" not in spans_before


async def test_trace_of_a_request_makes_no_other_request_of_it(store: Store) -> None:
    """The same idempotency key with another trace, as every repeat has, is the same run."""
    record = a_record()
    record = replace(record, request=replace(record.request, idempotency_key="k", trace=TRACE))
    other = replace(record.request, trace=replace(TRACE, trace_id="ef" * 16))
    made = await store.create_run(record)
    again = await store.create_run(replace(record, run_id="run-2", request=other))

    assert again.run_id == made.run_id
    assert again.request.trace == TRACE


async def test_every_event_of_a_run_names_its_trace_and_its_user(store: Store) -> None:
    """Lines of the run, calls and judgements: what is looked for in Elasticsearch by the id of an answer's header, and
    what is deleted there when that user is to be forgotten.
    """
    record = a_record()
    buyers = Owners(team="red", user="ada", key="ci")
    record = replace(record, request=replace(record.request, trace=TRACE, buyers=buyers))
    await store.create_run(record)
    await conductor(record, store, Seen(answers=1_000)).conduct()
    waiting = await store.outbox("pending", (0, 1_000, 10_000_000))
    assert isinstance(waiting, list)
    told = [json.loads(event.body) for event in waiting]
    kinds = {one["event.action"] for one in told}

    assert {"run.finished", "task.finished", "task.judged", "call.finished"} <= kinds
    assert {one["trace.id"] for one in told} == {TRACE.trace_id}
    assert {(one["user.id"], one["tutti.caller.team"], one["tutti.caller.key"]) for one in told} == {
        ("ada", "red", "ci")
    }
