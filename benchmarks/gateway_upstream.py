"""A provider that costs next to nothing: OpenAI's chat format on a bare socket, 50 ms of latency, streams on a clock.

Run as a process of its own by ``benchmarks.gateway``; prints ``ready http://HOST:PORT``. Reads of a request only
its length and whether it streams; checks no key and enforces no limit: the simulator does that.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

LATENCY_S = 0.05
CHUNKS = 100
CHUNK_EVERY_S = 0.02
MODEL = "gpt-5-mini"
USAGE = b'{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}'
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_HEAD = b'{"id":"chatcmpl-1","object":"chat.completion%s","created":1700000000,"model":"gpt-5-mini","choices":[%s]%s}'


def _whole() -> bytes:
    choice = b'{"index":0,"message":{"role":"assistant","content":"Hello there, how are you?"},"finish_reason":"stop"}'
    body = _HEAD % (b"", choice, b',"usage":' + USAGE % (8, 17))
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


def _event(choices: bytes, more: bytes = b"") -> bytes:
    event = b"data: " + _HEAD % (b".chunk", choices, more) + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _delta(content: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":0,"delta":{%s},"finish_reason":%s}' % (content, finish)


WHOLE = _whole()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FIRST = _event(_delta(b'"role":"assistant","content":" word"'))
NEXT = _event(_delta(b'"content":" word"'))
LAST = (
    _event(_delta(b"", b'"stop"'))
    + _event(b"", b',"usage":' + USAGE % (CHUNKS, CHUNKS + 9))
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)
ABSENT = b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Connection(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._sent = 0
        self._began_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[: end + 2]
        length = _LENGTH.search(head)
        if length is not None:
            size = end + 4 + int(length[1])
            if len(self._buffer) < size:
                return
        elif b"chunked" in head.lower():
            if not self._buffer.endswith(b"0\r\n\r\n"):
                return
            size = len(self._buffer)
        else:
            size = end + 4
        body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
        if not head.startswith(b"POST "):
            self._write(ABSENT)
        elif _STREAM.search(body):
            self._sent, self._began_s = 0, self._loop.time() + LATENCY_S
            self._loop.call_at(self._began_s, self._stream)
        else:
            self._loop.call_later(LATENCY_S, self._write, WHOLE)

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _stream(self) -> None:
        if self._transport.is_closing():
            return
        if self._sent == CHUNKS:
            self._transport.write(LAST)
            return
        self._transport.write(STREAM_HEAD + FIRST if self._sent == 0 else NEXT)
        self._sent += 1
        self._loop.call_at(self._began_s + self._sent * CHUNK_EVERY_S, self._stream)


async def serve() -> None:
    """Serve on a free port of loopback until the starter ends this process or its pipe."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


def fast_loop() -> None:
    """Use uvloop where it is installed (Ray Serve brings it): what is not measured should cost little."""
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


if __name__ == "__main__":
    fast_loop()
    asyncio.run(serve())
