"""The node's keeper of events: owns the spool, writes what processes tell in groups, and hands out what waits.

A plain class that ``bootstrap`` makes an actor. Does not ship (the log shipper does) and decides no policy (the spool
does). Called by every process's emitter, by the shipper and by who looks.

May die at any moment: what it acknowledged is on disk; what it did not is said again by who told it, under the same
ids. Where the disk is full, or the file was damaged, it says so in its log, in ``backlog`` and as an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from actors.chores import keep_doing
from actors.garbage import collect_rarely
from actors.own_origin import own_origin
from app.domain.errors import CapacityError, GatewayError
from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.record import EventIds, EventRecord, Recorder
from app.domain.events.schema import TYPES
from app.domain.events.spec import EventsSpec
from app.domain.events.spooled import Backlog, DeadLetter, SpooledEvent
from app.services.events.log_lines import UNTOLD, follow_logs
from app.storage.spool import FILE_NAME, Appended, Spool, SpoolDamagedError

WAITING_MAX = 50_000
"""Events in this process that wait for the disk; above it their tellers keep them."""
GROUP_MAX = 10_000
EXPIRY_PERIOD_S = 10.0
OWN_LINES_MAX = 100
"""Of this process's log, that wait for the next write; newer ones are in the log only."""
DAY_S = 86_400.0
FULL = "the spool of events is full of what must not be lost: see why it is not shipped, or raise events.spool_mb"

_log = logging.getLogger(__name__)

Value = TypeVar("Value")


class EventLog:
    """Owner of the spool's file.

    Args:
        data_dir: Where it is. Opened with the first command, which hears why that fails; the next one tries again.
        spec: As configured.
        wall_s: Seconds since 1970.

    Not thread-safe: the actor's event loop is the lock; one thread touches the file.
    """

    def __init__(self, data_dir: str, spec: EventsSpec, *, wall_s: Callable[[], float] = time.time) -> None:
        self._file = Path(data_dir).expanduser() / FILE_NAME
        self._spec = spec
        self._known = False
        """Whether the directory said what is configured: until then nothing that waits is given up."""
        self._terms = terms_of(spec)
        self._wall_s = wall_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="events")
        self._spool: Spool | None = None
        self._waiting: list[_Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._recorder = Recorder(own_origin("events"), EventIds(secrets.randbits(62)), spec.profile)
        self._trouble = ""
        self._full = ""
        self._lost: dict[str, int] = {}
        self._own_lines: deque[tuple[int, Mapping[str, object]]] = deque()

    def __repr__(self) -> str:
        return "tutti events"  # as Ray's dashboard and logs show it

    async def ping(self) -> str:
        """Return "ok" once the spool is open, else what is wrong with it."""
        try:
            await self._run(lambda spool: spool.backlog())
        except GatewayError as error:
            return error.message
        return "ok"

    async def configure(self, spec: EventsSpec) -> None:
        """Take what is configured from now on."""
        self._known = True
        if spec != self._spec:
            self._spec, self._terms = spec, terms_of(spec)
            self._recorder.use(spec.profile)

            def bound(spool: Spool) -> None:
                spool.bytes_max = spec.spool_bytes

            await self._run(bound)

    async def terms(self) -> EventTerms:
        """Return how events are to be told."""
        return self._terms

    async def spec(self) -> EventsSpec:
        """Return what is configured."""
        return self._spec

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        """Keep a line of this process's own log for the next write, which it does not cause: as ``ports.Tells``.

        From any thread. So what is said of writing never leads to more writing.
        """
        assert event_type == "log.line", "the keeper's other events are its own"
        if len(self._own_lines) < OWN_LINES_MAX:
            self._own_lines.append((at_ns or int(self._wall_s() * 1e9), values))

    async def keep(self, batch: EventBatch) -> BatchKept:
        """Keep events and return once they are on disk; batches that come while one is written are written together.

        Raises:
            CapacityError: the disk does not keep up.
            InternalError: nothing was kept.
        """
        if not batch.event_ids:
            return BatchKept(terms=self._terms)
        if sum(len(one.records) for one in self._waiting) > WAITING_MAX:
            raise CapacityError("the spool of events does not keep up", retry_after_s=1.0, remedy="check the disk")
        waiting = _Waiting(tuple(batch.records()), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return BatchKept(refused=await waiting.refused, terms=self._terms)

    async def pending(self, after_seq: int, docs_max: int, bytes_max: int) -> list[SpooledEvent]:
        """Return what waits; see ``ports.EventSource``."""
        return await self._run(lambda spool: spool.pending(after_seq, docs_max=docs_max, bytes_max=bytes_max))

    async def shipped(self, seqs: Sequence[int]) -> None:
        """See ``ports.EventSource``."""
        await self._run(lambda spool: spool.shipped(seqs))

    async def dead(self, seq: int, status: int, reason: str) -> None:
        """See ``ports.EventSource``."""
        await self._run(lambda spool: spool.dead(seq, status=status, reason=reason))

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """See ``ports.EventSource``."""
        return await self._run(lambda spool: spool.dead_letters(limit=limit))

    async def replay(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return await self._run(lambda spool: spool.replay(event_ids))

    async def drop(self, event_ids: Sequence[str] | None) -> int:
        """See ``ports.EventSource``."""
        return await self._run(lambda spool: spool.drop(event_ids))

    async def backlog(self) -> Backlog:
        """Return how much waits, and what an operator should know."""
        return replace(await self._run(lambda spool: spool.backlog()), note=self._trouble or self._full)

    async def close(self) -> None:
        """Write what was told and let go of the file."""
        if self._looking is not None:
            self._looking.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing})
        spool, self._spool = self._spool, None
        if spool is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, spool.close)
        self._thread.shutdown(wait=False)

    async def _write(self) -> None:
        while self._waiting:
            group: list[_Waiting] = []
            size = 0
            while self._waiting and (not group or size + len(self._waiting[0].records) <= GROUP_MAX):
                size += len(self._waiting[0].records)
                group.append(self._waiting.pop(0))
            try:
                await self._write_group(group)
            except Exception as error:  # noqa: BLE001  whatever happened, no teller may wait for ever
                if not isinstance(error, GatewayError):
                    _log.exception("events could not be written")
                for one in group:
                    if not one.refused.done():
                        one.refused.set_exception(error)

    async def _write_group(self, group: Sequence[_Waiting]) -> None:
        lines = [self._own_lines.popleft() for _ in range(len(self._own_lines))]
        own = [*self._losses_told(), *(self._recorder.record("log.line", *line) for line in lines)]
        records = [*own, *(record for one in group for record in one.records)]
        ships = self._ships
        try:
            appended = await self._run(lambda spool: spool.append(records, ships=ships))
        except GatewayError:
            self._own_lines.extendleft(reversed(lines))
            raise
        self._lost.clear()
        # A full disk reads, and deletes nothing, without complaint: only what was written shows that it works again.
        self._trouble = ""
        self._note_losses(appended)
        start = len(own)
        for one in group:
            end = start + len(one.records)
            if not one.refused.done():
                one.refused.set_result(tuple(at - start for at in appended.refused if start <= at < end))
            start = end

    def _losses_told(self) -> list[EventRecord]:
        """Return what is to be said of losses since the last group that was written."""
        return [
            self._told("events.dropped", lost_class=event_class, lost=count, reason="spool full")
            for event_class, count in self._lost.items()
        ]

    def _note_losses(self, appended: Appended) -> None:
        for event_class, count in appended.dropped:
            self._lost[event_class] = self._lost.get(event_class, 0) + count
            # Told as ``events.dropped``; a line more would take the place of an event more.
            _log.warning(
                "the spool of events is full: %d events of class %s are lost", count, event_class, extra=UNTOLD
            )
        full = FULL if appended.refused else ""
        if full and not self._full:
            _log.error("%s", full)
        self._full = full

    def _told(self, event_type: str, **values: object) -> EventRecord:
        return self._recorder.record(event_type, int(self._wall_s() * 1e9), values)

    async def _run(self, command: Callable[[Spool], Value]) -> Value:
        """Do it in the file's thread; a file that turns out to be damaged is put aside, and it is done in the new one.

        Raises:
            InternalError: the disk is full or broken; said once in the log, until it works again.
        """
        loop = asyncio.get_running_loop()
        try:
            value = await loop.run_in_executor(self._thread, self._do, command)
        except GatewayError as error:
            if self._trouble != error.message:
                self._trouble = error.message
                _log.error("%s; %s", error.message, error.remedy)
            raise
        if self._looking is None:
            looking = keep_doing(
                self._look, failing="looking after the spool of events failed", period_s=EXPIRY_PERIOD_S
            )
            self._looking = asyncio.create_task(looking)
        return value

    def _do(self, command: Callable[[Spool], Value]) -> Value:
        try:
            return command(self._spool or self._open())
        except SpoolDamagedError:
            damaged, self._spool = self._spool, None
            if damaged is not None:
                damaged.close()
            return command(self._open(damaged=True))

    def _open(self, *, damaged: bool = False) -> Spool:
        spool = Spool(self._file, bytes_max=self._spec.spool_bytes, wall_s=self._wall_s, damaged=damaged)
        if spool.put_aside is not None:
            _log.error("the spool of events was damaged: it is kept as %s, a new one begins", spool.put_aside)
            told = self._told("events.damaged", subject=spool.put_aside.name, reason="damaged file")
            spool.append([told], ships=self._ships)
        self._spool = spool
        return spool

    async def _look(self) -> None:
        """Forget what is old, and write what is to be said where nobody else tells anything."""
        with contextlib.suppress(GatewayError):  # said by ``_run``
            await self._run(self._expire)
            if self._lost or self._own_lines:
                await self._write_group([])

    def _expire(self, spool: Spool) -> int:
        return spool.expire(keep_s=self._spec.keep_days * DAY_S, ships=self._ships)

    @property
    def _ships(self) -> bool:
        return self._spec.ships or not self._known


class EventLogActor(EventLog):
    """The keeper in its own process, the lines of whose log it keeps as well."""

    def __init__(self, data_dir: str, spec: EventsSpec) -> None:
        super().__init__(data_dir, spec)
        follow_logs(self)
        collect_rarely()


@dataclass(slots=True)
class _Waiting:
    records: tuple[EventRecord, ...]
    refused: asyncio.Future[tuple[int, ...]]


def terms_of(spec: EventsSpec) -> EventTerms:
    """Return how events are to be told by that configuration."""
    shares = {one.name: spec.share(one.name, one.sample) for one in TYPES}
    return EventTerms(profile=spec.profile, shares=tuple((name, share) for name, share in shares.items() if share < 1))
