"""Cuts a byte stream into server-sent events.

Incremental and pure: bytes in, events out, in whatever pieces they come. Comments (keep-alives) are no events.
Source: WHATWG HTML, server-sent events, "Interpreting an event stream"; ``id`` and ``retry`` are of no use here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EVENT_BYTES_MAX = 4 * 1024 * 1024
"""Largest event, hence also the largest line; a generated image or a whole tool call fits."""


class EventTooLargeError(ValueError):
    """The stream holds a line or an event beyond the bound."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event; ``name`` is "message" where the stream gives none."""

    name: str
    data: str
    whole: bool = True
    """False where the stream ended within the event's last line."""


class SseParser:
    """Parses one stream.

    Args:
        event_bytes_max: Bound of one line and of one event's data, in bytes. Positive.

    Not thread-safe: one parser belongs to one reader.
    """

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._line = bytearray()
        self._data: list[str] = []
        self._data_bytes = 0
        self._name = ""
        self._after_cr = False
        self._at_start = True
        # True where nothing of an event is held; not at the start, where a byte order mark may come.
        self._between = False

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that ``chunk`` completes.

        Raises:
            EventTooLargeError: a line or an event exceeds the bound.
        """
        # The usual chunk is whole events: no line of it needs to be kept.
        if self._between and chunk.endswith((b"\n\n", b"\n\r\n")) and len(chunk) <= self._event_bytes_max:
            text = chunk.decode("utf-8", errors="replace")
            if "\r" in text:
                text = text.replace("\r\n", "\n")
            if "\r" not in text:
                return self._take_events(text)
        events = self._take_lines(chunk)
        self._between = not (self._line or self._data or self._name or self._after_cr or self._at_start)
        return events

    def _take_events(self, text: str) -> list[SseEvent]:
        events: list[SseEvent] = []
        for block in text[:-2].split("\n\n"):
            if block.startswith("data: ") and "\n" not in block:
                events.append(SseEvent("message", block[6:]))
            else:
                for line in block.split("\n"):
                    self._take_line(line, events)
                self._dispatch(events)
        return events

    def _take_lines(self, chunk: bytes) -> list[SseEvent]:
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        # A lone CR ends a line as well; CRLF first, so that it counts once.
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events: list[SseEvent] = []
        for position, piece in enumerate(lines):
            if len(self._line) + len(piece) > self._event_bytes_max:
                raise EventTooLargeError("a line of the stream is too long")
            self._line += piece
            if position < len(lines) - 1:
                self._end_line(events)
        return events

    def end(self) -> list[SseEvent]:
        """Return what the end of the stream leaves: several servers omit the last blank line."""
        events: list[SseEvent] = []
        whole = not self._line
        if self._line:
            self._end_line(events)
        self._dispatch(events)
        return [replace(event, whole=whole) for event in events]

    def _end_line(self, events: list[SseEvent]) -> None:
        line = self._line.decode("utf-8", errors="replace")
        self._line.clear()
        if self._at_start:
            line, self._at_start = line.removeprefix("\ufeff"), False
        self._take_line(line, events)

    def _take_line(self, line: str, events: list[SseEvent]) -> None:
        if not line:
            self._dispatch(events)
            return
        field, _colon, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data_bytes += len(value)
            if self._data_bytes > self._event_bytes_max:
                raise EventTooLargeError("an event of the stream is too large")
            self._data.append(value)
        elif field == "event":
            self._name = value

    def _dispatch(self, events: list[SseEvent]) -> None:
        if self._data:
            events.append(SseEvent(self._name or "message", "\n".join(self._data)))
        self._data, self._data_bytes, self._name = [], 0, ""
