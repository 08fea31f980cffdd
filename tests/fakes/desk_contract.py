"""The contract of the port ``Desk`` as checks that any desk must pass: the fake, the HTTP client, the actors'.

A check starts its own runs. ``ask_text`` must make the desk ask, ``plain_text`` must not.
"""

from __future__ import annotations

import io
import zipfile

import pytest

from app.domain.errors import ConflictError, NotFoundError, RequestError
from app.domain.ports import Desk
from app.domain.run import RunEvent, RunRequest, RunStatus

WAIT_S = 5.0


async def events_to_the_end(desk: Desk, run_id: str, after_seq: int = 0) -> list[RunEvent]:
    """Return every event after ``after_seq`` up to run.finished."""
    events: list[RunEvent] = []
    while not events or events[-1].kind != "run.finished":
        batch = await desk.events(run_id, events[-1].seq if events else after_seq, wait_s=WAIT_S)
        assert batch, "the desk must say something within its wait"
        events.extend(batch)
    return events


async def check_run_is_played_to_its_document(desk: Desk, plain_text: str) -> None:
    """A run's events are numbered from 1 without gaps, and after the last of them its document is there."""
    record = await desk.start(RunRequest(text=plain_text))
    events = await events_to_the_end(desk, record.run_id)
    ended = await desk.get(record.run_id)

    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {event.run_id for event in events} == {record.run_id}
    assert ended.status is RunStatus.COMPLETED
    assert ended.document is not None
    assert ended.document["run_id"] == record.run_id


async def check_events_resume_anywhere(desk: Desk, plain_text: str) -> None:
    """Reading after any sequence number gives exactly the rest."""
    record = await desk.start(RunRequest(text=plain_text))
    events = await events_to_the_end(desk, record.run_id)
    middle = len(events) // 2
    rest = await events_to_the_end(desk, record.run_id, after_seq=middle)

    assert rest == events[middle:]
    assert list(await desk.events(record.run_id, events[-1].seq, wait_s=0.0)) == []


async def check_idempotency_key_is_honoured(desk: Desk, plain_text: str) -> None:
    """The same key with the same request is the same run; with another request it is refused."""
    first = await desk.start(RunRequest(text=plain_text, idempotency_key="key-1"))
    second = await desk.start(RunRequest(text=plain_text, idempotency_key="key-1"))

    assert second.run_id == first.run_id
    with pytest.raises(ConflictError):
        await desk.start(RunRequest(text=plain_text + " and more", idempotency_key="key-1"))


async def check_answers_let_a_run_go_on(desk: Desk, ask_text: str) -> None:
    """A run that asks waits, refuses unknown ids, and completes once it is answered."""
    record = await desk.start(RunRequest(text=ask_text))
    seq = 0
    while (await desk.get(record.run_id)).status is not RunStatus.NEEDS_ANSWERS:
        for event in await desk.events(record.run_id, seq, wait_s=WAIT_S):
            seq = event.seq
    question = (await desk.get(record.run_id)).questions[0]
    with pytest.raises(RequestError):
        await desk.answer(record.run_id, {"no-such-question": "x"}, assume_rest=False)
    answered = await desk.answer(record.run_id, {question.id: "Hanoi"}, assume_rest=True)
    await events_to_the_end(desk, record.run_id, after_seq=seq)

    assert answered.status is not RunStatus.NEEDS_ANSWERS
    assert dict(answered.answers)[question.id] == "Hanoi"
    assert (await desk.get(record.run_id)).status is RunStatus.COMPLETED
    with pytest.raises(ConflictError):
        await desk.answer(record.run_id, {question.id: "Hanoi"}, assume_rest=False)


async def check_cancel_ends_a_run_once(desk: Desk, plain_text: str) -> None:
    """Cancelling ends a run with an event; cancelling again changes nothing."""
    record = await desk.start(RunRequest(text=plain_text))
    await desk.cancel(record.run_id)
    events = await events_to_the_end(desk, record.run_id)
    again = await desk.cancel(record.run_id)

    assert events[-1].payload["status"] == "cancelled"
    assert again.status is RunStatus.CANCELLED
    assert list(await desk.events(record.run_id, events[-1].seq, wait_s=0.0)) == []


async def check_unknown_run_is_not_found(desk: Desk) -> None:
    """Every method that names a run raises NotFoundError for one that does not exist."""
    with pytest.raises(NotFoundError):
        await desk.get("run-none")
    with pytest.raises(NotFoundError):
        await desk.events("run-none", 0, wait_s=WAIT_S)
    with pytest.raises(NotFoundError):
        await desk.answer("run-none", {}, assume_rest=True)
    with pytest.raises(NotFoundError):
        await desk.cancel("run-none")


async def check_list_is_newest_first_and_paged(desk: Desk, plain_text: str) -> None:
    """The list gives the newest first, and ``before_s`` the next page."""
    for _ in range(3):
        await desk.start(RunRequest(text=plain_text))
    first = await desk.list_runs(limit=2)
    second = await desk.list_runs(limit=2, before_s=first[-1].created_s)

    assert len(first) == 2
    assert first[0].created_s > first[1].created_s
    assert second
    assert not {record.run_id for record in first} & {record.run_id for record in second}


async def check_empty_request_is_refused(desk: Desk) -> None:
    """A blank request is the caller's mistake."""
    with pytest.raises(RequestError):
        await desk.start(RunRequest(text="  \n"))


async def check_a_task_is_done_again(desk: Desk, plain_text: str) -> None:
    """An ended run goes on with the task, ends again, and can be followed from its first event to its last."""
    record = await desk.start(RunRequest(text=plain_text))
    with pytest.raises(ConflictError):
        await desk.retry(record.run_id, "t1")
    first = await events_to_the_end(desk, record.run_id)
    with pytest.raises(RequestError):
        await desk.retry(record.run_id, "t99")

    again = await desk.retry(record.run_id, "t1")
    second = await events_to_the_end(desk, record.run_id, after_seq=first[-1].seq)

    assert not again.status.ended
    assert second[0].kind == "run.retried"
    assert [event.seq for event in second] == list(range(first[-1].seq + 1, first[-1].seq + 1 + len(second)))
    assert (await desk.get(record.run_id)).status is RunStatus.COMPLETED


async def check_a_fork_leaves_its_source_alone(desk: Desk, plain_text: str) -> None:
    """A fork is a run of its own with its own end; the run before stays as it was."""
    source = await desk.start(RunRequest(text=plain_text))
    with pytest.raises(NotFoundError):
        await desk.fork("run-nobody", "t1")
    await events_to_the_end(desk, source.run_id)
    before = await desk.get(source.run_id)

    fork = await desk.fork(source.run_id, "t2", more="Be brief.")
    await events_to_the_end(desk, fork.run_id)

    assert fork.run_id != source.run_id
    assert fork.forked_from == source.run_id
    assert (await desk.get(fork.run_id)).status is RunStatus.COMPLETED
    assert await desk.get(source.run_id) == before


async def check_an_export_is_one_zip(desk: Desk, plain_text: str) -> None:
    """Whatever way it comes, it is whole, and there is none of a run that is not there."""
    record = await desk.start(RunRequest(text=plain_text))
    await events_to_the_end(desk, record.run_id)

    packed = zipfile.ZipFile(io.BytesIO(await desk.export(record.run_id)))

    assert packed.testzip() is None
    assert f"{record.run_id}/run.json" in packed.namelist()
    with pytest.raises(NotFoundError):
        await desk.export("run-nobody")
