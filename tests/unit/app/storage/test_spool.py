"""The spool keeps what it acknowledged, in order and once; it stays within its bound, and survives a damaged file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.domain.errors import InternalError
from app.domain.events.record import EventIds, EventRecord, Origin, Recorder
from app.domain.events.spooled import SpooledEvent
from app.storage.spool import Spool, SpoolDamagedError
from app.storage.spool_tables import ROW_BYTES

NOW_S = 1_795_262_400.0
MINUTE_NS = 60 * 1_000_000_000
TELEMETRY, BILLING, DEBUG = "call.retried", "call.finished", "log.line"
ROOMY = 10_000_000


class Clock:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    """Return an empty one with room."""
    opened = Spool(tmp_path / "events.sqlite", bytes_max=ROOMY, wall_s=clock)
    yield opened
    opened.close()


RECORDER = Recorder(Origin(node="test-1"), EventIds(1))


def records(event_type: str, count: int, *, minute: int = 0, user: str | None = None) -> list[EventRecord]:
    """Return that many events."""
    values = {"user": user} if user else {}
    return [
        RECORDER.record(event_type, int(NOW_S * 1e9) + minute * MINUTE_NS + number, values) for number in range(count)
    ]


def waiting(spool: Spool, after_seq: int = 0, docs_max: int = 10_000) -> list[SpooledEvent]:
    """Return what waits."""
    return spool.pending(after_seq, docs_max=docs_max, bytes_max=ROOMY)


def ids(events: Sequence[EventRecord | SpooledEvent]) -> list[str]:
    """Return their ids."""
    return [event.event_id for event in events]


def test_what_was_kept_waits_in_order_also_after_opening_again(spool: Spool, tmp_path: Path) -> None:
    """Acknowledged is on disk."""
    told = records(BILLING, 3) + records(TELEMETRY, 2)
    appended = spool.append(told, ships=True)
    spool.close()
    again = Spool(tmp_path / "events.sqlite", bytes_max=ROOMY, wall_s=lambda: NOW_S)

    assert appended.kept == 5
    assert ids(waiting(again)) == ids(told)
    assert [event.body for event in waiting(again)] == [event.body for event in told]
    assert {event.index_date for event in waiting(again)} == {"2026.11.21"}
    assert again.put_aside is None


def test_commit_is_synced(spool: Spool, tmp_path: Path) -> None:
    """Power loss takes nothing that was acknowledged: WAL, and every commit synced."""
    assert spool._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert spool._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_event_told_twice_is_kept_once(spool: Spool) -> None:
    """Who did not hear the answer says it again."""
    told = records(BILLING, 4)
    spool.append(told[:3], ships=True)
    spool.append(told, ships=True)

    assert ids(waiting(spool)) == ids(told)
    assert spool.backlog().count == 4
    assert spool.used_bytes() == sum(len(event.body) + ROW_BYTES for event in told)


def test_pending_is_bounded_by_documents_and_bytes_and_gives_at_least_one(spool: Spool) -> None:
    """A single large event must not stop the shipping."""
    told = records(BILLING, 5)
    spool.append(told, ships=True)
    size = len(told[0].body)

    assert ids(waiting(spool, docs_max=2)) == ids(told[:2])
    assert ids(spool.pending(0, docs_max=9, bytes_max=3 * size)) == ids(told[:3])
    assert ids(spool.pending(0, docs_max=9, bytes_max=1)) == ids(told[:1])


def test_shipped_events_wait_no_more(spool: Spool) -> None:
    """Said twice it is the same."""
    told = records(BILLING, 4)
    spool.append(told, ships=True)
    first = waiting(spool, docs_max=2)
    for _ in range(2):
        spool.shipped([event.seq for event in first])

    assert ids(waiting(spool)) == ids(told[2:])
    assert ids(waiting(spool, after_seq=first[1].seq + 1)) == ids(told[3:])
    assert spool.backlog().count == 2


def test_dead_letters_are_listed_replayed_and_dropped(spool: Spool) -> None:
    """Poison is put aside; nothing behind it waits for it."""
    told = records(BILLING, 4)
    spool.append(told, ships=True)
    for event in waiting(spool)[:3]:
        spool.dead(event.seq, status=400, reason="mapper_parsing_exception")
    letters = spool.dead_letters(limit=10)

    assert [(letter.event_id, letter.status) for letter in letters] == [(each, 400) for each in ids(told[:3])]
    assert (spool.backlog().count, spool.backlog().dead) == (1, 3)
    assert spool.replay([told[0].event_id, "unknown"]) == 1
    assert ids(waiting(spool)) == [told[0].event_id, told[3].event_id]
    assert spool.drop([told[1].event_id]) == 1
    assert spool.drop(None) == 1
    assert spool.replay(None) == 0
    assert spool.backlog().dead == 0


def test_full_spool_drops_telemetry_for_what_must_not_be_lost(tmp_path: Path, clock: Clock) -> None:
    """The oldest go; how many is told."""
    size = len(records(TELEMETRY, 1)[0].body) + ROW_BYTES
    spool = Spool(tmp_path / "s.sqlite", bytes_max=20 * size, wall_s=clock)
    old = records(TELEMETRY, 18)
    spool.append(old, ships=True)
    bills = records(BILLING, 5)
    appended = spool.append(bills, ships=True)
    kept = ids(waiting(spool))

    assert appended.refused == ()
    ((event_class, lost),) = appended.dropped
    assert event_class == "telemetry"
    assert kept == ids(old[lost:]) + ids(bills)
    assert spool.backlog().dropped == lost
    assert spool.used_bytes() <= 20 * size


def test_spool_full_of_what_must_not_be_lost_refuses_more_and_drops_what_may(tmp_path: Path, clock: Clock) -> None:
    """Push back, never loss: it is the writer who waits; our own alarm always has room."""
    size = len(records(BILLING, 1)[0].body) + ROW_BYTES
    spool = Spool(tmp_path / "s.sqlite", bytes_max=10 * size, wall_s=clock)
    bills = records(BILLING, 10)
    spool.append(bills, ships=True)
    more = [*records(TELEMETRY, 2), *records(BILLING, 2), *records("events.dropped", 1)]
    appended = spool.append(more, ships=True)

    assert appended.dropped == (("telemetry", 2),)
    assert appended.refused == (2, 3)
    assert ids(waiting(spool)) == [*ids(bills), more[4].event_id]
    spool.shipped([event.seq for event in waiting(spool)])
    assert spool.append(more[2:4], ships=True).refused == ()


def test_full_spool_that_nobody_empties_is_history_and_forgets_the_oldest(tmp_path: Path, clock: Clock) -> None:
    """Without a receiver nothing waits for one: nothing is refused, nothing counts as lost."""
    size = len(records(BILLING, 1)[0].body) + ROW_BYTES
    spool = Spool(tmp_path / "s.sqlite", bytes_max=10 * size, wall_s=clock)
    bills = records(BILLING, 25)
    for bill in bills:
        appended = spool.append([bill], ships=False)
        assert (appended.refused, appended.dropped) == ((), ())
    kept = ids(waiting(spool))

    assert kept == ids(bills)[-len(kept) :]
    assert 8 <= len(kept) <= 10


def test_retention_takes_shipped_events_and_without_a_receiver_all(spool: Spool, clock: Clock) -> None:
    """What waits for a receiver never ends by age."""
    told = records(BILLING, 3) + records(BILLING, 3, minute=10)
    spool.append(told, ships=True)
    spool.shipped([event.seq for event in waiting(spool)[:2]])
    clock.now_s = NOW_S + 660

    assert spool.expire(keep_s=120, ships=True) == 2
    assert ids(waiting(spool)) == ids(told[2:])
    assert spool.expire(keep_s=120, ships=False) == 1
    assert ids(waiting(spool)) == ids(told[3:])
    assert spool.backlog().oldest_age_s == pytest.approx(60, abs=1)


def test_person_is_forgotten(spool: Spool) -> None:
    """All of theirs, shipped or not, and nobody else's."""
    told = records(BILLING, 2, user="u-1") + records(BILLING, 2, user="u-11") + records(BILLING, 1)
    spool.append(told, ships=True)
    spool.shipped([waiting(spool)[0].seq])

    assert spool.forget("u-1") == 2
    assert ids(waiting(spool)) == ids(told[2:])
    assert spool.used_bytes() == sum(len(event.body) + ROW_BYTES for event in told[2:])


@pytest.mark.parametrize("spoil", ["head", "middle", "nothing of it"])
def test_damaged_file_is_put_aside_and_kept(tmp_path: Path, clock: Clock, spoil: str) -> None:
    """A new one begins; the old one is there for who wants to look."""
    file = tmp_path / "events.sqlite"
    spool = Spool(file, bytes_max=ROOMY, wall_s=clock)
    spool.append(records(BILLING, 200), ships=True)
    spool.close()
    data = bytearray(file.read_bytes())
    if spoil == "head":
        data[:100] = b"\xff" * 100
    elif spoil == "middle":
        data[60:] = b"\xff" * (len(data) - 60)
    else:
        data = bytearray(b"not a database at all, but long enough" * 100)
    file.write_bytes(data)
    again = Spool(file, bytes_max=ROOMY, wall_s=clock)
    again.append(records(BILLING, 1), ships=True)

    assert again.put_aside is not None
    assert again.put_aside.read_bytes() == bytes(data)
    assert len(waiting(again)) == 1


def test_damage_that_shows_later_is_told_and_the_file_put_aside(spool: Spool, tmp_path: Path, clock: Clock) -> None:
    """Its owner opens a new one; the message holds no SQL."""
    spool.append(records(BILLING, 300), ships=True)
    spool.close()
    file = tmp_path / "events.sqlite"
    data = bytearray(file.read_bytes())
    data[8_192:] = b"\xff" * (len(data) - 8_192)
    file.write_bytes(data)
    opened = Spool(file, bytes_max=ROOMY, wall_s=clock)
    with pytest.raises(SpoolDamagedError, match="is damaged"):
        waiting(opened)
    opened.close()
    anew = Spool(file, bytes_max=ROOMY, wall_s=clock, damaged=True)

    assert anew.put_aside is not None
    assert anew.append(records(BILLING, 1), ships=True).kept == 1


def test_full_disk_keeps_nothing_of_the_batch_and_loses_nothing_of_before(spool: Spool) -> None:
    """It says so in words; when there is room again it goes on by itself."""
    told = records(BILLING, 20)
    spool.append(told, ships=True)
    pages = spool._connection.execute("PRAGMA page_count").fetchone()[0]
    spool._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(InternalError, match="disk is full"):
        spool.append(records(BILLING, 500), ships=True)

    assert ids(waiting(spool)) == ids(told)
    spool._connection.execute("PRAGMA max_page_count=100000")
    assert spool.append(records(BILLING, 500), ships=True).kept == 500


def test_another_process_reads_beside_it(spool: Spool, tmp_path: Path) -> None:
    """The command line looks without asking anybody."""
    spool.append(records(BILLING, 3), ships=True)
    reader = sqlite3.connect(f"file:{tmp_path / 'events.sqlite'}?mode=ro", uri=True)

    assert reader.execute("SELECT COUNT(*) FROM event").fetchone() == (3,)
    reader.close()


class SpoolMachine(RuleBasedStateMachine):
    """Any history of commands, the file opened anew in between: nothing acknowledged is lost or there twice."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[str, str] = {}
        """Acknowledged events and where they stand."""
        self.spool = self.open()

    def open(self) -> Spool:
        return Spool(Path(self.folder.name) / "events.sqlite", bytes_max=ROOMY, wall_s=lambda: NOW_S)

    @rule(count=st.integers(1, 5), again=st.booleans(), event_type=st.sampled_from([BILLING, TELEMETRY, DEBUG]))
    def append(self, count: int, again: bool, event_type: str) -> None:
        told = records(event_type, count)
        for _ in range(2 if again else 1):
            self.spool.append(told, ships=True)
        self.model.update(dict.fromkeys(ids(told), "waiting"))

    @rule(count=st.integers(1, 4))
    def ship(self, count: int) -> None:
        batch = waiting(self.spool, docs_max=count)
        self.spool.shipped([event.seq for event in batch])
        self.model.update(dict.fromkeys(ids(batch), "shipped"))

    @rule()
    def refuse(self) -> None:
        for event in waiting(self.spool, docs_max=1):
            self.spool.dead(event.seq, status=400, reason="x")
            self.model[event.event_id] = "dead"

    @precondition(lambda self: "dead" in self.model.values())
    @rule(replay=st.booleans())
    def decide(self, replay: bool) -> None:
        dead = [key for key, where in self.model.items() if where == "dead"]
        if replay:
            assert self.spool.replay(None) == len(dead)
            self.model.update(dict.fromkeys(dead, "waiting"))
        else:
            assert self.spool.drop(None) == len(dead)
            for key in dead:
                del self.model[key]

    @rule()
    def open_again(self) -> None:
        self.spool.close()
        self.spool = self.open()

    @invariant()
    def is_as_the_model(self) -> None:
        by_state = {
            where: sorted(key for key, at in self.model.items() if at == where)
            for where in ("waiting", "dead", "shipped")
        }
        assert sorted(ids(waiting(self.spool))) == by_state["waiting"]
        assert sorted(letter.event_id for letter in self.spool.dead_letters(limit=1_000)) == by_state["dead"]
        backlog = self.spool.backlog()
        assert (backlog.count, backlog.dead) == (len(by_state["waiting"]), len(by_state["dead"]))
        sums = self.spool._connection.execute("SELECT SUM(size) FROM event").fetchone()[0] or 0
        assert self.spool.used_bytes() == sums

    def teardown(self) -> None:
        self.spool.close()
        self.folder.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=15, stateful_step_count=15, deadline=None)
