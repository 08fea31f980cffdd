"""Follows a run through the port ``Desk`` until it rests, and says what its document is then.

The one place that knows when a run has nothing more to say; the HTTP app and the command line both wait with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import cast

from app.domain.chat import Json
from app.domain.ports import Desk
from app.domain.run import ResultDocument, RunEvent, RunRecord, RunStatus
from app.http.wire import listed

FINISHED = "run.finished"
QUESTIONS = "run.questions"


async def follow(
    desk: Desk, run_id: str, *, after_seq: int, wait_s: float, stop_at_questions: bool
) -> AsyncIterator[Sequence[RunEvent]]:
    """Yield the run's events in batches, in order and without gaps, until the run rests.

    Args:
        after_seq: The last event the caller has seen; 0 for none.
        wait_s: Longest wait for a batch; an empty batch is yielded then, for the caller's own sign of life.
        stop_at_questions: Whether a run that waits for answers rests too, or is waited for.

    Raises:
        NotFoundError: no such run.
        InternalError: the cluster does not answer; the run goes on, and following may be resumed.
    """
    seq = after_seq
    while True:
        events = await desk.events(run_id, seq, wait_s=wait_s)
        if events:
            seq = events[-1].seq
        yield events
        kinds = {event.kind for event in events}
        if events and not kinds & {FINISHED, QUESTIONS}:
            continue
        record = await desk.get(run_id)
        if FINISHED in kinds:
            if record.status.ended:
                return
            # A part of it is being done again.
            continue
        if stop_at_questions and record.status is RunStatus.NEEDS_ANSWERS:
            return
        if record.status.ended:
            # It ended between the two calls, or its last event was seen before: whatever is left is there now, and
            # this wait is only for a desk behind a network.
            while rest := await desk.events(run_id, seq, wait_s=min(wait_s, 1.0)):
                seq = rest[-1].seq
                yield rest
            return


def document_of(record: RunRecord) -> dict[str, Json]:
    """Return the run's result document; for a run without one, what can be said of it now."""
    if record.document is not None and record.document.get("status") == record.status.value:
        document = record.document
    else:
        document = ResultDocument(
            run_id=record.run_id, status=record.status, questions=record.questions, assumptions=record.assumptions
        ).to_json()
    return cast("dict[str, Json]", listed(document))
