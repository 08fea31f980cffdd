"""Which accounts exist, and where: reconciles the configuration with the living account actors.

The only one that creates, configures and drains account actors, and the only one that asks them for load (one round a
period, not one per choice: probing four actors costs 5.7 ms). Everybody else long-polls its versioned snapshot.

May die at any moment: it restarts without a configuration, the coordinator gives it the newest one it knows
(``start``), and it finds the living hosts by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from actors import telemetry
from app import settings
from app.domain.accounts import AccountSpec, ModelInfo, Orchestra
from app.domain.books.budgets import BudgetSpec
from app.domain.books.prices import PriceRow
from app.domain.errors import GatewayError, InternalError
from app.domain.events.spec import EventsSpec
from app.domain.hosting import CALLERS_HOST, Snapshot, assign_hosts
from app.domain.load import LoadRow
from app.domain.ports import Tells
from app.domain.reconfiguring import check_change
from app.domain.telemetry import TelemetrySpec
from app.domain.views import AccountView, LiveCheck, ReloadReport
from app.services.events.account_watch import AccountWatch
from app.services.events.emitter import Silence
from app.services.telemetry.accounts import measure_accounts

STATUS_PERIOD_S = 1.0
STATUS_COST_S = 0.04
"""With n hosts a round starts every max(STATUS_PERIOD_S, n x this), which bounds the idle cost of large pools."""
FILE_PERIOD_S = 1.0
BOOKS_PERIOD_S = 2.0
"""Between two tries to tell the books what is configured."""
EVENTS_PERIOD_S = 2.0
"""Between two times that who keeps events is told what is configured."""
DRAIN_TIMEOUT_S = 20.0
CHECK_CONCURRENCY = 8
STARTING = "starting"
NAMES_MAX = 5
"""Hosts named in one word about all of them."""

_log = logging.getLogger(__name__)


class Hosts(Protocol):
    """What the directory needs of the account actors; ``handles.HostHandles`` provides it."""

    async def configure(
        self,
        host: str,
        version: int,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        telemetry: TelemetrySpec,
    ) -> None: ...
    async def status(self, host: str) -> tuple[str, int, Sequence[LoadRow]]: ...
    async def views(self, host: str) -> Sequence[AccountView]: ...
    async def check(self, host: str, account: str) -> LiveCheck: ...
    async def drain(self, host: str, timeout_s: float) -> None: ...


class BudgetBooks(Protocol):
    """What the directory tells the books; ``store_handle.StoreHandle`` provides it."""

    async def sync_books(
        self, budgets: Sequence[BudgetSpec], prices: Sequence[PriceRow], webhook: str | None = None
    ) -> None: ...


class Events(Protocol):
    """Who is told what is configured about events, and what happens; ``event_hub`` implements it."""

    word: str
    """How they fare, for people."""

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None: ...
    async def configure(self, spec: EventsSpec, watched: TelemetrySpec) -> str: ...
    async def aclose(self) -> None: ...


class HostFactory(Protocol):
    """Creates and ends account actors; ``bootstrap`` provides it."""

    async def create(self, host: str) -> None: ...
    async def destroy(self, host: str) -> None: ...


@dataclass(slots=True)
class _Host:
    name: str
    accounts: tuple[AccountSpec, ...]
    configured: int = 0
    incarnation: str = ""
    rows: tuple[LoadRow, ...] = ()
    problem: str = STARTING
    rising: bool = False
    """Whether it is being brought up just now."""


class Directory:
    """Owner of the fact which accounts exist.

    Args:
        hosts: Client of the account actors.
        factory: Creates and ends them.
        books: Is told the budgets and prices in force, before the accounts serve; None: nobody is.
        events: Is told what happens here; None: nobody is.

    Not thread-safe: the actor's event loop is the lock; reconciling is serialised by one asyncio lock.
    """

    def __init__(
        self, hosts: Hosts, factory: HostFactory, books: BudgetBooks | None = None, events: Events | None = None
    ) -> None:
        self._clients = hosts
        self._factory = factory
        self._books = books
        self._events = events
        self._tells: Tells = events or Silence()
        self._watch_accounts = AccountWatch(self._tells)
        self._booked_version: int | None = None
        """Version of the configuration whose budgets, prices and alerts the store knows."""
        self._store_life = ""
        self._orchestra: Orchestra | None = None
        self._config_path: Path | None = None
        self._hosts: dict[str, _Host] = {}
        self._version = 0
        self._changed = asyncio.Event()
        self._reconciling = asyncio.Lock()
        self._look_now = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._file_seen: tuple[int, int] | None = None

    async def start(self, orchestra: Orchestra) -> bool:
        """Take the first configuration; False (and no change) where there is one already.

        Returns at once: the accounts are brought up behind it and join the snapshot one by one, so that a slow one
        holds up nobody, and a caller who gives up waiting leaves nothing half done.
        """
        if self._orchestra is not None:
            return False
        self._orchestra = orchestra
        self._config_path = Path(orchestra.config_path) if orchestra.config_path else None
        self._file_seen = self._file_mark()
        self._spawn(self._reconcile())
        self._spawn(self._look_after_hosts())
        self._spawn(self._look_after_books())
        self._spawn(self._watch_file())
        if self._events is not None:
            self._spawn(self._look_after_events(self._events))
        self._tells.emit("actor.started", actor="directory")
        self._tell_configuration(orchestra, "start")
        return True

    async def apply(self, orchestra: Orchestra) -> ReloadReport:
        """Replace the configuration; removed accounts finish what they have begun."""
        before = self._orchestra
        if before is None:
            raise InternalError("the directory has no configuration yet", remedy="start Tutti: `tutti serve`")
        if orchestra.fingerprint == before.fingerprint:
            return ReloadReport(version=before.version, source=orchestra.source, notes=("nothing changed",))
        check_change(before, orchestra)
        self._orchestra = replace(orchestra, version=before.version + 1)
        report = _compare(before, self._orchestra)
        self._tell_configuration(self._orchestra, "reload", (*report.added, *report.changed, *report.removed))
        await self._reconcile()
        _log.info("configuration %d applied: %s", report.version, report)
        return report

    async def apply_mapping(self, document: Mapping[str, Any]) -> ReloadReport:
        """Apply a configuration given as plain data (Serve's ``user_config``)."""
        here: dict[str, object] = {}
        if self._orchestra is not None:
            here["data_dir"] = self._orchestra.data_dir
            if self._orchestra.store_url:
                here["store"] = {"url": self._orchestra.store_url.replace("$", "$$")}
        return await self.apply(settings.load_mapping({**here, **document}, source="user_config"))

    async def reload(self) -> ReloadReport:
        """Read the configuration file (or the environment) again; a wrong one raises, is told, and changes nothing."""
        self._file_seen = self._file_mark()
        try:
            return await self.apply(await asyncio.to_thread(settings.load, self._config_path))
        except GatewayError as error:
            self._tells.emit("configuration.refused", outcome="failure", reason=type(error).__name__)
            raise

    async def watch(self, version: int, wait_s: float) -> Snapshot:
        """Return the snapshot, waiting up to ``wait_s`` seconds for one newer than ``version``."""
        if self._version <= version:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait_s)
        return self._snapshot()

    async def suspect(self, host: str) -> None:
        """Look after the hosts at once: somebody got no answer from ``host``."""
        if host in self._hosts:
            self._look_now.set()

    async def views(self) -> list[AccountView]:
        """Return a row per (account, model), accounts that are starting included."""
        orchestra = self._orchestra
        answers = await asyncio.gather(*(self._views_of(host) for host in self._account_hosts()))
        order = {account.name: index for index, account in enumerate(orchestra.accounts)} if orchestra else {}
        rows = [row for rows in answers for row in rows]
        return sorted(rows, key=lambda row: (order.get(row.account, len(order)), row.model))

    async def check_live(self) -> list[LiveCheck]:
        """Make one tiny call per account, a few at a time."""
        gate = asyncio.Semaphore(CHECK_CONCURRENCY)

        async def check(host: _Host, account: AccountSpec) -> LiveCheck:
            async with gate:
                try:
                    return await self._clients.check(host.name, account.name)
                except GatewayError as error:
                    model = account.models[0][0] if account.models else ""
                    return LiveCheck(
                        account=account.name,
                        provider=account.provider.value,
                        model=model,
                        ok=False,
                        seconds=0.0,
                        message=error.message,
                    )

        pairs = [(host, account) for host in self._account_hosts() for account in host.accounts]
        return list(await asyncio.gather(*(check(host, account) for host, account in pairs)))

    async def ready(self) -> dict[str, str]:
        """Return a word for the directory and one for the accounts as a whole.

        "ok" where all accounts serve, "ok; …" with the others' names where some do, else what is wrong.
        """
        if self._orchestra is None:
            return {"directory": "no configuration yet", "accounts": "none"}
        hosts = self._account_hosts()
        assigned = hosts or not self._orchestra.accounts
        events = {} if self._events is None else {"events": self._events.word}
        return {"directory": "ok", "accounts": _word(hosts) if assigned else STARTING, **events}

    async def drain(self, timeout_s: float) -> None:
        """Let every account finish what it has begun, save its limiter state, and stop looking after it."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(
            *(self._clients.drain(host.name, timeout_s) for host in self._hosts.values()), return_exceptions=True
        )
        self._tells.emit("actor.ended", actor="directory", outcome="success", reason="drained")
        if self._events is not None:
            await self._events.aclose()

    def _account_hosts(self) -> list[_Host]:
        return [host for host in self._hosts.values() if host.name != CALLERS_HOST]

    def _unfit(self) -> list[str]:
        """Return the accounts whose actors do not answer, or have not started yet."""
        return [account.name for host in self._account_hosts() if host.problem for account in host.accounts]

    def _snapshot(self) -> Snapshot:
        serving = [host for host in self._hosts.values() if not host.problem]
        return Snapshot(
            version=self._version,
            orchestra=self._orchestra,
            hosts={account.name: host.name for host in serving for account in host.accounts},
            load=tuple(row for host in serving for row in host.rows),
        )

    def _announce(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def _reconcile(self) -> None:
        async with self._reconciling:
            orchestra = self._orchestra
            assert orchestra is not None
            telemetry.follow(orchestra.telemetry, role="directory")
            await self._tell_books(orchestra)
            wanted = assign_hosts(orchestra, {name: host.accounts for name, host in self._hosts.items()})
            gone = [host for name, host in self._hosts.items() if name not in wanted]
            for name, accounts in wanted.items():
                host = self._hosts.setdefault(name, _Host(name=name, accounts=accounts))
                host.accounts = accounts
            for host in gone:
                del self._hosts[host.name]
            self._announce()
            await asyncio.gather(*(self._bring_up(host, orchestra) for host in self._hosts.values()))
            self._announce()
            for host in gone:
                self._spawn(self._retire(host))

    async def _tell_books(self, orchestra: Orchestra) -> None:
        """Put budgets and prices in force; where that fails the accounts come up, and it is tried again behind them.

        Until then the budgets of before hold: a fault of the store must not take away what needs no store.
        """
        if self._books is None or self._booked_version == orchestra.version:
            return
        try:
            await self._books.sync_books(orchestra.budgets, orchestra.prices, orchestra.alert_webhook)
            self._booked_version = orchestra.version
        except GatewayError as error:
            _log.warning("budgets and prices are not in force yet: %s", error.message)

    async def _bring_up(self, host: _Host, orchestra: Orchestra) -> None:
        host.rising = True
        waited = bool(host.problem)
        try:
            if not host.configured:
                await self._factory.create(host.name)
            await self._configure(host, orchestra)
        except GatewayError as error:
            host.problem = error.message
            _log.warning("%s is not serving: %s", host.name, error.message)
        finally:
            host.rising = False
        if waited and not host.problem:
            self._announce()

    async def _configure(self, host: _Host, orchestra: Orchestra) -> None:
        wanted = {model for account in host.accounts for model, _upstream in account.models}
        models = tuple(model for model in orchestra.models if model.name in wanted)
        await self._clients.configure(host.name, orchestra.version, host.accounts, models, orchestra.telemetry)
        incarnation, _configured, rows = await self._clients.status(host.name)
        self._tell_life(host.name, host.incarnation, incarnation)
        host.configured, host.incarnation, host.rows, host.problem = orchestra.version, incarnation, tuple(rows), ""

    async def _retire(self, host: _Host) -> None:
        try:
            await self._clients.drain(host.name, DRAIN_TIMEOUT_S)
        except GatewayError as error:
            _log.warning("%s did not drain: %s", host.name, error.message)
        await self._factory.destroy(host.name)
        self._tells.emit("actor.ended", actor=host.name, outcome="success", reason="removed")

    async def _look_after_books(self) -> None:
        while True:
            await asyncio.sleep(BOOKS_PERIOD_S)
            orchestra = self._orchestra
            if orchestra is not None and self._booked_version != orchestra.version and not self._reconciling.locked():
                async with self._reconciling:
                    await self._tell_books(orchestra)

    async def _look_after_events(self, events: Events) -> None:
        """Say what is configured, again and again: who keeps or ships events may have been restarted."""
        while True:
            orchestra = self._orchestra
            assert orchestra is not None
            try:
                life = await events.configure(orchestra.events, orchestra.telemetry)
                if life != self._store_life:
                    self._tell_life("store", self._store_life, life)
                    # It has budgets and prices on disk, and where alerts go only from us.
                    self._store_life, self._booked_version = life, None
            except GatewayError as error:
                _log.info("events are not configured yet: %s", error.message)
            rows = [row for host in self._account_hosts() for row in host.rows if not host.problem]
            providers = {account.name: account.provider.value for account in orchestra.accounts}
            self._watch_accounts.look(rows, providers, asyncio.get_running_loop().time())
            await asyncio.sleep(EVENTS_PERIOD_S)

    def _tell_life(self, actor: str, before: str, now: str) -> None:
        """Tell that an actor lives, where it is another life than before; nobody else sees that one ended."""
        if now == before:
            return
        if before:
            self._tells.emit("actor.ended", actor=actor, outcome="failure", reason="died")
        self._tells.emit("actor.started", actor=actor)

    def _tell_configuration(self, orchestra: Orchestra, reason: str, changed: Sequence[str] = ()) -> None:
        self._tells.emit(
            "configuration.changed",
            config_version=orchestra.version,
            config_fingerprint=orchestra.fingerprint[:16],
            config_source=orchestra.source,
            changed=tuple(changed) or None,
            outcome="success",
            reason=reason,
        )

    async def _look_after_hosts(self) -> None:
        while True:
            await asyncio.gather(*(self._look_at(host) for host in list(self._hosts.values())))
            measure_accounts([row for host in self._account_hosts() for row in host.rows], self._unfit())
            self._announce()
            self._look_now.clear()
            period_s = max(STATUS_PERIOD_S, len(self._hosts) * STATUS_COST_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_now.wait(), period_s)

    async def _look_at(self, host: _Host) -> None:
        orchestra = self._orchestra
        assert orchestra is not None
        if host.rising:
            return
        if not host.configured:
            # Not waited for: an account that does not come up must not keep us from looking after the others.
            self._spawn(self._bring_up(host, orchestra))
            return
        try:
            incarnation, configured, rows = await self._clients.status(host.name)
            if configured == 0 or (incarnation != host.incarnation and not self._reconciling.locked()):
                # Ray restarted the actor: it knows nothing until it is configured again.
                await self._configure(host, orchestra)
                return
            host.rows, host.problem = tuple(rows), ""
        except GatewayError as error:
            host.problem = error.message

    async def _views_of(self, host: _Host) -> Sequence[AccountView]:
        try:
            return await self._clients.views(host.name)
        except GatewayError as error:
            return [
                AccountView(
                    account=account.name,
                    provider=account.provider.value,
                    model=model,
                    state="starting",
                    identity=account.identity,
                    quota_group=account.quota_group,
                    last_error=error.message,
                )
                for account in host.accounts
                for model, _upstream in account.models
            ]

    async def _watch_file(self) -> None:
        while self._config_path is not None:
            await asyncio.sleep(FILE_PERIOD_S)
            mark = self._file_mark()
            if mark is None or mark == self._file_seen:
                continue
            try:
                await self.reload()
            except GatewayError as error:
                _log.error("the changed configuration was not applied: %s", error.message)

    def _file_mark(self) -> tuple[int, int] | None:
        if self._config_path is None:
            return None
        try:
            status = self._config_path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _word(hosts: Sequence[_Host]) -> str:
    starting = sorted(host.name for host in hosts if host.problem == STARTING)
    failed = sorted(f"{host.name} ({host.problem})" for host in hosts if host.problem not in ("", STARTING))
    said = [f"{words}: {_listed(names)}" for words, names in (("starting", starting), ("failed", failed)) if names]
    if len(starting) + len(failed) < len(hosts) or not hosts:
        said.insert(0, "ok")
    return "; ".join(said)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else ""
    return ", ".join(names[:NAMES_MAX]) + more


def _compare(before: Orchestra, after: Orchestra) -> ReloadReport:
    old = {account.name: account for account in before.accounts}
    new = {account.name: account for account in after.accounts}
    return ReloadReport(
        version=after.version,
        source=after.source,
        added=tuple(name for name in new if name not in old),
        changed=tuple(name for name in new if name in old and new[name] != old[name]),
        removed=tuple(name for name in old if name not in new),
        notes=after.notes,
    )
