"""Every user of a caller has limits of their own, made when they come and kept while anything of them counts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from app.domain.account_state import SECOND_NS, TOO_MANY, AccountBook, Decision, Ending
from app.domain.chat import Usage
from app.domain.gateway import Caller
from app.domain.hosting import CALLERS_MODEL, caller_specs, find_pattern, user_account, users_account
from app.domain.limiter_state import LimiterState
from app.domain.limits import LimitSpec

NOW = 1_000 * SECOND_NS
WALL = 1_795_000_000 * SECOND_NS
PER_USER = LimitSpec(rpm=2, window="sliding", counted_from="start", charge="used")
TEAM = Caller(name="team", user_limits=PER_USER)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A call of one user."""

    account: str
    model: str = CALLERS_MODEL
    input_tokens: int = 1
    output_tokens_max: int = 1


def configure(book: AccountBook, caller: Caller, saved: dict[tuple[str, str], tuple[LimiterState, bool]]) -> None:
    book.configure(caller_specs([caller]), (), saved, NOW, WALL)


def a_book(caller: Caller = TEAM, users_max: int = 100) -> AccountBook:
    book = AccountBook(users_max=users_max)
    configure(book, caller, {})
    return book


def call(book: AccountBook, user: str, number: int, now_ns: int = NOW) -> Decision:
    """Let a user call, and settle it where it is admitted."""
    wish = Wish(account=user_account("team", user))
    assert book.serves(wish.account, wish.model)
    decision = book.admit(wish, f"{user} {number}", now_ns, WALL + now_ns - NOW, horizon_s=0.0)
    if decision.admitted:
        book.succeed(wish, f"{user} {number}", Usage(input_tokens=1, output_tokens=1), (), now_ns, duration_s=0.1)
    return decision


def test_names_of_users_have_a_bounded_length_and_lead_to_their_pattern() -> None:
    """Whatever users are called; a caller's own account has no pattern."""
    name = user_account("team", "ü:" * 10_000)

    assert len(name) < 80
    assert find_pattern(name) == users_account("team")
    assert find_pattern("caller:team") is None
    assert find_pattern(users_account("team")) != users_account("team")


def test_every_user_has_the_whole_limit() -> None:
    """One user's burst costs the others nothing; the day after is a new one."""
    book = a_book()
    decisions = {user: [call(book, user, number).admitted for number in range(3)] for user in ("ann", "bob", "")}

    assert list(decisions.values()) == [[True, True, False]] * 3
    assert call(book, "ann", 3, NOW + 62 * SECOND_NS).admitted


def test_caller_without_user_limits_has_no_users_here() -> None:
    """Nothing is kept of people whom nobody limits."""
    book = a_book(Caller(name="team", limits=PER_USER))

    assert not book.serves(user_account("team", "ann"), CALLERS_MODEL)
    assert not book.serves(user_account("other", "ann"), CALLERS_MODEL)


def test_row_of_a_user_says_what_is_left_and_users_are_not_broadcast() -> None:
    """Rows go to every replica each second: ten thousand users must not."""
    book = a_book()
    call(book, "ann", 0)
    row = book.row(user_account("team", "ann"), CALLERS_MODEL, NOW)

    assert row is not None
    assert [(bucket.kind, bucket.level, bucket.capacity) for bucket in row.buckets] == [("requests", 1.0, 2.0)]
    assert row.buckets[0].full_s is not None
    assert 60 <= row.buckets[0].full_s <= 62
    assert user_account("team", "ann") not in {each.account for each in book.rows(NOW, WALL)}
    assert len(book.snapshots(NOW, WALL)) == len(caller_specs([TEAM]))


def test_users_beyond_the_bound_are_refused_until_others_rest() -> None:
    """A minute's use is never forgotten to make room."""
    book = a_book(users_max=10)
    for number in range(10):
        assert call(book, f"user {number}", 0).admitted
    late = call(book, "late", 0, NOW + 30 * SECOND_NS)

    assert (late.admitted, late.reason, late.refused_for_good) == (False, TOO_MANY, False)
    assert [call(book, "user 0", number, NOW + 30 * SECOND_NS).admitted for number in (1, 2)] == [True, False]
    assert call(book, "late", 0, NOW + 70 * SECOND_NS).admitted


def test_users_start_with_nothing_where_an_earlier_life_may_have_given_it_away() -> None:
    """After a crash nobody knows what they had: for a minute they get nothing, then everything."""
    saved = a_book().snapshots(NOW, WALL)
    book = AccountBook()
    configure(book, TEAM, {key: (state, False) for key, state in saved.items()})

    assert not call(book, "ann", 0).admitted
    assert not call(book, "bob", 0, NOW + 30 * SECOND_NS).admitted
    assert call(book, "bob", 1, NOW + 62 * SECOND_NS).admitted


def test_users_wait_no_longer_than_a_minute_from_a_clean_end() -> None:
    """It ended 50 s ago, by the wall clock: in a little more than 10 s nothing of it counts."""
    saved = a_book().snapshots(NOW, WALL - 50 * SECOND_NS)
    book = AccountBook()
    configure(book, TEAM, {key: (state, True) for key, state in saved.items()})

    assert not call(book, "ann", 0).admitted
    assert call(book, "ann", 1, NOW + 12 * SECOND_NS).admitted


def test_changed_user_limits_hold_for_users_who_are_there() -> None:
    """Lowered and raised, without forgetting what was used; taken away, their calls under way still settle."""
    book = a_book()
    assert [call(book, "ann", number).admitted for number in range(3)] == [True, True, False]
    configure(book, replace(TEAM, user_limits=replace(PER_USER, rpm=3)), {})
    assert [call(book, "ann", number).admitted for number in range(3, 5)] == [True, False]

    wish = Wish(account=user_account("team", "bob"))
    assert book.admit(wish, "open", NOW, WALL, horizon_s=0.0).admitted
    configure(book, Caller(name="team"), {})
    book.end(wish, "open", Ending.CANCELLED, NOW)
    assert not book.serves(wish.account, wish.model)
