"""A real receiver of spans: OTLP over HTTP, read with the protocol's official package."""

from __future__ import annotations

import contextlib
import gzip
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """A span as it came."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    role: str
    instance: str
    attributes: dict[str, object]
    failed: bool


@dataclass
class Receiver:
    """What has come so far, and how it answers."""

    url: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Answers to give first, one for each request; 200 once they are used up."""

    def of_trace(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of one trace."""
        return [each for each in list(self.spans) if each.trace_id == trace_id]

    def take(self, body: bytes) -> None:
        """Read what came."""
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            for of_scope in of_resource.scope_spans:
                self.spans.extend(
                    ReceivedSpan(
                        name=span.name,
                        kind=span.kind,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        role=resource["tutti.role"],
                        instance=resource["service.instance.id"],
                        attributes={
                            each.key: getattr(each.value, str(each.value.WhichOneof("value")))
                            for each in span.attributes
                        },
                        failed=span.status.code == 2,
                    )
                    for span in of_scope.spans
                )


@contextlib.contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Yield a receiver that listens on a free port of this machine."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.headers.append({key.lower(): value for key, value in self.headers.items()})
            status = receiver.statuses.pop(0) if receiver.statuses else 200
            if status == 200 and self.path == "/v1/traces":
                receiver.take(gzip.decompress(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
