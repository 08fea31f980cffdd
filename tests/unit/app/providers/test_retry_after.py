"""How long a provider asks to wait, in every spelling."""

from __future__ import annotations

import pytest

from app.providers.retry_after import DELAY_S_MAX, parse_delay_s, retry_after_s, should_retry

NOW_S = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize(
    ("text", "delay_s"),
    [
        ("30", 30.0),
        (" 1.5 ", 1.5),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("12ms", 0.012),
        ("1d", 86_400.0),
        ("250µs", 0.00025),
        ("38.2s", 38.2),
        ("Mon, 21 Sep 2026 14:13:50 GMT", 30.0),
        ("2026-09-21T14:14:20Z", 60.0),
        ("2026-09-21T16:14:20.5+02:00", 60.5),
        ("2020-01-01T00:00:00Z", 0.0),
        ("99999999999", DELAY_S_MAX),
        ("9" * 400, DELAY_S_MAX),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("5 s", None),
        ("1m-2s", None),
    ],
)
def test_delay_is_read_in_every_spelling(text: str, delay_s: float | None) -> None:
    """Seconds, Go durations, RetryInfo, HTTP dates and RFC 3339 mean the same thing."""
    assert parse_delay_s(text, now_s=NOW_S) == pytest.approx(delay_s)


def test_longest_of_several_delays_counts() -> None:
    """Providers contradict themselves; the careful reading wins."""
    headers = {"retry-after": "3", "retry-after-ms": "4200"}

    assert retry_after_s(headers, now_s=NOW_S) == 4.2
    assert retry_after_s(headers, now_s=NOW_S, retry_delay="9s") == 9.0
    assert retry_after_s({}, now_s=NOW_S, message="Please try again in 1m2.5s. Visit …") == 62.5
    assert retry_after_s({}, now_s=NOW_S) is None


def test_should_retry_is_three_valued() -> None:
    """Silence is not no."""
    assert should_retry({"x-should-retry": "true"}) is True
    assert should_retry({"x-should-retry": "false"}) is False
    assert should_retry({}) is None
