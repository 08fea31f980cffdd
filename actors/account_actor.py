"""The account host with its Ray clients: what ``bootstrap`` makes an actor, one for each host."""

from __future__ import annotations

from actors.account import AccountHost
from actors.garbage import collect_rarely
from actors.own_events import OwnEvents
from actors.packing import Packed
from actors.store_handle import StoreHandle
from app.domain.hosting import CALLERS_HOST


class AccountActor(Packed, AccountHost):
    """An account host with its Ray clients; built inside the actor because clients do not travel."""

    def __init__(self, host: str, namespace: str) -> None:
        # Here, not above: the directory names this class without needing the providers' libraries.
        from app.providers.registry import create

        super().__init__(host, StoreHandle(namespace), create if host != CALLERS_HOST else None)
        collect_rarely()
        self._own_events = OwnEvents(host, namespace)

    def __repr__(self) -> str:
        return f"tutti {self._host}"  # as Ray's dashboard and logs show it

    async def drain(self, timeout_s: float) -> None:
        """See ``AccountHost.drain``."""
        await super().drain(timeout_s)
        await self._own_events.aclose()
