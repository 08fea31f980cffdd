"""Which receiver is configured."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.events.spec import EventsSpec
from app.domain.ports import EventSink
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.file import FileSink
from app.sinks.http import ReceiverHttp

DOCS_MAX = 1_000
BYTES_MAX = 4_000_000
"""Where nothing is configured about it: receivers of OTLP commonly stop at 4 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Who takes events, and how much at once."""

    sink: EventSink
    docs_max: int
    bytes_max: int
    http: ElasticsearchHttp | None = None
    """Where it is Elasticsearch: for its upkeep."""


def receiver_of(spec: EventsSpec) -> Receiver | None:
    """Return the configured receiver; None where events stay here."""
    if spec.elasticsearch is not None:
        http = ElasticsearchHttp(spec.elasticsearch)
        return Receiver(
            sink=ElasticsearchSink(spec.elasticsearch, http),
            docs_max=spec.elasticsearch.batch_docs,
            bytes_max=spec.elasticsearch.batch_bytes,
            http=http,
        )
    if spec.file is not None:
        return Receiver(sink=FileSink(spec.file), docs_max=DOCS_MAX, bytes_max=BYTES_MAX)
    if spec.otlp is not None:
        from app.sinks.otlp import OtlpSink

        headers = dict(spec.otlp.headers)
        sink = OtlpSink(ReceiverHttp(spec.otlp.url, headers, ca_cert=spec.otlp.ca_cert))
        return Receiver(sink=sink, docs_max=DOCS_MAX, bytes_max=BYTES_MAX)
    return None
