"""The upstream HTTP client: one per event loop, shared by every adapter of an account actor.

No retries, no redirects, no proxies or certificates from the environment, no cookies, bounded pools, split timeouts.
``Exchange`` makes single requests and turns every transport failure into an ``UpstreamError``; what a response means
is for others to say.
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
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from app.domain.errors import UpstreamError, UpstreamKind
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

# aiohttp errors that the transport passes on unmapped, beside the mapped ones.
_TRANSPORT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError)


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
    body: bytes = field(repr=False)


class _Shared:
    def __init__(self) -> None:
        self.client = _create_client()
        self.users = 0


_shared_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


def _create_client() -> httpx.AsyncClient:
    # An account's cookies must not follow another account's requests: neither layer keeps any.
    nobody = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    tls = _tls_context()

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEPALIVE_S, ssl=tls)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)

    return httpx.AsyncClient(
        transport=AiohttpTransport(verify=tls, trust_env=False, client=session),
        cookies=nobody,
        follow_redirects=False,
        trust_env=False,
        # Answers are small; compression would only delay the tokens of a stream.
        headers={"accept-encoding": "identity", "user-agent": "tutti"},
    )


@cache
def _tls_context() -> ssl.SSLContext:
    """Return the one TLS context: reading the certificates costs tens of milliseconds."""
    return httpx.create_ssl_context(trust_env=False)


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
        began = False
        try:
            async with asyncio.timeout(timeout_s), self._open(call, timeout_s) as response:
                began = response.is_success
                body = await self._body(response)
                return HttpReply(status=response.status_code, headers=response.headers, body=body)
        except TimeoutError:
            failure = self._too_late(f"gave no complete answer within {timeout_s:g} s")
        except _TRANSPORT_ERRORS as error:
            failure = self._transport_error(error, call, began=began)
        # Raised out here, so that no context hangs on it: aiohttp's errors hold the request's headers, hence the key.
        raise failure

    @asynccontextmanager
    async def stream(self, call: WireCall, *, timeout_s: float, idle_timeout_s: float) -> AsyncIterator[EventStream]:
        """Open a streamed response; leaving the context closes its connection unless the stream has ended.

        Raises:
            UpstreamError: as ``fetch``; here for the time until the response's headers.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        opened = self._open(call, timeout_s)
        failure: UpstreamError | None = None
        try:
            async with asyncio.timeout_at(deadline):
                response = await opened.__aenter__()
        except TimeoutError:
            failure = self._too_late(f"did not begin to answer within {timeout_s:g} s")
        except _TRANSPORT_ERRORS as error:
            failure = self._transport_error(error, call, began=False)
        if failure is not None:
            raise failure
        try:
            yield EventStream(self, call, response, deadline=deadline, idle_timeout_s=idle_timeout_s)
        finally:
            await opened.__aexit__(None, None, None)

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
            await shared.client.aclose()

    @asynccontextmanager
    async def _open(self, call: WireCall, timeout_s: float) -> AsyncIterator[httpx.Response]:
        # The transport's "pool" bounds pool and connecting together, "read" each read; the callers bound the whole.
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=POOL_TIMEOUT_S)
        request = self._client().build_request(
            call.method, call.url, headers=dict(call.headers), content=call.body or None, timeout=timeout
        )
        response = await self._client().send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    def _client(self) -> httpx.AsyncClient:
        if self._shared is None:
            loop = asyncio.get_running_loop()
            shared = _shared_by_loop.get(loop)
            if shared is None:
                shared = _shared_by_loop[loop] = _Shared()
            shared.users += 1
            self._shared = shared
        return self._shared.client

    async def _body(self, response: httpx.Response) -> bytes:
        """Read the body within its bound; of a refusal as much as comes."""
        body = bytearray()
        bound = BODY_BYTES_MAX if response.is_success else ERROR_BODY_BYTES_MAX
        try:
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > bound:
                    if not response.is_success:
                        break
                    raise garbage(self._provider, f"sent more than {bound} bytes", billed=True)
        except _TRANSPORT_ERRORS:
            if response.is_success:
                raise
        return bytes(body)

    def _too_late(self, what: str) -> UpstreamError:
        return UpstreamError(f"{self._provider} {what}", kind=UpstreamKind.TIMEOUT, billed=None)

    def _transport_error(self, error: Exception, call: WireCall, *, began: bool) -> UpstreamError:
        """Translate a failure below HTTP; ``began`` tells whether a successful response's headers had come."""
        cause = error.__cause__ or error
        origin = _origin(call.url)
        if isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | httpx.InvalidURL):
            return UpstreamError(
                f"cannot connect to {self._provider} at {origin!r} ({type(cause).__name__}): check base_url and the "
                "network",
                kind=UpstreamKind.CONNECTION,
                billed=False,
            )
        if isinstance(error, aiohttp.ClientResponseError | httpx.DecodingError):
            return garbage(self._provider, f"at {origin!r} does not speak HTTP", billed=None)
        if isinstance(cause, TimeoutError):
            return self._too_late("did not answer in time")
        if began:
            return UpstreamError(f"{self._provider}'s answer broke off", kind=UpstreamKind.CUT, billed=None)
        # The request may have arrived: whether it was billed is unknown.
        return UpstreamError(
            f"{self._provider} closed the connection before it answered", kind=UpstreamKind.CONNECTION, billed=None
        )


class EventStream:
    """A streamed response: its head, then its events or, where it is a refusal, its body."""

    def __init__(
        self, exchange: Exchange, call: WireCall, response: httpx.Response, *, deadline: float, idle_timeout_s: float
    ) -> None:
        self._exchange = exchange
        self._call = call
        self._response = response
        self._deadline = deadline
        self._idle_timeout_s = idle_timeout_s
        # A response can be iterated once only.
        self._chunks = response.aiter_bytes()
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    @property
    def is_events(self) -> bool:
        """False where the content type says plainly that this is no event stream."""
        content_type = self.headers.get("content-type", "")
        return not content_type.startswith(("application/json", "text/html"))

    async def body(self) -> bytes:
        """Return the body of a response that is no event stream."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._exchange._body(self._response)
        except TimeoutError:
            failure = self._exchange._too_late("gave no complete answer in time")
        except _TRANSPORT_ERRORS as error:
            failure = self._exchange._transport_error(error, self._call, began=self._response.is_success)
        raise failure

    async def events(self) -> AsyncGenerator[SseEvent, None]:
        """Yield the events.

        Raises:
            UpstreamError: TIMEOUT (idle or whole), CUT, or GARBAGE (an event or the stream is too large).
        """
        loop = asyncio.get_running_loop()
        parser, size_bytes = SseParser(), 0
        idle_deadline = loop.time() + self._idle_timeout_s
        while True:
            chunk = await self._next(idle_deadline)
            try:
                events = parser.end() if chunk is None else parser.feed(chunk)
            except EventTooLargeError:
                raise garbage(self._exchange._provider, "sent an event beyond the bound", billed=True) from None
            for event in events:
                yield event
            if chunk is None:
                return
            size_bytes += len(chunk)
            if size_bytes > STREAM_BYTES_MAX:
                raise garbage(self._exchange._provider, "sent a stream beyond the bound", billed=True)
            if events:
                # Comments keep nothing alive; the consumer's own time between events does not count.
                idle_deadline = loop.time() + self._idle_timeout_s

    async def drain(self) -> None:
        """Read the rest of a stream that has said its last word, so that its connection can be kept."""
        with contextlib.suppress(TimeoutError, *_TRANSPORT_ERRORS):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                async for _chunk in self._chunks:
                    pass

    async def _next(self, idle_deadline: float) -> bytes | None:
        try:
            async with asyncio.timeout_at(min(self._deadline, idle_deadline)):
                return await anext(self._chunks, None)
        except TimeoutError:
            what = "sent nothing for too long" if idle_deadline < self._deadline else "gave no complete answer in time"
            failure = self._exchange._too_late(what)
        except _TRANSPORT_ERRORS as error:
            failure = self._exchange._transport_error(error, self._call, began=True)
        raise failure


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
