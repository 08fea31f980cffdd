"""One HTTP exchange over ASGI that notices a client's departure and can be broken on purpose.

The server's protocol class puts the transport into the ASGI state under ``transport``; without it (another ASGI
server) a connection is broken by raising, which resets nothing but ends the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct

from starlette.types import Receive, Scope, Send

from app.simulator.exchange import HttpAnswer

TRANSPORT = "transport"
BODY_BYTES_MAX = 64 * 1024 * 1024
_RESET_ON_CLOSE = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""SO_LINGER with no time to linger: closing sends RST instead of FIN."""


class ClientGone(Exception):
    """The client closed the connection."""


class BodyTooLarge(Exception):
    """The request's body is above the limit."""


class Connection:
    """The answering side of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self.started = False

    async def read_body(self) -> bytes:
        """Return the request's body.

        Raises:
            ClientGone: the client left before it was complete.
            BodyTooLarge: it exceeds 64 MiB.
        """
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > BODY_BYTES_MAX:
                raise BodyTooLarge
            if not message.get("more_body", False):
                return b"".join(parts)

    async def start(self, status: int, headers: dict[str, str], *, length: int | None = None) -> None:
        """Send the head; without ``length`` the body is chunked."""
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if length is not None:
            raw.append((b"content-length", b"%d" % length))
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def write(self, data: bytes) -> None:
        """Send a part of the body.

        Raises:
            ClientGone: the client has left.
        """
        if self._watch is not None and self._watch.done():
            raise ClientGone
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(self, answer: HttpAnswer) -> None:
        """Send a whole JSON answer."""
        headers = {"content-type": "application/json", **answer.headers}
        await self.start(answer.status, headers, length=len(answer.body))
        await self.end(answer.body)

    async def pause(self, seconds: float | None) -> None:
        """Wait; None waits until the client leaves.

        Raises:
            ClientGone: the client left meanwhile.
        """
        watch = self._watching()
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
        else:
            await asyncio.wait({watch}, timeout=seconds)
        if watch.done():
            raise ClientGone

    async def drop(self, *, reset: bool = False) -> None:
        """Close the connection in the middle of the exchange; ``reset`` sends RST and discards what is unsent."""
        transport: asyncio.Transport | None = self._scope.get("state", {}).get(TRANSPORT)
        if transport is None:
            raise ConnectionAbortedError("dropped on purpose")
        if reset:
            link = transport.get_extra_info("socket")
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        else:
            transport.close()
        # The server must have noticed before we return, or it would answer for us.
        await asyncio.wait({self._watching()}, timeout=5)

    async def leave(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    def _watching(self) -> asyncio.Task[None]:
        if self._watch is None:
            self._watch = asyncio.create_task(self._until_gone())
        return self._watch

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
