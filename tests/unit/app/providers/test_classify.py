"""Refusals are told apart; the recorded ones are in tests/contract, here are the corners."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import Retry, UpstreamKind
from app.providers.classify import classify_event, classify_response, has_error

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "type", "message", "details", "violations"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(status=st.integers(300, 599), body=st.binary(max_size=60))
def test_every_refusal_becomes_an_error(status: int, body: bytes) -> None:
    """Whatever a server sends, the caller gets one of our errors, with no wait below zero."""
    error = classify_response(status, {"retry-after": "5"}, body, provider="custom", now_s=0)

    assert error.status == status
    assert error.retry_after_s == 5.0
    assert isinstance(error.kind, UpstreamKind)


@given(body=ANYTHING)
def test_every_error_body_becomes_an_error(body: object) -> None:
    """Fields of wrong types read as absent."""
    error = classify_event(body, provider="custom", began=False)  # type: ignore[arg-type]

    assert isinstance(error.kind, UpstreamKind)
    has_error(body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (400, {}, UpstreamKind.INVALID_REQUEST),
        (418, {"x-should-retry": "true"}, UpstreamKind.OVERLOADED),
        (409, {}, UpstreamKind.OVERLOADED),
        (408, {}, UpstreamKind.TIMEOUT),
        (502, {}, UpstreamKind.OVERLOADED),
        (599, {}, UpstreamKind.OVERLOADED),
    ],
)
def test_status_decides_where_the_body_is_silent(status: int, headers: dict[str, str], kind: UpstreamKind) -> None:
    """The statuses that no recording holds."""
    assert classify_response(status, headers, b"", provider="custom", now_s=0).kind is kind


def test_sentence_about_quota_in_a_429_is_no_dead_key() -> None:
    """Gemini's minute limits and OpenAI's empty accounts use the same sentence; only the code tells."""
    body = b'{"error": {"message": "You exceeded your current quota, insufficient balance of tokens"}}'

    assert classify_response(429, {}, body, provider="gemini", now_s=0).kind is UpstreamKind.MINUTE_LIMIT


def test_only_identifiers_leave_the_body() -> None:
    """A code with blanks or a quota with markup could be anything, a prompt included."""
    body = (
        b'{"error": {"code": "the secret prompt", "param": "<b>", "message": "secret", "details": '
        b'[{"violations": [{"quotaId": "a secret PerDay"}]}]}}'
    )

    error = classify_response(429, {}, body, provider="gemini", now_s=0)

    assert "secret" not in f"{error} {error.__dict__}"
    assert error.param is None


@pytest.mark.parametrize(
    ("kind", "retry"),
    [(UpstreamKind.INVALID_REQUEST, Retry.NEVER), (UpstreamKind.TOO_LONG, Retry.ELSEWHERE)],
)
def test_what_a_retry_is_worth_follows_from_the_kind(kind: UpstreamKind, retry: Retry) -> None:
    """A bad field fails everywhere; a long request may fit elsewhere."""
    code = "context_length_exceeded" if kind is UpstreamKind.TOO_LONG else "bad"
    body = f'{{"error": {{"code": "{code}"}}}}'.encode()

    assert classify_response(400, {}, body, provider="openai", now_s=0).retry is retry
