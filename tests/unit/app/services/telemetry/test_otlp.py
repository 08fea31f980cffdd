"""Spans in the protocol's own words, as its official package reads them."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.domain.trace_context import TraceContext
from app.services.telemetry.otlp import encode
from app.services.telemetry.tracing import Attribute, SpanRecord

ATTRIBUTES: dict[str, Attribute] = {"words": "x", "count": 3, "share": 0.5, "flag": True}


def test_span_is_read_as_it_was_written() -> None:
    """Every field: a receiver drops spans with a wrong id without a word."""
    context = TraceContext(trace_id="ab" * 16, span_id="cd" * 8, sampled=True, state="vendor=1")
    spans = [
        SpanRecord(
            name="chat m",
            kind="client",
            context=context,
            parent_id="ef" * 8,
            start_ns=1_000,
            duration_ns=500,
            attributes=ATTRIBUTES,
            error="minute_limit",
        ),
        SpanRecord(
            name="request", kind="server", context=context, parent_id="", start_ns=0, duration_ns=1, attributes={}
        ),
    ]
    request = ExportTraceServiceRequest.FromString(encode(spans, {"service.name": "tutti"}))
    (of_resource,) = request.resource_spans
    first, second = of_resource.scope_spans[0].spans
    said = {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in first.attributes}

    assert [(each.key, each.value.string_value) for each in of_resource.resource.attributes] == [
        ("service.name", "tutti")
    ]
    assert (first.trace_id.hex(), first.span_id.hex(), first.parent_span_id.hex()) == ("ab" * 16, "cd" * 8, "ef" * 8)
    assert (first.name, first.kind, first.trace_state) == ("chat m", Span.SPAN_KIND_CLIENT, "vendor=1")
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (1_000, 1_500)
    assert said == {**ATTRIBUTES, "error.type": "minute_limit"}
    assert first.status.code == Status.STATUS_CODE_ERROR
    assert (second.parent_span_id, second.status.code) == (b"", Status.STATUS_CODE_UNSET)
