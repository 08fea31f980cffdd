"""The upstream HTTP client: one per event loop, shared by every adapter of an account actor.

No retries, no redirects, no proxies or certificates from the environment, no cookies, bounded pools, split timeouts.
``Exchange`` makes single requests and turns every transport failure into an ``UpstreamError``; what a response means
is for others to say. Directly on aiohttp: see docs/adr/0004-aiohttp-client.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import certifi

from app.domain.crash_points import CrashPoint, passes
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.trace_context import current
from app.providers.classify import garbage
from app.providers.sse import EventTooLargeError, SseEvent, SseParser

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 10.0
"""Waiting for a connection of a full pool, connecting included."""
CONNECTIONS_MAX = 1_000
KEEPALIVE_S = 15.0
"""Shorter than the servers' own: a POST on a connection that the server just closed cannot be repeated safely."""
BODY_BYTES_MAX = 32 * 1024 * 1024
ERROR_BODY_BYTES_MAX = 256 * 1024
STREAM_BYTES_MAX = 64 * 1024 * 1024
DRAIN_TIMEOUT_S = 0.25
"""What the end of a finished stream may take; then its connection is closed instead of kept."""

_TRANSPORT_ERRORS = (aiohttp.ClientError, OSError, ValueError)
# What fails before a byte of the request is sent. ValueError: an address or a header that cannot be sent at all.
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.NonHttpUrlClientError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class WireCall:
    """One HTTP request to a provider. Headers hold the key, the body the prompt: neither is shown."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    method: Literal["POST", "GET"] = "POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """A complete response."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """Case-insensitive; of a header that came twice, the first."""
    body: bytes = field(repr=False)


class _Shared:
    def __init__(self) -> None:
        self.session = _create_session()
        self.users = 0


_shared_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


def _create_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S, ssl=_tls_context()),
        # One timeout for all requests: the callers bound the whole, which differs, by the event loop.
        timeout=aiohttp.ClientTimeout(total=None, connect=POOL_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
        # An account's cookies must not follow another account's requests.
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # Answers are small; compression would only delay the tokens of a stream.
        headers={"accept-encoding": "identity", "user-agent": "tutti"},
        auto_decompress=False,
    )


@cache
def _tls_context() -> ssl.SSLContext:
    """Return the one TLS context: reading the certificates costs tens of milliseconds.

    By name, because without one the environment may say which certificates are trusted.
    """
    return ssl.create_default_context(cafile=certifi.where())


class Exchange:
    """Makes HTTP requests on behalf of one adapter.

    Args:
        provider: Name used in error messages.

    Belongs to the event loop of its first request. Not thread-safe.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._shared: _Shared | None = None

    async def fetch(self, call: WireCall, *, timeout_s: float) -> HttpReply:
        """Return the whole response, whatever its status.

        Raises:
            UpstreamError: CONNECTION, TIMEOUT, CUT or GARBAGE (too large, not HTTP).
        """
        response: aiohttp.ClientResponse | None = None
        try:
            async with asyncio.timeout(timeout_s) as clock:
                response = await self._send(call)
                body = await self._body(response)
                passes(CrashPoint.RECEIVED)
                return HttpReply(status=response.status, headers=response.headers, body=body)
        except _TRANSPORT_ERRORS as error:
            if clock.expired():
                failure = self._too_late(f"gave no complete answer within {timeout_s:g} s")
            else:
                failure = self._transport_error(error, call, began=response is not None and _is_success(response))
        finally:
            if response is not None:
                # Closes the connection unless the body was read to its end.
                response.release()
        # Raised out here, so that no context hangs on it: aiohttp's errors hold the request's headers, hence the key.
        raise failure

    @asynccontextmanager
    async def stream(self, call: WireCall, *, timeout_s: float, idle_timeout_s: float) -> AsyncIterator[EventStream]:
        """Open a streamed response; leaving the context closes its connection unless the stream has ended.

        Raises:
            UpstreamError: as ``fetch``; here for the time until the response's headers.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        failure: UpstreamError | None = None
        try:
            async with asyncio.timeout_at(deadline) as clock:
                response = await self._send(call)
        except _TRANSPORT_ERRORS as error:
            if clock.expired():
                failure = self._too_late(f"did not begin to answer within {timeout_s:g} s")
            else:
                failure = self._transport_error(error, call, began=False)
        if failure is not None:
            raise failure
        stream = EventStream(self, call, response, deadline=deadline, idle_timeout_s=idle_timeout_s)
        try:
            yield stream
        finally:
            stream._close()

    async def aclose(self) -> None:
        """Give the shared client up; the last user closes it. Idempotent."""
        shared, self._shared = self._shared, None
        if shared is None:
            return
        shared.users -= 1
        if shared.users == 0:
            loop = asyncio.get_running_loop()
            if _shared_by_loop.get(loop) is shared:
                del _shared_by_loop[loop]
            await shared.session.close()

    async def _send(self, call: WireCall) -> aiohttp.ClientResponse:
        """Return the response once its headers are there. A POST is never repeated; aiohttp may repeat a GET once."""
        shared = self._shared or self._join()
        trace, headers = current(), call.headers
        if trace is not None and trace.shared:
            headers = {**headers, "traceparent": trace.parent}
        passes(CrashPoint.BEFORE_SEND)
        response = await shared.session.request(
            call.method, call.url, headers=headers, data=call.body or None, allow_redirects=False
        )
        passes(CrashPoint.ACCEPTED)
        return response

    def _join(self) -> _Shared:
        loop = asyncio.get_running_loop()
        shared = _shared_by_loop.get(loop)
        if shared is None:
            shared = _shared_by_loop[loop] = _Shared()
        shared.users += 1
        self._shared = shared
        return shared

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the body within its bound; of a refusal as much as comes."""
        success = _is_success(response)
        bound = BODY_BYTES_MAX if success else ERROR_BODY_BYTES_MAX
        content, pieces, size_bytes = response.content, [], 0
        try:
            while piece := await content.readany():
                pieces.append(piece)
                size_bytes += len(piece)
                if size_bytes > bound:
                    if not success:
                        break
                    raise garbage(self._provider, f"sent more than {bound} bytes", billed=True)
                if content.at_eof():
                    break
        except (aiohttp.ClientError, OSError):
            if success:
                raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _too_late(self, what: str) -> UpstreamError:
        return UpstreamError(f"{self._provider} {what}", kind=UpstreamKind.TIMEOUT, billed=None)

    def _transport_error(self, error: Exception, call: WireCall, *, began: bool) -> UpstreamError:
        """Translate a failure below HTTP; ``began`` tells whether a successful response's headers had come."""
        origin = _origin(call.url)
        if isinstance(error, _NOT_SENT):
            return UpstreamError(
                f"cannot connect to {self._provider} at {origin!r} ({type(error).__name__}): check base_url and the "
                "network",
                kind=UpstreamKind.CONNECTION,
                billed=False,
            )
        if isinstance(error, aiohttp.ClientResponseError):
            return garbage(self._provider, f"at {origin!r} does not speak HTTP", billed=None)
        if began:
            return UpstreamError(f"{self._provider}'s answer broke off", kind=UpstreamKind.CUT, billed=None)
        # The request may have arrived: whether it was billed is unknown.
        return UpstreamError(
            f"{self._provider} closed the connection before it answered", kind=UpstreamKind.CONNECTION, billed=None
        )


class EventStream:
    """A streamed response: its head, then its events or, where it is a refusal, its body."""

    def __init__(
        self,
        exchange: Exchange,
        call: WireCall,
        response: aiohttp.ClientResponse,
        *,
        deadline: float,
        idle_timeout_s: float,
    ) -> None:
        self._exchange = exchange
        self._call = call
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._idle_timeout_s = idle_timeout_s
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._waits_until: float | None = None
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    @property
    def is_events(self) -> bool:
        """False where the content type says plainly that this is no event stream."""
        content_type = self.headers.get("content-type", "")
        return not content_type.startswith(("application/json", "text/html"))

    async def body(self) -> bytes:
        """Return the body of a response that is no event stream."""
        try:
            async with asyncio.timeout_at(self._deadline) as clock:
                return await self._exchange._body(self._response)
        except _TRANSPORT_ERRORS as error:
            if clock.expired():
                failure = self._exchange._too_late("gave no complete answer in time")
            else:
                failure = self._exchange._transport_error(error, self._call, began=_is_success(self._response))
        raise failure

    async def events(self) -> AsyncGenerator[SseEvent, None]:
        """Yield the events.

        Raises:
            UpstreamError: TIMEOUT (idle or whole), CUT, or GARBAGE (an event or the stream is too large).
        """
        parser, size_bytes = SseParser(), 0
        idle_deadline = self._loop.time() + self._idle_timeout_s
        while True:
            chunk = await self._next(idle_deadline)
            try:
                events = parser.feed(chunk) if chunk else parser.end()
            except EventTooLargeError:
                raise garbage(self._exchange._provider, "sent an event beyond the bound", billed=True) from None
            for event in events:
                yield event
            if not chunk:
                return
            size_bytes += len(chunk)
            if size_bytes > STREAM_BYTES_MAX:
                raise garbage(self._exchange._provider, "sent a stream beyond the bound", billed=True)
            if events:
                # Comments keep nothing alive; the consumer's own time between events does not count.
                idle_deadline = self._loop.time() + self._idle_timeout_s

    async def drain(self) -> None:
        """Read the rest of a stream that has said its last word, so that its connection can be kept."""
        if self._content.at_eof():
            return
        with contextlib.suppress(*_TRANSPORT_ERRORS):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while await self._content.readany():
                    pass

    async def _next(self, idle_deadline: float) -> bytes:
        """Return what has come, at least one byte; nothing at the end."""
        until = min(self._deadline, idle_deadline)
        self._watch(until)
        self._waits_until = until
        try:
            chunk: bytes = await self._content.readany()
            return chunk
        except _TRANSPORT_ERRORS as error:
            if not isinstance(error, _WaitedTooLongError):
                failure = self._exchange._transport_error(error, self._call, began=True)
            elif idle_deadline < self._deadline:
                failure = self._exchange._too_late("sent nothing for too long")
            else:
                failure = self._exchange._too_late("gave no complete answer in time")
        finally:
            self._waits_until = None
        raise failure

    def _watch(self, until: float) -> None:
        """Have the alarm ring at ``until`` or earlier.

        One alarm for many waits, moved when it rings: a timer for every chunk would cost as much as reading it.
        """
        if self._alarm is not None:
            if self._alarm_at <= until:
                return
            self._alarm.cancel()
        self._alarm_at = until
        self._alarm = self._loop.call_at(until, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._waits_until is None:
            # The consumer is busy with the last event; the next wait sets the alarm again.
            return
        if self._loop.time() < self._waits_until:
            self._watch(self._waits_until)
        else:
            self._content.set_exception(_WaitedTooLongError())

    def _close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        # Closes the connection unless the stream was read to its end.
        self._response.release()


class _WaitedTooLongError(TimeoutError):
    """Our own alarm rang, which no error of the network is to be taken for."""


def _is_success(response: aiohttp.ClientResponse) -> bool:
    return 200 <= int(response.status) < 300


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
