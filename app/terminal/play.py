"""Starts or joins a run, shows it, asks its questions where someone can answer, and returns it at rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from app.domain.errors import GatewayError
from app.domain.plan import Question
from app.domain.ports import Desk
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.http.follow import follow
from app.terminal.display import Display

WAIT_S = 1.0
CANCEL_TIMEOUT_S = 5.0

Asker = Callable[[Sequence[Question]], dict[str, str] | None]


async def play(desk: Desk, request: RunRequest, display: Display, asker: Asker | None) -> RunRecord:
    """Start a run and stay with it until it rests; being interrupted cancels it."""
    record = await desk.start(request)
    try:
        return await watch(desk, record.run_id, display, asker)
    except asyncio.CancelledError:
        display.note(f"cancelling {record.run_id}")
        with suppress(GatewayError, TimeoutError):
            await asyncio.wait_for(desk.cancel(record.run_id), CANCEL_TIMEOUT_S)
        raise


async def watch(desk: Desk, run_id: str, display: Display, asker: Asker | None) -> RunRecord:
    """Show a run from its first event until it rests; being interrupted leaves it alone.

    Args:
        asker: Answers the run's questions; None, or an answer of None, leaves a run that asks at rest.
    """
    seq = 0
    while True:
        async for events in follow(desk, run_id, after_seq=seq, wait_s=WAIT_S, stop_at_questions=True):
            display.show(events)
            if events:
                seq = events[-1].seq
        record = await desk.get(run_id)
        if record.status is not RunStatus.NEEDS_ANSWERS or asker is None:
            return record
        with display.paused():
            try:
                answers = asker(record.questions)
            except KeyboardInterrupt:
                raise asyncio.CancelledError from None
        if answers is None:
            return record
        await desk.answer(run_id, answers, assume_rest=False)
