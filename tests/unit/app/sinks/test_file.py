"""Files of events: whole lines, each event once, whatever was in the middle of being written when somebody died."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import orjson
import pytest

from app.domain.events.delivery import ALREADY, STORED, Delivery, Trouble
from app.domain.events.spec import FileSpec
from app.domain.events.spooled import SpooledEvent
from app.sinks.file import NAME, FileSink


def event(number: int) -> SpooledEvent:
    """Return an event as sources make them: whole paths as keys."""
    body = orjson.dumps({"@timestamp": "2026-11-21T10:00:00Z", "event.id": f"e{number}", "message": "x" * 50})
    return SpooledEvent(seq=number, event_id=f"e{number}", index_date="2026.11.21", body=body)


def deliver(sink: FileSink, *numbers: int) -> Delivery:
    """Deliver these events."""
    return asyncio.run(sink.deliver([event(number) for number in numbers]))


def ids(*files: Path) -> list[str]:
    """Return the ids of the lines, all of which must be whole."""
    return [orjson.loads(line)["event.id"] for file in files for line in file.read_bytes().splitlines()]


def test_events_are_whole_lines_in_order(tmp_path: Path) -> None:
    """One document a line, as they came."""
    sink = FileSink(FileSpec(folder=str(tmp_path / "new")))
    first, second = deliver(sink, 1, 2), deliver(sink, 3)

    assert first.outcomes == (STORED, STORED)
    assert second.outcomes == (STORED,)
    assert ids(tmp_path / "new" / NAME) == ["e1", "e2", "e3"]


def test_after_a_crash_half_a_line_is_cut_off_and_nothing_stands_there_twice(tmp_path: Path) -> None:
    """Written, and died before the source heard of it: the next life finds the ids among the last lines."""
    deliver(FileSink(FileSpec(folder=str(tmp_path))), 1, 2)
    with (tmp_path / NAME).open("ab") as file:
        file.write(event(3).body[:40])
    again = deliver(FileSink(FileSpec(folder=str(tmp_path))), 2, 3, 4)

    assert again.outcomes == (ALREADY, STORED, STORED)
    assert ids(tmp_path / NAME) == ["e1", "e2", "e3", "e4"]


def test_full_files_take_numbers_and_the_oldest_goes(tmp_path: Path) -> None:
    """Three files of two events at most; what was written just before the turn is remembered behind it."""
    spec = FileSpec(folder=str(tmp_path), file_bytes=2 * (len(event(1).body) + 1), files=3)
    sink = FileSink(spec)
    for number in range(1, 10):
        deliver(sink, number)
    again = deliver(FileSink(spec), 8, 9, 10)

    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["events.00000004.ndjson", "events.00000005.ndjson"]
    assert ids(*(tmp_path / name for name in files)) == ["e7", "e8", "e9", "e10"]
    assert again.outcomes == (ALREADY, ALREADY, STORED)


def test_a_disk_that_refuses_is_a_trouble_and_not_an_end(tmp_path: Path) -> None:
    """A file stands where the folder should be; once it is gone, events are written."""
    folder = tmp_path / "logs"
    folder.write_text("in the way")
    sink = FileSink(FileSpec(folder=str(folder)))
    refused = deliver(sink, 1)
    folder.unlink()

    assert refused.trouble is Trouble.BUSY
    assert str(folder) in refused.reason
    assert deliver(sink, 1).outcomes == (STORED,)


def test_half_a_batch_that_the_disk_took_is_not_left_as_half_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full in the middle of it: what is there afterwards is whole lines, each event once."""
    sink = FileSink(FileSpec(folder=str(tmp_path)))
    deliver(sink, 1)
    write = os.write

    def half(descriptor: int, text: bytes) -> int:
        write(descriptor, text[: len(text) // 2 - 5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    full = deliver(sink, 2, 3, 4)
    monkeypatch.undo()
    again = deliver(sink, 2, 3, 4)

    assert full.trouble is Trouble.BUSY
    assert again.outcomes == (ALREADY, STORED, STORED)
    assert ids(tmp_path / NAME) == ["e1", "e2", "e3", "e4"]
