"""Ships what waits in the node's spool and in the journal's outbox to the configured receiver.

A plain class that ``bootstrap`` makes an actor. Learns from the spool what is configured, and follows when that
changes. Deletes days that are over where Elasticsearch has no lifecycle of its own.

May die at any moment: it keeps nothing; what was sent and not yet told to its source is sent again under its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from actors import telemetry
from actors.chores import keep_doing
from actors.event_handles import OutboxHandle, SpoolHandle
from actors.log_shipper_handle import LOG_SHIPPER
from actors.own_events import OwnEvents
from app.domain.errors import GatewayError
from app.domain.events.delivery import Pace, ShippingState
from app.domain.events.spec import ElasticsearchSpec, EventsSpec
from app.domain.ports import EventSource
from app.domain.telemetry import TelemetrySpec
from app.services.events.backlog_watch import BacklogWatch
from app.services.events.shipping import Shipper
from app.sinks.choice import Receiver, receiver_of
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.elasticsearch_upkeep import drop_days, has_lifecycle

FOLLOW_S = 2.0
UPKEEP_S = 3_600.0
MEASURE_S = 5.0
FAILED_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class LogShipper:
    """One for the sources it is given; built inside a running event loop.

    Args:
        sources: By the names that people call them.
        configured: Returns what is configured now; raises GatewayError where that cannot be asked.
        follow_s: How often it is asked.

    Not thread-safe: the actor's event loop is the lock.
    """

    def __init__(
        self,
        sources: Mapping[str, EventSource],
        configured: Callable[[], Awaitable[EventsSpec]],
        *,
        follow_s: float = FOLLOW_S,
    ) -> None:
        self._sources = sources
        self._configured = configured
        self._spec: EventsSpec | None = None
        self._receiver: Receiver | None = None
        self._shippers: list[Shipper] = []
        self._tasks: list[asyncio.Task[None]] = []
        following = keep_doing(
            self._follow, failing="the configuration of shipping could not be followed", period_s=follow_s
        )
        self._following = asyncio.create_task(following)

    async def configure(self, watched: TelemetrySpec) -> list[ShippingState]:
        """Report metrics and spans as configured from now on; return how shipping goes."""
        telemetry.follow(watched, role=LOG_SHIPPER)
        return await self.states()

    async def states(self) -> list[ShippingState]:
        """Return how it goes, source by source; empty where no receiver is configured."""
        return list(await asyncio.gather(*(shipper.state() for shipper in self._shippers)))

    async def close(self) -> None:
        """Stop shipping; what waits stays where it is."""
        self._following.cancel()
        await self._stop()

    async def _follow(self) -> None:
        """Do what is configured."""
        with contextlib.suppress(GatewayError):  # the spool's actor is away: its shippers wait for it as well
            spec = await self._configured()
            if spec != self._spec:
                await self._use(spec)

    async def _use(self, spec: EventsSpec) -> None:
        await self._stop()
        receiver = receiver_of(spec)
        if receiver is not None:
            for name, source in self._sources.items():
                pace = Pace(receiver.docs_max, receiver.bytes_max)
                shipper = Shipper(source, receiver.sink, pace, chance=random.random, name=name)
                self._shippers.append(shipper)
                # It ends with a bug of ours only, and begins again: nothing is lost by that.
                shipping = keep_doing(shipper.run, failing="shipping failed, and begins again", period_s=FAILED_PAUSE_S)
                self._tasks.append(asyncio.create_task(shipping))
            if receiver.http is not None and spec.elasticsearch is not None:
                look = functools.partial(_drop_days, receiver.http, spec.elasticsearch)
                dropping = keep_doing(
                    look, failing="days that are over were not deleted", period_s=UPKEEP_S, retry_s=FAILED_PAUSE_S
                )
                self._tasks.append(asyncio.create_task(dropping))
        self._spec, self._receiver = spec, receiver

    async def _stop(self) -> None:
        tasks, self._tasks, self._shippers = self._tasks, [], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._receiver is not None:
            await self._receiver.sink.aclose()
            self._receiver, self._spec = None, None


class LogShipperActor(LogShipper):
    """The shipper with its Ray clients; built inside the actor because clients do not travel."""

    def __init__(self, namespace: str) -> None:
        spool = SpoolHandle(namespace)
        super().__init__({"spool": spool, "outbox": OutboxHandle(namespace)}, spool.spec)
        self._own_events = OwnEvents(LOG_SHIPPER, namespace)
        watch = BacklogWatch(self._sources, self._own_events.emitter)
        measuring = keep_doing(
            lambda: watch.look(time.monotonic()), failing="what waits was not measured", period_s=MEASURE_S
        )
        self._measuring = asyncio.create_task(measuring)

    def __repr__(self) -> str:
        return "tutti log shipper"  # as Ray's dashboard and logs show it

    async def close(self) -> None:
        """See ``LogShipper.close``."""
        await super().close()
        await self._own_events.aclose()


async def _drop_days(http: ElasticsearchHttp, spec: ElasticsearchSpec) -> None:
    """Delete days that are over, unless they are kept for ever, or the server does it."""
    if spec.keep_days is None:
        return
    with contextlib.suppress(GatewayError):  # the shippers say how it fares; the next look may find it
        if not await has_lifecycle(http, spec.index_prefix):
            today = datetime.fromtimestamp(time.time(), UTC).date()
            for name in await drop_days(http, spec.index_prefix, keep_days=spec.keep_days, today=today):
                _log.warning("index %s was deleted: its day is over", name)
