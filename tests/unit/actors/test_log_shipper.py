"""The shipper's actor does what is configured now, from every source, and stops when nothing is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from actors import metrics
from actors.log_shipper import LogShipper
from app.domain.errors import InternalError
from app.domain.events.spec import EventsSpec, FileSpec
from app.domain.telemetry import TelemetrySpec
from app.sinks.file import NAME
from tests.fakes.event_source import FakeSource, spooled


class Configured:
    """What is configured; None: who knows does not answer."""

    def __init__(self, spec: EventsSpec | None) -> None:
        self.spec = spec

    async def __call__(self) -> EventsSpec:
        if self.spec is None:
            raise InternalError("away", remedy="wait")
        return self.spec


def into(folder: Path) -> EventsSpec:
    """Return a configuration that ships into files there."""
    return EventsSpec(file=FileSpec(folder=str(folder)))


def sources() -> dict[str, FakeSource]:
    """Return two sources with ten events each."""
    spool, outbox = FakeSource(), FakeSource()
    spool.add(*(spooled(seq) for seq in range(1, 11)))
    outbox.add(*(spooled(seq) for seq in range(101, 111)))
    return {"spool": spool, "outbox": outbox}


async def until(holds: Callable[[], bool]) -> None:
    """Wait until ``holds``."""
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  files are written in a thread
            await asyncio.sleep(0.005)


async def playing(configured: Configured, play: Callable[[LogShipper, dict[str, FakeSource]], Awaitable[None]]) -> None:
    """Play with a shipper of two sources."""
    both = sources()
    shipper = LogShipper(both, configured, follow_s=0.005)
    try:
        await play(shipper, both)
    finally:
        await shipper.close()


async def test_every_source_is_shipped_and_counted(tmp_path: Path) -> None:
    """Both sources, one receiver; the states are theirs."""

    async def play(shipper: LogShipper, both: dict[str, FakeSource]) -> None:
        await until(lambda: not any(source.waiting for source in both.values()))
        states = await shipper.states()

        assert [(state.source, state.sink, state.stored) for state in states] == [
            ("spool", "file", 10),
            ("outbox", "file", 10),
        ]

    await playing(Configured(into(tmp_path)), play)
    assert len((tmp_path / NAME).read_bytes().splitlines()) == 20


async def test_metrics_are_reported_as_configured(tmp_path: Path) -> None:
    """Not before it is said, and not where it is said that none are wanted; how shipping goes is told each time."""

    async def play(shipper: LogShipper, both: dict[str, FakeSource]) -> None:
        await until(lambda: not any(source.waiting for source in both.values()))
        reporting = [metrics._Process.reporter is not None]
        for wanted in (True, False):
            states = await shipper.configure(TelemetrySpec(metrics=wanted))
            reporting.append(metrics._Process.reporter is not None)

            assert [state.source for state in states] == ["spool", "outbox"]
        assert reporting == [False, True, False]

    metrics.follow(wanted=False)  # whatever ran before in this process
    await playing(Configured(into(tmp_path)), play)


async def test_another_receiver_is_followed_and_none_stops_it(tmp_path: Path) -> None:
    """What waits goes where it is sent now; without a receiver it stays where it is."""
    configured = Configured(EventsSpec())

    async def play(shipper: LogShipper, both: dict[str, FakeSource]) -> None:
        await asyncio.sleep(0.05)
        assert await shipper.states() == []
        assert len(both["spool"].waiting) == 10
        for name in ("one", "two"):
            configured.spec = into(tmp_path / name)
            both["spool"].add(spooled(500 if name == "one" else 501))
            await until(lambda: not both["spool"].waiting and not both["outbox"].waiting)
        configured.spec = EventsSpec()
        await until(lambda: shipper._spec == EventsSpec())
        assert await shipper.states() == []

    await playing(configured, play)
    assert len((tmp_path / "one" / NAME).read_bytes().splitlines()) >= 20


async def test_a_keeper_that_is_away_is_asked_again(tmp_path: Path) -> None:
    """Its actor is being restarted: the shipper begins when it is back."""
    configured = Configured(None)

    async def play(shipper: LogShipper, both: dict[str, FakeSource]) -> None:
        await asyncio.sleep(0.05)
        assert len(both["spool"].waiting) == 10
        configured.spec = into(tmp_path)
        await until(lambda: not both["spool"].waiting)

    await playing(configured, play)
