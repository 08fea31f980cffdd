"""Spans: who is whose child, which are recorded, and how they end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.trace_context import TraceContext, current, enter, use
from app.services.telemetry import tracing
from app.services.telemetry.tracing import NO_RECORD, SPANS_MAX, Recorder, SpanRecord, begin, record_into, span

INCOMING = TraceContext(trace_id="a" * 32, span_id="b" * 16, sampled=True)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    record_into(recorder)
    yield recorder
    record_into(None)
    enter(None)


def by_name(recorder: Recorder) -> dict[str, SpanRecord]:
    return {each.name: each for each in recorder.ended}


def test_spans_are_children_of_what_is_around_them(recorder: Recorder) -> None:
    """One trace, and a tree in it."""
    with use(begin(INCOMING)), span("request", "server"):
        with span("lease") as lease:
            lease.set("tutti.account", "a")
        with span("chat m", "client"):
            pass
    found = by_name(recorder)

    assert {each.context.trace_id for each in recorder.ended} == {INCOMING.trace_id}
    assert found["request"].parent_id == INCOMING.span_id
    assert found["lease"].parent_id == found["chat m"].parent_id == found["request"].context.span_id
    assert found["lease"].attributes == {"tutti.account": "a"}
    assert current() is None


def test_first_span_of_a_trace_of_ours_is_its_root(recorder: Recorder) -> None:
    """A parent that nobody sent would be missing in every view."""
    with use(begin()), span("request"):
        pass

    assert recorder.ended[0].parent_id == ""


def test_error_of_a_provider_is_named_by_its_kind(recorder: Recorder) -> None:
    """Its message may quote the provider, so it stays out."""
    with use(begin()), pytest.raises(UpstreamError), span("chat m"):
        raise UpstreamError("secret words of a provider", kind=UpstreamKind.MINUTE_LIMIT)
    (ended,) = recorder.ended

    assert ended.error == UpstreamKind.MINUTE_LIMIT.value
    assert "secret" not in repr(ended)


def test_nothing_is_recorded_where_the_caller_decided_so(recorder: Recorder) -> None:
    """The parent's decision holds, both ways."""
    not_sampled = TraceContext(trace_id="a" * 32, span_id="b" * 16, sampled=False)
    with use(begin(not_sampled)), span("request") as nothing:
        assert nothing is NO_RECORD
    recorder.ratio = 0.0
    with use(begin(INCOMING)), span("request"):
        pass
    with use(begin()), span("request"):
        pass

    assert [each.context.trace_id for each in recorder.ended] == [INCOMING.trace_id]


def test_ratio_decides_for_that_share_of_traces(recorder: Recorder) -> None:
    """By the trace's id: a service behind us with the same ratio keeps the same traces."""
    recorder.ratio = 0.25
    traces = [begin() for _ in range(4_000)]

    assert 800 < sum(each.sampled for each in traces) < 1_200
    assert all((int(each.trace_id[-14:], 16) < 2**54) == each.sampled for each in traces)


def test_trace_has_an_id_even_where_nothing_is_recorded() -> None:
    """Events, headers and logs name it."""
    context = begin()
    with use(context), span("request") as nothing:
        assert nothing is NO_RECORD

    assert tracing.find_recorder() is None
    assert len(context.trace_id) == 32
    assert not context.sampled


def test_recorder_is_bounded(recorder: Recorder) -> None:
    """A collector that is down must not fill the memory; what is lost is counted."""
    with use(begin()):
        for _ in range(SPANS_MAX + 3):
            with span("x"):
                pass

    assert (len(recorder.ended), recorder.dropped) == (SPANS_MAX, 3)
    assert len(recorder.take(SPANS_MAX * 2)) == SPANS_MAX
    assert not recorder.take(1)
