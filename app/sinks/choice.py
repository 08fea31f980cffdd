"""Which receiver is configured."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.events.spec import EventsSpec
from app.domain.ports import EventSink
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp


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
    return None
