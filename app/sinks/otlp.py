"""A receiver of OpenTelemetry's logs over HTTP: every event is one log record, its fields are attributes.

At least once: a request whose answer is lost is sent again, and OTLP knows no ids; `event.id` is an attribute for those
who need to know. Imported only where it is configured.

Source: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import orjson
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no types of its own
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from app.domain.chat import Json
from app.domain.events.delivery import STORED, Delivery, Fate, Outcome, Trouble, trouble_of
from app.domain.events.spooled import SpooledEvent
from app.sinks.http import Answer, ReceiverHttp, UnreachableError

PROTOBUF = "application/x-protobuf"
_SEVERITIES = {
    "debug": SeverityNumber.SEVERITY_NUMBER_DEBUG,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
}
_OF_THE_RESOURCE = ("service.name", "service.version", "host.name")
_ELSEWHERE = frozenset({"@timestamp", "trace.id", "span.id", "message", "event.action", "log.level", *_OF_THE_RESOURCE})


class OtlpSink:
    """The port ``EventSink``.

    Args:
        http: Makes the requests; closed with this.
    """

    name = "otlp"

    def __init__(self, http: ReceiverHttp) -> None:
        self._http = http

    async def deliver(self, events: Sequence[SpooledEvent]) -> Delivery:
        """Send them in one request; never raises for what the receiver does."""
        outcomes = [STORED] * len(events)
        records: dict[tuple[Json, ...], list[dict[str, Json]]] = {}
        for place, event in enumerate(events):
            document = _document(event)
            if document is None:
                outcomes[place] = Outcome(fate=Fate.DEAD, status=400, reason="no JSON object")
                continue
            records.setdefault(tuple(document.get(name) for name in _OF_THE_RESOURCE), []).append(document)
        try:
            answer = await self._http.ask("POST", "/v1/logs", _request(records), kind=PROTOBUF)
        except UnreachableError as error:
            return Delivery(trouble=Trouble.SLOW if error.slow else Trouble.IN_DOUBT, reason=error.reason)
        if answer.status != 200:
            return Delivery(
                trouble=trouble_of(answer.status),
                status=answer.status,
                reason=f"status {answer.status}",
                retry_after_s=answer.retry_after_s,
            )
        rejected = _rejected(answer)
        if rejected and len(events) == 1:
            outcomes[0] = Outcome(fate=Fate.DEAD, status=400, reason=rejected)
        elif rejected:
            # It does not say which. Told one by one, the others come a second time, which this protocol allows for.
            return Delivery(trouble=Trouble.SPOILED, status=answer.status, reason=rejected)
        return Delivery(outcomes=tuple(outcomes), status=answer.status)

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()


def _document(event: SpooledEvent) -> dict[str, Json] | None:
    try:
        found = orjson.loads(event.body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _request(by_resource: Mapping[tuple[Json, ...], Sequence[dict[str, Json]]]) -> bytes:
    request = ExportLogsServiceRequest()
    for values, documents in by_resource.items():
        of_resource = request.resource_logs.add()
        named = zip(_OF_THE_RESOURCE, values, strict=True)
        of_resource.resource.attributes.extend(_pair(name, value) for name, value in named if value is not None)
        of_scope = of_resource.scope_logs.add()
        of_scope.scope.name = "tutti"
        for document in documents:
            _fill(of_scope.log_records.add(), document)
    return bytes(request.SerializeToString())


def _fill(record: LogRecord, document: Mapping[str, Json]) -> None:
    at = datetime.fromisoformat(str(document.get("@timestamp")))
    record.time_unix_nano = round(at.timestamp() * 1_000_000) * 1_000
    record.event_name = str(document.get("event.action", ""))
    record.severity_number = _SEVERITIES.get(str(document.get("log.level")), SeverityNumber.SEVERITY_NUMBER_INFO)
    record.severity_text = str(document.get("log.level", "info"))
    record.trace_id = bytes.fromhex(str(document.get("trace.id", "")))
    record.span_id = bytes.fromhex(str(document.get("span.id", "")))
    record.body.string_value = str(document.get("message", document.get("event.action", "")))
    record.attributes.extend(_pair(name, value) for name, value in document.items() if name not in _ELSEWHERE)


def _pair(name: str, value: Json) -> KeyValue:
    return KeyValue(key=name, value=_value(value))


def _value(value: Json) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[_value(item) for item in value]))
        case _:
            return AnyValue(string_value=value if isinstance(value, str) else orjson.dumps(value).decode())


def _rejected(answer: Answer) -> str:
    """Return why the receiver took only a part; empty where it took all."""
    response = ExportLogsServiceResponse()
    try:
        response.ParseFromString(answer.body)
    except DecodeError:
        return ""  # a success in another tongue is a success
    partial = response.partial_success
    return f"{partial.rejected_log_records} rejected: {partial.error_message}" if partial.rejected_log_records else ""
