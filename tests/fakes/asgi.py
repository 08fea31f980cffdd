"""Clients of an ASGI app without sockets that stream as a network does; httpx's own transport waits for the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.types import ASGIApp, Message

CHUNKS_MAX = 64
END_TIMEOUT_S = 5.0


class _Exchange(httpx.AsyncByteStream):
    """One request and its answer; closing it is the client's disconnect."""

    def __init__(self, app: ASGIApp, scope: dict[str, Any], body: bytes) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue(CHUNKS_MAX)
        self._requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()
        self._task = asyncio.create_task(self._run(app, scope))

    async def head(self) -> Message:
        """Return the message that begins the answer."""
        message = await self._messages.get()
        if message["type"] == "failed":
            raise httpx.RemoteProtocolError(f"the app failed: {message['error']!r}")
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._messages.get()
            if message["type"] == "failed":
                raise httpx.RemoteProtocolError(f"the app failed: {message['error']!r}")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    async def aclose(self) -> None:
        """Disconnect and wait for the app to notice."""
        self._gone.set()
        while not self._messages.empty():
            self._messages.get_nowait()
        await asyncio.wait({self._task}, timeout=END_TIMEOUT_S)
        assert self._task.done(), "the app did not notice the disconnect"

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001  handed to the client, which raises it
            await self._messages.put({"type": "failed", "error": error})

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self._gone.is_set():
            await self._messages.put(message)


class StreamingAppTransport(httpx.AsyncBaseTransport):
    """Carries httpx requests into an ASGI app, streaming the answer as it is made."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Run one request; the response's body is still being made when this returns."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port or 80),
            "client": ("127.0.0.1", 1),
        }
        exchange = _Exchange(self._app, scope, await request.aread())
        head = await exchange.head()
        return httpx.Response(head["status"], headers=head["headers"], stream=exchange)
