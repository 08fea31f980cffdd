"""Tells events from inside a process: at once for who tells, in batches for who keeps them.

``emit`` costs a microsecond and can neither block nor fail; events are serialised and handed over behind it, once a
second: every batch is a message and a transaction on disk. ``record`` is for what must be kept before anything
else happens: it returns once the event is on disk.
Bounded: where the spool does not answer for long, telemetry loses its oldest, then everything its newest; the loss is
counted, and told as an event of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeAlias

from app.domain.errors import CapacityError, GatewayError
from app.domain.events.batches import EventBatch, EventRow, EventTerms
from app.domain.events.record import EventIds, Origin, Recorder, UnknownFieldError
from app.domain.events.schema import SAMPLED, TYPE
from app.domain.ports import Clock, EventKeeper
from app.domain.trace_context import NO_SPAN, current

FLUSH_S = 1.0
EVENTS_MAX = 20_000
"""That wait in a process, of what may be lost, and again of what may not."""
BATCH_MAX = 2_000
STRANGERS_MAX = 100
"""A minute and process of what anybody may cause who finds the door: it must not fill the disk that buying needs."""
PAUSE_MIN_S, PAUSE_MAX_S = 0.25, 5.0

_log = logging.getLogger(__name__)
_BY_STRANGERS = frozenset({"access.refused"})
_LOSABLE = frozenset(one.name for one in TYPE.values() if one.event_class in SAMPLED)


_Told: TypeAlias = tuple[str, int, dict[str, object]]
"""(type, nanoseconds since 1970, values)."""


class Emitter:
    """One per process.

    Args:
        keeper: The node's spool.
        origin: Who this process is.
        clock: Stamps events.
        chance: From 0 up to 1; for samples and the ids' random part.

    ``emit`` may be called from any thread, the rest from one event loop. Who tells before ``run`` is started is heard
    once it is.
    """

    def __init__(self, keeper: EventKeeper, origin: Origin, clock: Clock, *, chance: Callable[[], float]) -> None:
        self._keeper = keeper
        self._clock = clock
        self._chance = chance
        # Two draws: one float has 53 random bits.
        self._recorder = Recorder(origin, EventIds(int(chance() * 2**31) << 31 | int(chance() * 2**31)))
        self._shares: dict[str, float] = {}
        self._has_terms = False
        self._losable: deque[_Told] = deque()
        self._firm: deque[_Told] = deque()
        self._unsent: list[EventRow] = []
        """Serialised, handed over at least once, not yet known to be kept."""
        self._sending = asyncio.Lock()
        self._pause_s = PAUSE_MIN_S
        self._failing = False
        self._wrong: set[str] = set()
        self.dropped: Counter[str] = Counter()
        """By class, since the process began."""
        self._to_tell: Counter[tuple[str, str]] = Counter()
        self._minute, self._strangers = 0, 0

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """Tell an event; values are its type's fields, None for what is not known.

        Args:
            event_type: See ``events.schema``.
            at_ns: When it happened, in nanoseconds since 1970; now by default.
            values: By short name, and ``trace_id``, ``span_id``, ``parent_id``; the first two are those of what is
                being done, where they are not given.
        """
        share = self._shares.get(event_type)
        if share is not None and self._chance() >= share:
            return
        if (trace := current()) is not None:
            values.setdefault("trace_id", trace.trace_id)
            if trace.sampled and trace.span_id != NO_SPAN:
                values.setdefault("span_id", trace.span_id)
        if event_type in _BY_STRANGERS and not self._has_room_for_strangers():
            self._drop(event_type, "too many")
            return
        told = event_type, at_ns or int(self._clock.wall_s() * 1e9), values
        if event_type in _LOSABLE:
            self._losable.append(told)
            if len(self._losable) > EVENTS_MAX:
                self._drop(self._losable.popleft()[0], "buffer full")
        elif len(self._firm) < EVENTS_MAX:
            self._firm.append(told)
        else:
            self._drop(event_type, "buffer full")

    async def record(self, event_type: str, /, **values: object) -> None:
        """Tell an event and return once it is on disk.

        Raises:
            CapacityError: the spool has no room for it.
            InternalError: the spool cannot be asked, or its disk is full.
        """
        record = self._recorder.record(event_type, int(self._clock.wall_s() * 1e9), values)
        kept = await self._keeper.keep(EventBatch.of([record]))
        self._use(kept.terms)
        if kept.refused:
            raise CapacityError(
                "there is no more room for events that must not be lost",
                retry_after_s=PAUSE_MAX_S,
                remedy="see why they are not shipped (`tutti doctor`), or raise events.spool_mb",
            )

    async def run(self) -> None:
        """Hand events over, for ever; the owner runs this as a background task."""
        while True:
            await asyncio.sleep(FLUSH_S if not self._failing else self._pause_s)
            await self.flush()

    async def flush(self) -> bool:
        """Hand over what waits; return whether all of it is kept by now."""
        async with self._sending:
            if not self._has_terms:
                # Names of fields and samples are the configuration's, from the first event on.
                try:
                    self._use(await self._keeper.terms())
                except GatewayError as error:
                    self._fail(error)
                    return False
            while batch := self._next_batch():
                try:
                    kept = await self._keeper.keep(EventBatch.of_rows(batch))
                except GatewayError as error:
                    self._fail(error)
                    return False
                self._failing, self._pause_s = False, PAUSE_MIN_S
                self._use(kept.terms)
                self._unsent = [batch[position] for position in kept.refused]
                if self._unsent:
                    self._failing = True
                    return False
            return True

    async def aclose(self) -> None:
        """Hand over what is left, once."""
        await self.flush()

    def _next_batch(self) -> list[EventRow]:
        """Return what was not kept last time, filled up with what came since."""
        batch, make = self._unsent, self._recorder.make
        while len(batch) < BATCH_MAX and (self._firm or self._losable):
            event_type, time_ns, values = (self._firm or self._losable).popleft()
            try:
                event_id, body = make(event_type, time_ns, values)
            except (KeyError, UnknownFieldError, TypeError, ValueError) as error:
                self._note_wrong(event_type, error)
            else:
                batch.append((event_id, time_ns, event_type, body))
        if batch and self._to_tell:
            for (event_class, reason), lost in self._to_tell.items():
                values = {"lost_class": event_class, "lost": lost, "reason": reason}
                now_ns = int(self._clock.wall_s() * 1e9)
                event_id, body = make("events.dropped", now_ns, values)
                batch.append((event_id, now_ns, "events.dropped", body))
            self._to_tell.clear()
        self._unsent = batch
        return batch

    def _has_room_for_strangers(self) -> bool:
        minute = int(self._clock.wall_s() // 60)
        if minute != self._minute:
            self._minute, self._strangers = minute, 0
        self._strangers += 1
        return self._strangers <= STRANGERS_MAX

    def _note_wrong(self, event_type: str, error: Exception) -> None:
        """A bug of ours, said once a type; the values themselves are never shown."""
        self._drop(event_type, "malformed")
        if event_type not in self._wrong:
            self._wrong.add(event_type)
            said = str(error) if isinstance(error, UnknownFieldError) else type(error).__name__
            _log.error("an event %r cannot be told: %s", event_type, said)

    def _drop(self, event_type: str, reason: str) -> None:
        found = TYPE.get(event_type)
        event_class = found.event_class.value if found is not None else "unknown"
        self.dropped[event_class] += 1
        self._to_tell[event_class, reason] += 1

    def _fail(self, error: GatewayError) -> None:
        # Once a silence, not once a try.
        _log.log(logging.DEBUG if self._failing else logging.WARNING, "events wait here: %s", error.message)
        self._failing = True
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S)

    def _use(self, terms: EventTerms) -> None:
        self._has_terms = True
        self._recorder.use(terms.profile)
        self._shares = dict(terms.shares)


class Silence:
    """Tells nobody; where there is no spool: in tests, and in processes that have nothing to tell."""

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """See ``Emitter.emit``."""
