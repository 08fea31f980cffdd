"""Spans of this process: what was done when, under which trace. Where they go is for ``actors/tracing`` to say.

A process records nothing until it is given a ``Recorder``: without one a span costs a look at a variable, and every
request has its trace id all the same. Whether a trace is recorded is decided once, at its beginning, or by whoever
began it before us.
"""

from __future__ import annotations

import random
import time
from collections import deque
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal

from app.domain.errors import UpstreamError
from app.domain.trace_context import NO_SPAN, TraceContext, current, enter

Attribute = str | int | float | bool
Kind = Literal["internal", "server", "client"]

SPANS_MAX = 10_000
"""Kept until they are sent; beyond it new ones are dropped, and counted."""
_RATIO_BITS = 56
"""The end of the trace id decides, so that every service with our ratio decides alike."""


@dataclass(slots=True, kw_only=True)
class SpanRecord:
    """A span that has ended."""

    name: str
    kind: Kind
    context: TraceContext
    parent_id: str
    """Empty: it is the root of its trace."""
    start_ns: int
    """Wall clock."""
    duration_ns: int
    attributes: dict[str, Attribute]
    error: str = ""
    """The kind of failure; empty where it went well."""


@dataclass(slots=True)
class Recorder:
    """Keeps ended spans until somebody takes them.

    Args:
        ratio: Share of the traces beginning here that are recorded.

    Spans may end on any thread and be taken by one other: a deque's two ends need no lock.
    """

    ratio: float = 1.0
    ended: deque[SpanRecord] = field(default_factory=deque)
    dropped: int = 0

    def add(self, span: SpanRecord) -> None:
        """Keep a span, if there is room."""
        if len(self.ended) >= SPANS_MAX:
            self.dropped += 1
        else:
            self.ended.append(span)

    def take(self, count_max: int) -> list[SpanRecord]:
        """Return the oldest spans, and forget them."""
        return [self.ended.popleft() for _ in range(min(count_max, len(self.ended)))]


class _Process:
    """What holds for the whole process; a class, so that looking costs no call."""

    recorder: Recorder | None = None
    shared: bool = False


def record_into(recorder: Recorder | None, *, shared: bool = False) -> None:
    """Have spans recorded from now on; None: none are.

    Args:
        recorder: Where they go.
        shared: Whether providers are told of our traces.
    """
    _Process.recorder, _Process.shared = recorder, shared


def find_recorder() -> Recorder | None:
    """Return where this process's spans go; None where they are not recorded."""
    return _Process.recorder


def begin(incoming: TraceContext | None = None) -> TraceContext:
    """Return the context of a request: in the trace that it came with, else in a new one."""
    if incoming is not None:
        return replace(incoming, shared=_Process.shared)
    number = random.getrandbits(128) or 1
    found = _Process.recorder
    sampled = found is not None and (number & ((1 << _RATIO_BITS) - 1)) < found.ratio * (1 << _RATIO_BITS)
    return TraceContext(trace_id=f"{number:032x}", span_id=NO_SPAN, sampled=sampled, shared=_Process.shared)


class Span:
    """A span under way: enter it, and what begins inside is under it. Not thread-safe."""

    __slots__ = ("_began_ns", "_kind", "_name", "_parent", "_recorder", "_start_ns", "attributes", "context")

    def __init__(self, recorder: Recorder, name: str, kind: Kind, parent: TraceContext) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._parent = parent
        self.context = replace(parent, span_id=f"{random.getrandbits(64) or 1:016x}")
        self.attributes: dict[str, Attribute] = {}

    def set(self, name: str, value: Attribute | None) -> None:
        """Say something about it; None says nothing."""
        if value is not None:
            self.attributes[name] = value

    def rename(self, name: str) -> None:
        """Give it a name that was not known when it began."""
        self._name = name

    def start(self) -> Span:
        """Begin it without becoming the current context: for what goes on in several tasks, as a stream does."""
        self._start_ns, self._began_ns = time.time_ns(), time.perf_counter_ns()
        return self

    def end(self, error: str = "") -> None:
        """End what ``start`` began, once; ``error`` is the kind of failure."""
        parent_id = self._parent.span_id
        self._recorder.add(
            SpanRecord(
                name=self._name,
                kind=self._kind,
                context=self.context,
                parent_id="" if parent_id == NO_SPAN else parent_id,
                start_ns=self._start_ns,
                duration_ns=time.perf_counter_ns() - self._began_ns,
                attributes=self.attributes,
                error=error,
            )
        )

    def __enter__(self) -> Span:
        enter(self.context)
        return self.start()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        enter(self._parent)
        self.end("" if error is None else kind_of(error))


class _NoSpan:
    """Stands for every span that is not recorded."""

    __slots__ = ()

    def set(self, name: str, value: Attribute | None) -> None:
        """See ``Span.set``."""

    def rename(self, name: str) -> None:
        """See ``Span.rename``."""

    def start(self) -> _NoSpan:
        """See ``Span.start``."""
        return self

    def end(self, error: str = "") -> None:
        """See ``Span.end``."""

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_error: object) -> None:
        pass


NO_RECORD = _NoSpan()


def span(name: str, kind: Kind = "internal") -> Span | _NoSpan:
    """Return a span under the current context, to be entered; one that does nothing where none is recorded."""
    if _Process.recorder is None:
        return NO_RECORD
    parent = current()
    if parent is None or not parent.sampled:
        return NO_RECORD
    return Span(_Process.recorder, name, kind, parent)


def kind_of(error: BaseException) -> str:
    """Return what a failure is called in metrics and spans: never its message, which may quote a provider."""
    return error.kind.value if isinstance(error, UpstreamError) else type(error).__name__
