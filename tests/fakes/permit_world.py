"""Some accounts and some holders of their permits, in virtual time: the real desk, mail, office and books."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from app.domain.accounts import AccountSpec
from app.domain.chat import Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.gateway import Candidate, ServiceClass
from app.domain.leases import PERMIT_VALID_S, PermitReport
from app.services.gateway.permits import Bounds, Permit, PermitDesk, Want
from app.services.roster import SnapshotRoster
from tests.fakes.permit_hosts import OfficeHosts, cancel
from tests.fakes.virtual_time import VirtualClock, run


@dataclass
class World:
    """Some accounts, and holders of their permits."""

    hosts: OfficeHosts
    clock: VirtualClock
    desks: list[PermitDesk] = field(default_factory=list)
    rosters: list[SnapshotRoster] = field(default_factory=list)
    starts: list[tuple[float, str, int]] = field(default_factory=list)
    """(when, account, tokens) of every call that was sent."""
    owners: dict[PermitDesk, str] = field(default_factory=dict)
    tasks: dict[PermitDesk, asyncio.Task[None]] = field(default_factory=dict)

    async def call(
        self, want: Want, *, desk: int = 0, duration_s: float = 0.5, timeout_s: float = 60.0, used: int | None = None
    ) -> Permit:
        permit = await self.desks[desk].acquire(want, timeout_s=timeout_s)
        self.starts.append((self.clock.now_s, permit.account, want.input_tokens + want.output_tokens_max))
        try:
            await asyncio.sleep(duration_s)
        except asyncio.CancelledError:
            self.desks[desk].report(permit, PermitReport(call_id=permit.call_id, ending="cancelled"))
            raise
        usage = Usage(input_tokens=want.input_tokens, output_tokens=want.output_tokens_max if used is None else used)
        self.desks[desk].report(
            permit, PermitReport(call_id=permit.call_id, ending="answered", usage=usage, duration_s=duration_s)
        )
        return permit

    def succeed(self, permit: Permit, *, desk: int = 0, duration_s: float = 0.5) -> None:
        usage = Usage(input_tokens=1, output_tokens=1)
        self.desks[desk].report(
            permit, PermitReport(call_id=permit.call_id, ending="answered", usage=usage, duration_s=duration_s)
        )

    def fail(self, permit: Permit, kind: UpstreamKind, *, desk: int = 0, retry_after_s: float | None = None) -> None:
        error = UpstreamError("failed", kind=kind, account=permit.account, retry_after_s=retry_after_s)
        self.desks[desk].report(permit, PermitReport(call_id=permit.call_id, ending="failed", error=error))

    @property
    def waiting(self) -> int:
        return sum(desk.waiting for desk in self.desks)

    def add_desk(self, owner: str, bounds: Bounds = Bounds()) -> PermitDesk:
        """Let another holder begin."""
        roster = self.hosts.roster()
        desk = PermitDesk(self.hosts, roster, self.clock, owner=owner, on_silence=self.hosts.suspect, bounds=bounds)
        self.desks.append(desk)
        self.rosters.append(roster)
        self.owners[desk] = owner
        self.tasks[desk] = asyncio.create_task(_later(0.037 * (len(self.desks) - 1), desk.run()))
        return desk

    async def kill_desk(self, desk: PermitDesk, *, politely: bool = False) -> None:
        """End a holder; unless ``politely``, without a word."""
        await cancel(self.tasks.pop(desk))
        self.desks.remove(desk)
        if politely:
            await desk.aclose()
            return
        fate = self.hosts.fate
        owner = self.owners[desk]
        self.hosts.fate = lambda host, message: "lost" if message.owner == owner else fate(host, message)

    def sizes(self, desk: int = 0) -> tuple[int, int]:
        """Return how many (account, model) pairs and hosts a holder remembers."""
        found = self.desks[desk]
        return len(list(found._slots)), len(found._mail._boxes)

    async def settled(self) -> None:
        """Let spare permits expire and every report arrive."""
        await asyncio.sleep(2 * PERMIT_VALID_S + 1.0)


@asynccontextmanager
async def a_world(
    clock: VirtualClock, *accounts: AccountSpec, desks: int = 1, bounds: Bounds = Bounds(), delay_s: float = 0.001
) -> AsyncIterator[World]:
    hosts = OfficeHosts(clock, accounts, delay_s=delay_s)
    world = World(hosts, clock)
    for number in range(desks):
        world.add_desk(f"d{number}", bounds)
    directory = asyncio.create_task(_directory(world))
    try:
        yield world
        assert not any(task.done() for task in (directory, *world.tasks.values())), "a background task ended"
    finally:
        await cancel(directory, *world.tasks.values())
        await asyncio.gather(*(desk.aclose() for desk in world.desks))


async def _later(pause_s: float, work: Coroutine[None, None, None]) -> None:
    """Start replicas one after another: their ticks do not coincide."""
    await asyncio.sleep(pause_s)
    await work


async def _directory(world: World) -> None:
    """Sweep and tell, as the account actors and the directory do."""
    while True:
        await asyncio.sleep(1.0)
        world.hosts.sweep()
        for roster in world.rosters:
            world.hosts.tell(roster)


def want(
    *accounts: str,
    tokens: int = 10,
    output: int = 0,
    caller: str = "",
    service_class: ServiceClass = ServiceClass.STANDARD,
) -> Want:
    """Return a call of model ``m``."""
    return Want(
        candidates=(Candidate(model="m", accounts=accounts or ("a",)),),
        input_tokens=tokens,
        output_tokens_max=output,
        caller=caller,
        service_class=service_class,
    )


def play(story: Callable[[VirtualClock], Awaitable[None]]) -> None:
    """Run a test's story in virtual time."""
    clock = VirtualClock()

    async def main() -> None:
        await story(clock)

    run(main(), clock)
