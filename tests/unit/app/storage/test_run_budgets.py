"""A run's ceiling lives as long as the run: thousands of them leave nothing that whoever looks at budgets reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Connection, func, select

from app.domain.books.budgets import EVERYONE, BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Answer
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.storage import books_checks, budgets, journal, ledger, run_budgets
from app.storage.books_tables import budget, ledger_account
from tests.fakes.ledger_commands import NOON_S, a_budget, a_hold, a_settle, an_entry, fresh_books

ALL_RUNS = a_budget(OwnerKind.RUN, EVERYONE, Window.TOTAL, limit_nano=500, limit_tokens=10_000)
RUNS = 60


@pytest.fixture
def connection() -> Iterator[Connection]:
    with fresh_books([ALL_RUNS]) as engine, engine.begin() as opened:
        yield opened


def begin(connection: Connection, name: str, *, usd: str | None = "0.0000001") -> RunRecord:
    request = RunRequest(text="compare tea and coffee", budget_usd=usd)
    record = RunRecord(run_id=name, status=RunStatus.ACCEPTED, request=request, created_s=NOON_S, updated_s=NOON_S)
    return journal.create_run(connection, record)


def spend(connection: Connection, run: str, nano: int, name: str = "a") -> list[Answer]:
    owners = Owners(tenant="t", run=run)
    hold = f"{run}/{name}"
    return ledger.apply(
        connection,
        [a_hold(hold, nano, owners=owners), a_settle(hold, an_entry(f"{hold}/e", nano, owners=owners))],
    )


def rest(connection: Connection) -> tuple[int, int, int]:
    """Return how many budgets of runs there are, how many accounts a look at budgets reads, and how many it shows."""
    mine = select(func.count()).select_from(budget).where(budget.c.owner_kind == "run", budget.c.owner_name != EVERYONE)
    read = (
        select(func.count())
        .select_from(ledger_account)
        .where(ledger_account.c.window_kind == "total", ledger_account.c.window_key == "")
    )
    return (
        connection.execute(mine).scalar_one(),
        connection.execute(read).scalar_one(),
        len(budgets.budgets(connection, NOON_S)),
    )


def test_budgets_of_ended_runs_do_not_pile_up(connection: Connection) -> None:
    """Whether a run had a ceiling of its own, or that of every run, and however it ended."""
    nothing = rest(connection)
    ends = [status for status in RunStatus if status.ended]
    seen = []
    for number in range(RUNS):
        record = begin(connection, f"run-{number}", usd="0.0000001" if number % 2 else None)
        assert spend(connection, record.run_id, 60)[0].outcome == "done"
        seen.append(rest(connection))
        journal.update_run(connection, replace(record, status=ends[number % len(ends)]))

    assert nothing == (0, 0, 0)
    assert seen[0][1:] != (0, 0)
    after = rest(connection)
    # The tenant's own accounts stay, and the counters'.
    assert after[0] == after[2] == 0
    assert after[1] == 4
    assert max(seen) == (1, after[1] + 2, 2)
    assert books_checks.verify(connection) == []


def test_a_run_that_is_done_again_goes_on_with_what_it_has_spent(connection: Connection) -> None:
    """Ending and retrying it must not grant its budget anew."""
    record = begin(connection, "run-1")
    spend(connection, "run-1", 60)
    journal.update_run(connection, replace(record, status=RunStatus.COMPLETED))
    journal.update_run(connection, replace(record, status=RunStatus.COMPLETED))
    over = rest(connection)
    journal.update_run(connection, replace(record, status=RunStatus.ACCEPTED))
    (refused,) = ledger.apply(connection, [a_hold("run-1/b", 50, owners=Owners(tenant="t", run="run-1"))])
    allowed = spend(connection, "run-1", 40, "c")[0]

    assert over[0] == 0
    assert refused.refusal is not None
    assert (refused.refusal.limit, refused.refusal.left) == (100, 40)
    assert allowed.outcome == "done"
    assert books_checks.verify(connection) == []


def test_what_comes_after_the_end_is_booked_all_the_same(connection: Connection) -> None:
    """A hold that was open when the run ended settles late, on the accounts it was taken from."""
    owners = Owners(tenant="t", run="run-1")
    record = begin(connection, "run-1")
    ledger.apply(connection, [a_hold("h", 60, owners=owners)])
    journal.update_run(connection, replace(record, status=RunStatus.CANCELLED))
    (late,) = ledger.apply(connection, [a_settle("h", an_entry("e", 45, owners=owners))])

    assert late.outcome == "done"
    assert rest(connection)[0] == 0
    assert books_checks.verify(connection) == []
    journal.update_run(connection, replace(record, status=RunStatus.ACCEPTED))
    assert {one.spent for one in budgets.budgets(connection, NOON_S) if one.ledger == "usd"} == {45}


def test_a_new_ceiling_for_every_run_counts_those_under_way_and_no_others(connection: Connection) -> None:
    """However many have ended: each would be an account for ever. One that is done again then is counted, too."""
    ended, going = begin(connection, "run-1", usd=None), begin(connection, "run-2", usd=None)
    spend(connection, "run-1", 70)
    spend(connection, "run-2", 80)
    journal.update_run(connection, replace(ended, status=RunStatus.FAILED))
    berlin = BudgetSpec(
        owner_kind=OwnerKind.RUN,
        owner_name=EVERYONE,
        window=Window.TOTAL,
        time_zone="Europe/Berlin",
        limit_nano=100,
    )
    budgets.sync_budgets(connection, [berlin], NOON_S + 60)
    shown = {one.owner_name: one.spent for one in budgets.budgets(connection, NOON_S + 60)}
    journal.update_run(connection, replace(ended, status=RunStatus.ACCEPTED, updated_s=NOON_S + 60))
    again = {one.owner_name: one.spent for one in budgets.budgets(connection, NOON_S + 60)}

    assert going.run_id == "run-2"
    assert shown == {"run-2": 80}
    assert again == {"run-1": 70, "run-2": 80}
    assert books_checks.verify(connection) == []


def test_runs_that_ended_under_an_older_tutti_are_tidied_up(connection: Connection) -> None:
    """Their budgets are still there, in force."""
    record, going = begin(connection, "run-1"), begin(connection, "run-2")
    journal.update_run(connection, replace(record, status=RunStatus.COMPLETED))
    run_budgets.begin_run(connection, record.run_id, "0.0000001")
    before = rest(connection)
    run_budgets.end_overdue(connection)

    assert going.status is RunStatus.ACCEPTED
    assert (before[0], rest(connection)[0]) == (2, 1)
