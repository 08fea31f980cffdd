"""The loop of shipping, against receivers that do what real ones do: every event ends stored once, or set aside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from app.domain.events.delivery import ALREADY, STORED, Delivery, Fate, Outcome, Pace, ShippingState, Trouble
from app.domain.events.spooled import SpooledEvent
from app.domain.trace_context import current
from app.services.events.shipping import Shipper
from app.services.telemetry.instruments import EVENTS_IN_FLIGHT, EVENTS_SHIPPED
from app.services.telemetry.tracing import Recorder, record_into
from tests.fakes.event_source import FakeSource, spooled
from tests.fakes.virtual_time import VirtualClock, run

AGAIN = Outcome(fate=Fate.AGAIN, status=429, reason="busy")
BLOCKED = Outcome(fate=Fate.BLOCKED, status=403, reason="cluster_block_exception: read-only")
DEAD = Outcome(fate=Fate.DEAD, status=400, reason="document_parsing_exception: no")


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What is recorded of spans."""
    found = Recorder()
    record_into(found)
    yield found
    record_into(None)


Script = Callable[["FakeSink", Sequence[SpooledEvent]], Delivery | None]


class FakeSink:
    """Stores by id; ``script`` may answer instead."""

    name = "fake"

    def __init__(self, script: Script = lambda sink, events: None) -> None:
        self.script = script
        self.stored: dict[str, bytes] = {}
        self.requests: list[int] = []

    async def deliver(self, events: Sequence[SpooledEvent]) -> Delivery:
        self.requests.append(len(events))
        await asyncio.sleep(0.05)
        return self.script(self, events) or self.store(events)

    def store(self, events: Sequence[SpooledEvent]) -> Delivery:
        outcomes = [ALREADY if event.event_id in self.stored else STORED for event in events]
        self.stored.update({event.event_id: event.body for event in events})
        return Delivery(outcomes=tuple(outcomes), status=200)

    async def aclose(self) -> None:
        pass


def ship(
    source: FakeSource, sink: FakeSink, *, seconds: float = 600.0, docs_max: int = 2_000, bytes_max: int = 8_000_000
) -> tuple[ShippingState, Pace]:
    """Let the shipper run for so long; return how it went."""
    pace = Pace(docs_max, bytes_max)

    async def play() -> ShippingState:
        shipper = Shipper(source, sink, pace, chance=random.Random(1).random)
        task = asyncio.create_task(shipper.run())
        await asyncio.sleep(seconds)
        task.cancel()
        return await shipper.state()

    return run(play(), VirtualClock()), pace


def filled(count: int, *, size: int = 100) -> FakeSource:
    """Return a source with so many events."""
    source = FakeSource()
    source.add(*(spooled(seq, size=size) for seq in range(1, count + 1)))
    return source


def test_everything_is_stored_once_in_growing_portions() -> None:
    """The plain case: nothing is sent twice, and the source is empty in the end."""
    source, sink = filled(5_000), FakeSink()
    state, _ = ship(source, sink)

    assert sorted(sink.stored) == sorted(f"e{seq}" for seq in range(1, 5_001))
    assert sum(sink.requests) == 5_000
    assert sink.requests == [500, 500, 1_000, 2_000, 1_000]
    assert (state.stored, state.already, state.in_flight, state.trouble) == (5_000, 0, 0, "")
    assert state.backlog is not None
    assert state.backlog.count == 0


def test_every_request_is_a_span_in_a_trace_of_its_own(recorder: Recorder) -> None:
    """What went well and what did not, with how much and from where."""
    failures = iter([Delivery(trouble=Trouble.BUSY, status=503)])
    ship(filled(3), FakeSink(lambda _sink, _events: next(failures, None)))
    failed, shipped = recorder.ended

    assert {span.name for span in recorder.ended} == {"ship"}
    assert (failed.error, failed.attributes["http.response.status_code"]) == ("busy", 503)
    assert shipped.error == ""
    assert shipped.attributes == {
        "tutti.events.source": "spool",
        "tutti.events.sink": "fake",
        "tutti.events.count": shipped.attributes["tutti.events.count"],
        "http.response.status_code": 200,
    }
    assert failed.context.trace_id != shipped.context.trace_id
    assert current() is None


def test_requests_are_sampled_like_everything(recorder: Recorder) -> None:
    """Of no trace that begins here none is recorded."""
    recorder.ratio = 0.0
    ship(filled(3), FakeSink())

    assert not recorder.ended


def test_verdicts_are_counted_and_nothing_stays_on_its_way() -> None:
    """409s among them: what an earlier try had stored."""
    before = {outcome: EVENTS_SHIPPED.values().get(("counted", outcome), 0.0) for outcome in Fate}
    source = filled(3)
    verdicts = iter([Delivery(outcomes=(STORED, ALREADY, AGAIN), status=200)])
    in_flight: list[float] = []

    def script(_sink: FakeSink, _events: Sequence[SpooledEvent]) -> Delivery | None:
        in_flight.append(EVENTS_IN_FLIGHT.values()[("counted",)])
        return next(verdicts, None)

    async def play() -> None:
        shipper = Shipper(source, FakeSink(script), Pace(10, 10_000), chance=random.Random(1).random, name="counted")
        task = asyncio.create_task(shipper.run())
        await asyncio.sleep(60.0)
        task.cancel()

    run(play(), VirtualClock())
    after = {outcome: EVENTS_SHIPPED.values().get(("counted", outcome), 0.0) for outcome in Fate}

    assert {outcome.value: after[outcome] - before[outcome] for outcome in Fate if after[outcome]} == {
        "stored": 2,
        "already": 1,
        "again": 1,
    }
    assert in_flight == [3, 1]
    assert EVENTS_IN_FLIGHT.values()[("counted",)] == 0


@pytest.mark.parametrize("trouble", [Trouble.IN_DOUBT, Trouble.SLOW, Trouble.BUSY, Trouble.LOCKED_OUT, Trouble.WRONG])
def test_no_trouble_gives_an_event_up(trouble: Trouble) -> None:
    """Whatever a whole request meets, for an hour: its events are stored afterwards."""
    failures = iter(range(130))

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        return None if next(failures, None) is None else Delivery(trouble=trouble, reason="away")

    source, sink = filled(300), FakeSink(script)
    state, _ = ship(source, sink, seconds=2_400)

    assert len(sink.stored) == 300
    assert (state.stored, state.dead, state.trouble) == (300, 0, "")


def test_trouble_is_told_while_it_lasts() -> None:
    """People see what is wrong and how much waits."""
    source, sink = filled(10), FakeSink(lambda sink, events: Delivery(trouble=Trouble.LOCKED_OUT, status=401))
    state, _ = ship(source, sink, seconds=600)

    assert "refuses our key" in state.trouble
    assert state.failures > 10
    assert state.backlog is not None
    assert state.backlog.count == 10


def test_an_answer_that_is_lost_stores_nothing_twice() -> None:
    """Stored, and the answer cut: sent again under the same id, and counted as stored before."""

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        if len(sink.requests) == 1:
            sink.store(events)
            return Delivery(trouble=Trouble.IN_DOUBT, reason="reset")
        return None

    source, sink = filled(100), FakeSink(script)
    state, _ = ship(source, sink)

    assert sink.requests == [100, 100]
    assert (state.stored, state.already) == (0, 100)
    assert source.waiting == {}


def test_a_poisoned_event_is_set_aside_and_holds_up_nothing() -> None:
    """It becomes a dead letter with its reason, and passes when it is replayed after the cause was mended."""

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        sink.store([event for event in events if event.seq != 7])
        return Delivery(outcomes=tuple(DEAD if event.seq == 7 else STORED for event in events))

    source, sink = filled(20), FakeSink(script)
    state, _ = ship(source, sink)

    assert len(sink.stored) == 19
    assert state.dead == 1
    assert [letter.reason for letter in source.letters.values()] == [DEAD.reason]
    asyncio.run(source.replay(None))
    sink.script = lambda sink, events: None
    ship(source, sink)
    assert len(sink.stored) == 20


def test_events_of_a_blocked_index_let_the_others_pass() -> None:
    """The day that is read-only waits, however much of it there is; other days are shipped."""
    source = FakeSource()
    source.add(*(spooled(seq, day="2026.11.20") for seq in range(1, 1_501)))
    source.add(*(spooled(seq, day="2026.11.21") for seq in range(1_501, 1_601)))
    blocked = True

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        held = [blocked and event.index_date == "2026.11.20" for event in events]
        sink.store([event for event, no in zip(events, held, strict=True) if not no])
        return Delivery(outcomes=tuple(BLOCKED if no else STORED for no in held))

    sink = FakeSink(script)
    state, _ = ship(source, sink, seconds=600)

    assert len(sink.stored) == 100
    assert len(source.waiting) == 1_500
    assert "cluster_block_exception" in state.trouble
    assert len(sink.requests) < 1_000
    blocked = False
    state, _ = ship(source, sink, seconds=600)
    assert len(sink.stored) == 1_600


def test_single_events_that_are_refused_for_the_moment_are_sent_again_and_only_they() -> None:
    """A full queue at the receiver: pauses, smaller requests, and nothing twice."""
    refusals = iter(range(400))

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        taken = [bool(event.seq % 2) or next(refusals, None) is None for event in events]
        sink.store([event for event, yes in zip(events, taken, strict=True) if yes])
        return Delivery(outcomes=tuple(STORED if yes else AGAIN for yes in taken))

    source, sink = filled(1_000), FakeSink(script)
    state, _ = ship(source, sink, seconds=3_600)

    assert len(sink.stored) == 1_000
    assert (state.stored, state.already, state.again, state.trouble) == (1_000, 0, 400, "")


def test_a_request_that_is_too_large_is_halved_until_it_passes() -> None:
    """A single event that is too large by itself is set aside; all others are stored."""

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        too_large = sum(len(event.body) for event in events) > 20_000
        return Delivery(trouble=Trouble.TOO_LARGE, status=413) if too_large else None

    source = filled(1_000, size=200)
    source.add(spooled(500, size=30_000))
    sink = FakeSink(script)
    state, _ = ship(source, sink)

    assert len(sink.stored) == 999
    assert list(source.letters) == [500]
    assert state.trouble == ""
    assert len(sink.requests) < 40


def test_a_source_that_is_away_is_waited_for() -> None:
    """The spool's actor died: nothing is lost, and shipping goes on when it is back."""
    source, sink = filled(100), FakeSink()

    async def play() -> ShippingState:
        shipper = Shipper(source, sink, Pace(10, 1_000_000), chance=lambda: 0.5)
        task = asyncio.create_task(shipper.run())
        await asyncio.sleep(0.12)
        source.failing = True
        await asyncio.sleep(100)
        assert (await shipper.state()).backlog is None
        source.failing = False
        await asyncio.sleep(100)
        task.cancel()
        return await shipper.state()

    state = run(play(), VirtualClock())

    assert len(sink.stored) == 100
    assert state.stored + state.already >= 100
    assert source.waiting == {}


def test_an_empty_source_that_was_away_is_no_trouble_any_more() -> None:
    """Readiness must not go on saying what is long over."""
    source = filled(0)

    async def play() -> tuple[str, str]:
        shipper = Shipper(source, FakeSink(), Pace(10, 1_000_000), chance=lambda: 0.5)
        task = asyncio.create_task(shipper.run())
        source.failing = True
        await asyncio.sleep(100)
        away = (await shipper.state()).trouble
        source.failing = False
        await asyncio.sleep(100)
        task.cancel()
        return away, (await shipper.state()).trouble

    away, back = run(play(), VirtualClock())

    assert "cannot be read" in away
    assert back == ""


def test_a_start_reads_no_more_than_a_portion() -> None:
    """A backlog of any size costs a start the same."""
    source, sink = filled(20_000), FakeSink(lambda sink, events: Delivery(trouble=Trouble.BUSY))
    ship(source, sink, seconds=0.01)

    assert source.reads <= 2
    assert sink.requests == [500]


def test_a_batch_that_holds_something_refused_is_told_apart_without_slowing_the_rest() -> None:
    """The receiver says only that one was rejected: halves find it, and later requests are as large as before."""

    def script(sink: FakeSink, events: Sequence[SpooledEvent]) -> Delivery | None:
        if not any(event.seq == 7 for event in events):
            return None
        return Delivery(outcomes=(DEAD,)) if len(events) == 1 else Delivery(trouble=Trouble.SPOILED, reason="one")

    source, sink = filled(2_000), FakeSink(script)
    state, pace = ship(source, sink)

    assert len(sink.stored) == 1_999
    assert state.dead == 1
    assert pace.bytes == 8_000_000
