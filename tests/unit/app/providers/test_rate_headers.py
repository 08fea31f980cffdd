"""What rate-limit headers say."""

from __future__ import annotations

from app.domain.chat import LimitObservation
from app.providers.rate_headers import exhausted_reset_s, read_observations


def test_openai_headers_are_read_with_go_durations() -> None:
    """Limit, remaining and reset of both limits."""
    headers = {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-remaining-tokens": "29000",
    }

    found = read_observations(headers, now_s=0)

    assert found == (
        LimitObservation(scope="requests", limit=500, remaining=0, reset_s=360.0),
        LimitObservation(scope="tokens", remaining=29_000),
    )
    assert exhausted_reset_s(found) == 360.0


def test_anthropic_tokens_headers_are_ignored_beside_the_precise_ones() -> None:
    """They restate the tightest of the others: read as a limit of their own they would count twice."""
    precise = {"anthropic-ratelimit-output-tokens-limit": "16000", "anthropic-ratelimit-output-tokens-remaining": "1"}
    vague = {"anthropic-ratelimit-tokens-limit": "96000", "anthropic-ratelimit-tokens-remaining": "2"}

    both, alone = read_observations({**precise, **vague}, now_s=0), read_observations(vague, now_s=0)

    assert both == (LimitObservation(scope="output_tokens", limit=16_000, remaining=1),)
    assert alone == (LimitObservation(scope="tokens", limit=96_000, remaining=2),)


def test_nonsense_in_headers_is_no_observation() -> None:
    """A wrong limit would be enforced."""
    headers = {"x-ratelimit-limit-requests": "unlimited", "x-ratelimit-remaining-tokens": "-1"}

    assert read_observations(headers, now_s=0) == ()
    assert exhausted_reset_s(()) is None
