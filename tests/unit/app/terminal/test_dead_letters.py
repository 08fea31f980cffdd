"""`tutti events dead`: what was refused is shown with the reason, sent again or dropped, in both places."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from app.domain.events.record import EventIds, Origin, Recorder
from app.storage import outbox
from app.storage.database import open_database
from app.storage.spool import Spool
from tests.unit.app.terminal.test_events_commands import Machine


class Refused(Machine):
    """Two events in the spool and one in the outbox, all of which their receiver refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        recorder = Recorder(Origin(node="test-1"), EventIds(7))
        records = [recorder.record("log.line", time.time_ns(), {"message": text}) for text in ("one", "two")]
        with self.spool() as spool:
            spool.append(records, ships=True)
            for event in spool.pending(0, docs_max=10, bytes_max=10**6):
                spool.dead(event.seq, status=400, reason="document_parsing_exception: no")
        engine = open_database(self.data_dir, None)
        with engine.begin() as connection:
            outbox.tell(connection, [("run.accepted", time.time_ns(), {"run_id": "r"})])
            (told,) = outbox.pending(connection, 0, docs_max=10, bytes_max=10**6)
            outbox.dead(connection, told.seq, status=413, reason="too large", now_s=time.time())
        engine.dispose()
        self.ids = [record.event_id for record in records] + [told.event_id]

    def spool(self) -> ClosingSpool:
        return ClosingSpool(self.data_dir / "events.sqlite", bytes_max=10**7, wall_s=time.time)

    def listed(self) -> list[str]:
        result = self.play("events", "dead", "list", "--json")
        assert result.exit_code == 0, result.stderr
        return [row["event_id"] for row in json.loads(result.stdout)]

    def waiting(self) -> list[str]:
        with self.spool() as spool:
            waits = spool.pending(0, docs_max=10, bytes_max=10**6)
        return [event.event_id for event in waits if b"operator.acted" not in event.body]


class ClosingSpool(Spool):
    """A spool that is closed behind a block."""

    def __enter__(self) -> ClosingSpool:
        return self

    def __exit__(self, *_problem: object) -> None:
        self.close()


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    return Refused(tmp_path)


def test_list_shows_both_places_with_the_receivers_words(refused: Refused) -> None:
    """Oldest refusal first; the document is there for whoever must mend it."""
    rows = json.loads(refused.play("events", "dead", "list", "--json").stdout)
    shown = refused.play("events", "dead", "list").stdout

    assert [row["event_id"] for row in rows] == refused.ids
    assert [row["in"] for row in rows] == ["spool", "spool", "outbox"]
    assert rows[0]["document"]["message"] == "one"
    assert (rows[2]["status"], rows[2]["reason"]) == (413, "too large")
    assert "document_parsing_exception" in shown


def test_replay_lets_one_wait_again_and_all_lets_the_rest(refused: Refused) -> None:
    """What waits is what the shipper sends; that it was done stays as an event."""
    one = refused.play("events", "dead", "replay", refused.ids[1])
    listed, waiting = refused.listed(), refused.waiting()
    rest = refused.play("events", "dead", "replay", "--all", "--json")

    assert one.stdout == "1 sent again\n"
    assert listed == [refused.ids[0], refused.ids[2]]
    assert waiting == [refused.ids[1]]
    assert json.loads(rest.stdout) == {"replay": 2}
    assert refused.listed() == []
    assert [row["event.reason"] for row in refused.found("--where", "type=operator.acted")] == ["replay", "replay"]


def test_drop_forgets_it(refused: Refused) -> None:
    """It is nowhere then, and waits for nobody."""
    result = refused.play("events", "dead", "drop", refused.ids[0], refused.ids[2])

    assert result.stdout == "2 dropped\n"
    assert refused.listed() == [refused.ids[1]]
    assert refused.waiting() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("replay",), "--all"), (("drop", "--all", "x"), "--all"), (("replay", "nothing"), "no dead letter")],
)
def test_deed_on_nothing_is_refused(refused: Refused, arguments: tuple[str, ...], said: str) -> None:
    """Nobody drops everything by leaving something out."""
    result = refused.play("events", "dead", *arguments)

    assert result.exit_code == 2
    assert said in result.stderr
    assert len(refused.listed()) == 3
