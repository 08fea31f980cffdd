"""Usage is what the entries say, in every time zone, by every group: the sums by hour are only a shorter way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.books.budgets import Owners
from app.domain.books.entries import Correct, Ending, Settle, UsageEntry
from app.domain.books.sums import SUMS, dimensions_of, sums_of
from app.domain.books.usage import Dimension, Period, UsageQuery, csv_rows
from app.domain.chat import Usage
from app.domain.errors import RequestError
from app.storage import ledger
from app.storage.usage_queries import entries_of_run, usage
from tests.effort import examples
from tests.fakes.ledger_commands import ALICE, BOB, NOON_S, a_settle, an_entry, fresh_books

DAY_S = 86_400.0
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns")
RUN = replace(ALICE, run="r1")

people = st.sampled_from([ALICE, BOB, RUN, Owners(tenant="t")])
instants = st.integers(-int(3 * DAY_S), int(3 * DAY_S)).map(lambda offset: NOON_S + offset)


@st.composite
def some_entries(draw: st.DrawFn) -> list[UsageEntry]:
    return [
        an_entry(
            f"e{number}",
            draw(st.none() | st.integers(0, 99)),
            owners=draw(people),
            at_s=draw(instants),
            model=draw(st.sampled_from(["m1", "m2"])),
            ending=draw(st.sampled_from([Ending.ANSWERED, Ending.CACHE_HIT, Ending.FAILED])),
            usage=Usage(input_tokens=draw(st.integers(0, 50)), output_tokens=draw(st.integers(0, 50))),
            duration_s=draw(st.integers(0, 9)) / 2,
        )
        for number in range(draw(st.integers(1, 20)))
    ]


queries = st.builds(
    UsageQuery,
    from_s=instants,
    to_s=st.just(NOON_S + 4 * DAY_S) | instants,
    period=st.sampled_from(Period),
    time_zone=st.sampled_from(ZONES),
    group_by=st.lists(st.sampled_from(Dimension), max_size=3, unique=True).map(tuple),
    filters=st.sampled_from(
        [
            (),
            ((Dimension.USER, ("alice",)),),
            ((Dimension.MODEL, ("m1", "m2")), (Dimension.ENDING, ("answered",))),
            ((Dimension.RUN, ("r1",)),),
            ((Dimension.USER, ("nobody",)),),
        ]
    ),
)


def value_of(entry: UsageEntry, dimension: Dimension) -> str:
    """Return the entry's value, the simple way."""
    if dimension is Dimension.RUN:
        return entry.owners.run
    names = ("tenant", "team", "user", "key", "model", "account", "provider", "task_type", "ending")
    return dimensions_of(entry)[names.index(dimension.value)]


def added_up(entries: Sequence[UsageEntry], query: UsageQuery) -> dict[tuple[str, tuple[str, ...]], tuple[int, ...]]:
    """Return what the query must answer, from the entries alone."""
    found: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
    asked = {*query.group_by, *(dimension for dimension, _values in query.filters)}
    for entry in entries:
        inside = query.from_s <= entry.at_s < query.to_s
        wanted = all(value_of(entry, dimension) in values for dimension, values in query.filters)
        if not inside or not wanted or (Dimension.RUN in asked and not entry.owners.run):
            continue
        local = datetime.fromtimestamp(entry.at_s, ZoneInfo(query.time_zone))
        hour = local.replace(minute=0, second=0, microsecond=0).isoformat()
        name = {Period.ALL: "", Period.DAY: local.date().isoformat(), Period.HOUR: hour}[query.period]
        group = tuple(value_of(entry, dimension) for dimension in query.group_by)
        found.setdefault((name, group), Counter()).update(dict(zip(SUMS, sums_of(entry), strict=True)))
    return {place: tuple(sums[name] for name in SUMS) for place, sums in found.items()}


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries=some_entries(), asked=st.lists(queries, min_size=1, max_size=4))
def test_every_answer_is_the_sum_of_the_entries_it_is_about(entries: list[UsageEntry], asked: list[UsageQuery]) -> None:
    """Days that begin at half past an hour, ranges that cut hours, any filter and any group."""
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(connection, [Settle(hold_id=None, entries=tuple(entries), at_s=NOON_S)])
        for query in asked:
            if query.to_s <= query.from_s:
                continue
            rows = usage(connection, query)
            answer = {(row.period, row.group): tuple(getattr(row, name) for name in SUMS) for row in rows}

            assert answer == added_up(entries, query)
            assert [(row.period, row.group) for row in rows] == sorted(answer) or query.period is Period.HOUR


def test_a_correction_counts_in_the_hour_of_its_entry() -> None:
    """Yesterday's figures become right, not today's wrong."""
    yesterday = NOON_S - DAY_S
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(
            connection,
            [
                a_settle(None, an_entry("e", None, at_s=yesterday, owners=RUN)),
                Correct(
                    correction_id="c",
                    entry_id="e",
                    usage=Usage(input_tokens=100, output_tokens=10),
                    cost_nano=77,
                    price_id="p1",
                    at_s=NOON_S,
                ),
            ],
        )
        query = UsageQuery(from_s=yesterday - DAY_S, to_s=NOON_S + DAY_S, period=Period.DAY)
        (row,) = usage(connection, query)
        entries = entries_of_run(connection, "r1")

    assert row.period == "2026-11-20"
    assert (row.calls, row.unpriced, row.input_tokens, row.cost_nano) == (1, 0, 100, 77)
    assert [(one.entry_id, one.cost_nano, one.usage.input_tokens) for one in entries] == [("c", 77, 97), ("e", None, 3)]


def test_csv_has_one_head_and_money_in_dollars() -> None:
    """A spreadsheet can add it up."""
    query = UsageQuery(from_s=NOON_S, to_s=NOON_S + 1, period=Period.DAY, group_by=(Dimension.USER, Dimension.MODEL))
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(connection, [a_settle(None, an_entry("e", 1_500_000_000))])
        head, line = csv_rows(query, usage(connection, query))

    assert head[:4] == ("period", "user", "model", "calls")
    assert line[:4] == ("2026-11-21", "alice", "m1", "1")
    assert dict(zip(head, line, strict=True))["cost_usd"] == "1.5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to_s": NOON_S}, "is empty"),
        ({"time_zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
        ({"time_zone": "../etc/passwd"}, "no time zone"),
        ({"to_s": NOON_S + 400 * DAY_S, "period": Period.HOUR}, "more than 3000 periods"),
    ],
)
def test_questions_without_a_sensible_answer_are_refused(change: dict[str, Any], message: str) -> None:
    """Each says what to change."""
    query = replace(UsageQuery(from_s=NOON_S, to_s=NOON_S + DAY_S), **change)
    with fresh_books() as engine, engine.begin() as connection, pytest.raises(RequestError, match=message):
        usage(connection, query)


def test_autumn_has_two_hours_of_one_name_and_tells_them_apart() -> None:
    """The clock goes back at three: both hours between two and three are shown, with their offsets."""
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    query = UsageQuery(from_s=first - 1_800, to_s=first + 5_400, period=Period.HOUR, time_zone="Europe/Berlin")
    with fresh_books() as engine, engine.begin() as connection:
        ledger.apply(connection, [a_settle(None, an_entry("a", at_s=first), an_entry("b", at_s=first + 3_600))])
        rows = usage(connection, query)

    assert [row.period for row in rows] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]
