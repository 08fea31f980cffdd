"""A person corrects an entry: the entry stays, the difference is a row of its own, once, and never half."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from app.domain.books.budgets import Window
from app.domain.books.corrections import Corrected, EntryFigures, HandCorrection
from app.domain.books.entries import Command, Ending, Expire
from app.domain.books.unknown import Settlement
from app.domain.chat import Usage
from app.domain.errors import ConflictError, NotFoundError, RequestError
from app.storage import books_checks, budgets, entry_corrections, ledger, unknown_holds
from app.storage.books_tables import usage_entry
from tests.fakes.ledger_commands import NOON_S, a_budget, a_hold, a_settle, an_entry, dump, fresh_books

RICH = Usage(
    input_tokens=100,
    output_tokens=20,
    cache_read_tokens=60,
    cache_write_tokens=30,
    cache_write_1h_tokens=10,
    reasoning_tokens=15,
    source="estimated",
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with fresh_books([a_budget(window=Window.DAY, soft_share=0.9)]) as opened:
        yield opened


def do(engine: Engine, *commands: Command) -> None:
    with engine.begin() as connection:
        assert all(answer.outcome == "done" for answer in ledger.apply(connection, commands))


def say(engine: Engine, entry_id: str = "e", *, at_s: float = NOON_S + 60.0, **given: object) -> Corrected:
    correction = HandCorrection(entry_id=entry_id, **{"reason": "invoice 11", "by": "olga", **given})  # type: ignore[arg-type]  # as given
    with engine.begin() as connection:
        return entry_corrections.correct(connection, correction, at_s)[0]


def spent(engine: Engine) -> int:
    with engine.connect() as connection:
        (figures,) = budgets.budgets(connection, NOON_S + 60.0)
        assert books_checks.verify(connection) == []
    return figures.spent


def test_what_is_not_given_stays_as_it_was(engine: Engine) -> None:
    """The budget gets the difference; the row names who and why; the entry itself is what it was."""
    do(engine, a_hold("h", 300), a_settle("h", an_entry("e", 40, usage=RICH)))
    done = say(engine, nano=25)
    with engine.connect() as connection:
        (row,) = connection.execute(select(usage_entry).where(usage_entry.c.corrects == "e"))
        entry = connection.execute(select(usage_entry).where(usage_entry.c.id == "e")).one()

    assert done == Corrected(
        entry_id="e",
        correction_id="e/corrected",
        before=EntryFigures(cost_nano=40, input_tokens=100, output_tokens=20),
        after=EntryFigures(cost_nano=25, input_tokens=100, output_tokens=20),
        reason="olga: invoice 11",
        repeated=False,
    )
    assert (row.id, row.cost_nano, row.input_tokens, row.calls, row.price_id) == ("e/corrected", -15, 0, 0, None)
    assert (row.error_kind, row.usage_source) == ("olga: invoice 11", "estimated")
    assert (entry.cost_nano, entry.price_id, entry.error_kind) == (40, "p1", "")
    assert spent(engine) == 25


def test_tokens_keep_what_they_include_as_far_as_it_fits(engine: Engine) -> None:
    """Else more of them would be cached, or reasoning, than there are."""
    do(engine, a_settle(None, an_entry("e", 40, usage=RICH)))
    say(engine, input_tokens=70, output_tokens=5)
    with engine.connect() as connection:
        (row,) = connection.execute(select(usage_entry).where(usage_entry.c.corrects == "e"))

    assert (row.input_tokens, row.cache_read_tokens, row.cache_write_tokens) == (-30, 0, -20)
    assert (row.cache_write_1h_tokens, row.output_tokens, row.reasoning_tokens) == (0, -15, -10)
    assert (row.cost_nano, row.price_id, row.usage_source) == (0, "p1", "provider")
    assert spent(engine) == 40


def test_an_unknown_price_becomes_known_and_is_not_zero_before(engine: Engine) -> None:
    """Tokens alone leave it unknown."""
    do(engine, a_settle(None, an_entry("e", None)))
    tokens = say(engine, output_tokens=9)
    money = say(engine, nano=70, name="invoice", at_s=NOON_S + 61.0)

    assert (tokens.before.cost_nano, tokens.after.cost_nano) == (None, None)
    assert (money.before, money.after.cost_nano) == (tokens.after, 70)
    assert spent(engine) == 70


def test_the_same_again_changes_nothing(engine: Engine) -> None:
    """Also after another correction came: who was cut off says it again."""
    do(engine, a_settle(None, an_entry("e", 40)))
    first = say(engine, nano=60)
    say(engine, nano=50, output_tokens=7, name="b", at_s=NOON_S + 61.0)
    with engine.connect() as connection:
        before = dump(connection)
    again = [say(engine, nano=60, at_s=NOON_S + 90.0), say(engine, nano=50, output_tokens=7, name="b")]
    with engine.connect() as connection:
        after = dump(connection)

    assert [one.repeated for one in again] == [True, True]
    assert (again[0].before, again[0].after, again[0].reason) == (first.before, first.after, first.reason)
    assert before == after
    assert spent(engine) == 50


def test_an_entry_that_was_corrected_before_is_corrected_again_only_on_purpose(engine: Engine) -> None:
    """Two people with one invoice must hear of each other."""
    do(engine, a_settle(None, an_entry("e", 40)))
    say(engine, nano=60, name="a")
    with pytest.raises(ConflictError, match=r"corrected before, to \$0.00000006, 3 tokens in and 1 out \(olga: inv"):
        say(engine, nano=50)
    with pytest.raises(ConflictError, match="corrected before under this id"):
        say(engine, nano=50, name="a")
    assert spent(engine) == 60

    say(engine, nano=50, name="b", at_s=NOON_S + 61.0)
    assert spent(engine) == 50


def test_a_name_is_never_the_id_of_an_entry_to_come(engine: Engine) -> None:
    """The true entry of that id would be taken for one that is booked."""
    do(engine, a_settle(None, an_entry("e", 40)))
    say(engine, nano=60, name="e2")
    do(engine, a_settle(None, an_entry("e2", 5)))

    assert spent(engine) == 65


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"entry_id": "nobody", "nano": 1}, NotFoundError, "no entry 'nobody'"),
        ({"entry_id": "c/corrected", "nano": 1, "name": "x"}, NotFoundError, "no entry"),
        ({"entry_id": "kept", "nano": 1}, ConflictError, "out of the cache"),
        ({"nano": -1}, RequestError, "never negative"),
        ({"input_tokens": -1}, RequestError, "never negative"),
        ({"output_tokens": -1}, RequestError, "never negative"),
        ({}, RequestError, "says nothing"),
        ({"nano": 1, "reason": " "}, RequestError, "needs a reason"),
        ({"nano": 1, "reason": "r" * 501}, RequestError, "at most 500"),
        ({"nano": 1, "name": "a/b"}, RequestError, "no id"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    engine: Engine, given: dict[str, object], kind: type[Exception], words: str
) -> None:
    """With what to do instead."""
    kept = an_entry("kept", 0, ending=Ending.CACHE_HIT, savings_nano=70)
    do(engine, a_settle(None, an_entry("e", 40), an_entry("c", 1), kept))
    say(engine, "c", nano=2)
    with engine.connect() as connection:
        before = dump(connection)
    with pytest.raises(kind, match=words):
        say(engine, **given)  # type: ignore[arg-type]  # as given
    with engine.connect() as connection:
        assert dump(connection) == before


def test_what_was_settled_by_hand_may_be_corrected_until_it_gives_way(engine: Engine) -> None:
    """Afterwards it would be counted beside the true entries."""
    do(engine, a_hold("h", 100), Expire(at_s=NOON_S + 61))
    with engine.begin() as connection:
        unknown_holds.settle(connection, Settlement(hold_id="h", how="as_spent", reason="r", by="olga"), NOON_S + 62.0)
    say(engine, "h/settled", nano=80, at_s=NOON_S + 63.0)
    assert spent(engine) == 80
    do(engine, a_settle("h", an_entry("e", 33), at_s=NOON_S + 64.0))

    with pytest.raises(ConflictError, match="gave way"):
        say(engine, "h/settled", nano=90, name="late", at_s=NOON_S + 65.0)
    assert spent(engine) == 33
    say(engine, "e", nano=34, at_s=NOON_S + 66.0)
    assert spent(engine) == 34
