"""Writes a run's events as server-sent events, resumable by ``Last-Event-ID`` without loss.

The id of a message is the event's ``seq``; nothing is kept here, every resumption reads the run's own log.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import orjson

from app.domain.errors import GatewayError
from app.domain.ports import Desk
from app.domain.run import RunEvent
from app.http.errors import HttpProblem, body_of, unexpected_body
from app.http.follow import follow
from app.http.wire import event_json

logger = logging.getLogger("tutti.http")

KEEP_ALIVE = b": keep-alive\n\n"
RECONNECT = b"retry: 1000\n\n"
"""A client that loses the connection tries again after a second."""


def encode(event: RunEvent) -> bytes:
    """Return one event as an SSE message; JSON has no raw line breaks, so one data line is enough."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.seq, event.kind.encode(), orjson.dumps(event_json(event)))


def parse_last_event_id(header: str | None) -> int:
    """Return the sequence number to go on after.

    Raises:
        HttpProblem: 400, the header is not a number that we gave out.
    """
    if header is None or not header.strip():
        return 0
    text = header.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise HttpProblem(
            400,
            f"Last-Event-ID must be the id of an event, a number; it is {text[:40]!r}.",
            param="last-event-id",
            remedy="Send the id of the last event you have, or leave the header out to begin at the first.",
        )
    return int(text)


async def stream(desk: Desk, run_id: str, *, after_seq: int, keepalive_s: float) -> AsyncIterator[bytes]:
    """Yield the run's events until ``run.finished``, with a comment wherever it would be silent for too long.

    A failure on the way becomes the last message, of event ``error`` and without an id, so that a client resumes
    where it was.
    """
    yield RECONNECT
    try:
        async for events in follow(desk, run_id, after_seq=after_seq, wait_s=keepalive_s, stop_at_questions=False):
            yield b"".join(map(encode, events)) if events else KEEP_ALIVE
    except GatewayError as error:
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(body_of(error))
    except Exception:
        # The outermost edge of a stream: a status cannot be sent any more.
        logger.exception("the event stream of run %s failed", run_id)
        yield b"event: error\ndata: %s\n\n" % orjson.dumps(unexpected_body())
