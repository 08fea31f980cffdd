"""Holds, settlements, expiries and corrections: what they do to balances, and what they never do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import Connection, Engine, select, update

from app.domain.books.balances import HeldAmount
from app.domain.books.budgets import EVERYONE, BudgetSpec, Ledger, OwnerKind, Owners, Window
from app.domain.books.entries import Answer, Command, Correct, Ending, Expire, Void
from app.domain.books.figures import BudgetFigures
from app.domain.books.unknown import settlement_id
from app.domain.chat import Usage
from app.domain.errors import InternalError
from app.storage import books_checks, budgets, ledger, run_budgets, unknown_holds
from app.storage.books_tables import hold, ledger_account, transfer, usage_day, usage_entry, usage_hour
from app.storage.budget_rows import put_specs
from tests.fakes.ledger_commands import BOB, NOON_S, a_budget, a_hold, a_settle, an_entry, fresh_books

DAY_S = 86_400.0


class Books:
    """Commands on a database in memory; every look checks that everything adds up."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def do(self, *commands: Command) -> list[Answer]:
        with self.engine.begin() as connection:
            answers = ledger.apply(connection, commands)
        with self.engine.begin() as connection:
            assert books_checks.verify(connection) == []
        return answers

    def one(self, command: Command) -> Answer:
        return self.do(command)[0]

    def sync(self, *specs: BudgetSpec, now_s: float = NOON_S) -> None:
        with self.engine.begin() as connection:
            budgets.sync_budgets(connection, specs, now_s)

    def figures(self, now_s: float = NOON_S) -> dict[tuple[str, Ledger], BudgetFigures]:
        with self.engine.begin() as connection:
            return {(f"{one.owner_name}", one.ledger): one for one in budgets.budgets(connection, now_s)}

    def usd(self, owner: str = "alice", now_s: float = NOON_S) -> BudgetFigures:
        return self.figures(now_s)[owner, Ledger.USD]


@pytest.fixture
def books() -> Iterator[Books]:
    with fresh_books([a_budget()]) as engine:
        yield Books(engine)


def test_hold_sets_aside_and_settle_gives_the_rest_back(books: Books) -> None:
    """What is held is not available; what was not used is again."""
    books.one(a_hold("h", 300))
    held = books.usd()
    answer = books.one(a_settle("h", an_entry("e1", 40), an_entry("e2", 60)))
    after = books.usd()

    assert (held.spent, held.held, held.left) == (0, 300, 700)
    assert (after.spent, after.held, after.left) == (100, 0, 900)
    assert answer.count == 2


def test_hold_is_refused_where_a_budget_has_no_room_and_says_which(books: Books) -> None:
    """Five of 300 on 1 000: three fit; the refusal names the window's end, and leaves nothing behind."""
    answers = books.do(*(a_hold(f"h{number}", 300) for number in range(5)))

    assert [answer.outcome for answer in answers] == ["done", "done", "done", "refused", "refused"]
    refusal = answers[3].refusal
    assert refusal is not None
    assert (refusal.owner_name, refusal.limit, refusal.left, refusal.asked) == ("alice", 1_000, 100, 300)
    assert refusal.resets_s == NOON_S + DAY_S / 2
    assert books.usd().held == 900
    assert books.one(a_hold("h9", 300, owners=BOB)).accepted


def test_a_hold_taken_ahead_leaves_several_times_as_much_to_others(books: Books) -> None:
    """A block must not end a budget that single calls could still use."""
    ahead = books.one(a_hold("ahead", 300, spare=True))
    exact = books.one(a_hold("exact", 300))
    small = books.one(a_hold("small", 175, spare=True))
    free = books.one(a_hold("free", 0, spare=True, tokens=0))

    assert ahead.refusal is not None
    assert (ahead.refusal.left, ahead.refusal.asked) == (1_000, 300)
    assert [exact.outcome, small.outcome, free.outcome] == ["done", "done", "done"]


def test_all_budgets_or_none() -> None:
    """A key's own budget has room, its team's has not: neither moves."""
    with fresh_books([a_budget(), a_budget(OwnerKind.TEAM, "red", limit_nano=50)]) as engine:
        books = Books(engine)
        answer = books.one(a_hold("h", 100))

        assert answer.refusal is not None
        assert answer.refusal.owner_kind is OwnerKind.TEAM
        assert {one.held for one in books.figures().values()} == {0}


def test_tokens_are_limited_as_money_is() -> None:
    """A budget may limit both; either refuses."""
    with fresh_books([a_budget(limit_nano=1_000, limit_tokens=25)]) as engine:
        books = Books(engine)
        answers = books.do(a_hold("h1", 1, tokens=20), a_hold("h2", 1, tokens=20))
        books.one(a_settle("h1", an_entry("e", 1)))

        assert answers[1].refusal is not None
        assert answers[1].refusal.ledger is Ledger.TOKENS
        assert books.figures()["alice", Ledger.TOKENS].spent == 4


def test_unknown_price_is_refused_only_where_money_is_limited() -> None:
    """Never silently free, never blocked without reason."""
    with fresh_books([a_budget(OwnerKind.USER, "alice"), a_budget(OwnerKind.USER, "bob", limit_tokens=100)]) as engine:
        books = Books(engine)
        refused = books.one(a_hold("h1", None))
        passed = books.one(a_hold("h2", None, owners=BOB))
        books.one(a_settle("h2", an_entry("e", None, owners=BOB)))
        with engine.begin() as connection:
            sums = connection.execute(select(usage_hour.c.unpriced, usage_hour.c.cost_nano)).one()

        assert refused.refusal is not None
        assert refused.refusal.reason == "unpriced"
        assert passed.accepted
        assert tuple(sums) == (1, 0)


def test_soft_budget_counts_and_refuses_nothing() -> None:
    """A soft budget is for people to watch."""
    with fresh_books([a_budget(hard=False)]) as engine:
        books = Books(engine)

        assert books.one(a_hold("h", 5_000)).accepted
        assert books.usd().left == 0


def test_what_exceeds_the_hold_is_booked_all_the_same(books: Books) -> None:
    """An answer that was bought is never lost to the books; the next hold feels it."""
    books.one(a_hold("h", 100))
    books.one(a_settle("h", an_entry("e", 1_250)))
    with books.engine.begin() as connection:
        kinds = connection.execute(select(transfer.c.kind, transfer.c.nano).order_by(transfer.c.seq)).all()

    assert [tuple(row) for row in kinds] == [("pending", 100), ("post", 100), ("single", 1_150)]
    assert books.usd().spent == 1_250
    assert books.one(a_hold("h2", 1)).outcome == "refused"


def test_saying_anything_twice_is_saying_it_once(books: Books) -> None:
    """Retries after a lost answer must be harmless, together and apart."""
    commands = (a_hold("h", 300), a_settle("h", an_entry("e")), a_hold("v", 10), Void(hold_id="v", at_s=NOON_S))
    books.do(*commands)
    before = books.usd()
    again = books.do(*commands, *commands)

    assert {answer.outcome for answer in again} == {"replayed"}
    assert books.usd() == before


def test_an_id_that_is_used_for_something_else_is_a_conflict(books: Books) -> None:
    """The client has a bug; the books do not guess."""
    books.do(a_hold("h", 300), a_settle("h", an_entry("e")))

    assert books.one(a_hold("h", 301)).outcome == "conflict"
    assert books.one(a_hold("h", 300, owners=BOB)).outcome == "conflict"
    assert books.one(Void(hold_id="h", at_s=NOON_S)).outcome == "conflict"
    assert books.one(Void(hold_id="never", at_s=NOON_S)).outcome == "missing"


def test_a_dead_holders_hold_becomes_unknown_and_counts_as_spent(books: Books) -> None:
    """Nobody knows what was billed: it is not given back."""
    books.do(a_hold("h", 300), a_hold("later", 300, expires_s=NOON_S + 600))
    answer = books.one(Expire(at_s=NOON_S + 60))
    figures = books.usd()
    with books.engine.begin() as connection:
        unknown = unknown_holds.list_unknown(connection)

    assert answer.count == 1
    assert (figures.held, figures.unknown, figures.left) == (300, 300, 400)
    assert [one.hold_id for one in unknown] == ["h"]
    assert books.one(Expire(at_s=NOON_S + 61)).count == 0


def test_a_holder_known_to_be_dead_loses_its_holds_at_once(books: Books) -> None:
    """Whoever saw it die need not wait for the expiry."""
    books.do(a_hold("h1"), a_hold("h2", holder="replica-2"))

    assert books.one(Expire(at_s=NOON_S, holder="replica-2")).count == 1
    assert books.usd().unknown == 100


def test_what_a_person_settled_gives_way_to_the_truth(books: Books) -> None:
    """A replica that was only cut off comes back after somebody decided: what it bought counts, once, visibly."""
    by_hand = an_entry(settlement_id("h"), 250, ending=Ending.SETTLED, price_id=None)
    books.do(a_hold("h", 300), Expire(at_s=NOON_S + 60), a_settle("h", by_hand))
    decided = books.usd()
    again = books.one(a_settle("h", an_entry(settlement_id("h"), 10, ending=Ending.SETTLED, price_id=None)))
    late = books.one(a_settle("h", an_entry("e1", 120), an_entry("e2", 50)))
    said_again = books.one(a_settle("h", an_entry("e1", 120), an_entry("e2", 50)))
    void = books.one(Void(hold_id="h", at_s=NOON_S + 70))

    assert (decided.spent, decided.unknown) == (250, 0)
    assert again.outcome == "replayed"
    assert (late.outcome, said_again.outcome, void.outcome) == ("done", "replayed", "replayed")
    assert (books.usd().spent, books.usd().unknown) == (170, 0)


def test_a_person_settles_only_what_nobody_knows(books: Books) -> None:
    """A hold whose holder lives, or that ended, is not theirs."""
    books.do(a_hold("open"), a_hold("posted"), a_settle("posted", an_entry("e")))

    for name in ("open", "posted", "none"):
        by_hand = an_entry(settlement_id(name), 250, ending=Ending.SETTLED, price_id=None)
        assert books.one(a_settle(name, by_hand)).outcome == "conflict"
    assert (books.usd().spent, books.usd().held) == (40, 100)


def test_late_truth_replaces_what_was_unknown(books: Books) -> None:
    """A holder that was only slow settles after all; a person finds that nothing was billed."""
    books.do(a_hold("h1", 300), a_hold("h2", 300), Expire(at_s=NOON_S + 60))
    books.do(a_settle("h1", an_entry("e", 120)), Void(hold_id="h2", at_s=NOON_S + 90))
    again = books.do(a_settle("h1", an_entry("e", 120)), Void(hold_id="h2", at_s=NOON_S + 90))

    assert (books.usd().spent, books.usd().unknown) == (120, 0)
    assert {answer.outcome for answer in again} == {"replayed"}


def test_what_was_bought_without_a_hold_is_booked_too(books: Books) -> None:
    """A cache hit has none and costs nothing; a hold that never reached the books does not swallow its entries."""
    saved = an_entry("hit", 999, ending=Ending.CACHE_HIT, savings_nano=70)
    books.do(a_settle(None, saved), a_settle("lost", an_entry("e", 30)))
    with books.engine.begin() as connection:
        savings = connection.execute(select(usage_hour.c.savings_nano).where(usage_hour.c.ending == "cache_hit")).one()

    assert books.usd().spent == 30
    assert tuple(savings) == (70,)


def test_a_correction_is_a_row_of_its_own_and_moves_the_difference(books: Books) -> None:
    """Both ways, more than once, and from an unknown price; the entry itself never changes."""
    books.do(a_hold("h", 300), a_settle("h", an_entry("e", 40)), a_settle(None, an_entry("u", None)))
    more = Correct(
        correction_id="c1",
        entry_id="e",
        usage=Usage(input_tokens=10, output_tokens=5),
        cost_nano=90,
        price_id="p1",
        at_s=NOON_S + 5,
    )
    less = replace(more, correction_id="c2", usage=Usage(input_tokens=2, output_tokens=1), cost_nano=25)
    priced = replace(more, correction_id="c3", entry_id="u", cost_nano=7)
    answers = [books.one(command) for command in (more, less, priced, less)]
    answers += books.do(replace(less, correction_id="c4", entry_id="nothing"))
    with books.engine.begin() as connection:
        entry = connection.execute(select(usage_entry.c.cost_nano).where(usage_entry.c.id == "e")).scalar_one()
        rows = connection.execute(
            select(usage_entry.c.id, usage_entry.c.cost_nano, usage_entry.c.calls, usage_entry.c.unpriced)
            .where(usage_entry.c.corrects.is_not(None))
            .order_by(usage_entry.c.id)
        ).all()

    assert [answer.outcome for answer in answers] == ["done", "done", "done", "replayed", "missing"]
    assert entry == 40
    assert [tuple(row) for row in rows] == [("c1", 50, 0, 0), ("c2", -65, 0, 0), ("c3", 7, 0, -1)]
    assert books.usd().spent == 25 + 7


def test_a_budget_tells_once_when_its_soft_share_is_reached(books: Books) -> None:
    """People want one message a window, not one a call."""
    books.do(a_settle(None, an_entry("e1", 700)))
    answers = books.do(a_settle(None, an_entry("e2", 150)), a_settle(None, an_entry("e3", 10)))
    (alert,) = answers[0].alerts

    assert (alert.owner_name, alert.limit, alert.spent) == ("alice", 1_000, 850)
    assert answers[1].alerts == ()
    assert books.one(a_settle(None, an_entry("e4", 10))).alerts == ()


def test_a_window_begins_anew_and_a_clock_that_jumps_back_does_not_open_the_old_one_again(books: Books) -> None:
    """Else whoever moves the clock back spends yesterday's rest, and then today's again."""
    books.one(a_hold("today", 900))
    tomorrow = books.one(a_hold("tomorrow", 900, at_s=NOON_S + DAY_S))
    back = books.one(a_hold("back", 200, at_s=NOON_S + 60))

    assert tomorrow.accepted
    assert back.refusal is not None
    assert back.refusal.left == 100
    assert books.usd(now_s=NOON_S).held == 900
    assert books.one(a_settle("today", an_entry("e"), at_s=NOON_S + DAY_S)).accepted
    assert books.usd(now_s=NOON_S + DAY_S).spent == 0


def test_a_new_budget_counts_what_its_window_has_seen_and_a_changed_limit_keeps_it(books: Books) -> None:
    """Setting a limit in the afternoon must not grant the morning again."""
    team = a_budget(OwnerKind.TEAM, EVERYONE, limit_nano=400)
    books.do(a_settle(None, an_entry("e1", 250)), a_settle(None, an_entry("e0", 99, at_s=NOON_S - DAY_S)))
    books.sync(a_budget(), team, now_s=NOON_S + 60)
    first = books.usd("red")
    books.sync(a_budget(), replace(team, limit_nano=300), now_s=NOON_S + 60)
    refused = books.one(a_hold("h", 60))
    books.sync(a_budget(), now_s=NOON_S + 60)

    assert (first.spent, first.left) == (250, 150)
    assert refused.refusal is not None
    assert refused.refusal.left == 50
    assert ("red", Ledger.USD) not in books.figures()
    assert books.one(a_hold("h", 60)).accepted


def test_a_runs_budget_stays_when_the_configuration_changes(books: Books) -> None:
    """It belongs to the run."""
    run = Owners(tenant="t", run="r1")
    spec = a_budget(OwnerKind.RUN, "r1", Window.TOTAL, limit_nano=50)
    with books.engine.begin() as connection:
        put_specs(connection, [spec], configured=False)
    books.sync()
    answers = books.do(a_hold("h1", 40, owners=run), a_hold("h2", 40, owners=run))

    assert [answer.outcome for answer in answers] == ["done", "refused"]
    assert answers[1].refusal is not None
    assert answers[1].refusal.resets_s is None
    with books.engine.begin() as connection:
        run_budgets.end_run(connection, "r1")
    assert books.one(a_hold("h2", 40, owners=run)).accepted


def test_burn_down_shows_rest_and_forecast(books: Books) -> None:
    """At noon half of the day is over: 300 become 600."""
    books.do(a_settle(None, an_entry("e", 300)), a_hold("h", 50))
    figures = books.usd()

    assert (figures.forecast, figures.exhausted_s, figures.left) == (600, None, 650)


def test_another_writer_is_noticed_and_nothing_of_the_batch_is_kept(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compare-and-set of a hold's state: two processes cannot both end it."""
    books.one(a_hold("h", 100))
    original = ledger._find_holds

    def then_another(connection: Connection, commands: Sequence[Command]) -> list[HeldAmount]:
        found = original(connection, commands)
        connection.execute(update(hold).values(state="voided"))
        return found

    monkeypatch.setattr(ledger, "_find_holds", then_another)
    with pytest.raises(InternalError, match="another process"):
        books.one(a_settle("h", an_entry("e")))

    monkeypatch.undo()
    assert books.usd().held == 100
    assert books.one(a_settle("h", an_entry("e"))).accepted


@pytest.mark.parametrize(
    ("statement", "check"),
    [
        (update(ledger_account).where(ledger_account.c.owner_name == "alice").values(debits_posted=41), "balances"),
        (update(hold).values(state="voided"), "holds"),
        (transfer.delete().where(transfer.c.kind == "post"), "holds"),
        (update(transfer).where(transfer.c.kind == "post").values(nano=39), "postings"),
        (update(usage_hour).values(cost_nano=1), "usage_hour"),
        (usage_hour.delete(), "usage_hour"),
        (update(usage_day).values(calls=2), "usage_day"),
        (update(usage_entry).values(user="bob"), "owners"),
        (update(usage_entry).values(price_id=None), "prices"),
        (update(usage_entry).values(price_id="p9"), "prices"),
        (update(ledger_account).where(ledger_account.c.owner_kind == "counter").values(credits_posted=1), "sides"),
    ],
)
def test_verify_finds_what_was_changed_by_hand(books: Books, statement: object, check: str) -> None:
    """A check that finds nothing where something is wrong is worse than none."""
    books.do(a_hold("h", 300), a_settle("h", an_entry("e", 40)))
    with books.engine.begin() as connection:
        connection.execute(statement)  # type: ignore[call-overload]  # any statement
        found = {one.check for one in books_checks.verify(connection)}

    assert check in found


def test_answers_are_the_same_alone_and_through_their_own_functions(books: Books) -> None:
    """The named functions are the batch of one."""
    with books.engine.begin() as connection:
        taken = ledger.take_hold(connection, a_hold("h", 10))
        settled = ledger.settle(connection, a_settle("h", an_entry("e", 5)))
        voided = ledger.void(connection, Void(hold_id="h", at_s=NOON_S))
        expired = ledger.expire(connection, Expire(at_s=NOON_S))
        corrected = ledger.correct(
            connection,
            Correct(
                correction_id="c",
                entry_id="e",
                usage=Usage(input_tokens=1, output_tokens=1),
                cost_nano=6,
                price_id="p1",
                at_s=NOON_S,
            ),
        )

    assert [one.outcome for one in (taken, settled, voided, expired, corrected)] == [
        "done",
        "done",
        "conflict",
        "done",
        "done",
    ]
