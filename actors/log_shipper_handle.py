"""The log shipper, for whoever looks; apart from it, because who looks needs none of what ships."""

from __future__ import annotations

from typing import cast

from actors.handles import ActorHandle
from app.domain.events.delivery import ShippingState
from app.domain.telemetry import TelemetrySpec

LOG_SHIPPER = "log_shipper"
STATE_TIMEOUT_S = 5.0


class LogShipperHandle:
    """The shipper, for whoever looks."""

    def __init__(self, namespace: str) -> None:
        self._actor = ActorHandle(LOG_SHIPPER, namespace)

    async def states(self) -> list[ShippingState]:
        """See ``LogShipper.states``."""
        return cast("list[ShippingState]", await self._actor.ask("states", timeout_s=STATE_TIMEOUT_S))

    async def configure(self, watched: TelemetrySpec) -> list[ShippingState]:
        """See ``LogShipper.configure``."""
        return cast("list[ShippingState]", await self._actor.ask("configure", watched, timeout_s=STATE_TIMEOUT_S))

    async def close(self) -> None:
        """Stop shipping; what waits stays where it is."""
        await self._actor.ask("close", timeout_s=STATE_TIMEOUT_S)
