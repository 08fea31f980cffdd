"""The replica's bookkeeper over the real ledger, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import UsageEntry
from app.domain.chat import Usage
from app.domain.errors import InternalError, QuotaError
from app.services.gateway.bookkeeper import HOLD_TIMEOUT_S, IN_TROUBLE_S, Bookkeeper
from app.services.gateway.purses import HOLD_LIFE_S, Ceiling
from tests.fakes.books import LedgerBooks
from tests.fakes.permit_hosts import cancel
from tests.fakes.virtual_time import VirtualClock, run

USD = 10**9
OWNERS = Owners(tenant="default", key="alice")
CEILING = Ceiling(nano=2_000_000, tokens=1_000)
MONTHLY = BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="alice", window=Window.MONTH, limit_nano=USD)


def entry(keeper: Bookkeeper, clock: VirtualClock, *, nano: int = 1_000_000, owners: Owners = OWNERS) -> UsageEntry:
    return UsageEntry(
        entry_id=keeper.entry_id(),
        at_s=clock.wall_s(),
        owners=owners,
        account="a",
        provider="openai",
        model="m",
        usage=Usage(input_tokens=100, output_tokens=200),
        cost_nano=nano,
        price_id="m@1",
    )


@asynccontextmanager
async def a_keeper(books: LedgerBooks, clock: VirtualClock, holder: str = "r1") -> AsyncIterator[Bookkeeper]:
    keeper = Bookkeeper(books, clock, holder=holder)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        await cancel(task)
        await keeper.aclose()


def play(story: Callable[[VirtualClock], Awaitable[None]]) -> None:
    clock = VirtualClock()

    async def main() -> None:
        await story(clock)

    run(main(), clock)


async def call(keeper: Bookkeeper, clock: VirtualClock, seconds: float = 0.1, nano: int = 1_000_000) -> None:
    ticket = await keeper.hold(OWNERS, CEILING)
    await asyncio.sleep(seconds)
    ticket.close(entry(keeper, clock, nano=nano))


def test_calls_of_a_busy_caller_cost_a_few_messages_a_second_and_all_are_booked() -> None:
    """The gateway's bound of CPU leaves no room for a message per call."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY, delay_s=0.01)
        async with a_keeper(books, clock) as keeper:
            until_s = clock.now_s + 2.0
            made = 0

            async def client() -> None:
                nonlocal made
                while clock.now_s < until_s:
                    await call(keeper, clock)
                    made += 1

            await asyncio.gather(*(client() for _ in range(20)))
            messages = len(books.messages)

        assert made > 300
        assert messages < 20
        assert books.entries() == made
        assert books.spent("usd/key:alice") == (made * 1_000_000, 0, 0)
        assert set(books.counts()) <= {"posted", "voided"}
        assert books.verify() == []

    play(story)


def test_budget_is_used_to_its_end_by_two_replicas_and_never_exceeded() -> None:
    """Money ends exactly where the budget does; the refusal names it, and no time to come back."""

    async def story(clock: VirtualClock) -> None:
        limit = 400 * 1_000_000
        books = LedgerBooks(
            BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="alice", window=Window.MONTH, limit_nano=limit)
        )
        refused: list[QuotaError] = []
        async with a_keeper(books, clock, "r1") as one, a_keeper(books, clock, "r2") as two:

            async def client(keeper: Bookkeeper) -> None:
                for _ in range(40):
                    try:
                        await call(keeper, clock)
                    except QuotaError as error:
                        refused.append(error)
                        await asyncio.sleep(0.2)

            await asyncio.gather(*(client(keeper) for keeper in (one, two) for _ in range(8)))
            spent, held, unknown = books.spent("usd/key:alice")

            assert spent + held + unknown <= limit
        spent, held, unknown = books.spent("usd/key:alice")
        assert (held, unknown) == (0, 0)
        # The last calls do not fit any more: a ceiling is twice what a call costs.
        assert limit - 2_000_000 < spent <= limit
        assert refused
        assert refused[0].retry_after_s is None
        assert "key 'alice'" in refused[0].message
        assert books.verify() == []

    play(story)


def test_call_is_not_refused_for_what_calls_before_it_did_not_need() -> None:
    """One after the other, each at half its ceiling: none is refused while the budget has room for one more."""

    async def story(clock: VirtualClock) -> None:
        limit = 10 * (CEILING.nano or 0)
        books = LedgerBooks(
            BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="alice", window=Window.MONTH, limit_nano=limit)
        )
        made = 0
        async with a_keeper(books, clock) as keeper:
            with contextlib.suppress(QuotaError):
                while True:
                    await call(keeper, clock, seconds=0.01)
                    made += 1
        assert made * 1_000_000 == limit - 1_000_000
        assert books.spent("usd/key:alice") == (made * 1_000_000, 0, 0)
        assert books.verify() == []

    play(story)


def test_call_without_a_price_passes_unless_money_is_limited() -> None:
    """Unknown cost is no free lunch, and no reason to stop where nobody limits money."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY)
        free = Owners(tenant="default", key="bob")
        async with a_keeper(books, clock) as keeper:
            with pytest.raises(QuotaError, match="price of this model is unknown"):
                await keeper.hold(OWNERS, Ceiling(nano=None, tokens=100))
            await asyncio.sleep(1.5)
            assert len(books.messages) < 5  # what is refused for good is not asked for again and again
            ticket = await keeper.hold(free, Ceiling(nano=None, tokens=100))
            ticket.close(None)

    play(story)


@pytest.mark.parametrize("seed", range(6))
def test_books_are_never_below_the_bills_however_replicas_die(seed: int) -> None:
    """What a killed replica bought and did not book counts as spent: held first, unknown later."""

    async def story(clock: VirtualClock) -> None:
        chance = random.Random(seed)
        books = LedgerBooks(MONTHLY, delay_s=0.02)
        billed = 0

        async def client(keeper: Bookkeeper) -> None:
            nonlocal billed
            for _ in range(100):
                ticket = await keeper.hold(OWNERS, CEILING)
                await asyncio.sleep(chance.random() * 0.2)
                cost = chance.randrange(2_000_001)
                billed += cost
                ticket.close(entry(keeper, clock, nano=cost))

        for life in range(4):
            keeper = Bookkeeper(books, clock, holder=f"life{life}")
            tasks = [asyncio.create_task(keeper.run()), *(asyncio.create_task(client(keeper)) for _ in range(3))]
            for _ in range(10):
                await asyncio.sleep(chance.random())
                assert sum(books.spent("usd/key:alice")) >= billed
            await cancel(*tasks)  # killed: nothing more is said
            await asyncio.sleep(0.1)
        await asyncio.sleep(HOLD_LIFE_S + 1.0)
        books.expire(clock.wall_s())

        spent, held, unknown = books.spent("usd/key:alice")
        assert held == 0
        assert unknown > 0
        assert spent + unknown >= billed
        assert books.verify() == []

    play(story)


@pytest.mark.parametrize("fault", ["fail_before", "fail_after"])
def test_books_that_fail_stop_what_is_not_held_and_lose_and_double_nothing(fault: str) -> None:
    """Refuse to send before paying; recover alone; a repeated command is no second one."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY)
        async with a_keeper(books, clock) as keeper:
            for _ in range(5):
                await call(keeper, clock)
            setattr(books, fault, 6)
            made = 5
            for _ in range(30):
                await call(keeper, clock)
                made += 1
            await asyncio.sleep(5.0)
            assert books.entries() == made
        assert books.spent("usd/key:alice") == (made * 1_000_000, 0, 0)
        assert books.verify() == []

        setattr(books, fault, 10**6)
        keeper = Bookkeeper(books, clock, holder="late")
        with pytest.raises(InternalError, match="books do not answer"):
            await keeper.hold(OWNERS, CEILING)
        setattr(books, fault, 0)
        await asyncio.sleep(2.0)
        await keeper.aclose()
        assert books.spent("usd/key:alice") == (made * 1_000_000, 0, 0)

    play(story)


def test_calls_hear_soon_what_is_wrong_with_the_books_and_wait_no_longer_when_it_ends() -> None:
    """Once somebody has waited in vain, the next ones need not; the first hold after the fault is found."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY)
        books.fail_before = 10**6
        async with a_keeper(books, clock) as keeper:
            waited = []
            for _ in range(3):
                began_s = clock.now_s
                with pytest.raises(InternalError, match="the books do not answer: the disk is full"):
                    await keeper.hold(OWNERS, CEILING)
                waited.append(clock.now_s - began_s)
            books.fail_before = 0
            await asyncio.sleep(1.0)
            await call(keeper, clock)
        assert waited == pytest.approx([HOLD_TIMEOUT_S, IN_TROUBLE_S, IN_TROUBLE_S])
        assert books.spent("usd/key:alice") == (1_000_000, 0, 0)
        assert books.verify() == []

    play(story)


def test_long_call_stays_held_while_others_are_booked() -> None:
    """A stream of minutes neither loses its hold nor keeps the entries of short calls from the books."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY)
        async with a_keeper(books, clock) as keeper:
            long = asyncio.create_task(call(keeper, clock, seconds=4 * HOLD_LIFE_S))
            for number in range(40):
                await call(keeper, clock)
                await asyncio.sleep(1.5)
                assert books.entries() == number + 1
                assert books.expire(clock.wall_s()) == 0
            await asyncio.sleep(3 * HOLD_LIFE_S / 2)
            assert books.expire(clock.wall_s()) == 0
            assert books.spent("usd/key:alice") == (40_000_000, CEILING.nano, 0)
            await long
        assert books.spent("usd/key:alice") == (41_000_000, 0, 0)
        assert books.verify() == []

    play(story)


def test_call_that_gives_up_while_it_waits_for_its_hold_leaves_nothing_held() -> None:
    """The answer comes to nobody, and what it grants goes back."""

    async def story(clock: VirtualClock) -> None:
        books = LedgerBooks(MONTHLY, delay_s=1.0)
        async with a_keeper(books, clock) as keeper:
            waiting = asyncio.create_task(keeper.hold(OWNERS, CEILING))
            await asyncio.sleep(0.5)
            waiting.cancel()
            await asyncio.sleep(10.0)
        assert books.spent("usd/key:alice") == (0, 0, 0)
        assert "open" not in books.counts()

    play(story)


def test_call_that_waits_long_for_its_own_hold_is_booked_all_the_same() -> None:
    """Near a budget's end calls ask one by one; what keeps their holds is not forgotten while they wait."""

    async def story(clock: VirtualClock) -> None:
        limit = BudgetSpec(owner_kind=OwnerKind.KEY, owner_name="alice", window=Window.MONTH, limit_nano=6_000_000)
        books = LedgerBooks(limit, delay_s=1.2)
        async with a_keeper(books, clock) as keeper:
            for _ in range(3):
                await call(keeper, clock)
        assert books.entries() == 3
        assert books.spent("usd/key:alice") == (3_000_000, 0, 0)
        assert books.verify() == []

    play(story)
