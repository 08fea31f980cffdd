"""Times to the first token and speeds are those that were measured, fade, and never divide by nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.chat import Usage
from app.domain.speed import Speed


def used(output_tokens: int, **more: object) -> Usage:
    return Usage(input_tokens=10, output_tokens=output_tokens, **more)  # type: ignore[arg-type]


def measured(*calls: tuple[int, float, float | None]) -> Speed:
    """Return what is known after these calls: (output tokens, duration, time to the first token)."""
    speed = Speed()
    for tokens, duration_s, ttft_s in calls:
        speed.note(used(tokens), duration_s, ttft_s)
    return speed


def test_nothing_is_known_before_the_first_call() -> None:
    """None, not a number that looks measured."""
    assert (Speed().ttft_s, Speed().tokens_per_s) == (None, None)


def test_stream_shows_both_its_first_token_and_its_speed() -> None:
    """100 tokens in the 2 s after a first token at 0.5 s."""
    speed = measured((100, 2.5, 0.5))

    assert speed.ttft_s == 0.5
    assert speed.tokens_per_s == pytest.approx(50.0)


def test_whole_answer_bounds_the_speed_and_shows_no_first_token() -> None:
    """Nobody saw when its first token came."""
    speed = measured((100, 2.5, None))

    assert speed.ttft_s is None
    assert speed.tokens_per_s == pytest.approx(40.0)


def test_first_stream_replaces_what_whole_answers_bounded() -> None:
    """The bound is too low by the time to the first token; a measurement is not averaged with it."""
    assert measured((100, 2.5, None), (100, 2.5, 0.5)).tokens_per_s == pytest.approx(50.0)


def test_whole_answers_agree_with_streams_once_these_were_seen() -> None:
    """The same calls, streamed or not: the same speed; and when it falls, whole answers show it as well."""
    speed = measured((100, 2.5, 0.5), *[(100, 2.5, None)] * 50)
    assert speed.tokens_per_s == pytest.approx(50.0)

    for _ in range(50):
        speed.note(used(100), 20.5, None)
    assert speed.tokens_per_s == pytest.approx(5.0, rel=0.01)
    assert speed.ttft_s == 0.5


def test_whole_answer_quicker_than_a_first_token_is_taken_as_it_is() -> None:
    """No time below zero: it is a bound of its own."""
    speed = measured((10, 5.0, 4.0), (100, 1.0, None))

    assert speed.tokens_per_s is not None
    assert 0 < speed.tokens_per_s < 100


@pytest.mark.parametrize("usage", [used(0), used(500, source="estimated")])
def test_answer_that_says_nothing_of_its_size_leaves_the_speed(usage: Usage) -> None:
    """No output, or a count that nobody counted: the first token was still seen."""
    speed = Speed()
    speed.note(usage, 1.0, 0.25)
    assert (speed.ttft_s, speed.tokens_per_s) == (0.25, None)

    speed = measured((100, 2.5, 0.5))
    speed.note(usage, 60.0, 0.5)
    assert speed.tokens_per_s == pytest.approx(50.0)


def test_hidden_reasoning_is_not_taken_for_speed() -> None:
    """900 tokens of thought came before the first one that anybody saw."""
    speed = Speed()
    speed.note(used(1_000, reasoning_tokens=900), 12.0, 10.0)

    assert speed.tokens_per_s == pytest.approx(50.0)


@settings(deadline=None)
@given(
    odd=st.tuples(
        st.integers(1, 100_000),
        st.floats(0, 600, allow_nan=False),
        st.one_of(st.none(), st.floats(0, 600, allow_nan=False)),
    )
)
def test_outlier_fades(odd: tuple[int, float, float | None]) -> None:
    """Whatever one call was like, after some more usual ones its trace is below a tenth."""
    speed = measured(*[(100, 2.5, 0.5)] * 5, odd, *[(100, 2.5, 0.5)] * 50)

    assert speed.ttft_s == pytest.approx(0.5, rel=0.1)
    assert speed.tokens_per_s == pytest.approx(50.0, rel=0.1)


@settings(deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 1_000_000),
            st.floats(0, 3_600, allow_nan=False),
            st.one_of(st.none(), st.floats(0, 3_600, allow_nan=False)),
            st.integers(0, 1_000_000),
        ),
        max_size=30,
    )
)
def test_figures_are_always_finite_and_positive(calls: list[tuple[int, float, float | None, int]]) -> None:
    """Streams in one piece, first tokens later than the end, no time at all: never a division by nothing."""
    speed = Speed()
    for tokens, duration_s, ttft_s, thought in calls:
        speed.note(used(tokens, reasoning_tokens=min(thought, tokens)), duration_s, ttft_s)

    if speed.tokens_per_s is not None:
        assert 0 < speed.tokens_per_s < math.inf
    assert (speed.tokens_per_s is None) == all(tokens == 0 for tokens, *_ in calls)
    assert (speed.ttft_s is None) == all(ttft_s is None for _, _, ttft_s, _ in calls)


def test_measurement_after_a_long_silence_replaces_the_old_one() -> None:
    """What was slow yesterday is judged by today's call."""
    speed = measured((100, 60.0, 30.0))
    speed.note(used(100), 2.5, 0.5, afresh=True)

    assert speed.ttft_s == 0.5
    assert speed.tokens_per_s == pytest.approx(50.0)
