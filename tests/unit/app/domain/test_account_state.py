"""The account's books admit what the limits allow and move the state by how calls end."""

from __future__ import annotations

from typing import Any

from app.domain.account_state import NEVER_S, SECOND_NS, AccountBook, Decision, Ending
from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.calls import CallOrder
from app.domain.chat import ChatRequest, Usage
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.limits import LimitSpec
from app.domain.meter import STALE_NS

NOW = 1_000 * SECOND_NS
WALL = 1_795_000_000 * SECOND_NS


def an_account(name: str = "a", *, key: str = "k", group: str | None = None, **limits: Any) -> AccountSpec:
    return AccountSpec(
        name=name,
        provider=Provider.OPENAI,
        api_key=key,
        models=(("m", "m"),),
        limits=(("m", LimitSpec(**limits)),),
        quota_group=group,
    )


def a_book(*accounts: AccountSpec) -> AccountBook:
    book = AccountBook()
    book.configure(accounts, [ModelInfo(name="m", family="f")], {}, NOW, WALL)
    return book


def an_order(call_id: str = "c", account: str = "a", tokens: int = 10) -> CallOrder:
    return CallOrder(
        call_id=call_id,
        owner="o",
        account=account,
        model="m",
        request=ChatRequest(model="m", messages=()),
        input_tokens=tokens,
        output_tokens_max=tokens,
        timeout_s=60.0,
        horizon_s=0.5,
    )


def admit(book: AccountBook, order: CallOrder, now_ns: int = NOW) -> Decision:
    return book.admit(order, order.call_id, now_ns, WALL + now_ns - NOW, horizon_s=order.horizon_s)


def fail(book: AccountBook, order: CallOrder, kind: UpstreamKind, retry_after_s: float | None = None) -> None:
    error = UpstreamError("it failed", kind=kind, retry_after_s=retry_after_s)
    book.fail(order, order.call_id, error, NOW, WALL)


def state(book: AccountBook, account: str = "a", now_ns: int = NOW) -> str:
    row = book.row(account, "m", now_ns)
    assert row is not None
    return row.state


def test_concurrency_is_never_exceeded_and_an_ended_call_makes_room() -> None:
    """Slots are counted, not hoped for."""
    book = a_book(an_account(concurrency=2))
    decisions = [admit(book, an_order(f"c{index}")).admitted for index in range(3)]
    book.succeed(
        an_order("c0"),
        "c0",
        Usage(input_tokens=5, output_tokens=5),
        (),
        NOW,
        duration_s=0.1,
    )

    assert decisions == [True, True, False]
    assert admit(book, an_order("c3")).admitted


def test_accounts_of_a_quota_group_share_one_limiter() -> None:
    """Two keys of one organisation must not get twice its limit."""
    book = a_book(an_account("a", group="g", rpm=60), an_account("b", group="g", rpm=60))

    assert admit(book, an_order("c1", "a")).start_in_s == 0.0
    second = admit(book, an_order("c2", "b"))
    assert not second.admitted
    assert second.start_in_s == 1.0


def test_a_dead_key_takes_the_whole_account_out_until_its_key_changes() -> None:
    """Never retried; a person's new key gets a new chance."""
    book = a_book(an_account())
    admit(book, an_order())
    fail(book, an_order(), UpstreamKind.DEAD_KEY)

    refused = admit(book, an_order("c2"))
    assert (state(book), refused.start_in_s) == ("dead", NEVER_S)
    book.configure([an_account(key="k")], [ModelInfo(name="m", family="f")], {}, NOW, WALL)
    assert state(book) == "dead"
    book.configure([an_account(key="new")], [ModelInfo(name="m", family="f")], {}, NOW, WALL)
    assert state(book) == "healthy"


def test_a_spent_day_is_told_in_the_load() -> None:
    """Callers choose by the row: with nothing left today it must not look free."""
    book = a_book(an_account(rpd=1, rpm=60))
    before = book.row("a", "m", NOW)
    assert admit(book, an_order("c1")).admitted
    after = book.row("a", "m", NOW)

    assert before is not None
    assert after is not None
    assert before.closed_s == 0.0
    assert 0.0 < after.closed_s <= 86_400.0


def test_a_minute_limit_cools_the_group_and_a_day_limit_until_its_reset() -> None:
    """What a 429 says holds for everybody under that limit."""
    book = a_book(an_account("a", group="g", rpm=6_000), an_account("b", group="g", rpm=6_000))
    admit(book, an_order("c1", "a"))
    fail(book, an_order("c1", "a"), UpstreamKind.MINUTE_LIMIT, retry_after_s=20)
    assert state(book) == "cooling_minute"
    assert admit(book, an_order("c2", "b")).start_in_s == 20.0

    book = a_book(an_account(rpm=6_000))
    admit(book, an_order())
    fail(book, an_order(), UpstreamKind.DAY_LIMIT, retry_after_s=25)
    assert state(book) == "cooling_day"
    assert admit(book, an_order("c2")).start_in_s > 3_600


def test_a_withdrawn_call_gives_everything_back() -> None:
    """What was never sent was never used."""
    book = a_book(an_account(rpm=60))
    admit(book, an_order())
    book.end(an_order(), "c", Ending.WITHDRAWN, NOW)

    assert admit(book, an_order("c2")).start_in_s == 0.0


def test_a_refused_request_costs_a_request_but_no_tokens() -> None:
    """Providers count a 400 as a request; its tokens were never generated."""
    book = a_book(an_account(rpm=6_000, tpm=60_000))
    admit(book, an_order(tokens=400))
    fail(book, an_order(tokens=400), UpstreamKind.INVALID_REQUEST)

    row = book.row("a", "m", NOW)
    assert row is not None
    levels = {bucket.kind: bucket.level for bucket in row.buckets}
    assert levels["tokens"] == 1_000
    assert levels["requests"] == 99


def test_a_call_larger_than_the_whole_window_is_refused_for_good() -> None:
    """Waiting for what can never come would be silence."""
    book = a_book(an_account(tpm=100, window="sliding"))

    assert admit(book, an_order(tokens=400)).refused_for_good


def test_saved_states_continue_and_lost_ones_start_empty() -> None:
    """A restart must not hand out the burst twice."""
    book = a_book(an_account(rpm=60))
    admit(book, an_order())
    saved = book.snapshots(NOW, WALL)
    model = [ModelInfo(name="m", family="f")]
    continued, lost, fresh = AccountBook(), AccountBook(), AccountBook()
    continued.configure([an_account(rpm=60)], model, {key: (item, True) for key, item in saved.items()}, NOW, WALL)
    lost.configure([an_account(rpm=60)], model, {key: (item, False) for key, item in saved.items()}, NOW, WALL)
    fresh.configure([an_account(rpm=60)], model, {}, NOW, WALL)

    assert [admit(item, an_order("x")).start_in_s > 0.5 for item in (continued, lost, fresh)] == [True, True, False]


def answered(book: AccountBook, now_ns: int, duration_s: float, ttft_s: float | None = None, tokens: int = 100) -> None:
    """Make a call that is answered at ``now_ns``."""
    order = an_order(f"c{now_ns}")
    assert admit(book, order, now_ns).admitted
    usage = Usage(input_tokens=5, output_tokens=tokens)
    book.succeed(order, order.call_id, usage, (), now_ns, duration_s=duration_s, ttft_s=ttft_s)


def test_row_and_view_show_what_was_measured() -> None:
    """Streams show the first token; a call without output shows no speed."""
    book = a_book(an_account())
    answered(book, NOW, 1.0, tokens=0)
    before = book.row("a", "m", NOW)
    answered(book, NOW + 1, 2.5, ttft_s=0.5)
    after, (view,) = book.row("a", "m", NOW + 1), book.views(NOW + 1)

    assert before is not None
    assert after is not None
    assert (before.measured, before.ttft_s, before.tokens_per_s) == (True, None, None)
    assert (after.ttft_s, after.tokens_per_s) == (view.ttft_s, view.tokens_per_s) == (0.5, 50.0)


def test_account_that_nobody_asked_for_long_is_tried_again_by_one_call() -> None:
    """It may have been slow but once; while one call tries it, what is known holds for the others."""
    book = a_book(an_account())
    answered(book, NOW, 60.0)
    later = NOW + STALE_NS
    stale = book.row("a", "m", later)
    assert admit(book, an_order("trial"), later).admitted
    tried = book.row("a", "m", later)
    usage = Usage(input_tokens=5, output_tokens=10)
    book.succeed(an_order("trial"), "trial", usage, (), later, duration_s=1.0)
    known = book.row("a", "m", later)

    assert stale is not None
    assert tried is not None
    assert known is not None
    assert (stale.measured, tried.measured, known.measured) == (False, True, True)
    assert (tried.call_s, known.call_s) == (60.0, 1.0)
