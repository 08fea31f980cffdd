"""What is foreseen of a call: quicker accounts and models come first, untried ones get their turn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.load import LoadRow
from app.domain.outlook import Prospect, expected_finish_s, prospects
from app.domain.placement import NEVER_S


def a_row(account: str, model: str = "m", **fields: object) -> LoadRow:
    given: dict[str, object] = {
        "scope": f"account:{account}", "state": "healthy", "in_flight": 0, "concurrency": None, "buckets": (),
        "cooldown_s": 0.0, "call_s": 1.0, "call_output_tokens": 1_000.0, "error_rate": 0.0, "context_tokens": 100_000,
        "observed_at_s": 50.0,
    }  # fmt: skip
    return LoadRow(account=account, model=model, **{**given, **fields})  # type: ignore[arg-type]


def timed(account: str, ttft_s: float | None, tokens_per_s: float, output_tokens: float = 100.0) -> LoadRow:
    return a_row(account, ttft_s=ttft_s, tokens_per_s=tokens_per_s, output_tokens=output_tokens)


def test_answer_takes_its_first_token_and_then_its_length_at_that_speed() -> None:
    """Half a second, and 100 tokens at 50 a second; twice as many where twice as many are allowed."""
    row = timed("a", 0.5, 50.0)

    assert Prospect([row], 1_000).answer_s(row) == 2.5
    assert Prospect([row], 2_000).answer_s(row) == 4.5
    assert Prospect([row], None).answer_s(row) == 2.5


def test_no_more_is_foreseen_than_the_call_may_generate() -> None:
    """A call that is allowed ten tokens ends after ten."""
    row = timed("a", 0.5, 50.0)

    assert Prospect([row], 10).answer_s(row) == 0.5 + 10 / 50


def test_account_is_not_slow_because_it_got_the_long_answers() -> None:
    """The same speed: the same time for the same call."""
    short, long = timed("short", 0.5, 50.0, 10.0), timed("long", 0.5, 50.0, 1_000.0)
    prospect = Prospect([short, long], 1_000)

    assert prospect.answer_s(short) == prospect.answer_s(long)


def test_short_calls_go_by_the_first_token_and_long_ones_by_the_speed() -> None:
    """What one average of whole calls could not tell apart."""
    prompt, quick = timed("prompt", 0.2, 20.0, 500.0), timed("quick", 3.0, 200.0, 500.0)

    brief, essay = Prospect([prompt, quick], 20), Prospect([prompt, quick], 2_000)

    assert brief.answer_s(prompt) < brief.answer_s(quick)
    assert essay.answer_s(quick) < essay.answer_s(prompt)


@settings(deadline=None)
@given(
    ttfts=st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)),
    speeds=st.tuples(st.floats(1, 1_000), st.floats(1, 1_000)),
    allowed=st.one_of(st.none(), st.integers(1, 10_000)),
)
def test_account_that_is_quicker_in_both_is_never_foreseen_later(
    ttfts: tuple[float, float], speeds: tuple[float, float], allowed: int | None
) -> None:
    """Whatever the call."""
    quick, slow = timed("quick", min(ttfts), max(speeds)), timed("slow", max(ttfts), min(speeds))
    prospect = Prospect([quick, slow], allowed)

    assert expected_finish_s(quick, 10, allowed, prospect=prospect) <= expected_finish_s(
        slow, 10, allowed, prospect=prospect
    )


def test_untried_account_comes_before_known_ones_and_is_tried_by_one_call_only() -> None:
    """Else nobody would ever know; the second call does not bet on it as well."""
    known = timed("known", 0.5, 50.0)
    untried = a_row("new", measured=False)
    tried = a_row("new", measured=False, in_flight=1)

    assert Prospect([known, untried], 100).answer_s(untried) < Prospect([known, untried], 100).answer_s(known)
    assert Prospect([known, tried], 100).answer_s(tried) > Prospect([known, tried], 100).answer_s(known)


def test_untried_model_is_hoped_to_be_as_quick_as_the_quickest_other() -> None:
    """Of each model that was tried its own word counts."""
    rows = {"slow": [timed("a", 5.0, 50.0)], "quick": [timed("b", 0.5, 50.0)], "new": [a_row("c", measured=False)]}
    found = prospects(rows, 1_000)

    assert found["new"].answer_s(rows["new"][0]) < found["quick"].answer_s(rows["quick"][0])
    assert found["slow"].answer_s(rows["slow"][0]) == 7.0


def test_account_of_unknown_speed_goes_by_its_whole_calls() -> None:
    """Embeddings generate nothing; blank answers neither."""
    row = a_row("a", call_s=3.0)

    assert Prospect([row, timed("b", 0.5, 50.0)], 1_000).answer_s(row) == 3.0


def test_dead_account_never_finishes() -> None:
    """However quick it was."""
    row = a_row("a", state="dead", ttft_s=0.1, tokens_per_s=500.0, output_tokens=10.0)

    assert expected_finish_s(row, 10, 100) == NEVER_S
