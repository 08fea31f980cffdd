"""The short form of the torture of events (`make torture-events`): processes killed with -9, requests spoiled."""

from __future__ import annotations

import pytest

from tests.fixtures.elasticsearch_server import ElasticsearchServer
from tests.torture.events import torture

SECONDS = 12.0
SEED = 11
ACKNOWLEDGED_MIN = 100
"""Below this nothing was tested."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_acknowledged_event_is_stored_exactly_once_whoever_is_killed(elasticsearch: ElasticsearchServer) -> None:
    """The keeper of the spool, those who tell and the shipper die at random; every third request is spoiled."""
    result = torture(elasticsearch, seconds=SECONDS, seed=SEED, restarts=0)
    print("\n".join(result.lines()))

    assert len(result.acknowledged) >= ACKNOWLEDGED_MIN
    assert min(result.kills[role] for role in ("shipper", "keeper", "teller")) > 0
    assert sum(result.faults.values()) > 0
    assert result.missing == set()
    assert result.twice == []
