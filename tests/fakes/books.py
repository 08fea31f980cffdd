"""The books in memory: the real ledger on SQLite, behind the port, with a delay and faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sqlalchemy import create_engine, func, select
from sqlalchemy.pool import StaticPool

from app.domain.books.budgets import BudgetSpec
from app.domain.books.entries import Answer, Command, Expire, UsageEntry
from app.domain.books.figures import Difference
from app.domain.books.prices import PriceRow, Rates
from app.domain.errors import InternalError
from app.domain.ports import Clock
from app.services.gateway.bookkeeper import Bookkeeper
from app.services.gateway.spending import Spending
from app.services.roster import SnapshotRoster
from app.storage import books_checks, ledger
from app.storage.books_rows import entry_of
from app.storage.books_tables import hold, ledger_account, usage_entry
from app.storage.budget_rows import put_specs
from app.storage.budgets import record_prices
from app.storage.tables import metadata
from tests.fakes.permit_hosts import cancel

PRICE = PriceRow(price_id="m@1", model="m", rates=Rates(input="2", output="4"))


class LedgerBooks:
    """See ``ports.Books``.

    Args:
        budgets: As configured.
        delay_s: Of every answer.
    """

    def __init__(self, *budgets: BudgetSpec, delay_s: float = 0.005) -> None:
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        metadata.create_all(self._engine)
        self._delay_s = delay_s
        self.messages: list[list[Command]] = []
        self.fail_before, self.fail_after = 0, 0
        """So many calls fail, before they are written or after."""
        with self._engine.begin() as connection:
            put_specs(connection, budgets, configured=True)
            record_prices(connection, [PRICE])

    async def apply_books(self, commands: Sequence[Command]) -> Sequence[Answer]:
        await asyncio.sleep(self._delay_s)
        if self.fail_before:
            self.fail_before -= 1
            raise InternalError("the disk is full")
        self.messages.append(list(commands))
        with self._engine.begin() as connection:
            answers = ledger.apply(connection, commands)
        if self.fail_after:
            self.fail_after -= 1
            raise InternalError("the answer was lost")
        return answers

    def expire(self, at_s: float) -> int:
        """Take overdue holders for dead; returns how many holds they had."""
        with self._engine.begin() as connection:
            return ledger.expire(connection, Expire(at_s=at_s)).count

    def verify(self) -> list[Difference]:
        """Return what does not add up."""
        with self._engine.begin() as connection:
            return books_checks.verify(connection)

    def counts(self) -> dict[str, int]:
        """Return how many holds are in each state."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(hold.c.state, func.count()).group_by(hold.c.state))
            return {str(state): int(count) for state, count in rows}

    def entries(self) -> int:
        """Return how many entries are booked."""
        with self._engine.begin() as connection:
            return connection.execute(select(func.count()).select_from(usage_entry)).scalar_one()

    def booked(self) -> list[UsageEntry]:
        """Return every entry, in order of its time."""
        with self._engine.begin() as connection:
            rows = connection.execute(select(usage_entry).order_by(usage_entry.c.at_s, usage_entry.c.id))
            return [entry_of(row) for row in rows]

    def spent(self, account: str) -> tuple[int, int, int]:
        """Return (spent, held, unknown) of one ledger account, by the start of its id."""
        with self._engine.begin() as connection:
            row = connection.execute(select(ledger_account).where(ledger_account.c.id.startswith(account))).one()
            return row.debits_posted - row.credits_posted, row.debits_pending, row.debits_unknown


@asynccontextmanager
async def a_spending(
    roster: SnapshotRoster, clock: Clock, *budgets: BudgetSpec
) -> AsyncIterator[tuple[Spending, LedgerBooks]]:
    """Keep the books of attempts, really, for as long as the context lasts."""
    books = LedgerBooks(*budgets, delay_s=0.001)
    keeper = Bookkeeper(books, clock, holder="replica")
    task = asyncio.create_task(keeper.run())
    try:
        yield Spending(keeper, roster, clock), books
    finally:
        await cancel(task)
        await keeper.aclose()
