"""Spans on their way out, against a real receiver: what it takes, what it refuses, what it is when it is down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from actors import tracing
from actors.tracing import SpanExporter, follow, resource_of
from app.domain.telemetry import TracesSpec
from app.domain.trace_context import use
from app.services.telemetry.tracing import Recorder, begin, find_recorder, record_into, span
from tests.fakes.otlp_receiver import Receiver, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Quick periods, and nothing left of a test's process-wide recorder."""
    monkeypatch.setattr(tracing, "PERIOD_S", 0.01)
    monkeypatch.setattr(tracing, "PAUSE_MIN_S", 0.005)
    yield
    asyncio.run(tracing.flush())
    record_into(None)


def told(name: str) -> str:
    context = begin()
    with use(context), span(name):
        pass
    return context.trace_id


def soon(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 20
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return holds()


def test_spans_are_sent_with_who_we_are_and_the_configured_headers(receiver: Receiver) -> None:
    """The receiver's key travels with every request."""
    follow(TracesSpec(otlp_endpoint=receiver.url, headers=(("x-key", "abc"),)), role="gateway")
    trace = told("one")

    assert soon(lambda: bool(receiver.of_trace(trace)))
    assert [(each.name, each.role) for each in receiver.of_trace(trace)] == [("one", "gateway")]
    assert receiver.headers[0]["x-key"] == "abc"


def test_batch_that_is_refused_for_now_is_sent_again(receiver: Receiver) -> None:
    """503 and 429 are about the moment; each span arrives once."""
    receiver.statuses = [503, 429]
    follow(TracesSpec(otlp_endpoint=receiver.url), role="x")
    trace = told("one")

    assert soon(lambda: bool(receiver.of_trace(trace)))
    assert len(receiver.headers) == 3
    assert len(receiver.of_trace(trace)) == 1


def test_batch_that_is_refused_for_good_is_dropped_and_the_next_goes_on(receiver: Receiver) -> None:
    """One bad batch must not hold up all that follow."""
    receiver.statuses = [400]
    follow(TracesSpec(otlp_endpoint=receiver.url), role="x")
    lost = told("one")
    assert soon(lambda: bool(receiver.headers))
    trace = told("two")

    assert soon(lambda: bool(receiver.of_trace(trace)))
    assert not receiver.of_trace(lost)


def test_receiver_that_is_down_costs_nothing_but_its_spans() -> None:
    """Nobody waits for it, and to end takes no longer than a moment."""
    recorder = Recorder()
    record_into(recorder)
    exporter = SpanExporter(recorder, TracesSpec(otlp_endpoint="http://127.0.0.1:1"), resource_of("x"))
    began_s = time.monotonic()
    for _ in range(1_000):
        told("one")
    took_s = time.monotonic() - began_s
    exporter.close(10.0)

    assert took_s < 5
    assert not recorder.ended or recorder.dropped == 0
    assert not exporter._thread.is_alive()


def test_configuration_is_followed_while_it_runs(receiver: Receiver) -> None:
    """Switched on, moved, switched off, without a restart."""
    follow(TracesSpec(), role="x")
    assert find_recorder() is None
    follow(TracesSpec(otlp_endpoint=receiver.url, ratio=0.5), role="x")
    found = find_recorder()
    assert found is not None
    assert found.ratio == 0.5
    with running_receiver() as other:
        follow(TracesSpec(otlp_endpoint=f"{other.url}/v1/traces"), role="x")
        trace = told("one")
        assert soon(lambda: bool(other.of_trace(trace)))
        assert not receiver.of_trace(trace)
    follow(TracesSpec(tell_providers=True), role="x")

    assert find_recorder() is None
    assert begin().shared
