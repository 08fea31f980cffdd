"""What is done to events that are stored already: days that are over are deleted, a person's events are forgotten.

With plain requests only: a server without lifecycle management, or without `_delete_by_query`, does them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any

import orjson

from app.domain.errors import InternalError
from app.domain.events.fields import FIELD
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.http import Answer, UnreachableError

PAGE_DOCS = 2_000
PAGES_MAX = 5_000
REMEDY = "look whether Elasticsearch answers, and whether our key may search and delete"


async def has_lifecycle(http: ElasticsearchHttp, prefix: str) -> bool:
    """Return whether the server itself ends our indices: by the policy that `tutti elastic install` gives it.

    Raises:
        InternalError: it cannot be asked.
    """
    try:
        return (await http.ask("GET", f"/_ilm/policy/{prefix}")).status == 200
    except UnreachableError as error:
        raise InternalError(f"Elasticsearch gave {error.reason}", remedy=REMEDY) from None


async def drop_days(http: ElasticsearchHttp, prefix: str, *, keep_days: int, today: date) -> Sequence[str]:
    """Delete the indices of days before ``today`` - ``keep_days``; return their names.

    Only indices that are named as ours are touched: the prefix, and a day.

    Raises:
        InternalError: it cannot be asked, or refuses.
    """
    named = re.compile(re.escape(prefix) + r"-(\d{4})\.(\d{2})\.(\d{2})")
    found = await _ask(http, "GET", f"/{prefix}-*/_settings", params={"filter_path": "*.settings.index.creation_date"})
    oldest = today - timedelta(days=keep_days)
    doomed = []
    for name in sorted(found.document()):
        day = named.fullmatch(name)
        if day is not None and _day(day) < oldest:
            doomed.append(name)
    for name in doomed:
        await _ask(http, "DELETE", f"/{name}", missing_is_fine=True)
    return doomed


async def forget_user(http: ElasticsearchHttp, prefix: str, user: str) -> int:
    """Delete every event of that user; return how many that were. Repeat it after a failure.

    Raises:
        InternalError: it cannot be asked, or refuses; some may be deleted already.
    """
    deleted = 0
    for _page in range(PAGES_MAX):
        # What was deleted a moment ago must not be found again, and what was stored a moment ago must.
        await _ask(http, "POST", f"/{prefix}-*/_refresh", missing_is_fine=True)
        query = {"size": PAGE_DOCS, "_source": False, "query": _told_of(user)}
        answer = await _ask(http, "POST", f"/{prefix}-*/_search", orjson.dumps(query))
        hits = answer.document()["hits"]["hits"]
        if not hits:
            return deleted
        deleted += await _delete(http, hits)
    raise InternalError(f"events of that user are still there after {deleted} were deleted", remedy="do it again")


def _told_of(user: str) -> dict[str, Any]:
    """Return the query of that user's events, by the whole id, in whatever way an index keeps it.

    In an index that was made without our template an id is a text of several words, and exact beside it.
    """
    field = FIELD["user"].path
    exact = f"{field}.keyword"
    ours = {"bool": {"must": {"term": {field: user}}, "must_not": {"exists": {"field": exact}}}}
    return {"bool": {"should": [{"term": {exact: user}}, ours]}}


async def _delete(http: ElasticsearchHttp, hits: Sequence[dict[str, Any]]) -> int:
    actions = (orjson.dumps({"delete": {"_index": hit["_index"], "_id": hit["_id"]}}) + b"\n" for hit in hits)
    answer = await _ask(http, "POST", "/_bulk", b"".join(actions))
    statuses = [item["delete"]["status"] for item in answer.document()["items"]]
    refused = [status for status in statuses if status not in (200, 404)]
    if refused or len(statuses) != len(hits):
        raise InternalError(f"Elasticsearch did not delete {len(refused)} events ({refused[:1]})", remedy=REMEDY)
    return statuses.count(200)


def _day(found: re.Match[str]) -> date:
    try:
        return date(*(int(part) for part in found.groups()))
    except ValueError:
        return date.max  # no day: not ours to delete


async def _ask(
    http: ElasticsearchHttp,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    params: dict[str, str] | None = None,
    missing_is_fine: bool = False,
) -> Answer:
    try:
        answer = await http.ask(method, path, body, params=params or {})
    except UnreachableError as error:
        raise InternalError(f"Elasticsearch gave {error.reason}", remedy=REMEDY) from None
    if answer.status >= 300 and not (missing_is_fine and answer.status == 404):
        raise InternalError(f"Elasticsearch refused {method} {path}: {answer.words()}", remedy=REMEDY)
    return answer
