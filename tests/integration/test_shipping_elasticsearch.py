"""Shipping into the real Elasticsearch, straight and through a proxy that spoils requests: every event once."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from app.domain.events.delivery import Pace, ShippingState
from app.domain.events.spec import ElasticsearchSpec
from app.domain.events.spooled import SpooledEvent
from app.services.events.shipping import Shipper
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp
from tests.fakes.elastic_faults import Fault, FaultyElastic, faulty_elastic
from tests.fakes.event_source import FakeSource, spooled
from tests.fixtures.elasticsearch_server import ElasticsearchServer

WITHIN_S = 120.0
IMPATIENT_S = 2.0
"""Of one request, where it is known to hang."""

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def proxy(elasticsearch: ElasticsearchServer) -> Iterator[FaultyElastic]:
    """The spoiling proxy in front of the real server."""
    with faulty_elastic(elasticsearch.url) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    """Indices of this test alone."""
    return f"shipping-{next(_numbers)}"


async def ship(
    url: str,
    prefix: str,
    source: FakeSource,
    until: Callable[[ShippingState], bool] | None = None,
    timeout_s: float = 60.0,
) -> ShippingState:
    """Ship until nothing waits, or ``until`` holds."""
    http = ElasticsearchHttp(ElasticsearchSpec(url=url, index_prefix=prefix), timeout_s=timeout_s)
    sink = ElasticsearchSink(ElasticsearchSpec(url=url, index_prefix=prefix), http)
    # Pauses of nearly no time: what is tested is what is sent again, not when.
    shipper = Shipper(source, sink, Pace(200, 8_000_000), chance=lambda: random.random() / 50)
    task = asyncio.create_task(shipper.run())
    try:
        async with asyncio.timeout(WITHIN_S):
            while True:
                state = await shipper.state()
                assert not task.done(), "shipping ended by itself"
                if until(state) if until else not source.waiting:
                    return state
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await sink.aclose()


def filled(count: int, **shape: int | str) -> FakeSource:
    """Return a source with so many events."""
    source = FakeSource()
    source.add(*(spooled(seq, **shape) for seq in range(1, count + 1)))  # type: ignore[arg-type]  # size or day
    return source


def names(count: int) -> list[str]:
    """Return the ids of the first events."""
    return sorted(f"e{seq}" for seq in range(1, count + 1))


async def test_events_are_stored_once_in_the_index_of_their_day(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    """Two days, two indices; sent again they are all told to be there already, and nothing is added."""
    source = FakeSource()
    source.add(*(spooled(seq, day=f"2026.11.2{seq % 2}") for seq in range(1, 1_001)))
    again = dict(source.waiting)
    state = await ship(elasticsearch.url, prefix, source)
    source.waiting = again
    second = await ship(elasticsearch.url, prefix, source)

    assert elasticsearch.ids(f"{prefix}-*") == names(1_000)
    assert len(elasticsearch.ids(f"{prefix}-2026.11.20")) == 500
    assert (state.stored, state.already) == (1_000, 0)
    assert (second.stored, second.already) == (0, 1_000)


@pytest.mark.parametrize("fault", list(Fault))
async def test_every_fault_of_a_request_leaves_each_event_stored_once(
    fault: Fault, elasticsearch: ElasticsearchServer, proxy: FaultyElastic, prefix: str
) -> None:
    """Whatever happens to two requests of several, the events are all there, once, and nobody was given up."""
    proxy.next.extend([None, fault, fault])
    source = filled(700)
    state = await ship(proxy.url, prefix, source, timeout_s=IMPATIENT_S if fault is Fault.HANG else 60.0)

    assert elasticsearch.ids(f"{prefix}-*") == names(700)
    assert state.dead == 0
    assert state.stored + state.already == 700
    stored_unseen = fault in (Fault.RESET_AFTER, Fault.CUT, Fault.HANG, Fault.SHORT, Fault.GARBAGE)
    assert (state.already > 0) == stored_unseen


async def test_a_poisoned_event_is_set_aside_with_the_servers_own_words_and_passes_when_mended(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    """The index says what it cannot keep; the others are stored; a replay after the mapping was mended stores it."""
    index = f"{prefix}-2026.11.21"
    elasticsearch.ask("PUT", f"/{index}", {"mappings": {"properties": {"poison": {"type": "long"}}}})
    source = filled(50)
    healthy = source.waiting[20]
    body = healthy.body.replace(b'{"@timestamp"', b'{"poison":"no number","@timestamp"')
    source.waiting[20] = SpooledEvent(seq=20, event_id="e20", index_date=healthy.index_date, body=body)
    state = await ship(elasticsearch.url, prefix, source)

    assert state.dead == 1
    assert elasticsearch.ids(index) == sorted(set(names(50)) - {"e20"})
    (letter,) = await source.dead_letters(limit=10)
    assert letter.status == 400
    assert "failed to parse field [poison]" in letter.reason
    elasticsearch.ask("DELETE", f"/{index}")
    assert await source.replay(["e20"]) == 1
    await ship(elasticsearch.url, prefix, source)
    assert elasticsearch.ids(index) == ["e20"]


async def test_a_read_only_index_makes_its_events_wait_and_no_others(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    """What a server does to an index when its disk fills; it goes on by itself once the block is lifted."""
    closed = f"{prefix}-2026.11.20"
    elasticsearch.ask("PUT", f"/{closed}", {"settings": {"index.blocks.read_only_allow_delete": True}})
    source = FakeSource()
    source.add(*(spooled(seq, day="2026.11.20") for seq in range(1, 301)))
    source.add(*(spooled(seq) for seq in range(301, 401)))
    # The source is told of what was stored a moment after it is counted.
    state = await ship(
        elasticsearch.url, prefix, source, lambda state: len(source.waiting) == 300 and bool(state.trouble)
    )

    assert state.stored == 100
    assert all(event.index_date == "2026.11.20" for event in source.waiting.values())
    assert "cluster_block_exception" in state.trouble
    elasticsearch.ask("PUT", f"/{closed}/_settings", {"index.blocks.read_only_allow_delete": None})
    await ship(elasticsearch.url, prefix, source)
    assert elasticsearch.ids(f"{prefix}-*") == names(400)


async def test_a_cluster_without_room_for_another_index_makes_events_wait(
    elasticsearch: ElasticsearchServer, prefix: str
) -> None:
    """It says 400, as it does to a poisoned event: that must fill no dead letters."""
    elasticsearch.ask("PUT", "/_cluster/settings", {"persistent": {"cluster.max_shards_per_node": 1}})
    try:
        source = filled(50)
        state = await ship(elasticsearch.url, prefix, source, lambda state: state.again > 100)
    finally:
        elasticsearch.ask("PUT", "/_cluster/settings", {"persistent": {"cluster.max_shards_per_node": None}})
    assert (state.stored, state.dead) == (0, 0)
    assert "maximum" in state.trouble
    await ship(elasticsearch.url, prefix, source)
    assert elasticsearch.ids(f"{prefix}-*") == names(50)


async def test_a_limit_on_the_size_of_requests_is_found_and_kept_to(
    elasticsearch: ElasticsearchServer, proxy: FaultyElastic, prefix: str
) -> None:
    """A proxy that takes 20 kB: halved until it passes; one event that is larger by itself is set aside."""
    proxy.body_bytes_max = 20_000
    source = filled(400, size=400)
    source.add(spooled(100, size=30_000))
    try:
        state = await ship(proxy.url, prefix, source)
    finally:
        proxy.body_bytes_max = None

    assert state.dead == 1
    assert elasticsearch.ids(f"{prefix}-*") == sorted(set(names(400)) - {"e100"})


async def test_a_server_that_hangs_loses_nothing(elasticsearch: ElasticsearchServer, prefix: str) -> None:
    """SIGSTOP: it takes connections and answers nothing; what it was sent meanwhile is stored when it goes on."""
    source = filled(3_000)
    elasticsearch.pause()
    try:
        state = await ship(elasticsearch.url, prefix, source, lambda state: state.failures >= 2, IMPATIENT_S)
    finally:
        elasticsearch.resume()

    assert state.stored == 0
    assert "no answer within" in state.trouble
    await ship(elasticsearch.url, prefix, source)
    assert elasticsearch.ids(f"{prefix}-*") == names(3_000)


async def test_what_answers_and_is_no_elasticsearch_is_told_apart(
    elasticsearch: ElasticsearchServer, proxy: FaultyElastic, prefix: str
) -> None:
    """Nothing listens, or something else does: words for a person, and every event still waits."""
    source = filled(5)
    away = await ship("http://127.0.0.1:9", prefix, source, lambda state: state.failures >= 1)
    wrong = await ship(f"{elasticsearch.url}/nothing/of/ours", prefix, source, lambda state: state.failures >= 1)
    proxy.next.extend([Fault.LOCKED_OUT] * 3)
    refused = await ship(proxy.url, prefix, source, lambda state: state.failures >= 1)
    proxy.next.clear()

    assert "no answer (ClientConnectorError)" in away.trouble
    assert "check the address" in wrong.trouble
    assert "refuses our key" in refused.trouble
    assert len(source.waiting) == 5
