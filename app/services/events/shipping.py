"""Ships the events of one source to one receiver: every one ends stored, or as a dead letter; nothing is given up.

Reads what waits in bounded portions from the first on, so a start costs the same whatever waits. While one portion is
on its way the next is read, and what was stored is told to the source. An event that its receiver does not take now
stays where it is, and is met again on the next way through; the others pass it by.

May end at any moment: what was stored and not yet told to the source is sent again, and answered with "already".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from app.domain.errors import GatewayError
from app.domain.events.delivery import Delivery, Fate, Outcome, Pace, ShippingState, Trouble
from app.domain.events.spooled import SpooledEvent
from app.domain.metric_names import Attribute
from app.domain.ports import EventSink, EventSource
from app.domain.retries import full_jitter
from app.domain.trace_context import use
from app.services.events.log_lines import UNTOLD
from app.services.telemetry.instruments import EVENTS_IN_FLIGHT, EVENTS_SHIPPED
from app.services.telemetry.tracing import begin, span

IDLE_S = 1.0
"""How often an empty source is looked at."""
WORDS = {
    Trouble.LOCKED_OUT: "it refuses our key: give it another one, or the right to create documents; nothing is lost",
    Trouble.WRONG: "it does not answer like one: check the address; nothing is lost",
}

_log = logging.getLogger(__name__)


class Shipper:
    """Empties one source.

    Args:
        source: Where events wait.
        sink: Who takes them.
        pace: How much at once.
        chance: From 0 up to 1, for pauses.
        name: What people call the source.

    Not thread-safe: one task calls ``run``.
    """

    def __init__(
        self,
        source: EventSource,
        sink: EventSink,
        pace: Pace,
        *,
        chance: Callable[[], float],
        name: str = "spool",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._source = source
        self._sink = sink
        self._pace = pace
        self._chance = chance
        self._sleep = sleep
        self._telling: asyncio.Task[None] | None = None
        self._blocked = 0
        """Events of this way through whose index does not take them."""
        self._blocked_passes = 0
        self._state = ShippingState(source=name, sink=sink.name)

    async def run(self) -> None:
        """Ship until cancelled."""
        while True:
            try:
                if not await self.pass_through():
                    await self._sleep(IDLE_S)
            except GatewayError as error:
                self._pace.failed(Trouble.IN_DOUBT, sent_docs=0, sent_bytes=0)
                await self._trouble(f"the {self._state.source} cannot be read: {error}")

    async def pass_through(self) -> bool:
        """Go once from the first event that waits to the last; return whether there was any.

        Raises:
            GatewayError: the source cannot be asked.
        """
        self._blocked = 0
        events = await self._pending(0)
        there_was_any = bool(events)
        while events:
            ahead = asyncio.create_task(self._pending(events[-1].seq))
            try:
                await self._deliver(events)
                events = await ahead
            finally:
                ahead.cancel()
        await self._told()
        self._blocked_passes = self._blocked_passes + 1 if self._blocked else 0
        if not there_was_any:
            # Where nothing waits nothing is wrong any more, whatever was.
            self._say("")
        if self._blocked:
            await self._sleep(full_jitter(self._blocked_passes, Pace.BASE_S, Pace.CAP_S, self._chance()))
        return there_was_any

    async def state(self) -> ShippingState:
        """Return how it goes, with what waits now."""
        backlog = None
        with suppress(GatewayError):
            backlog = await self._source.backlog()
        return replace(self._state, backlog=backlog, batch_docs=self._pace.docs, failures=self._pace.failures)

    async def _pending(self, after_seq: int) -> Sequence[SpooledEvent]:
        return await self._source.pending(after_seq, docs_max=self._pace.docs, bytes_max=self._pace.bytes)

    async def _deliver(self, events: Sequence[SpooledEvent]) -> None:
        """Return once the receiver has judged every one of them."""
        left = list(events)
        while left:
            part = self._fitting(left)
            delivery = await self._request(part)
            if delivery.trouble is None:
                del left[: len(part)]
                await self._settle(part, delivery.outcomes)
            elif delivery.trouble is Trouble.TOO_LARGE and len(part) == 1:
                del left[:1]
                await self._settle(part, [Outcome(fate=Fate.DEAD, status=delivery.status, reason=delivery.reason)])
            else:
                await self._failed(part, delivery)

    async def _request(self, events: Sequence[SpooledEvent]) -> Delivery:
        """Send them at once, in a trace of their own."""
        self._count(in_flight=len(events), requests=1)
        EVENTS_IN_FLIGHT.set(len(events), self._state.source)
        try:
            with use(begin()):
                told = span("ship", "client").start()
                delivery = await self._sink.deliver(events)
        finally:
            self._count(in_flight=-len(events))
            EVENTS_IN_FLIGHT.set(0, self._state.source)
        told.set(Attribute.EVENTS_SOURCE, self._state.source)
        told.set(Attribute.EVENTS_SINK, self._state.sink)
        told.set(Attribute.EVENTS, len(events))
        told.set(Attribute.STATUS, delivery.status or None)
        told.end(delivery.trouble or "")
        return delivery

    def _fitting(self, events: Sequence[SpooledEvent]) -> Sequence[SpooledEvent]:
        """Return the first of them, as many as are sent at once now; one at least."""
        taken, room = 0, self._pace.bytes
        for event in events[: self._pace.docs]:
            room -= len(event.body)
            if room < 0 and taken:
                break
            taken += 1
        return events[:taken]

    async def _settle(self, events: Sequence[SpooledEvent], outcomes: Sequence[Outcome]) -> None:
        assert len(outcomes) == len(events), "a sink judges every event"
        by_fate: dict[Fate, list[tuple[SpooledEvent, Outcome]]] = {fate: [] for fate in Fate}
        for event, outcome in zip(events, outcomes, strict=True):
            by_fate[outcome.fate].append((event, outcome))
        for fate, found in by_fate.items():
            if found:
                EVENTS_SHIPPED.add(len(found), self._state.source, fate)
        stored, already, dead = by_fate[Fate.STORED], by_fate[Fate.ALREADY], by_fate[Fate.DEAD]
        again, blocked = by_fate[Fate.AGAIN], by_fate[Fate.BLOCKED]
        self._count(stored=len(stored), already=len(already), dead=len(dead), again=len(again) + len(blocked))
        for event, outcome in dead:
            # Untold: its line may be refused for the same reason.
            _log.warning("event %s was refused for good: %s", event.event_id, outcome.reason, extra=UNTOLD)
            await self._source.dead(event.seq, status=outcome.status, reason=outcome.reason)
        await self._told()
        self._telling = asyncio.create_task(self._source_told([event.seq for event, _ in (*stored, *already)]))  # noqa: RUF006  kept
        self._blocked += len(blocked)
        if again:
            self._pace.failed(None, sent_docs=len(events), sent_bytes=_size(events))
            await self._trouble(f"{self._sink.name} has too much to do: {again[0][1].status} {again[0][1].reason}")
            return
        self._pace.went_well()
        if blocked:
            self._say(f"{self._sink.name} refuses some for now: {blocked[0][1].status} {blocked[0][1].reason}")
        elif not self._blocked and not self._blocked_passes:
            self._say("")

    async def _failed(self, events: Sequence[SpooledEvent], delivery: Delivery) -> None:
        assert delivery.trouble is not None
        self._pace.failed(delivery.trouble, sent_docs=len(events), sent_bytes=_size(events))
        if delivery.trouble in (Trouble.TOO_LARGE, Trouble.SPOILED):
            return
        words = WORDS.get(delivery.trouble, "")
        said = f"{self._sink.name}: {delivery.status or ''} {delivery.reason}".replace(":  ", ": ")
        await self._trouble(f"{said}; {words}" if words else said, delivery.retry_after_s)

    async def _trouble(self, text: str, retry_after_s: float = 0.0) -> None:
        """Say what is wrong, and wait."""
        self._say(text)
        await self._sleep(self._pace.pause_s(self._chance(), retry_after_s))

    def _say(self, trouble: str) -> None:
        """Keep what is wrong for people; the log hears of the beginning and the end."""
        if bool(trouble) != bool(self._state.trouble):
            _log.warning("events wait: %s", trouble) if trouble else _log.warning("events are shipped again")
        self._state = replace(self._state, trouble=trouble)

    async def _source_told(self, seqs: Sequence[int]) -> None:
        if seqs:
            await self._source.shipped(seqs)

    async def _told(self) -> None:
        """Wait until the source knows what was stored."""
        telling, self._telling = self._telling, None
        if telling is not None:
            await telling

    def _count(self, **more: int) -> None:
        self._state = replace(self._state, **{name: getattr(self._state, name) + value for name, value in more.items()})


def _size(events: Sequence[SpooledEvent]) -> int:
    return sum(len(event.body) for event in events)
