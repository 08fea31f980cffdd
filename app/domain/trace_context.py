"""Which trace something belongs to: W3C's trace context, as it comes in, goes out, and crosses actor borders.

The context of whoever is asked stands in a context variable: asyncio carries it into every task, so that nobody has to
pass it on but where a message leaves the process. Makes no ids and reads no clock: ``services/telemetry`` does.

Source: W3C Trace Context, Level 2 (2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

STATE_CHARS_MAX = 512
"""Of ``tracestate``; a longer one is dropped, which the standard allows."""
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
NO_SPAN = "0" * 16
_NO_TRACE = "0" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A place in a trace: what is done next belongs under it."""

    trace_id: str
    """32 hexadecimal digits, the same for everything that one request causes."""
    span_id: str
    """16 hexadecimal digits: the span that is under way; ``NO_SPAN`` where none is yet."""
    sampled: bool = False
    """Whether spans of this trace are recorded; decided once, where the trace began."""
    state: str = ""
    """``tracestate`` of others, handed on as it came."""
    shared: bool = False
    """Whether providers are told of it."""

    @property
    def parent(self) -> str:
        """The context as a ``traceparent`` header."""
        # The standard demands a parent: where no span is recorded, any id serves.
        span_id = self.trace_id[:16] if self.span_id == NO_SPAN else self.span_id
        return f"00-{self.trace_id}-{span_id}-{'01' if self.sampled else '00'}"


def parse_parent(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """Return the context that a request came with; None where it has none, or one that is not valid.

    Versions after 00 are read as far as 00 goes, as the standard asks.
    """
    found = _PARENT.fullmatch(traceparent.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or span_id == NO_SPAN:
        return None
    state = tracestate.strip()
    if len(state) > STATE_CHARS_MAX or not state.isprintable():
        state = ""
    return TraceContext(trace_id=trace_id, span_id=span_id, sampled=bool(int(flags, 16) & _SAMPLED), state=state)


_current: ContextVar[TraceContext | None] = ContextVar("tutti_trace", default=None)


def current() -> TraceContext | None:
    """Return the context of what is being done; None outside any trace."""
    return _current.get()


def trace_id() -> str:
    """Return the trace of what is being done; empty outside any."""
    context = _current.get()
    return context.trace_id if context is not None else ""


def enter(context: TraceContext | None) -> None:
    """Make this the context of the running task, for good: for tasks that serve one request from start to end."""
    _current.set(context)


@contextmanager
def use(context: TraceContext | None) -> Iterator[None]:
    """Make this the context of what is done inside."""
    before = _current.get()
    _current.set(context)
    try:
        yield
    finally:
        _current.set(before)
