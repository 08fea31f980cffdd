"""The books beside a provider's own export, and the price rows that costs name."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from app.domain.books.budgets import Ledger
from app.domain.books.entries import Expire
from app.domain.books.figures import ExportRow, ReconcileLine
from app.domain.books.prices import LongContext, PeakWindow, Rates, at_tier
from app.domain.errors import ConflictError
from app.storage import books_checks, budgets, ledger, unknown_holds
from tests.fakes.ledger_commands import NOON_S, PRICE, a_hold, a_settle, an_entry, fresh_books

TODAY = date(2026, 11, 21)
HALF_DAY_S = 43_200.0


def reconciled(*export: ExportRow) -> list[ReconcileLine]:
    """Compare with books that know 100 nano-dollars and 8 tokens of m1, one unpriced call of m2, both on a1 today."""
    with fresh_books() as engine, engine.begin() as connection:
        entries = (
            an_entry("e1", 60),
            an_entry("e2", 40, at_s=NOON_S + HALF_DAY_S - 1),
            an_entry("e3", None, model="m2"),
            an_entry("before", 7, at_s=NOON_S - HALF_DAY_S - 1),
            an_entry("after", 7, at_s=NOON_S + HALF_DAY_S),
            an_entry("elsewhere", 7, account="a2"),
        )
        ledger.apply(connection, [a_settle(None, *entries)])
        return books_checks.reconcile(connection, export)


def test_lines_are_compared_by_model_on_the_providers_day() -> None:
    """Too low, too high, equal, and what the provider does not show: each says so."""
    lines = reconciled(
        ExportRow(account="a1", day=TODAY, model="m1", cost_nano=80, input_tokens=6, output_tokens=2),
        ExportRow(account="a1", day=TODAY, model="m1", cost_nano=45),
        ExportRow(account="a1", day=TODAY, model="m3", cost_nano=10),
    )

    found = {(line.model, line.ledger): (line.theirs, line.ours, line.verdict) for line in lines}
    assert found == {
        ("m1", Ledger.USD): (125, 100, "ours_lower"),
        ("m1", Ledger.TOKENS): (8, 8, "equal"),
        ("m2", Ledger.TOKENS): (None, 4, "not_exported"),
        ("m3", Ledger.USD): (10, 0, "ours_lower"),
    }
    assert {line.unpriced_calls for line in lines if line.model == "m2"} == {1}
    assert next(line.drift_share for line in lines if line.theirs == 125) == -0.2


def test_an_export_without_models_is_compared_by_account() -> None:
    """Some providers say one sum a day."""
    (line,) = reconciled(ExportRow(account="a1", day=TODAY, cost_nano=90))

    assert (line.theirs, line.ours, line.verdict, line.unpriced_calls) == (90, 100, "ours_higher", 1)


def test_unknown_holds_are_listed_until_somebody_knows() -> None:
    """They are what a drift may be explained by."""
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(connection, [a_hold("h1"), a_hold("h2"), Expire(at_s=NOON_S + 61)])
        before = [one.hold_id for one in unknown_holds.list_unknown(connection)]
        ledger.apply(connection, [a_settle("h1", an_entry("e"), at_s=NOON_S + 70)])
        after = [one.hold_id for one in unknown_holds.list_unknown(connection)]

    assert before == ["h1", "h2"]
    assert after == ["h2"]


def test_price_rows_are_kept_whole_and_an_id_never_changes_its_figures() -> None:
    """A cost of last year names figures that are still there."""
    row = replace(
        PRICE,
        price_id="p2",
        effective_from=TODAY,
        long_contexts=(LongContext(above_input_tokens=200_000, rates=Rates(input="2", output="4")),),
        peaks=(PeakWindow(from_hour=1, to_hour=9, factor="2", weekdays=(0, 4)),),
        batch_factor="0.5",
    )
    with fresh_books() as engine, engine.begin() as connection:
        budgets.record_prices(connection, [row, PRICE])
        budgets.record_prices(connection, [row])

        assert budgets.find_prices(connection, ["p1", "p2", "p3"]) == {"p1": PRICE, "p2": row}
        with pytest.raises(ConflictError, match="'p2' is known with other figures"):
            budgets.record_prices(connection, [replace(row, batch_factor="0.6")])


def test_a_cost_at_a_tier_names_figures_that_are_kept() -> None:
    """The row as it was multiplied: nobody has to know what a tier's factor was that day."""
    row = replace(PRICE, price_id="p2", tier_factors=(("priority", "2"),))
    dear = at_tier(row, "priority")
    assert dear is not None
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(connection, [a_hold("h"), a_settle("h", an_entry("e", 40, price_id=dear.price_id))])
        before = [one.check for one in books_checks.verify(connection)]
        budgets.record_prices(connection, [row])
        after = books_checks.verify(connection)
        kept = budgets.find_prices(connection, ["p2:priority"])

    assert before == ["prices"]
    assert after == []
    assert kept == {"p2:priority": dear}
