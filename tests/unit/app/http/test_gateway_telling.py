"""A client's call is told once, whichever way it ends, by names and numbers."""

from __future__ import annotations

from app.domain.chat import ChatDelta, ChatResult, FinishReason, Usage
from app.domain.errors import AccessError, CapacityError, QuotaError, UpstreamError, UpstreamKind
from app.domain.gateway import Caller, Served
from app.http.gateway.telling import CLIENT_GONE, RequestTold
from app.services.gateway.gateway import Facts
from tests.fakes.told import Told

CALLER = Caller(name="ci", team="red")
FACTS = Facts(served=Served(request_id="q1", created_s=1, account="a", provider="gemini", model="m"), upstream_s=0.1)


def a_call(events: Told) -> RequestTold:
    """Return a call that came from a known caller."""
    told = RequestTold("/v1/chat/completions", "q1")
    told.events, told.caller, told.user, told.model = events, CALLER, "ann", "auto"
    return told


def test_answered_call_is_told_with_who_answered() -> None:
    """One event, a success."""
    events = Told()
    told = a_call(events)
    told.answered(FACTS, 0.002, Usage(input_tokens=3, output_tokens=4))
    told.tell()
    ((kind, values),) = events.events

    assert kind == "request.finished"
    assert values | {"duration_ns": 0} == values | {
        "duration_ns": 0,
        "outcome": "success",
        "http_status": 200,
        "account": "a",
        "provider": "gcp.gemini",
        "model": "m",
        "request_model": "auto",
        "overhead_ms": 2.0,
        "caller": "ci",
        "team": "red",
        "user": "ann",
        "cache": "miss",
        "input_tokens": 3,
    }


def test_end_of_an_answer_is_told_whether_whole_or_streamed() -> None:
    """How it was asked for, why it stopped, the provider's id of it; tokens of a stream come with its last event."""
    usage, end = Usage(input_tokens=3, output_tokens=4), FinishReason.LENGTH
    found = []
    for last in (
        ChatResult(text="x", finish_reason=end, usage=usage, provider_id="r1"),
        ChatDelta(finish_reason=end, usage=usage, provider_id="r1"),
    ):
        events = Told()
        told = a_call(events)
        told.max_tokens, told.temperature = 16, 0.5
        told.answered(FACTS, 0.002)
        told.ended(last)
        told.tell()
        names = ("finish_reasons", "response_id", "input_tokens", "output_tokens", "request_max_tokens", "temperature")
        found.append([events.values("request.finished")[0][name] for name in names])

    assert found == [[("length",), "r1", 3, 4, 16, 0.5]] * 2


def test_refusal_for_a_limit_is_told_as_a_limit_too() -> None:
    """Which one, and when it allows more."""
    events = Told()
    told = a_call(events)
    told.failed(QuotaError("used up", limit="rpm", retry_after_s=1.5), 429)
    told.tell()

    assert events.values("request.finished")[0]["error_type"] == "QuotaError"
    assert events.values("limit.hit")[0] | {} == events.values("limit.hit")[0] | {
        "limit_name": "rpm",
        "retry_after_ms": 1_500,
        "caller": "ci",
    }


def test_stranger_is_told_as_an_audit_event() -> None:
    """Whether the key was unknown, or may not do this."""
    events = Told()
    for known in (False, True):
        told = RequestTold("/v1/chat/completions", "q1")
        told.events = events
        told.failed(AccessError("no", known=known), 401)
        told.tell()

    assert [values["reason"] for values in events.values("access.refused")] == ["unknown key", "not allowed"]


def test_failure_after_the_answer_began_keeps_the_status_that_was_sent() -> None:
    """A stream that breaks was a 200 for its client."""
    events = Told()
    told = a_call(events)
    told.answered(FACTS, 0.002)
    told.failed(UpstreamError("cut", kind=UpstreamKind.CUT, account="a"), 502)
    told.tell()
    (values,) = events.values("request.finished")

    assert (values["http_status"], values["outcome"], values["error_type"]) == (200, "failure", "cut")


def test_client_that_left_is_neither_success_nor_failure() -> None:
    """Nobody was answered."""
    events = Told()
    told = a_call(events)
    told.refused(0, CLIENT_GONE)
    told.tell()
    (values,) = events.values("request.finished")

    assert (values["http_status"], values["outcome"], values["reason"]) == (None, "unknown", CLIENT_GONE)


def test_failure_of_ours_is_one_and_a_call_before_the_gateway_is_nobodys() -> None:
    """A replica that is not ready has nobody to tell."""
    events = Told()
    told = a_call(events)
    told.failed(CapacityError("full"), 503)
    told.tell()
    RequestTold("/v1/chat/completions", "q2").tell()

    assert [values["outcome"] for values in events.values("request.finished")] == ["failure"]
