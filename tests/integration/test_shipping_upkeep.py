"""What is done to stored events: days that are over go, a person's events go; nothing else does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import date

import orjson
import pytest

from app.domain.errors import InternalError
from app.domain.events.spec import ElasticsearchSpec
from app.sinks.elasticsearch_http import ElasticsearchHttp
from app.sinks.elasticsearch_upkeep import drop_days, forget_user, has_lifecycle
from tests.fixtures.elasticsearch_server import ElasticsearchServer

_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """Indices of this test alone."""
    return f"upkeep-{next(_numbers)}"


@pytest.fixture
async def http(elasticsearch: ElasticsearchServer) -> AsyncIterator[ElasticsearchHttp]:
    """Our client of the real server."""
    client = ElasticsearchHttp(ElasticsearchSpec(url=elasticsearch.url))
    yield client
    await client.aclose()


async def test_days_that_are_over_are_deleted_and_nothing_that_is_named_otherwise(
    elasticsearch: ElasticsearchServer, http: ElasticsearchHttp, prefix: str
) -> None:
    """Thirty days are kept: the thirtieth stays, the one before goes; look-alikes are not ours."""
    kept = [f"{prefix}-2026.11.21", f"{prefix}-2026.10.22", f"{prefix}-2026.13.99", f"{prefix}-copy-2020.01.01"]
    gone = [f"{prefix}-2026.10.21", f"{prefix}-2024.02.29"]
    for name in (*kept, *gone):
        elasticsearch.ask("PUT", f"/{name}")
    dropped = await drop_days(http, prefix, keep_days=30, today=date(2026, 11, 21))

    assert dropped == sorted(gone)
    assert sorted(elasticsearch.ask("GET", f"/{prefix}-*/_settings")) == sorted(kept)
    assert await drop_days(http, prefix, keep_days=30, today=date(2026, 11, 21)) == []
    assert await drop_days(http, f"{prefix}-none", keep_days=30, today=date(2026, 11, 21)) == []


async def test_a_server_without_lifecycle_management_is_known_for_it(http: ElasticsearchHttp, prefix: str) -> None:
    """The distribution of the tests has none: our own retention is what it needs."""
    assert not await has_lifecycle(http, prefix)


@pytest.mark.parametrize("installed", [True, False])
async def test_a_persons_events_are_deleted_from_every_day(
    elasticsearch: ElasticsearchServer, http: ElasticsearchHttp, prefix: str, installed: bool
) -> None:
    """More than one page of them, over three days, just stored; others' stay, also where nobody installed templates."""
    if installed:
        elasticsearch.ask(
            "PUT", f"/_index_template/{prefix}", {"index_patterns": [f"{prefix}-*"], "template": {"mappings": USER}}
        )
    lines: list[dict[str, object]] = []
    for number in range(5_000):
        user = "ada-1" if number % 2 else "ada-2"
        lines.append({"create": {"_index": f"{prefix}-2026.11.2{number % 3}", "_id": str(number)}})
        lines.append({"user.id": user})
    stored = await http.ask("POST", "/_bulk", b"".join(orjson.dumps(line) + b"\n" for line in lines))
    assert stored.document()["errors"] is False
    nobody = await forget_user(http, prefix, "ada")
    deleted = await forget_user(http, prefix, "ada-1")

    assert (nobody, deleted) == (0, 2_500)
    assert {source["user.id"] for source in elasticsearch.sources(f"{prefix}-*")} == {"ada-2"}
    assert len(elasticsearch.ids(f"{prefix}-*")) == 2_500
    assert await forget_user(http, prefix, "ada-1") == 0


async def test_a_server_that_is_away_is_told(prefix: str) -> None:
    """Nobody may believe that a person was forgotten when they were not."""
    http = ElasticsearchHttp(ElasticsearchSpec(url="http://127.0.0.1:9"))
    with pytest.raises(InternalError, match="no answer"):
        await forget_user(http, prefix, "ada")
    await http.aclose()


USER = {"properties": {"user": {"properties": {"id": {"type": "keyword"}}}}}
