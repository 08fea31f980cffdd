"""Whatever comes in whatever order, as often as it likes: nothing is overspent, lost or counted twice.

The books are compared with a model that keeps facts only (holds and how they ended, entries) and adds them up anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from app.domain.books.balances import SPARE_PARTS, TransferKind
from app.domain.books.budgets import OwnerKind, Owners, Window
from app.domain.books.entries import Command, Correct, Ending, Expire, Hold, Settle, UsageEntry, Void
from app.domain.books.unknown import settlement_id
from app.domain.chat import Usage
from app.storage import books_checks, ledger
from app.storage.books_tables import ledger_account, transfer
from tests.effort import examples
from tests.fakes.ledger_commands import ALICE, BOB, NOON_S, a_budget, an_entry, dump, fresh_books

LIMITS = {
    (OwnerKind.USER, "alice", Window.DAY): 1_000,
    (OwnerKind.USER, "*", Window.DAY): 600,
    (OwnerKind.TEAM, "red", Window.TOTAL): 2_500,
    (OwnerKind.RUN, "*", Window.TOTAL): 400,
}
"""In nano-dollars."""
TOKENS_OF_KEYS = 60
"""A month, for each key."""
SPECS = (
    *(a_budget(kind, name, window, limit_nano=limit) for (kind, name, window), limit in LIMITS.items()),
    a_budget(OwnerKind.KEY, "*", Window.MONTH, limit_tokens=TOKENS_OF_KEYS),
)
BALANCES = ("pending", "posted", "unknown")
_SIDES = select(
    ledger_account.c.ledger,
    *(func.sum(ledger_account.c[f"{side}_{name}"]) for name in BALANCES for side in ("debits", "credits")),
).group_by(ledger_account.c.ledger)
PEOPLE = (ALICE, BOB, replace(ALICE, run="r1"), Owners(tenant="other"))
HOLDS = 6
times = st.sampled_from([0.0, 0.0, 0.0, 30.0, 61.0, 7_200.0, -7_200.0, 86_400.0, -86_400.0]).map(lambda at: NOON_S + at)
amounts = st.sampled_from([0, 1, 50, 200, 400, 700])
hold_ids = st.integers(0, HOLDS - 1)
usages = st.builds(Usage, input_tokens=st.integers(0, 9), output_tokens=st.integers(0, 9))


def whose(hold_id: int) -> Owners:
    """Each hold has its owner, so that its entries are theirs."""
    return PEOPLE[hold_id % len(PEOPLE)]


@st.composite
def holds(draw: st.DrawFn) -> Hold:
    number, at_s = draw(hold_ids), draw(times)
    return Hold(
        hold_id=f"h{number}",
        owners=whose(number),
        amount_nano=draw(st.none() | amounts),
        tokens=draw(st.integers(0, 20)),
        at_s=at_s,
        expires_s=at_s + draw(st.sampled_from([10.0, 60.0, 7_000.0])),
        holder=draw(st.sampled_from(["r1", "r2"])),
        spare=draw(st.booleans()),
    )


@st.composite
def settles(draw: st.DrawFn) -> Settle:
    number = draw(hold_ids)
    entries = [
        an_entry(
            f"e{number}-{draw(st.integers(0, 3))}",
            draw(st.none() | amounts),
            owners=whose(number),
            usage=draw(usages),
            ending=draw(st.sampled_from([Ending.ANSWERED, Ending.ANSWERED, Ending.FAILED, Ending.CACHE_HIT])),
            at_s=draw(times),
        )
        for _ in range(draw(st.integers(0, 2)))
    ]
    hold_id = None if draw(st.integers(0, 7)) == 0 else f"h{number}"
    return Settle(hold_id=hold_id, entries=tuple(entries), at_s=draw(times))


@st.composite
def settles_by_hand(draw: st.DrawFn) -> Settle:
    number = draw(hold_ids)
    entry = an_entry(
        settlement_id(f"h{number}"),
        draw(st.none() | amounts),
        owners=whose(number),
        usage=draw(usages),
        ending=Ending.SETTLED,
        price_id=None,
    )
    return Settle(hold_id=f"h{number}", entries=(entry,), at_s=draw(times))


@st.composite
def corrections(draw: st.DrawFn) -> Correct:
    cost = draw(st.none() | amounts)
    return Correct(
        correction_id=f"c{draw(st.integers(0, 3))}",
        entry_id=f"e{draw(hold_ids)}-{draw(st.integers(0, 3))}",
        usage=draw(usages),
        cost_nano=cost,
        price_id=None if cost is None else "p1",
        at_s=draw(times),
    )


voids = st.builds(Void, hold_id=hold_ids.map(lambda number: f"h{number}"), at_s=times)
expiries = st.builds(Expire, at_s=times, holder=st.sampled_from([None, None, "r1"]))
histories = st.lists(
    st.one_of(holds(), holds(), holds(), settles(), settles(), settles_by_hand(), voids, expiries, corrections()),
    min_size=1,
    max_size=24,
)


def _hold(number: int, nano: int | None, **more: object) -> Hold:
    values: dict[str, object] = {
        "owners": whose(number),
        "amount_nano": nano,
        "tokens": 5,
        "at_s": NOON_S,
        "expires_s": NOON_S + 60.0,
        "holder": "r1",
        **more,
    }
    return Hold(hold_id=f"h{number}", **values)  # type: ignore[arg-type]  # a test's shorthand


def _settle(number: int, *names: str, cost: int | None = 50, **more: object) -> Settle:
    entries = tuple(an_entry(f"e{number}-{name}", cost, owners=whose(number), **more) for name in names)
    return Settle(hold_id=f"h{number}", entries=entries, at_s=NOON_S)


def _by_hand(number: int, cost: int) -> Settle:
    entry = an_entry(settlement_id(f"h{number}"), cost, owners=whose(number), ending=Ending.SETTLED, price_id=None)
    return Settle(hold_id=f"h{number}", entries=(entry,), at_s=NOON_S)


def _correct(name: str, entry_id: str, cost: int) -> Correct:
    usage = Usage(input_tokens=2, output_tokens=1)
    return Correct(correction_id=name, entry_id=entry_id, usage=usage, cost_nano=cost, price_id="p1", at_s=NOON_S)


STORY: tuple[Command, ...] = (
    *(_hold(0, 400), _hold(0, 400), _hold(0, 200), _hold(4, 700), _hold(1, None)),
    *(
        _settle(0, "0", "1"),
        _settle(0, "0", "1"),
        _settle(0, "2", cost=700),
        _settle(5),
        Void(hold_id="h0", at_s=NOON_S),
    ),
    *(_correct("c0", "e0-0", 70), _correct("c0", "e0-0", 70), _correct("c1", "e0-1", 10), _correct("c2", "none", 1)),
    *(_hold(2, 50), Void(hold_id="h2", at_s=NOON_S), Void(hold_id="h2", at_s=NOON_S), _settle(2)),
    *(_hold(3, 60), _hold(5, 70, holder="r2"), Void(hold_id="none", at_s=NOON_S), _by_hand(3, 20)),
    *(Expire(at_s=NOON_S, holder="r1"), Expire(at_s=NOON_S + 60.0), _by_hand(3, 20), _by_hand(3, 30)),
    *(_settle(3, "0"), _settle(3, "0"), _settle(5, "0"), Void(hold_id="h5", at_s=NOON_S)),
)
"""Everything that may happen to a hold: what chance may miss is always tried."""
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not shrunk: a history of twenty commands is readable, and shrinking takes minutes."""
quick = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=PHASES)


@dataclass(slots=True)
class Held:
    """What the model knows of a hold."""

    command: Hold
    accounts: frozenset[tuple[str, str]]
    end: str = "open"
    known: bool = True
    """False while what was bought of it is unknown."""


@dataclass(slots=True)
class Model:
    """Facts only; every amount is added up from them when it is asked for."""

    holds: dict[str, Held] = field(default_factory=dict)
    entries: dict[str, tuple[UsageEntry, frozenset[tuple[str, str]]]] = field(default_factory=dict)
    corrections: dict[str, str] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    """Settlements by hand that gave way to true entries."""
    latest_s: float = 0.0

    def used(self, account: tuple[str, str], *, tokens: bool = False) -> tuple[int, int, int]:
        """Return (spent, held, unknown) of an account."""

        def amount(held: Held) -> int:
            return held.command.tokens if tokens else held.command.amount_nano or 0

        def cost(entry: UsageEntry) -> int:
            if entry.ending is Ending.CACHE_HIT:
                return 0
            return entry.usage.input_tokens + entry.usage.output_tokens if tokens else entry.cost_nano or 0

        mine = [held for held in self.holds.values() if account in held.accounts]
        return (
            sum(cost(entry) for entry, accounts in self.entries.values() if account in accounts),
            sum(amount(held) for held in mine if held.end == "open"),
            sum(amount(held) for held in mine if not held.known),
        )

    def accounts(self, owners: Owners) -> frozenset[tuple[str, str]]:
        """Return (owner, window) of every budget that applies now; the clock never goes back behind what it was."""
        now = datetime.fromtimestamp(self.latest_s // 900 * 900, UTC)
        found = []
        if owners.user:
            found.append((f"user:{owners.user}", now.date().isoformat()))
        if owners.key:
            found.append((f"key:{owners.key}", now.date().isoformat()[:7]))
        if owners.team:
            found.append((f"team:{owners.team}", ""))
        if owners.run:
            found.append((f"run:{owners.run}", ""))
        return frozenset(found)

    def apply(self, command: Command) -> str:
        """Return the outcome that the books must give."""
        self.latest_s = max(self.latest_s, command.at_s)
        if isinstance(command, Hold):
            return self._hold(command)
        if isinstance(command, Settle):
            return self._settle(command)
        if isinstance(command, Correct):
            return self._correct(command)
        if isinstance(command, Void):
            return self._void(command)
        for held in self.holds.values():
            overdue = held.command.expires_s <= command.at_s
            if held.end == "open" and (overdue if command.holder is None else held.command.holder == command.holder):
                held.end, held.known = "expired", False
        return "done"

    def _hold(self, command: Hold) -> str:
        known = self.holds.get(command.hold_id)
        if known is not None:
            same = (known.command.amount_nano, known.command.tokens) == (command.amount_nano, command.tokens)
            return "replayed" if same else "conflict"
        accounts = self.accounts(command.owners)
        for account in accounts:
            asked: int | None
            if account[0].startswith("key:"):
                asked, left = command.tokens, max(0, TOKENS_OF_KEYS - sum(self.used(account, tokens=True)))
            else:
                asked, left = command.amount_nano, max(0, limit_of(account[0]) - sum(self.used(account)))
            if asked is None or asked * (SPARE_PARTS if command.spare else 1) > left:
                return "refused"
        self.holds[command.hold_id] = Held(command=command, accounts=accounts)
        return "done"

    def _settle(self, command: Settle) -> str:
        by_hand = any(entry.ending is Ending.SETTLED for entry in command.entries)
        if by_hand and ((found := self.holds.get(command.hold_id or "")) is None or found.known):
            return "replayed" if command.entries[0].entry_id in self.entries else "conflict"
        fresh = {entry.entry_id: entry for entry in reversed(command.entries) if entry.entry_id not in self.entries}
        held = self.holds.get(command.hold_id or "")
        for entry in fresh.values():
            self.entries[entry.entry_id] = (entry, held.accounts if held else self.accounts(entry.owners))
        if command.entries and not fresh:
            return "replayed"
        if held is None:
            return "done" if fresh else "replayed" if command.hold_id is None else "missing"
        if held.end == "open":
            held.end = "posted"
            return "done"
        if not held.known:
            held.known = True
            return "done"
        if fresh:
            self._take_back(held.command.hold_id)
            return "done"
        return "conflict" if held.end == "voided" else "replayed"

    def _take_back(self, hold_id: str) -> bool:
        """What a person settled counts until somebody comes who knows."""
        name = settlement_id(hold_id)
        if name not in self.entries or name in self.replaced:
            return False
        self.replaced.add(name)
        entry, accounts = self.entries[name]
        self.entries[name] = (replace(entry, usage=Usage(input_tokens=0, output_tokens=0), cost_nano=0), accounts)
        return True

    def _void(self, command: Void) -> str:
        held = self.holds.get(command.hold_id)
        if held is None:
            return "missing"
        if held.end == "open":
            held.end = "voided"
            return "done"
        if not held.known:
            held.known = True
            return "done"
        if self._take_back(command.hold_id):
            return "done"
        return "conflict" if held.end == "posted" else "replayed"

    def _correct(self, command: Correct) -> str:
        if command.correction_id in self.corrections:
            return "replayed"
        if command.entry_id not in self.entries:
            return "missing"
        self.corrections[command.correction_id] = command.entry_id
        entry, accounts = self.entries[command.entry_id]
        self.entries[command.entry_id] = (
            replace(entry, usage=command.usage, cost_nano=command.cost_nano),
            accounts,
        )
        return "done"


def limit_of(owner: str) -> int:
    """Return the limit in money of an owner; one that names its owner stands for the one for everyone."""
    kind, _, name = owner.partition(":")
    for (of_kind, of_name, _window), limit in sorted(LIMITS.items(), key=lambda item: item[0][1] == "*"):
        if of_kind.value == kind and of_name in (name, "*"):
            return limit
    raise AssertionError(f"no budget for {owner}")


def test_the_story_meets_every_outcome_of_every_command() -> None:
    """Else a property may pass because nothing happened."""
    with fresh_books(SPECS) as engine, engine.begin() as connection:
        answers = ledger.apply(connection, STORY)
        kinds = set(connection.execute(select(transfer.c.kind)).scalars())
    met: dict[str, set[str]] = {}
    for command, answer in zip(STORY, answers, strict=True):
        met.setdefault(type(command).__name__, set()).add(answer.outcome)

    assert met == {
        "Hold": {"done", "replayed", "conflict", "refused"},
        "Settle": {"done", "replayed", "conflict", "missing"},
        "Void": {"done", "replayed", "conflict", "missing"},
        "Correct": {"done", "replayed", "missing"},
        "Expire": {"done"},
    }
    assert kinds == {kind.value for kind in TransferKind} - {"opening"}


@quick
@given(history=histories)
@example(history=STORY)
def test_books_are_what_the_facts_add_up_to_and_nothing_is_overspent(history: Sequence[Command]) -> None:
    """Every answer and every balance, under any interleaving of anything; clocks that jump included."""
    model = Model()
    with fresh_books(SPECS) as engine:
        for command in history:
            with engine.begin() as connection:
                (answer,) = ledger.apply(connection, [command])
            assert answer.outcome == model.apply(command)
            if isinstance(command, Hold) and answer.outcome == "done":
                for account in model.holds[command.hold_id].accounts:
                    tokens = account[0].startswith("key:")
                    limit = TOKENS_OF_KEYS if tokens else limit_of(account[0])
                    asked = command.tokens if tokens else command.amount_nano
                    assert sum(model.used(account, tokens=tokens)) <= limit or asked == 0
        with engine.begin() as connection:
            assert books_checks.verify(connection) == []
            assert _balances(connection.execute(select(ledger_account)).all()) == _expected(model)


def _balances(found: Iterable[object]) -> dict[tuple[str, str], tuple[int, int, int]]:
    balances = {}
    for row in found:
        owner = f"{row.owner_kind}:{row.owner_name}"  # type: ignore[attr-defined]  # a row of the table
        if row.owner_kind in ("counter", "tenant"):  # type: ignore[attr-defined]
            continue
        balances[owner, row.window_key] = (  # type: ignore[attr-defined]
            row.debits_posted - row.credits_posted,  # type: ignore[attr-defined]
            row.debits_pending,  # type: ignore[attr-defined]
            row.debits_unknown,  # type: ignore[attr-defined]
        )
    return balances


def _expected(model: Model) -> dict[tuple[str, str], tuple[int, int, int]]:
    accounts = {account for held in model.holds.values() for account in held.accounts}
    accounts |= {account for _entry, found in model.entries.values() for account in found}
    return {account: model.used(account, tokens=account[0].startswith("key:")) for account in accounts}


@quick
@given(history=histories, cuts=st.sets(st.integers(1, 23)))
@example(history=STORY, cuts={3, 7, 8, 15, 20})
@example(history=STORY, cuts=set())
def test_a_batch_ends_as_its_commands_one_by_one(history: Sequence[Command], cuts: set[int]) -> None:
    """The same answers and the same rows, however the commands are cut into batches."""
    places = [0, *sorted(cut for cut in cuts if cut < len(history)), len(history)]
    with fresh_books(SPECS) as one_engine, fresh_books(SPECS) as batch_engine:
        with one_engine.begin() as connection:
            one_by_one = [answer for command in history for answer in ledger.apply(connection, [command])]
            rows = dump(connection)
        together = []
        for start, end in pairwise(places):
            with batch_engine.begin() as connection:
                together += ledger.apply(connection, history[start:end])
        with batch_engine.begin() as connection:
            assert together == one_by_one
            assert dump(connection) == rows


@quick
@given(history=histories)
@example(history=STORY)
def test_repeating_what_is_in_the_books_changes_no_row(history: Sequence[Command]) -> None:
    """A client that heard no answer says it again; so does one that restarts."""
    with fresh_books(SPECS) as engine:
        with engine.begin() as connection:
            answers = ledger.apply(connection, history)
        done = [
            command
            for command, answer in zip(history, answers, strict=True)
            if answer.accepted and not isinstance(command, Expire)
        ]
        with engine.begin() as connection:
            before = dump(connection)
            again = ledger.apply(connection, done)
            after = dump(connection)

    resolved = {"replayed", "conflict"}
    assert {answer.outcome for answer in again} <= resolved
    assert after == before


@quick
@given(history=histories)
@example(history=STORY)
def test_a_transaction_undone_leaves_no_trace(history: Sequence[Command]) -> None:
    """A commit that fails is as if it had never been tried."""
    with fresh_books(SPECS) as engine:
        with engine.begin() as connection:
            before = dump(connection)
        with engine.connect() as connection:
            undone = connection.begin()
            first = ledger.apply(connection, history)
            undone.rollback()
        with engine.begin() as connection:
            assert dump(connection) == before
            assert ledger.apply(connection, history) == first
            kinds = connection.execute(select(transfer.c.hold_id, transfer.c.kind)).all()

    ends = [hold_id for hold_id, kind in kinds if kind in ("post", "void", "expire")]
    assert len(ends) == len(set(ends))


@quick
@given(history=histories)
@example(history=STORY)
def test_a_hold_ends_exactly_once_and_debits_are_credits_at_every_step(history: Sequence[Command]) -> None:
    """One of post, void and expiry for each hold once its holder is gone, and nothing for one that never was."""
    with fresh_books(SPECS) as engine:
        done: set[str] = set()
        for command in (*history, Expire(at_s=NOON_S + 10 * 86_400.0)):
            with engine.begin() as connection:
                (answer,) = ledger.apply(connection, [command])
                if isinstance(command, Hold) and answer.outcome == "done":
                    done.add(command.hold_id)
                for _ledger, *sides in connection.execute(_SIDES):
                    assert sides[::2] == sides[1::2]
        with engine.begin() as connection:
            rows = connection.execute(select(transfer.c.hold_id, transfer.c.kind)).all()

    for hold_id in done:
        kinds = [kind for of, kind in rows if of == hold_id]
        assert kinds.count("pending") == 1
        assert sum(kinds.count(kind) for kind in ("post", "void", "expire")) == 1
        assert kinds.count("resolve") <= kinds.count("expire")
    assert {hold_id for hold_id, kind in rows if kind in ("pending", "post", "void", "expire")} == done
