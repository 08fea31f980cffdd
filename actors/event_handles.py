"""The clients of events: of the node's spool, and of the journal's outbox, as the services' ports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import cast

from actors.clock import SystemClock
from actors.handles import STORE_PATIENCE_S, ActorHandle
from actors.own_origin import own_origin
from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.spec import EventsSpec
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.services.events.emitter import Emitter
from app.services.events.log_lines import follow_logs

EVENTS = "events"
KEEP_TIMEOUT_S = 10.0


class SourceHandle:
    """A source of events behind an actor: the port ``EventSource``. Waits for an actor that is being restarted.

    Args:
        name: The actor.
        namespace: Where it lives.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self._actor = ActorHandle(name, namespace, patience_s=STORE_PATIENCE_S)

    async def pending(self, after_seq: int, *, docs_max: int, bytes_max: int) -> Sequence[SpooledEvent]:
        """See ``ports.EventSource``."""
        return cast("list[SpooledEvent]", await self._ask("pending", after_seq, docs_max, bytes_max))

    async def shipped(self, seqs: Sequence[int]) -> None:
        """See ``ports.EventSource``."""
        await self._ask("shipped", list(seqs))

    async def dead(self, seq: int, *, status: int, reason: str) -> None:
        """See ``ports.EventSource``."""
        await self._ask("dead", seq, status, reason)

    async def dead_letters(self, *, limit: int) -> Sequence[DeadLetter]:
        """See ``ports.EventSource``."""
        return cast("list[DeadLetter]", await self._ask("dead_letters", limit))

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return cast("int", await self._ask("replay", None if event_ids is None else list(event_ids)))

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return cast("int", await self._ask("drop", None if event_ids is None else list(event_ids)))

    async def backlog(self) -> Backlog:
        """See ``ports.EventSource``."""
        return cast("Backlog", await self._ask("backlog"))

    async def _ask(self, method: str, *arguments: object) -> object:
        return await self._actor.ask(method, *arguments)


class SpoolHandle(SourceHandle):
    """The node's spool: the ports ``EventKeeper`` and ``EventSource``."""

    def __init__(self, namespace: str) -> None:
        super().__init__(EVENTS, namespace)
        # Who tells keeps what it has to tell, and comes again: it need not wait for a restart.
        self._now = ActorHandle(EVENTS, namespace)

    async def keep(self, batch: EventBatch) -> BatchKept:
        """See ``ports.EventKeeper``."""
        return cast("BatchKept", await self._now.ask("keep", batch, timeout_s=KEEP_TIMEOUT_S))

    async def terms(self) -> EventTerms:
        """See ``ports.EventKeeper``."""
        return cast("EventTerms", await self._now.ask("terms", timeout_s=KEEP_TIMEOUT_S))

    async def spec(self) -> EventsSpec:
        """Return what is configured."""
        return cast("EventsSpec", await self._now.ask("spec", timeout_s=KEEP_TIMEOUT_S))

    async def configure(self, spec: EventsSpec) -> None:
        """Say what is configured from now on."""
        await self._now.ask("configure", spec, timeout_s=KEEP_TIMEOUT_S)

    async def close(self) -> None:
        """Have everything written, and the file let go of."""
        await self._now.ask("close", timeout_s=KEEP_TIMEOUT_S)


class OutboxHandle(SourceHandle):
    """The journal's outbox: what was told in the transaction of the fact itself."""

    def __init__(self, namespace: str) -> None:
        super().__init__("store", namespace)

    async def configure(self, spec: EventsSpec) -> str:
        """Say what is configured from now on; return which life of the store heard it."""
        return cast("str", await self._ask("configure", spec))

    async def _ask(self, method: str, *arguments: object) -> object:
        return await self._actor.ask("outbox", method, arguments)


def emitter_of(role: str, namespace: str) -> Emitter:
    """Return the emitter of this process, which tells its log as well; its owner runs it. Once a process."""
    emitter = Emitter(SpoolHandle(namespace), own_origin(role), SystemClock(), chance=random.random)
    follow_logs(emitter)
    return emitter
