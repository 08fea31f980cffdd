"""One line says whether events get through, and what to do where they do not."""

from __future__ import annotations

from app.domain.events.delivery import ShippingState
from app.domain.events.spooled import Backlog
from app.services.events.shipping_words import word_of


def state(trouble: str = "", *, age_s: float = 0.5, dead: int = 0, note: str = "") -> ShippingState:
    """Return how it goes for a source with 2000 events."""
    backlog = Backlog(count=2_000, bytes=1_500_000, oldest_age_s=age_s, dead=dead, note=note)
    return ShippingState(source="spool", sink="elasticsearch", trouble=trouble, backlog=backlog)


def test_ok_is_a_word() -> None:
    """Nothing waits for long, or nothing is shipped."""
    assert word_of([state()]) == "ok"
    assert word_of([]) == "ok"


def test_what_is_wrong_is_said_and_leaves_it_ready() -> None:
    """Events that wait are no reason to take no more calls."""
    assert word_of([state("elasticsearch: no answer")]) == (
        "ok; 2000 events wait in the spool (1.5 MB, the oldest for 0 s): elasticsearch: no answer"
    )
    assert "the oldest for 90 s)" in word_of([state(age_s=90)])
    assert word_of([state(dead=3)]) == "ok; 3 events were refused for good: `tutti events dead list`"
    assert word_of([state(note="disk full")], "damaged") == "ok; damaged; disk full"
    assert word_of([ShippingState(source="outbox", sink="file")]) == "ok; the outbox of events does not answer"
