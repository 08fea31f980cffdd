"""Files as the receiver of events: one ECS document a line, for Filebeat, Vector, a collector, or people.

A batch counts once it is on disk (fsync). The newest file is ``events.ndjson``; when it is full it takes a number, and
the oldest of them goes. After a crash a half-written line is cut off, and events whose acknowledgement was lost are
found among the last that were written, so that they do not stand there twice.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import orjson

from app.domain.events.delivery import ALREADY, STORED, Delivery, Outcome, Trouble
from app.domain.events.spec import FileSpec
from app.domain.events.spooled import SpooledEvent

NAME = "events.ndjson"
REMEMBERED = 50_000
"""Ids: far more than can be under way when somebody dies."""
TAIL_BYTES = 40 * 1024 * 1024
_NUMBERED = re.compile(r"events\.(\d{8})\.ndjson")


class FileSink:
    """The port ``EventSink``.

    Args:
        spec: Where, how large, how many.

    Not thread-safe: one batch at a time.
    """

    name = "file"

    def __init__(self, spec: FileSpec) -> None:
        self._spec = spec
        self._folder = Path(spec.folder).expanduser()
        self._descriptor: int | None = None
        self._size = 0
        self._order: deque[str] = deque()
        self._known: set[str] = set()
        self._writing = asyncio.Lock()

    async def deliver(self, events: Sequence[SpooledEvent]) -> Delivery:
        """Write them; never raises for what the disk does."""
        async with self._writing:
            try:
                return Delivery(outcomes=await asyncio.to_thread(self._write, events))
            except OSError as error:
                # What was written of it is cut off when the file is opened again.
                self._let_go()
                return Delivery(trouble=Trouble.BUSY, reason=f"{self._folder}: {error.strerror}")

    async def aclose(self) -> None:
        """Close the file."""
        self._let_go()

    def _write(self, events: Sequence[SpooledEvent]) -> tuple[Outcome, ...]:
        descriptor = self._descriptor if self._descriptor is not None else self._open()
        new = [event for event in events if event.event_id not in self._known]
        text = b"".join(event.body.replace(b"\n", b" ") + b"\n" for event in new)
        outcomes = tuple(ALREADY if event.event_id in self._known else STORED for event in events)
        written = 0
        while written < len(text):
            written += os.write(descriptor, text[written:])
        os.fsync(descriptor)
        self._size += len(text)
        for event in new:
            self._remember(event.event_id)
        if self._size >= self._spec.file_bytes:
            self._turn()
        return outcomes

    def _open(self) -> int:
        """Open the newest file behind its last whole line, knowing what stands there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / NAME
        self._order.clear()
        self._known.clear()
        numbered = self._numbered()
        if numbered:
            self._learn(self._folder / numbered[-1])
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        size = os.fstat(descriptor).st_size
        tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
        whole = tail.rfind(b"\n") + 1
        self._size = size - len(tail) + whole
        os.ftruncate(descriptor, self._size)
        os.lseek(descriptor, 0, os.SEEK_END)
        self._learn(path)
        self._descriptor = descriptor
        return descriptor

    def _learn(self, path: Path) -> None:
        """Remember the ids of its last lines."""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
        for line in lines[-REMEMBERED:]:
            try:
                document = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # the first of the tail may be half a line
            event_id = document.get("event.id") if isinstance(document, dict) else None
            if isinstance(event_id, str):
                self._remember(event_id)

    def _remember(self, event_id: str) -> None:
        self._known.add(event_id)
        self._order.append(event_id)
        if len(self._order) > REMEMBERED:
            self._known.discard(self._order.popleft())

    def _turn(self) -> None:
        """Give the full file its number, and delete the oldest of those above the bound."""
        self._let_go()
        numbered = self._numbered()
        last = int(numbered[-1].split(".")[1]) if numbered else 0
        (self._folder / NAME).rename(self._folder / f"events.{last + 1:08d}.ndjson")
        for name in self._numbered()[: -(self._spec.files - 1)]:
            (self._folder / name).unlink()

    def _numbered(self) -> list[str]:
        return sorted(entry.name for entry in self._folder.iterdir() if _NUMBERED.fullmatch(entry.name))

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
