"""Spans as an OTLP request over HTTP (protobuf). Imported only where traces are configured.

The messages are the protocol's own, from its official package; the SDK above them would make its own spans, of five to
ten times the cost of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app.domain.metric_names import Attribute as Name
from app.services.telemetry.tracing import Attribute, SpanRecord

SCOPE = "tutti"
_KINDS = {"internal": Span.SPAN_KIND_INTERNAL, "server": Span.SPAN_KIND_SERVER, "client": Span.SPAN_KIND_CLIENT}


def encode(spans: Sequence[SpanRecord], resource: Mapping[str, str]) -> bytes:
    """Return the body of a request that exports ``spans`` of one process.

    Args:
        spans: That have ended.
        resource: Whose they are.
    """
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(_pair(name, value) for name, value in resource.items())
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = SCOPE
    for span in spans:
        _fill(of_scope.spans.add(), span)
    return bytes(request.SerializeToString())


def _fill(message: Span, span: SpanRecord) -> None:
    context = span.context
    message.trace_id, message.span_id = bytes.fromhex(context.trace_id), bytes.fromhex(context.span_id)
    message.parent_span_id = bytes.fromhex(span.parent_id)
    message.trace_state = context.state
    message.name, message.kind = span.name, _KINDS[span.kind]
    message.start_time_unix_nano, message.end_time_unix_nano = span.start_ns, span.start_ns + span.duration_ns
    message.attributes.extend(_pair(name, value) for name, value in span.attributes.items())
    if span.error:
        message.status.code = Status.STATUS_CODE_ERROR
        message.attributes.append(_pair(Name.ERROR, span.error))


def _pair(name: str, value: Attribute) -> KeyValue:
    match value:
        case bool():
            return KeyValue(key=name, value=AnyValue(bool_value=value))
        case int():
            return KeyValue(key=name, value=AnyValue(int_value=value))
        case float():
            return KeyValue(key=name, value=AnyValue(double_value=value))
        case _:
            return KeyValue(key=name, value=AnyValue(string_value=value))
