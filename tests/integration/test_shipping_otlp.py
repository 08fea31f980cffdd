"""Shipping to a receiver of OpenTelemetry's logs: a real HTTP server that reads requests with the official messages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson
import pytest
from aiohttp import web
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse

from actors.own_origin import own_origin
from app.domain.events.delivery import STORED, Fate, Trouble
from app.domain.events.record import EventIds, Recorder
from app.domain.events.spec import EventsSpec, OtlpSpec
from app.domain.events.spooled import SpooledEvent
from app.domain.ports import EventSink
from app.sinks.choice import receiver_of

AT_NS = 1_795_000_000_123_456_000


@dataclass
class Receiver:
    """What was received, and what is answered."""

    status: int = 200
    rejects: str = ""
    """The id of an event that it refuses."""
    requests: list[ExportLogsServiceRequest] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""

    async def take(self, request: web.Request) -> web.Response:
        read = ExportLogsServiceRequest.FromString(await request.read())
        self.requests.append(read)
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        answer = ExportLogsServiceResponse()
        if self.rejects and self.rejects in str(read):
            answer.partial_success.rejected_log_records = 1
            answer.partial_success.error_message = "no"
        return web.Response(status=self.status, body=answer.SerializeToString(), content_type="application/x-protobuf")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port."""
    one = Receiver()
    application = web.Application()
    application.router.add_post("/v1/logs", one.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


def sink_of(receiver: Receiver) -> EventSink:
    """Return the sink as it is configured."""
    spec = EventsSpec(otlp=OtlpSpec(url=receiver.url, headers=(("authorization", "Bearer secret"),)))
    found = receiver_of(spec)
    assert found is not None
    return found.sink


def events() -> list[SpooledEvent]:
    """Return two events as processes tell them."""
    recorder = Recorder(own_origin("test"), EventIds(7))
    told = [
        recorder.record(
            "request.finished",
            AT_NS,
            {"model": "m", "input_tokens": 12, "stream": True, "temperature": 0.5, "finish_reasons": ["stop"],
             "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"},
        ),
        recorder.record("log.line", AT_NS, {"message": "careful", "log_level": "warning"}),
    ]  # fmt: skip
    return [
        SpooledEvent(seq=place, event_id=one.event_id, index_date="2026.11.18", body=one.body)
        for place, one in enumerate(told)
    ]


async def test_events_arrive_as_log_records_with_their_trace_and_typed_fields(receiver: Receiver) -> None:
    """What a collector needs: time, severity, trace, attributes of their own types, whose they are."""
    sink = sink_of(receiver)
    delivery = await sink.deliver(events())
    await sink.aclose()

    assert delivery.outcomes == (STORED, STORED)
    assert receiver.headers["authorization"] == "Bearer secret"
    (request,) = receiver.requests
    (of_resource,) = request.resource_logs
    assert {one.key: one.value.string_value for one in of_resource.resource.attributes}["service.name"] == "tutti"
    first, second = of_resource.scope_logs[0].log_records
    assert first.time_unix_nano == AT_NS
    assert first.event_name == "request.finished"
    assert first.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert first.span_id.hex() == "b7ad6b7169203331"
    attributes = {one.key: one.value for one in first.attributes}
    assert attributes["gen_ai.usage.input_tokens"].int_value == 12
    assert attributes["gen_ai.request.stream"].bool_value is True
    assert attributes["gen_ai.request.temperature"].double_value == 0.5
    assert [one.string_value for one in attributes["gen_ai.response.finish_reasons"].array_value.values] == ["stop"]
    assert attributes["event.id"].string_value == events()[0].event_id
    assert (second.body.string_value, second.severity_number) == ("careful", 13)


@pytest.mark.parametrize(
    ("status", "trouble"), [(429, Trouble.BUSY), (503, Trouble.BUSY), (401, Trouble.LOCKED_OUT), (404, Trouble.WRONG)]
)
async def test_refusals_give_nothing_up(receiver: Receiver, status: int, trouble: Trouble) -> None:
    """As for Elasticsearch: the loop tries again."""
    receiver.status = status
    sink = sink_of(receiver)
    delivery = await sink.deliver(events())
    await sink.aclose()

    assert delivery.trouble is trouble
    assert delivery.outcomes == ()


async def test_a_record_that_is_rejected_for_good_is_found(receiver: Receiver) -> None:
    """The protocol says only how many: the batch is told again in parts, and the one alone is a dead letter."""
    both = events()
    receiver.rejects = both[1].event_id
    sink = sink_of(receiver)
    together = await sink.deliver(both)
    apart = [await sink.deliver([one]) for one in both]
    broken = await sink.deliver([SpooledEvent(seq=1, event_id="x", index_date="2026.11.18", body=b"no json")])
    await sink.aclose()

    assert together.trouble is Trouble.SPOILED
    assert [one.outcomes[0].fate for one in apart] == [Fate.STORED, Fate.DEAD]
    assert broken.outcomes[0].fate is Fate.DEAD
    assert orjson.loads(both[0].body)["event.action"] == "request.finished"
