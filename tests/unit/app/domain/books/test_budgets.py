"""Which budgets apply to whom, and when their windows begin and end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.books.budgets import (
    EVERYONE,
    BudgetSpec,
    Ledger,
    OwnerKind,
    Owners,
    Window,
    budgets_for,
    owner_words,
    window_at,
)
from app.domain.books.figures import BudgetFigures, exhausted_at, forecast

ALICE = Owners(tenant="t", team="red", user="alice", key="k1", run="r1")


def a_budget(kind: OwnerKind, name: str, window: Window = Window.DAY, limit: int = 10) -> BudgetSpec:
    return BudgetSpec(owner_kind=kind, owner_name=name, window=window, limit_nano=limit)


def test_budgets_of_every_owner_apply_and_others_do_not() -> None:
    """A call has five owners; each may be limited."""
    specs = [a_budget(kind, ALICE.name_of(kind)) for kind in OwnerKind]
    others = [a_budget(OwnerKind.USER, "bob"), a_budget(OwnerKind.TEAM, "blue")]

    assert set(budgets_for(ALICE, [*others, *specs])) == set(specs)
    assert budgets_for(Owners(tenant="x"), [*others, *specs]) == ()


def test_a_budget_that_names_its_owner_replaces_the_one_for_everyone_in_its_window_only() -> None:
    """Alice's own daily ceiling is hers; the monthly one for everyone still holds."""
    everyone = a_budget(OwnerKind.USER, EVERYONE)
    monthly = a_budget(OwnerKind.USER, EVERYONE, Window.MONTH)
    own = a_budget(OwnerKind.USER, "alice", limit=99)

    assert set(budgets_for(ALICE, [everyone, monthly, own])) == {own, monthly}
    assert set(budgets_for(Owners(user="bob"), [everyone, monthly, own])) == {everyone, monthly}
    assert budgets_for(Owners(tenant="t"), [everyone]) == ()


def test_owner_words_find_exactly_the_budgets_that_may_apply() -> None:
    """The store looks budgets up by these words."""
    words = owner_words(ALICE)

    assert {spec.owner for spec in (a_budget(kind, name) for kind in OwnerKind for name in ("*", "x"))} & set(
        words
    ) == {f"{kind}:*" for kind in OwnerKind}
    assert "user:alice" in words
    assert owner_words(Owners(user="u")) == ("user:u", "user:*")


@pytest.mark.parametrize(
    ("zone", "at", "day", "month"),
    [
        ("UTC", "2026-11-21T23:59:59", "2026-11-21", "2026-11"),
        ("Asia/Kolkata", "2026-11-21T18:30:00", "2026-11-22", "2026-11"),
        ("Asia/Kolkata", "2026-11-21T18:29:59", "2026-11-21", "2026-11"),
        ("Asia/Kathmandu", "2026-12-31T18:15:00", "2027-01-01", "2027-01"),
        ("America/New_York", "2026-11-01T04:00:00", "2026-11-01", "2026-11"),
        ("America/New_York", "2026-11-01T03:59:59", "2026-10-31", "2026-10"),
    ],
)
def test_days_and_months_begin_in_the_budgets_time_zone(zone: str, at: str, day: str, month: str) -> None:
    """Also in zones that are not whole hours from UTC."""
    at_s = datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp()

    assert window_at(Window.DAY, zone, at_s).key == day
    assert window_at(Window.MONTH, zone, at_s).key == month
    assert window_at(Window.TOTAL, zone, at_s).ends_s is None


@given(
    at_s=st.integers(1_500_000_000, 2_500_000_000),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    window=st.sampled_from([Window.DAY, Window.MONTH]),
)
def test_windows_follow_each_other_without_gap_or_overlap(at_s: int, zone: str, window: Window) -> None:
    """Every second belongs to one window, days of 23, 24 and 25 hours included."""
    found = window_at(window, zone, at_s)
    assert found.ends_s is not None
    after = window_at(window, zone, found.ends_s)

    assert found.starts_s <= at_s < found.ends_s
    assert window_at(window, zone, found.starts_s) == found
    assert window_at(window, zone, found.ends_s - 1) == found
    assert after.starts_s == found.ends_s
    assert after.key > found.key


def test_a_raised_limit_is_the_same_budget() -> None:
    """What was spent stays spent."""
    assert a_budget(OwnerKind.USER, "a").budget_id == a_budget(OwnerKind.USER, "a", limit=99).budget_id
    assert a_budget(OwnerKind.USER, "a").limit_in(Ledger.USD) == 10
    assert a_budget(OwnerKind.USER, "a").limit_in(Ledger.TOKENS) is None


def test_forecast_goes_on_at_the_rate_since_the_windows_start() -> None:
    """Half the window and 60 of 100: 120 at its end, and nothing left after five sixths of it."""
    assert forecast(60, starts_s=100, ends_s=200, now_s=150) == 120
    assert exhausted_at(60, 100, starts_s=100, ends_s=200, now_s=150) == pytest.approx(100 + 50 * 100 / 60)
    assert exhausted_at(20, 100, starts_s=100, ends_s=200, now_s=150) is None
    assert exhausted_at(100, 100, starts_s=100, ends_s=200, now_s=150) == 150
    assert forecast(60, starts_s=0, ends_s=None, now_s=150) is None
    assert forecast(60, starts_s=100, ends_s=200, now_s=90) == 60


def test_what_is_left_is_never_negative() -> None:
    """An overrun is shown by what is spent, not by a negative rest."""
    figures = BudgetFigures(
        budget_id="b",
        owner_kind=OwnerKind.USER,
        owner_name="a",
        window=Window.TOTAL,
        window_key="",
        starts_s=0,
        ends_s=None,
        ledger=Ledger.USD,
        limit=10,
        hard=True,
        soft_share=0.8,
        spent=8,
        held=1,
        unknown=4,
        forecast=None,
        exhausted_s=None,
    )

    assert figures.left == 0
