"""The replica's side of the gateway: its permits, the upstream calls under them, and the configuration it follows.

With the account actor this is the only place that reaches a provider, and only under a permit of that account's own
limiter. One per replica; any number may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from actors import telemetry, tracing
from actors.clock import SystemClock
from actors.garbage import collect_rarely
from actors.handles import DirectoryHandle, HostHandles
from actors.own_events import OwnEvents
from actors.repeat_keys import RepeatHandle
from actors.store_handle import StoreHandle
from app.domain.accounts import AccountSpec, Orchestra, Provider
from app.domain.chat import ChatDelta, ChatRequest, ChatResult
from app.domain.errors import CapacityError, GatewayError, RequestError, UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.domain.ports import Upstream
from app.domain.retries import RetryBudget
from app.domain.trace_context import current
from app.providers.departures import goes_on
from app.providers.http_adapter import HttpAdapter
from app.providers.registry import create
from app.services.gateway.attempts import Attempts
from app.services.gateway.bookkeeper import Bookkeeper
from app.services.gateway.caller_gate import CallerGate
from app.services.gateway.gateway import Gateway
from app.services.gateway.permits import Bounds, PermitDesk
from app.services.gateway.repeats import Repeats
from app.services.gateway.spending import Spending
from app.services.roster import SnapshotRoster
from app.services.telemetry.instruments import WAITING

MEASURE_S = 1.0
WATCH_WAIT_S = 10.0
RECONNECT_S = 0.5
KNOWN_WAIT_S = 30.0
CLOSE_S = 3.0
"""A host that does not take the last message within this settles by itself what we held, after a silence."""
RETRIES_FLOOR = 10
"""Retries a minute that a quiet replica may always make."""

_log = logging.getLogger(__name__)


class LocalUpstreams:
    """Adapters of every account, in this process; the embedded model is reached through its account's actor."""

    def __init__(self, hosts: HostHandles, roster: SnapshotRoster) -> None:
        self._hosts = hosts
        self._roster = roster
        self._accounts: dict[str, tuple[AccountSpec, Upstream, dict[str, str]]] = {}
        self._closing: list[asyncio.Task[None]] = []

    def of(self, account: str) -> Upstream:
        """See ``ports.Upstreams``."""
        return self._accounts[account][1]

    def name(self, account: str, model: str) -> str:
        """See ``ports.Upstreams``."""
        return self._accounts[account][2].get(model, model)

    def provider(self, account: str) -> str:
        """See ``ports.Upstreams``."""
        found = self._accounts.get(account)
        return found[0].provider.value if found is not None else ""

    def goes_on(self, account: str, *, stream: bool) -> bool:
        """See ``ports.Upstreams``."""
        found = self._accounts.get(account)
        return found is not None and goes_on(found[0], stream=stream)

    async def update(self, orchestra: Orchestra) -> None:
        """Follow the configuration; adapters of removed accounts close when their calls have ended."""
        before, self._accounts = self._accounts, {}
        stale: list[Upstream] = []
        for account in orchestra.accounts:
            known = before.pop(account.name, None)
            if known is not None and known[0] == account:
                self._accounts[account.name] = known
                continue
            if known is not None:
                stale.append(known[1])
            try:
                upstream = self._make(account, orchestra)
            except GatewayError as error:
                _log.warning("%s cannot be called: %s", account.name, error.message)
                continue
            self._accounts[account.name] = (account, upstream, dict(account.models))
        for upstream in (*stale, *(known[1] for known in before.values())):
            if isinstance(upstream, HttpAdapter):
                self._closing.append(asyncio.create_task(upstream.aclose()))
        self._closing = [task for task in self._closing if not task.done()]

    def _make(self, account: AccountSpec, orchestra: Orchestra) -> Upstream:
        if account.provider is Provider.LOCAL:
            return ActorUpstream(self._hosts, self._roster, account)
        served = {model for model, _upstream in account.models}
        return create(account, [model for model in orchestra.models if model.name in served])


class ActorUpstream:
    """An account that is only reached in its own actor's process: the embedded model. Called under a permit as well."""

    def __init__(self, hosts: HostHandles, roster: SnapshotRoster, account: AccountSpec) -> None:
        self._hosts = hosts
        self._roster = roster
        self._account = account.name

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """See ``ports.Upstream``."""
        return await self._hosts.chat(self._host(), self._account, request, timeout_s, current())

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """See ``ports.Upstream``."""
        async with aclosing(
            self._hosts.chat_stream(self._host(), self._account, request, timeout_s, current())
        ) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        """See ``ports.Upstream``."""
        raise RequestError(f"{self._account} has no embedding model", param="model")

    def _host(self) -> str:
        host = self._roster.host_of(self._account)
        if host is None:
            raise UpstreamError(
                f"{self._account} is starting", kind=UpstreamKind.CONNECTION, account=self._account, billed=False
            )
        return host


class GatewayLease:
    """Builds and feeds one replica's gateway.

    Args:
        namespace: Where the actors live.

    Start it inside a running event loop. Not thread-safe.
    """

    def __init__(self, namespace: str) -> None:
        self._directory = DirectoryHandle(namespace)
        self._hosts = HostHandles(namespace)
        self._store = StoreHandle(namespace)
        self._repeat_keys = RepeatHandle(namespace)
        self._roster = SnapshotRoster()
        self._upstreams = LocalUpstreams(self._hosts, self._roster)
        self._owner = f"replica-{uuid.uuid4().hex[:12]}"
        self._own_events = OwnEvents("replica", namespace)
        self._gateway: Gateway | None = None
        self._desk: PermitDesk | None = None
        self._gate: CallerGate | None = None
        self._keeper: Bookkeeper | None = None
        self._known = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._spawn(self._watch_directory())

    async def gateway(self) -> Gateway:
        """Return the gateway once the configuration is known; raises CapacityError if that takes too long."""
        if self._gateway is None:
            try:
                await asyncio.wait_for(self._known.wait(), KNOWN_WAIT_S)
            except TimeoutError:
                raise CapacityError("the accounts are not known yet", retry_after_s=2.0) from None
        assert self._gateway is not None
        return self._gateway

    async def aclose(self) -> None:
        """Give every permit back and say what is unsaid.

        The replica's requests have ended before. Takes ``CLOSE_S`` at most.
        """
        background = list(self._background)
        for task in background:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*background, return_exceptions=True)
                if self._gateway is not None:
                    await self._gateway.aclose()
                closing = (each.aclose() for each in (self._desk, self._gate, self._keeper) if each is not None)
                await asyncio.gather(*closing, return_exceptions=True)
                await self._own_events.aclose()
                await tracing.flush()

    async def _watch_directory(self) -> None:
        version = -1
        while True:
            try:
                snapshot = await self._directory.watch(version, WATCH_WAIT_S)
            except GatewayError as error:
                _log.info("the directory does not answer: %s", error.message)
                version = -1
                await asyncio.sleep(RECONNECT_S)
                continue
            version = snapshot.version
            if snapshot.orchestra is None:
                await asyncio.sleep(RECONNECT_S)
                continue
            telemetry.follow(snapshot.orchestra.telemetry, role="gateway")
            await self._upstreams.update(snapshot.orchestra)
            self._roster.update(snapshot.orchestra, snapshot.hosts, snapshot.load)
            if self._gateway is None:
                self._build(snapshot.orchestra)
            assert self._desk is not None
            self._desk.wake()

    def _build(self, orchestra: Orchestra) -> None:
        spec, clock, events = orchestra.gateway, SystemClock(), self._own_events.emitter
        desk = PermitDesk(
            self._hosts,
            self._roster,
            clock,
            owner=self._owner,
            on_silence=self._directory.suspect,
            bounds=Bounds(queue_max=max(1, spec.queue_max), batch_headroom=spec.batch_headroom),
        )
        gate = CallerGate(self._hosts, clock, owner=f"{self._owner}-callers", on_silence=self._directory.suspect)
        keeper = Bookkeeper(self._store, clock, holder=self._owner)
        spending = Spending(keeper, self._roster, clock)
        attempts = Attempts(
            desk,
            self._upstreams,
            clock,
            spending=spending,
            retries=RetryBudget(spec.retry_ratio, RETRIES_FLOOR),
            attempts_max=spec.attempts_max,
            events=events,
        )
        self._desk, self._gate, self._keeper = desk, gate, keeper
        repeats = Repeats(self._repeat_keys, clock, owner=self._owner)
        self._gateway = Gateway(
            self._roster, attempts, gate, spending, clock, spec=spec, repeats=repeats, events=events
        )
        self._spawn(desk.run())
        self._spawn(gate.run())
        self._spawn(keeper.run())
        self._spawn(_measure(desk))
        collect_rarely()
        self._known.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _measure(desk: PermitDesk) -> None:
    while True:
        WAITING.set(desk.waiting)
        await asyncio.sleep(MEASURE_S)


class OneLease:
    """A replica's lease: taken when the replica starts, given back when it ends."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._lease: GatewayLease | None = None
        self._closed = False

    def begin(self) -> None:
        """Learn the configuration before the first request asks for it."""
        if self._lease is None and not self._closed:
            self._lease = GatewayLease(self._namespace)

    async def gateway(self) -> Gateway:
        """See ``GatewayLease.gateway``; nobody gets one from a replica that has ended."""
        if self._closed:
            raise CapacityError("this replica has ended", retry_after_s=1.0)
        self.begin()
        assert self._lease is not None
        return await self._lease.gateway()

    async def aclose(self) -> None:
        """See ``GatewayLease.aclose``."""
        self._closed = True
        if self._lease is not None:
            await self._lease.aclose()
