"""Account actors as holders of permits see them, without Ray: the real office over the real books, and bad weather.

The port ``PermitHosts``. Messages take ``delay_s`` each way and may be lost on either; a host may hang, die and be
reborn with empty limiters, as an account actor does (``actors/account``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from app.domain.account_state import AccountBook
from app.domain.accounts import AccountSpec, CoordinatorSpec, ModelInfo, Orchestra, Provider
from app.domain.books.prices import PriceRow
from app.domain.errors import InternalError
from app.domain.hosting import host_name
from app.domain.leases import Exchange, Exchanged
from app.domain.limits import LimitSpec
from app.domain.load import LoadRow
from app.domain.permit_office import PermitOffice
from app.domain.ports import Clock
from app.services.roster import SnapshotRoster

ANSWER_TIMEOUT_S = 10.0
"""After so long the client of a hanging host gives up, as ``actors/handles`` does."""

Fate = Callable[[str, Exchange], str]
"""What becomes of a message: ``fine``, ``lost`` before it arrives, ``unheard``: the host acts, its answer is lost."""


def an_account(name: str, *models: str, limits: LimitSpec = LimitSpec(), provider: str = "openai") -> AccountSpec:
    """Return an account that serves these models, each within ``limits``."""
    served = models or ("m",)
    return AccountSpec(
        name=name,
        provider=Provider(provider),
        api_key=f"sk-{name}",
        models=tuple((model, model) for model in served),
        limits=tuple((model, limits) for model in served),
    )


def an_orchestra(accounts: Sequence[AccountSpec]) -> Orchestra:
    """Return the configuration that these accounts make."""
    models = sorted({model for account in accounts for model, _name in account.models})
    first = models[0]
    return Orchestra(
        version=1,
        accounts=tuple(accounts),
        models=tuple(ModelInfo(name=model, family="f") for model in models),
        routes=(),
        coordinator=CoordinatorSpec(
            model=first, requested_model=first, judge_model=first, clarify_model=first, transcribe_model=first
        ),
        data_dir="unused",
    )


class _Host:
    """One life of an account actor."""

    def __init__(self, life: str, accounts: Sequence[AccountSpec], *, lost: bool, now_ns: int) -> None:
        self.life = life
        self.accounts = list(accounts)
        self.book = AccountBook()
        self.office = PermitOffice(self.book, life)
        self.refused = asyncio.Event()
        self.gone = asyncio.Event()
        self.configure(now_ns, lost=lost)

    def configure(self, now_ns: int, *, lost: bool = False) -> None:
        models = {model for account in self.accounts for model, _name in account.models}
        infos = [ModelInfo(name=model, family="f") for model in sorted(models)]
        saved = {}
        if lost:
            blank = AccountBook()
            blank.configure(self.accounts, infos, {}, now_ns, 0)
            saved = {key: (state, False) for key, state in blank.snapshots(now_ns, now_ns).items()}
        self.book.configure(self.accounts, infos, saved, now_ns, now_ns)


class OfficeHosts:
    """One host per account scope, or ``one_host`` for all.

    Args:
        clock: Time.
        accounts: Who is hosted.
        delay_s: Each way of a message.
    """

    def __init__(
        self, clock: Clock, accounts: Iterable[AccountSpec], *, delay_s: float = 0.001, one_host: str = ""
    ) -> None:
        self._clock = clock
        self.delay_s = delay_s
        self.fate: Fate = lambda _host, _message: "fine"
        self.hanging: set[str] = set()
        self.messages: list[tuple[str, Exchange]] = []
        """Everything that holders sent, lost ones included."""
        self.suspected: list[str] = []
        self.prices: tuple[PriceRow, ...] = ()
        """Of the configuration that rosters are told."""
        self._specs: dict[str, list[AccountSpec]] = {}
        self._hosts: dict[str, _Host | None] = {}
        self._lives = 0
        for account in accounts:
            self._specs.setdefault(one_host or host_name(account.scope), []).append(account)
        for host in self._specs or [one_host]:
            self._specs.setdefault(host, [])
            self.bear(host, lost=False)

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        """See ``ports.PermitHosts``."""
        self.messages.append((host, message))
        fate = self.fate(host, message)
        await asyncio.sleep(self.delay_s)
        if host in self.hanging:
            await asyncio.sleep(ANSWER_TIMEOUT_S)
            raise InternalError(f"{host} did not answer in time")
        found = self._hosts.get(host)
        if found is None or fate == "lost":
            raise InternalError(f"{host} is not running")
        answer = self._act(found, message)
        await asyncio.sleep(self.delay_s)
        if fate == "unheard" or self._hosts.get(host) is not found:
            raise InternalError(f"{host} died")
        return answer

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        """See ``ports.PermitHosts``."""
        await asyncio.sleep(self.delay_s)
        found = self._hosts.get(host)
        if found is None or host in self.hanging:
            raise InternalError(f"{host} is not running")
        if found.office.epoch == epoch:
            refused, gone = asyncio.ensure_future(found.refused.wait()), asyncio.ensure_future(found.gone.wait())
            try:
                await asyncio.wait((refused, gone), timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            finally:
                refused.cancel()
                gone.cancel()
        if self._hosts.get(host) is not found:
            raise InternalError(f"{host} died")
        now_ns = self._clock.monotonic_ns()
        return Exchanged(incarnation=found.life, epoch=found.office.epoch, rows=tuple(found.book.rows(now_ns, now_ns)))

    async def suspect(self, host: str) -> None:
        """Note who was said to be silent."""
        self.suspected.append(host)

    def kill(self, host: str) -> None:
        """Let a host die with everything it knew."""
        found = self._hosts[host]
        self._hosts[host] = None
        if found is not None:
            found.gone.set()

    def bear(self, host: str, *, lost: bool = True) -> None:
        """Start another life of a host; ``lost``: its limiters start empty, as after a crash."""
        self._lives += 1
        now_ns = self._clock.monotonic_ns()
        self._hosts[host] = _Host(f"life-{self._lives}", self._specs[host], lost=lost, now_ns=now_ns)

    def lives(self, host: str) -> bool:
        """Tell whether a host is there."""
        return self._hosts[host] is not None

    def office(self, host: str) -> PermitOffice:
        """Return the office of a living host."""
        found = self._hosts[host]
        assert found is not None, f"{host} is dead"
        return found.office

    def remove(self, account: str) -> None:
        """Take an account out of the configuration; its host lives on, as one with other accounts would."""
        for host, accounts in self._specs.items():
            accounts[:] = [each for each in accounts if each.name != account]
            found = self._hosts[host]
            if found is not None and any(each.name == account for each in found.accounts):
                found.accounts = list(accounts)
                found.configure(self._clock.monotonic_ns())

    def sweep(self) -> None:
        """Do what a host does every second."""
        for found in self._hosts.values():
            if found is not None:
                found.office.sweep(self._clock.monotonic_ns())

    @property
    def held(self) -> int:
        """Permits that are out, over all living hosts."""
        return sum(found.office.held for found in self._hosts.values() if found is not None)

    def held_by(self, owner: str) -> int:
        """Return how many permits one holder has, over all living hosts."""
        return sum(found.office.held_by(owner) for found in self._hosts.values() if found is not None)

    def in_flight(self) -> Mapping[str, int]:
        """Return what the limiters of living hosts count as under way, by account."""
        return {row.account: row.in_flight for row in self.rows()}

    def rows(self) -> list[LoadRow]:
        """Return the load of everything that lives."""
        now_ns = self._clock.monotonic_ns()
        return [row for found in self._hosts.values() if found is not None for row in found.book.rows(now_ns, now_ns)]

    def roster(self) -> SnapshotRoster:
        """Return what the directory would say now."""
        roster = SnapshotRoster()
        self.tell(roster)
        return roster

    def tell(self, roster: SnapshotRoster) -> None:
        """Give a roster the present snapshot."""
        accounts = [account for specs in self._specs.values() for account in specs]
        hosts = {account.name: host for host, specs in self._specs.items() for account in specs}
        roster.update(replace(an_orchestra(accounts), prices=self.prices), hosts, self.rows())

    def _act(self, found: _Host, message: Exchange) -> Exchanged:
        office, now_ns = found.office, self._clock.monotonic_ns()
        epoch = office.epoch
        moved = office.settle(message, now_ns, now_ns)
        admissions, bundles = office.grant(message, now_ns, now_ns)
        if office.epoch != epoch:
            found.refused.set()
            found.refused = asyncio.Event()
        moved.update((wish.account, wish.model) for wish in message.wishes)
        moved.update((wish.account, wish.model) for wish in message.bundles)
        rows = [found.book.row(account, model, now_ns) for account, model in moved]
        return Exchanged(
            incarnation=found.life,
            epoch=office.epoch,
            admissions=tuple(admissions),
            bundles=tuple(bundles),
            rows=tuple(row for row in rows if row is not None),
        )


async def cancel(*tasks: asyncio.Task[None]) -> None:
    """Cancel background tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
