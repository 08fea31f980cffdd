"""What a client format is: it reads a body into ``Asked`` and writes answers, streams and errors back in its own shape.

Pure: no HTTP, no clock. A field that is neither known nor passed on is refused by name, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from app.domain.chat import ChatDelta, ChatResult, Json
from app.domain.gateway import Asked, Served


class AnswerStream(Protocol):
    """Writes one streamed answer as server-sent events. Every method returns bytes for the wire, maybe none."""

    def start(self) -> bytes:
        """Open the stream, once the first delta is there."""

    def feed(self, delta: ChatDelta) -> bytes:
        """Write one delta."""

    def end(self) -> bytes:
        """Close a stream whose last delta was fed."""

    def fail(self, error: Mapping[str, Json]) -> bytes:
        """Close a broken stream with an error body of this format (see ``ClientFormat.error``)."""


class ClientFormat(Protocol):
    """One wire format that clients speak."""

    def parse(self, body: Mapping[str, Json]) -> Asked:
        """Read a request.

        Raises:
            RequestError: a field is missing, wrong or cannot be understood; ``param`` names it as the client wrote it.
        """

    def render(self, result: ChatResult, asked: Asked, served: Served) -> dict[str, Json]:
        """Write a complete answer."""

    def stream(self, asked: Asked, served: Served) -> AnswerStream:
        """Write a streamed answer."""

    def error(self, status: int, kind: str, message: str, *, param: str | None, request_id: str) -> dict[str, Json]:
        """Write an error as this format's SDKs understand it; ``kind`` is the type of ``app/http/errors.py``."""
