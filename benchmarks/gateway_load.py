"""Puts load on a gateway, in a process of its own whose CPU does not count: HTTP/1.1 keep-alive on bare sockets.

Its starter gives a job as JSON on the command line. It prints ``warm`` when the connections stand and have answered for
a while; an empty line on standard input then starts the measured part, and one line of JSON ends it.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

from benchmarks.gateway_upstream import CHUNK_EVERY_S, CHUNKS, MODEL, fast_loop

CONTENT = re.compile(rb'"content":\s*" word"')
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
PATIENCE_S = 60.0
FAILED_PAUSE_S = 0.05


@dataclass(slots=True)
class Seen:
    """What the measured part showed."""

    latencies_s: list[float] = field(default_factory=list)
    """Of a stream: until its first content."""
    failed: int = 0
    reconnected: int = 0
    chunks: int = 0
    said: str = ""
    """The start of one failed answer."""


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, request: bytes, seen: Seen, peer: tuple[str, int]) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self.request = request
        self._seen = seen
        self._buffer = b""
        self._began_s = 0.0
        self._first_s = 0.0
        self._chunks = 0
        self._answer: asyncio.Future[bool] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._finish(ok=False)

    async def ask(self, *, count: bool) -> bool:
        """Send the request and read the answer; False where it was none or the connection is gone."""
        if self._transport.is_closing():  # An idle connection may be closed at any time; a client opens another.
            await self._loop.create_connection(lambda: self, *self._peer)
            self._seen.reconnected += 1
        self._buffer, self._first_s, self._chunks = b"", 0.0, 0
        self._answer = self._loop.create_future()
        self._began_s = time.perf_counter()
        self._transport.write(self.request)
        try:
            ok = await asyncio.wait_for(self._answer, PATIENCE_S)
        except TimeoutError:
            ok = False
        if not count:
            return ok
        self._seen.chunks += self._chunks
        if ok:
            self._seen.latencies_s.append((self._first_s or time.perf_counter()) - self._began_s)
        else:
            self._seen.failed += 1
            self._seen.said = self._seen.said or self._buffer[:400].decode("latin-1")
        return ok

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._first_s:  # The rest of a stream: only counted.
            self._chunks += len(CONTENT.findall(data))
            self._buffer = (self._buffer + data)[-64:]
            if self._buffer.endswith(b"0\r\n\r\n"):
                self._finish(ok=self._chunks >= CHUNKS)
            return
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end + 2)
        if length is not None:
            if len(self._buffer) >= end + 4 + int(length[1]):
                self._finish(ok=self._buffer.startswith(b"HTTP/1.1 200"))
        elif CONTENT.search(self._buffer, end):
            self._first_s = time.perf_counter()
            self._chunks = len(CONTENT.findall(self._buffer, end))
        elif self._buffer.endswith(b"0\r\n\r\n"):
            self._finish(ok=b'"stream":true' not in self.request and self._buffer.startswith(b"HTTP/1.1 200"))

    def _finish(self, *, ok: bool) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(ok)


def request_bytes(url: str, headers: Mapping[str, str], *, stream: bool) -> bytes:
    """Return the request as it goes over the wire."""
    parts = urlsplit(url)
    document: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello, who are you?"}]}
    if stream:
        document["stream"] = True
    body = json.dumps(document, separators=(",", ":")).encode()
    lines = [f"POST {parts.path}/chat/completions HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def play(job: Mapping[str, object]) -> None:
    """Do what the job says: a closed loop for some seconds, or rounds of streams."""
    url, stream = str(job["url"]), bool(job["stream"])
    connections, seconds = int(str(job["connections"])), float(str(job["seconds"]))
    spread_s = float(str(job["spread_s"]))
    headers = job["headers"]
    assert isinstance(headers, dict)
    parts, seen = urlsplit(url), Seen()
    loop = asyncio.get_running_loop()
    plain = request_bytes(url, headers, stream=False)
    clients = []
    peer = (str(parts.hostname), int(parts.port or 80))
    for _ in range(connections):
        _transport, client = await loop.create_connection(lambda: Client(plain, seen, peer), *peer)
        clients.append(client)
    warm_until_s = time.perf_counter() + float(str(job["warm_s"]))
    await asyncio.gather(*(_repeat(client, warm_until_s, count=False) for client in clients))
    if stream:
        for client in clients:
            client.request = request_bytes(url, headers, stream=True)
    print("warm", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began_s = time.perf_counter()
    if stream:
        rounds = int(seconds)
        await asyncio.gather(
            *(_rounds(client, spread_s * number / connections, rounds) for number, client in enumerate(clients))
        )
    else:
        await asyncio.gather(*(_repeat(client, began_s + seconds, count=True) for client in clients))
    wall_s = time.perf_counter() - began_s
    for client in clients:
        client.close()
    print(
        json.dumps(
            {
                "wall_s": wall_s,
                "answered": len(seen.latencies_s),
                "failed": seen.failed,
                "reconnected": seen.reconnected,
                "chunks": seen.chunks,
                "said": seen.said,
                "latencies_s": seen.latencies_s,
            }
        ),
        flush=True,
    )


async def _repeat(client: Client, until_s: float, *, count: bool) -> None:
    """Ask until the time is over; at least once."""
    while True:
        ok = await client.ask(count=count)
        if not ok:
            await asyncio.sleep(FAILED_PAUSE_S)
        if time.perf_counter() >= until_s:
            return


async def _rounds(client: Client, delay_s: float, rounds: int) -> None:
    """Read some streams one after the other, beginning a little later than the others."""
    await asyncio.sleep(delay_s)
    for _ in range(rounds):
        await client.ask(count=True)


def stream_s(rounds: int, spread_s: float) -> float:
    """Return how long rounds of streams take at least."""
    return rounds * CHUNKS * CHUNK_EVERY_S + spread_s


if __name__ == "__main__":
    fast_loop()
    asyncio.run(play(json.loads(sys.argv[1])))
