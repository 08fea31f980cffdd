"""Elasticsearch as the receiver of events: bulk requests of ready-made documents.

Exactly once by three facts together: the id of an event is made where it happens, `create` refuses a second document of
that id with 409, and its index is named by the event's own day, so a later try meets the same index. A data stream does
not give that: after a rollover the same id is taken again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.domain.events.delivery import STORED, Delivery, Outcome, Trouble, judged, trouble_of
from app.domain.events.spec import ElasticsearchSpec
from app.domain.events.spooled import SpooledEvent
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.http import Answer, UnreachableError

NDJSON = "application/x-ndjson"
ONLY = {"filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason"}
"""Of an answer, what is read; the rest would be most of it."""
REASON_CHARACTERS_MAX = 300


class ElasticsearchSink:
    """The port ``EventSink``.

    Args:
        spec: Where it is and how indices are named.
        http: Makes the requests; the caller closes it.
    """

    name = "elasticsearch"

    def __init__(self, spec: ElasticsearchSpec, http: ElasticsearchHttp) -> None:
        self._prefix = spec.index_prefix
        self._http = http

    async def deliver(self, events: Sequence[SpooledEvent]) -> Delivery:
        """Store them in one request; never raises for what the receiver does."""
        try:
            answer = await self._http.ask("POST", "/_bulk", self._request(events), kind=NDJSON, params=ONLY)
        except UnreachableError as error:
            return Delivery(trouble=Trouble.SLOW if error.slow else Trouble.IN_DOUBT, reason=error.reason)
        if answer.status != 200:
            return Delivery(
                trouble=trouble_of(answer.status),
                status=answer.status,
                reason=answer.words(),
                retry_after_s=answer.retry_after_s,
            )
        return _read(answer, len(events))

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    def _request(self, events: Sequence[SpooledEvent]) -> bytes:
        prefix = self._prefix
        return b"".join(
            b'{"create":{"_index":"%b-%b","_id":"%b"}}\n%b\n'
            % (
                prefix.encode(),
                event.index_date.encode(),
                event.event_id.encode(),
                # A line break in JSON is only ever space between its parts.
                event.body.replace(b"\n", b" "),
            )
            for event in events
        )


def _read(answer: Answer, sent: int) -> Delivery:
    items = answer.document().get("items")
    if not isinstance(items, list) or len(items) != sent:
        told = len(items) if isinstance(items, list) else 0
        return Delivery(trouble=Trouble.IN_DOUBT, status=answer.status, reason=f"an answer for {told} of {sent} events")
    return Delivery(outcomes=tuple(_outcome(item) for item in items), status=answer.status)


def _outcome(item: dict[str, Any]) -> Outcome:
    create = item.get("create") or {}
    if create.get("status") == 201:
        return STORED
    error = create.get("error") or {}
    reason = str(error.get("reason", ""))[:REASON_CHARACTERS_MAX]
    return judged(int(create.get("status", 0)), str(error.get("type", "")), reason)
