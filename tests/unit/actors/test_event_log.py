"""The keeper of events acknowledges what is on disk, and goes on by itself after a fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import orjson
import pytest

from actors.event_log import OWN_LINES_MAX, EventLog
from app.domain.chat import Json
from app.domain.errors import ConfigurationError, InternalError
from app.domain.events.batches import EventBatch
from app.domain.events.record import EventIds, EventRecord, Origin, Recorder
from app.domain.events.spec import ElasticsearchSpec, EventsSpec
from app.services.events.log_lines import LogLines
from app.storage.spool import Spool
from app.storage.spool_tables import ROW_BYTES

NOW_S = 1_795_262_400.0
SHIPS = EventsSpec(elasticsearch=ElasticsearchSpec(url="http://localhost:1"))
RECORDER = Recorder(Origin(node="test-1"), EventIds(1))


def records(count: int, event_type: str = "call.finished") -> list[EventRecord]:
    """Return that many events."""
    return [RECORDER.record(event_type, int(NOW_S * 1e9) + number, {}) for number in range(count)]


@pytest.fixture
async def log(tmp_path: Path) -> AsyncGenerator[EventLog, None]:
    """Return one with an empty directory."""
    opened = EventLog(str(tmp_path), SHIPS, wall_s=lambda: NOW_S)
    yield opened
    await opened.close()


async def waiting(log: EventLog) -> list[dict[str, Json]]:
    """Return the documents that wait."""
    return [orjson.loads(event.body) for event in await log.pending(0, 10_000, 10**9)]


async def test_batches_at_once_are_each_answered_for_themselves(log: EventLog) -> None:
    """Group commit: what was refused is said by its position in the teller's own batch."""
    size = len(records(1)[0].body) + ROW_BYTES
    await log.configure(EventsSpec(spool_bytes=12 * size, elasticsearch=SHIPS.elasticsearch))
    answers = await asyncio.gather(*(log.keep(EventBatch.of(records(5))) for _ in range(3)))

    assert [answer.refused for answer in answers] == [(), (), (2, 3, 4)]
    assert len(await waiting(log)) == 12
    assert "full" in (await log.backlog()).note


async def test_losses_are_told_as_an_event(log: EventLog) -> None:
    """With the next events that are written."""
    size = len(records(1, "call.retried")[0].body) + ROW_BYTES
    await log.configure(EventsSpec(spool_bytes=4 * size, elasticsearch=SHIPS.elasticsearch))
    await log.keep(EventBatch.of(records(9, "call.retried")))
    await log.keep(EventBatch.of(records(1)))

    (dropped,) = [told for told in await waiting(log) if told["event.action"] == "events.dropped"]
    assert (dropped["tutti.events.class"], dropped["tutti.events.dropped"]) == ("telemetry", 5)


def say(log: EventLog, words: str) -> None:
    """Let the keeper's process say something in its log."""
    LogLines(log).handle(logging.makeLogRecord({"msg": words, "levelname": "WARNING", "levelno": logging.WARNING}))


async def messages(log: EventLog) -> list[Json]:
    """Return the lines of logs that wait."""
    return [told["message"] for told in await waiting(log) if told["event.action"] == "log.line"]


async def test_own_lines_wait_for_a_write_and_cause_none(log: EventLog) -> None:
    """What is said of writing never leads to more of it; once on disk they are not written again."""
    say(log, "one")
    await asyncio.sleep(0)
    assert log._writing is None
    await log.keep(EventBatch.of(records(1)))
    await log.keep(EventBatch.of(records(1)))

    assert await messages(log) == ["one"]
    assert len(await waiting(log)) == 3


async def test_own_lines_are_bounded_and_kept_until_the_disk_takes_them(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for long fills no memory."""
    for number in range(OWN_LINES_MAX + 50):
        say(log, str(number))
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "append", full)
        with pytest.raises(InternalError):
            await log.keep(EventBatch.of(records(1)))
    await log.keep(EventBatch.of(records(1)))

    assert await messages(log) == [str(number) for number in range(OWN_LINES_MAX)]


async def test_losses_are_told_once_and_not_as_lines_too(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    """In a full spool a line more would be an event less, of which the next line would speak."""
    size = len(records(1, "call.retried")[0].body) + ROW_BYTES
    await log.configure(EventsSpec(spool_bytes=4 * size, elasticsearch=SHIPS.elasticsearch))
    logger = logging.getLogger("actors.event_log")
    logger.addHandler(LogLines(log))
    try:
        await log.keep(EventBatch.of(records(9, "call.retried")))
    finally:
        logger.removeHandler(logger.handlers[-1])

    assert "events of class telemetry are lost" in caplog.text
    assert not log._own_lines


async def test_damaged_file_is_replaced_while_we_run(log: EventLog, tmp_path: Path) -> None:
    """The command that met it succeeds in the new one; the old one is kept; the operator is told."""
    await log.keep(EventBatch.of(records(300)))
    await log.close()
    file = tmp_path / "events.sqlite"
    data = bytearray(file.read_bytes())
    data[8_192:] = b"\xff" * (len(data) - 8_192)
    file.write_bytes(data)
    again = EventLog(str(tmp_path), SHIPS, wall_s=lambda: NOW_S)
    await again.keep(EventBatch.of(records(2)))
    told = [document["event.action"] for document in await waiting(again)]
    await again.close()

    assert told == ["events.damaged", "call.finished", "call.finished"]
    assert (tmp_path / f"events.damaged-{int(NOW_S)}.sqlite").read_bytes() == bytes(data)


async def test_full_disk_is_told_and_ends_by_itself(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is acknowledged meanwhile; the log says it once, what waits was kept before."""
    await log.keep(EventBatch.of(records(3)))
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "append", full)
        for _ in range(3):
            with pytest.raises(InternalError, match="disk is full"):
                await log.keep(EventBatch.of(records(1)))
        assert caplog.text.count("disk is full") == 1
    await log.keep(EventBatch.of(records(1)))

    assert len(await waiting(log)) == 4
    assert (await log.backlog()).note == ""


def full(*_arguments: object, **_named: object) -> None:
    """Behave like a spool whose disk is full (its own test makes SQLite say so)."""
    raise InternalError("the spool of events cannot be used: its disk is full", remedy="free space there")


async def test_directory_that_cannot_be_made_is_told_to_every_teller(tmp_path: Path) -> None:
    """And tried again with the next command."""
    (tmp_path / "file").write_text("in the way")
    log = EventLog(str(tmp_path / "file" / "below"), SHIPS)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="cannot be written"):
            await log.keep(EventBatch.of(records(1)))
    assert await log.ping() != "ok"
    await log.close()


async def test_terms_follow_the_configuration(log: EventLog) -> None:
    """Every answer carries them."""
    await log.configure(EventsSpec(profile="genai-main", samples=(("request.finished", 0.1),)))
    kept = await log.keep(EventBatch.of(records(1)))

    assert kept.terms.profile == "genai-main"
    assert kept.terms.shares == (("request.finished", 0.1),)
