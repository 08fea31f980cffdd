"""A real HTTP server on loopback that plays recorded bytes and keeps what it was sent.

One recording is one JSON file: what we must send, and the provider's response as pieces of bytes. Knows nothing of the
adapters; nothing of the HTTP client is replaced.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Sent:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Playback:
    """The running server. Responses are played in order; the last one repeats."""

    responses: list[dict[str, Any]]
    sent: list[Sent] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client closed its connection while a response was still open."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a request has come."""
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (sent := await _read_request(reader)) is not None:
                self.sent.append(sent)
                self.arrived.set()
                response = self.responses[min(len(self.sent), len(self.responses)) - 1]
                if not await self._respond(response, reader, writer):
                    break
        except ConnectionError:
            self.hung_up.set()
        finally:
            writer.close()

    async def _respond(
        self, response: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Play one response; return whether the connection stays open."""
        if response.get("raw") is not None:
            writer.write(response["raw"].encode())
            await writer.drain()
            return False
        pieces = response.get("pieces") or [json.dumps(response.get("json"))]
        headers = {"content-type": "application/json", **response.get("headers", {})}
        writer.write(_head(response.get("status", 200), headers))
        for piece in pieces:
            data = piece.encode()
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            if "pause_s" in response:
                await asyncio.sleep(response["pause_s"])
        ending = response.get("ending", "whole")
        if ending.startswith("whole"):
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        elif ending == "hang":
            # Ends when the client gives up: reading then returns nothing.
            await reader.read(1)
            self.hung_up.set()
        return bool(ending == "whole")


@asynccontextmanager
async def playing(*responses: dict[str, Any]) -> AsyncIterator[Playback]:
    """Run a server that answers with ``responses``."""
    playback = Playback(list(responses))
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(playback.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    playback.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield playback
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def recording(name: str) -> dict[str, Any]:
    """Return the recording ``provider/name``."""
    loaded: dict[str, Any] = json.loads((RECORDINGS / f"{name}.json").read_text())
    return loaded


def recordings(provider: str) -> list[str]:
    """Return the names of all recordings of one provider."""
    return sorted(f"{provider}/{path.stem}" for path in (RECORDINGS / provider).glob("*.json"))


def sse(*events: Any, done: bool = True) -> dict[str, Any]:
    """Return a response that streams ``events`` as OpenAI does."""
    pieces = [f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events]
    return {"headers": {"content-type": "text/event-stream"}, "pieces": pieces + ["data: [DONE]\n\n"] * done}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """Return one chunk of an OpenAI stream."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


ANSWER = {"json": {"choices": [{"index": 0, "message": {"content": "Here."}, "finish_reason": "stop"}]}}
"""A whole answer."""
HALF: dict[str, dict[str, Any]] = {
    "openai": sse(chunk({"content": "He"}), chunk({"content": "re"}), done=False),
    "gemini": sse({"candidates": [{"content": {"parts": [{"text": "Here"}]}, "index": 0}]}, done=False),
    "anthropic": sse(
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Here"}},
        done=False,
    ),
}
"""By provider: a stream that ends before its answer does."""


async def _read_request(reader: asyncio.StreamReader) -> Sent | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Sent(method, path, headers, json.loads(body) if body else None)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Played", "transfer-encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
