"""The store with its Ray clients: what ``bootstrap`` makes an actor."""

from __future__ import annotations

from actors.garbage import collect_rarely
from actors.own_events import OwnEvents
from actors.packing import Packed
from actors.store import Store


class StoreActor(Packed, Store):
    """The store, whose log is told; nothing that it writes waits for that."""

    def __init__(self, data_dir: str, url: str | None, namespace: str) -> None:
        super().__init__(data_dir, url)
        self._own_events = OwnEvents("store", namespace)
        collect_rarely()

    async def close(self) -> None:
        """See ``Store.close``."""
        await super().close()
        await self._own_events.aclose()
