"""What waits is measured with every look, and told once a minute, source by source."""

from __future__ import annotations

from app.services.events.backlog_watch import TOLD_PERIOD_S, BacklogWatch
from app.services.telemetry.instruments import EVENTS_WAITING
from tests.fakes.event_source import FakeSource, spooled
from tests.fakes.told import Told


def two_sources() -> dict[str, FakeSource]:
    """Return a source with three events, and one with none."""
    spool, outbox = FakeSource(), FakeSource()
    spool.add(*(spooled(seq) for seq in range(1, 4)))
    return {"spool": spool, "outbox": outbox}


async def test_every_source_is_told_once_a_minute() -> None:
    """The outbox as well as the spool: each by its name."""
    events = Told()
    watch = BacklogWatch(two_sources(), events)
    for now_s in (0.0, TOLD_PERIOD_S - 1, TOLD_PERIOD_S, TOLD_PERIOD_S + 5, 2 * TOLD_PERIOD_S):
        await watch.look(now_s)

    assert [(told["subject"], told["backlog"]) for told in events.values("events.backlog")] == [
        ("spool", 3),
        ("outbox", 0),
    ] * 2


async def test_source_that_is_away_hides_no_other() -> None:
    """It keeps its last level, and nothing is told of it."""
    events = Told()
    sources = two_sources()
    await BacklogWatch(sources, events).look(0.0)
    watch = BacklogWatch(sources, events)
    sources["spool"].failing = True
    sources["outbox"].add(spooled(1))
    await watch.look(0.0)
    await watch.look(TOLD_PERIOD_S)

    assert EVENTS_WAITING.values() == {("spool",): 3, ("outbox",): 1}
    assert [told["subject"] for told in events.values("events.backlog")] == ["outbox"]
