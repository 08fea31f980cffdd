"""The directory's side of events: says what is configured to who keeps and ships them, and tells its own.

Where a receiver is configured, the log shipper is started; where none is, there is no process for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.event_handles import OutboxHandle, SpoolHandle
from actors.log_shipper_handle import LogShipperHandle
from actors.own_events import OwnEvents
from app.domain.errors import GatewayError
from app.domain.events.spec import EventsSpec
from app.domain.telemetry import TelemetrySpec
from app.services.events.shipping_words import word_of


class EventHub:
    """One in the directory's actor.

    Args:
        namespace: Where the actors live.
        start_shipper: Creates the log shipper's actor, or finds it; blocks.
    """

    def __init__(self, namespace: str, start_shipper: Callable[[], None]) -> None:
        self._spool, self._outbox = SpoolHandle(namespace), OutboxHandle(namespace)
        self._start_shipper = start_shipper
        self._shipping = False
        self._shipper = LogShipperHandle(namespace)
        self._own_events = OwnEvents("directory", namespace)
        self.word = "ok"
        """How events fare, as of the last look."""

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """See ``ports.Tells``."""
        self._own_events.emitter.emit(event_type, at_ns=at_ns, **values)

    async def configure(self, spec: EventsSpec, watched: TelemetrySpec) -> str:
        """Say it, again and again: who was restarted knows nothing of it. Hears how it goes. Raises InternalError.

        Returns:
            Which life of the store heard it.
        """
        await self._spool.configure(spec)
        life = await self._outbox.configure(spec)
        if spec.ships and not self._shipping:
            await asyncio.to_thread(self._start_shipper)
            self._shipping = True
        self.word = await self._look(spec, watched)
        return life

    async def _look(self, spec: EventsSpec, watched: TelemetrySpec) -> str:
        if not spec.ships:
            return word_of([], (await self._spool.backlog()).note)
        try:
            return word_of(await self._shipper.configure(watched))
        except GatewayError as error:
            return f"ok; events wait: {error.message}"

    async def aclose(self) -> None:
        """Hand over what is left."""
        await self._own_events.aclose()
