"""Telling an event neither blocks nor fails, whatever the spool does; what is lost is counted and told."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import orjson
import pytest

from app.domain.chat import Json
from app.domain.errors import CapacityError, InternalError
from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.record import EventRecord, Origin
from app.domain.trace_context import TraceContext, use
from app.services.events import emitter as module
from app.services.events.emitter import Emitter
from tests.fakes.clock import ManualClock


class FakeKeeper:
    """Keeps what it is given, by id; fails or has no room where it is told so."""

    def __init__(self) -> None:
        self.kept: dict[str, EventRecord] = {}
        self.messages = 0
        self.failing = False
        self.loses_answers = False
        self.full = False
        self.said = EventTerms()

    async def terms(self) -> EventTerms:
        if self.failing:
            raise InternalError("events is not running")
        return self.said

    async def keep(self, batch: EventBatch) -> BatchKept:
        self.messages += 1
        if self.failing:
            raise InternalError("events is not running")
        records = list(batch.records())
        refused = tuple(at for at, one in enumerate(records) if self.full and one.type == "configuration.changed")
        for at, one in enumerate(records):
            if at not in refused:
                self.kept.setdefault(one.event_id, one)
        if self.loses_answers:
            raise InternalError("no answer")
        return BatchKept(refused=refused, terms=self.said)

    def told(self, event_type: str) -> list[dict[str, Json]]:
        return [orjson.loads(one.body) for one in self.kept.values() if one.type == event_type]


CHANCES = (0.1, 0.9, 0.4, 0.6)


@pytest.fixture
def keeper() -> FakeKeeper:
    """Return one that works."""
    return FakeKeeper()


@pytest.fixture
def clock() -> ManualClock:
    """Return the process's clock."""
    return ManualClock()


@pytest.fixture
def emitter(keeper: FakeKeeper, clock: ManualClock) -> Emitter:
    """Return a process's."""
    chances: Iterator[float] = cycle(CHANCES)
    return Emitter(keeper, Origin(node="replica-1"), clock, chance=lambda: next(chances))


async def test_events_are_handed_over_together_and_in_order(emitter: Emitter, keeper: FakeKeeper) -> None:
    """One message for many."""
    for status in range(5):
        emitter.emit("call.retried", account="a", http_status=status)
    assert keeper.messages == 0

    assert await emitter.flush()
    assert keeper.messages == 1
    assert [told["http.response.status_code"] for told in keeper.told("call.retried")] == list(range(5))


async def test_event_names_the_trace_in_which_it_was_told(emitter: Emitter, keeper: FakeKeeper) -> None:
    """As it was then: it is serialised later, and elsewhere."""
    trace = TraceContext(trace_id="ab" * 16, span_id="cd" * 8, sampled=True)
    with use(trace):
        emitter.emit("call.retried", account="a")
        emitter.emit("call.retried", account="b", trace_id="ef" * 16)
    emitter.emit("call.retried", account="c")
    assert await emitter.flush()
    told = {str(one["tutti.account.id"]): one for one in keeper.told("call.retried")}

    assert (told["a"]["trace.id"], told["a"]["span.id"]) == ("ab" * 16, "cd" * 8)
    assert told["b"]["trace.id"] == "ef" * 16
    assert "trace.id" not in told["c"]


async def test_events_wait_while_the_spool_is_away_and_keep_their_ids(emitter: Emitter, keeper: FakeKeeper) -> None:
    """A lost answer makes nothing twice."""
    emitter.emit("call.retried", account="a")
    keeper.failing = True
    assert not await emitter.flush()
    keeper.failing, keeper.loses_answers = False, True
    assert not await emitter.flush()
    emitter.emit("call.retried", account="b")
    keeper.loses_answers = False

    assert await emitter.flush()
    assert [told["tutti.account.id"] for told in keeper.told("call.retried")] == ["a", "b"]
    assert not emitter.dropped


async def test_full_process_loses_the_oldest_telemetry_and_says_so(
    emitter: Emitter, keeper: FakeKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded for ever; what must not be lost has room of its own."""
    monkeypatch.setattr(module, "EVENTS_MAX", 3)
    emitter.emit("configuration.changed", config_version=1)
    for status in range(5):
        emitter.emit("call.retried", http_status=status)

    assert await emitter.flush()
    assert [told["http.response.status_code"] for told in keeper.told("call.retried")] == [2, 3, 4]
    assert len(keeper.told("configuration.changed")) == 1
    (dropped,) = keeper.told("events.dropped")
    assert (dropped["tutti.events.class"], dropped["tutti.events.dropped"]) == ("telemetry", 2)
    assert emitter.dropped == {"telemetry": 2}


async def test_what_the_spool_has_no_room_for_is_said_again(emitter: Emitter, keeper: FakeKeeper) -> None:
    """Others pass; nothing is lost."""
    keeper.full = True
    emitter.emit("configuration.changed", config_version=1)
    emitter.emit("call.retried", account="a")

    assert not await emitter.flush()
    assert len(keeper.told("call.retried")) == 1
    keeper.full = False
    assert await emitter.flush()
    assert len(keeper.told("configuration.changed")) == 1


async def test_recorded_event_is_kept_when_it_returns_or_refused(emitter: Emitter, keeper: FakeKeeper) -> None:
    """Audit pushes back, with what to do."""
    await emitter.record("configuration.changed", config_version=1)
    assert len(keeper.told("configuration.changed")) == 1
    keeper.full = True
    with pytest.raises(CapacityError, match="no more room") as caught:
        await emitter.record("configuration.changed", config_version=2)
    assert "spool_mb" in (caught.value.remedy or "")
    keeper.failing = True
    with pytest.raises(InternalError):
        await emitter.record("configuration.changed", config_version=2)


async def test_malformed_event_is_counted_and_fails_nobody(
    emitter: Emitter, keeper: FakeKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in one event must not stop the others, and its values are not shown."""
    emitter.emit("call.retried", prompt="the secret text")
    emitter.emit("no.such.type")
    emitter.emit("call.retried", account="a")

    assert await emitter.flush()
    assert len(keeper.told("call.retried")) == 1
    assert emitter.dropped == {"telemetry": 1, "unknown": 1}
    assert "the secret text" not in caplog.text
    assert "declares no field 'prompt'" in caplog.text


async def test_sampled_type_is_told_in_part_and_others_whole(emitter: Emitter, keeper: FakeKeeper) -> None:
    """The share is the configuration's, from the first answer on."""
    keeper.said = EventTerms(shares=(("call.retried", 0.5),))
    await emitter.flush()
    for _ in range(8):
        emitter.emit("call.retried", account="a")
        emitter.emit("limit.hit", user="a")
    await emitter.flush()

    assert len(keeper.told("call.retried")) == 4
    assert len(keeper.told("limit.hit")) == 8


async def test_profile_is_the_configurations_from_the_first_event_on(emitter: Emitter, keeper: FakeKeeper) -> None:
    """It is asked for before anything is serialised."""
    keeper.said = EventTerms(profile="genai-main")
    emitter.emit("call.finished", cache_write_tokens=3)
    await emitter.flush()

    (told,) = keeper.told("call.finished")
    assert told["gen_ai.usage.cache_write.input_tokens"] == 3


async def test_strangers_are_told_of_within_bounds(emitter: Emitter, keeper: FakeKeeper, clock: ManualClock) -> None:
    """A flood of wrong keys must not fill the disk; how many there were is told all the same."""
    for _ in range(module.STRANGERS_MAX + 50):
        emitter.emit("access.refused", reason="unknown key")
    emitter.emit("configuration.changed")
    await emitter.flush()
    assert len(keeper.told("access.refused")) == module.STRANGERS_MAX
    assert len(keeper.told("configuration.changed")) == 1
    assert sum(emitter.dropped.values()) == 50

    clock.advance(60)
    emitter.emit("access.refused", reason="unknown key")
    await emitter.flush()

    assert len(keeper.told("access.refused")) == module.STRANGERS_MAX + 1
    assert len(keeper.told("events.dropped")) == 1
