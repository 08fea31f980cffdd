"""The books on both engines: the same rows for the same commands, and no question that reads all entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from app.domain.books.budgets import OwnerKind, Owners, Window
from app.domain.books.entries import Command, Correct, Ending, Expire, Void
from app.domain.books.usage import Dimension, Period, UsageQuery
from app.domain.chat import Usage
from app.storage import books_checks, budgets, ledger
from app.storage.database import bring_to, open_for_writing
from app.storage.place import Place
from app.storage.usage_queries import usage
from benchmarks import usage_rows
from benchmarks.usage_plans import explain, plan_of, scans_entries
from tests.fakes.ledger_commands import (
    ALICE,
    BOB,
    NOON_S,
    PRICE,
    a_budget,
    a_hold,
    a_settle,
    an_entry,
    dump,
    fresh_books,
)

ROWS = 300_000
SPECS = (
    a_budget(limit_nano=1_000, limit_tokens=200),
    a_budget(OwnerKind.TEAM, "red", Window.MONTH, limit_nano=1_500, time_zone="Asia/Kolkata"),
    a_budget(OwnerKind.RUN, "*", Window.TOTAL, limit_nano=300),
)
RUN = replace(ALICE, run="r1")
FIX = Correct(
    correction_id="c1",
    entry_id="e1",
    usage=Usage(input_tokens=9, output_tokens=9),
    cost_nano=30,
    price_id="p1",
    at_s=NOON_S,
)
HISTORY: tuple[Command, ...] = (
    *(a_hold(f"h{number}", 300, owners=(ALICE, BOB, RUN)[number % 3]) for number in range(9)),
    a_settle("h0", an_entry("e1", 40), an_entry("e2", None)),
    a_settle("h1", an_entry("e3", 500, owners=BOB)),
    Void(hold_id="h3", at_s=NOON_S),
    a_settle(None, an_entry("e4", 5, owners=Owners(tenant="x"), ending=Ending.CACHE_HIT, savings_nano=9)),
    FIX,
    replace(FIX, correction_id="c2", cost_nano=50),
    Expire(at_s=NOON_S + 61),
    a_settle("h2", an_entry("e5", 20, owners=RUN), at_s=NOON_S + 70),
    a_hold("late", 100, at_s=NOON_S + 86_400),
)


@pytest.fixture
def engine(place: Place) -> Iterator[Engine]:
    opened = open_for_writing(place)
    bring_to(opened, place, None)
    yield opened
    opened.dispose()


def test_both_engines_hold_the_same_rows_after_the_same_commands(engine: Engine) -> None:
    """One SQL: what is tested in memory is true of the others."""
    with fresh_books(SPECS) as in_memory, in_memory.begin() as connection:
        expected = ledger.apply(connection, HISTORY)
        rows = dump(connection)
        figures = budgets.budgets(connection, NOON_S)
    with engine.begin() as connection:
        budgets.sync_budgets(connection, SPECS, NOON_S)
        budgets.record_prices(connection, [PRICE])
        budgets.record_prices(connection, [PRICE])
    answers = []
    for start in range(0, len(HISTORY), 5):
        with engine.begin() as connection:
            answers += ledger.apply(connection, HISTORY[start : start + 5])

    assert answers == expected
    assert {answer.outcome for answer in answers} == {"done", "refused"}
    with engine.begin() as connection:
        assert dump(connection) == rows
        assert budgets.budgets(connection, NOON_S) == figures
        assert books_checks.verify(connection) == []
        assert budgets.find_prices(connection, ["p1"]) == {"p1": PRICE}
        assert {answer.outcome for answer in ledger.apply(connection, HISTORY[9:13])} == {"replayed"}


def test_no_question_reads_all_entries(engine: Engine) -> None:
    """With 300 000 entries, every kind of question goes by sums or by an index; a scan would show as one here."""
    with engine.begin() as connection:
        usage_rows.fill(connection, ROWS)
    start, end = usage_rows.FROM_S, usage_rows.FROM_S + usage_rows.DAYS * 86_400
    month = UsageQuery(from_s=start, to_s=end)
    asked = [
        month,
        replace(month, from_s=start + 100.0, to_s=end - 100.0),
        replace(month, period=Period.DAY, time_zone="Asia/Kolkata", group_by=(Dimension.MODEL,)),
        replace(month, from_s=end - 86_400.0, period=Period.HOUR, group_by=(Dimension.ACCOUNT, Dimension.ENDING)),
        *(replace(month, group_by=(dimension,)) for dimension in Dimension),
        *(
            replace(month, from_s=start + 1.0, filters=((dimension, ("x", "user-7", "run-7")),))
            for dimension in Dimension
        ),
    ]
    with engine.begin() as connection:
        plans = [plan_of(connection, query) for query in asked]
        scan = explain(connection, "SELECT sum(cost_nano) FROM usage_entry")
        (total,) = usage(connection, month)
        days = usage(connection, replace(month, period=Period.DAY, time_zone="Asia/Kathmandu"))

    assert all(plan for plan in plans)
    assert not [plan for plan in plans if scans_entries(plan)]
    assert scans_entries(scan), "the look at plans must be able to fail"
    assert total.calls == ROWS
    assert sum(day.calls for day in days) == ROWS
    assert len(days) == usage_rows.DAYS + 1
