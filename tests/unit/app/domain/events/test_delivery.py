"""An event ends stored, or as a dead letter for what it is itself; sizes and pauses follow what the receiver bears."""

from __future__ import annotations

import pytest

from app.domain.events.delivery import Fate, Pace, Trouble, judged, trouble_of


@pytest.mark.parametrize(
    ("status", "kind", "fate"),
    [
        (201, "", Fate.STORED),
        (200, "", Fate.STORED),
        (409, "version_conflict_engine_exception", Fate.ALREADY),
        (429, "es_rejected_execution_exception", Fate.AGAIN),
        (429, "cluster_block_exception", Fate.BLOCKED),
        (403, "cluster_block_exception", Fate.BLOCKED),
        (403, "security_exception", Fate.BLOCKED),
        (401, "security_exception", Fate.BLOCKED),
        (404, "index_not_found_exception", Fate.BLOCKED),
        (503, "unavailable_shards_exception", Fate.BLOCKED),
        (500, "whatever", Fate.AGAIN),
        (400, "validation_exception", Fate.BLOCKED),
        (400, "index_closed_exception", Fate.BLOCKED),
        (400, "document_parsing_exception", Fate.DEAD),
        (400, "illegal_argument_exception", Fate.DEAD),
        (413, "too_large", Fate.DEAD),
        (0, "", Fate.AGAIN),
    ],
)
def test_only_what_is_wrong_with_the_event_itself_makes_it_a_dead_letter(status: int, kind: str, fate: Fate) -> None:
    """A cluster without room for another shard says 400 too: its events must wait, not be put aside."""
    assert judged(status, kind, "because").fate is fate


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (401, Trouble.LOCKED_OUT),
        (403, Trouble.LOCKED_OUT),
        (413, Trouble.TOO_LARGE),
        (429, Trouble.BUSY),
        (502, Trouble.BUSY),
        (503, Trouble.BUSY),
        (400, Trouble.WRONG),
        (301, Trouble.WRONG),
        (404, Trouble.WRONG),
    ],
)
def test_no_status_of_a_whole_request_gives_an_event_up(status: int, trouble: Trouble) -> None:
    """A proxy that answers 400 or 404 to everything must not fill the dead letters."""
    assert trouble_of(status) is trouble


def test_pace_doubles_until_the_first_failure() -> None:
    """A start must not cost a minute of small requests; whoever is overloaded says so once."""
    pace = Pace(3_000, 1_000_000)
    sizes = []
    for _ in range(4):
        pace.went_well()
        sizes.append(pace.docs)

    assert sizes == [1_000, 2_000, 3_000, 3_000]


def test_pace_grows_by_a_tenth_and_halves() -> None:
    """Additive-like growth, multiplicative decrease, between one and the most that is allowed."""
    pace = Pace(1_000, 1_000_000)
    pace.failed(Trouble.IN_DOUBT, sent_docs=500, sent_bytes=1)
    sizes = []
    for _ in range(3):
        pace.went_well()
        sizes.append(pace.docs)
    pace.failed(Trouble.SLOW, sent_docs=600, sent_bytes=60_000)
    halved = pace.docs
    for _ in range(20):
        pace.failed(Trouble.BUSY, sent_docs=1, sent_bytes=100)
    least = pace.docs
    for _ in range(200):
        pace.went_well()

    assert sizes == [551, 607, 668]
    assert halved == 334
    assert least == 1
    assert pace.docs == 1_000


def test_pace_keeps_its_size_where_the_network_failed() -> None:
    """A server that restarts says nothing about sizes."""
    pace = Pace(1_000, 1_000_000)
    pace.failed(Trouble.IN_DOUBT, sent_docs=500, sent_bytes=1)

    assert pace.docs == 500
    assert pace.failures == 1


def test_pace_never_again_tries_a_size_that_was_too_large() -> None:
    """A proxy with a limit of a megabyte is met once for each size, not with every tenth request."""
    pace = Pace(2_000, 8_000_000)
    pace.failed(Trouble.TOO_LARGE, sent_docs=500, sent_bytes=1_200_000)
    halved = pace.bytes
    for _ in range(500):
        pace.went_well()

    assert halved == 600_000
    assert pace.bytes == 1_199_999
    assert pace.pause_s(0.99) == 0.0


def test_pauses_have_full_jitter_up_to_half_a_minute_and_heed_the_receiver() -> None:
    """From a quarter of a second doubling; what the receiver asks for is the least, within the longest pause."""
    pace = Pace(10, 10)
    longest = []
    for _ in range(9):
        pace.failed(Trouble.IN_DOUBT, sent_docs=1, sent_bytes=1)
        longest.append(pace.pause_s(1.0))

    assert longest == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert pace.pause_s(0.0) == 0.0
    assert pace.pause_s(0.0, 7.0) == 7.0
    assert pace.pause_s(0.0, 7_000.0) == 30.0
    pace.went_well()
    assert pace.pause_s(1.0) == 0.0
