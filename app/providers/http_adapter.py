"""The adapter of every provider that speaks HTTP: one upstream request a call, whatever the wire format.

The format (``wire.Wire``) translates and never does; this shell sends, reads, times out and cleans up. It never
retries. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, Json
from app.domain.errors import UpstreamError, UpstreamKind
from app.domain.gateway import EmbeddingRequest, EmbeddingResult
from app.providers.base import HealthReport
from app.providers.classify import classify_event, classify_response, garbage, has_error
from app.providers.embeddings import EmbeddingWire, no_embeddings
from app.providers.http_client import EventStream, Exchange, HttpReply, WireCall
from app.providers.payload import parse_json
from app.providers.rate_headers import read_observations
from app.providers.wire import Finder, ModelTable, StreamDecoder, Wire, broken_off, check_request, wire_key

HEALTH_TIMEOUT_S = 10.0
LOOK_AGAIN_S = 2.0
"""Between two looks for a call that was lost."""


class HttpAdapter:
    """Serves one account over HTTP; implements ``base.ProviderAdapter``.

    Args:
        account: Whose calls these are.
        models: The models it serves.
        wire: How the provider speaks.
        embeddings: How it speaks of embeddings; None where it has none.
    """

    def __init__(
        self, account: AccountSpec, models: ModelTable, wire: Wire, embeddings: EmbeddingWire | None = None
    ) -> None:
        self._account = account
        self._models = models
        self._wire = wire
        self._embeddings = embeddings
        self._finder = wire if isinstance(wire, Finder) and account.endpoint is EndpointClass.LOOKUP else None
        self._exchange = Exchange(wire.provider)
        self._flights = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._wire.provider} {self._account.name!r}>"

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        """See ``base.ProviderAdapter``."""
        check_request(request)
        call = self._keyed(self._wire.encode(request, stream=False), wire_key(request, stream=False))
        if request.lost_at_s is not None and self._finder is not None:
            found = await self._find(request, request.lost_at_s, timeout_s)
            if found is not None:
                return found
        reply = await self._fetch(call, timeout_s)
        result = self._wire.decode(self._json(reply), request)
        observations = read_observations(reply.headers, now_s=time.time())
        return replace(result, observations=observations) if observations else result

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        """See ``base.ProviderAdapter``."""
        check_request(request)
        call = self._keyed(self._wire.encode(request, stream=True), wire_key(request, stream=True))
        self._depart()
        try:
            timeout_s = min(timeout_s, self._account.timeout_s)
            async with self._exchange.stream(call, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s) as stream:
                await self._refuse(stream)
                observations = read_observations(stream.headers, now_s=time.time())
                async with aclosing(self._deltas(stream, self._wire.decoder(request))) as deltas:
                    async for delta in deltas:
                        yield replace(delta, observations=observations) if observations else delta
                        observations = ()
                await stream.drain()
        finally:
            self._arrive()

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        """See ``base.ProviderAdapter``."""
        if self._embeddings is None:
            raise no_embeddings(request.model, self._wire.provider)
        reply = await self._fetch(self._embeddings.encode(request), timeout_s)
        result = self._embeddings.decode(self._json(reply), request)
        observations = read_observations(reply.headers, now_s=time.time())
        return replace(result, observations=observations) if observations else result

    async def has_lost(self, request: ChatRequest, *, timeout_s: float) -> bool:
        """See ``services/gateway/lost_calls.Finder``; never where calls are not listed."""
        if self._finder is None or request.lost_at_s is None:
            return False
        return await self._find(request, request.lost_at_s, timeout_s) is not None

    def calculate_tokens(self, request: ChatRequest) -> int:
        """See ``base.ProviderAdapter``."""
        return self._models.tokens(request)

    def get_model_info(self, model: str) -> ModelInfo:
        """See ``base.ProviderAdapter``."""
        return self._models.get(model)

    async def health_check(self) -> HealthReport:
        """List the models: that shows the network, the address and the key, and costs no token."""
        started = time.monotonic()
        try:
            reply = await self._fetch(self._wire.list_models(), HEALTH_TIMEOUT_S)
            if reply.status in (404, 405):
                return HealthReport(ok=True, message="answers, but lists no models", latency_s=_since(started))
            names, complete = self._wire.decode_models(self._json(reply))
        except UpstreamError as error:
            return HealthReport(ok=False, message=error.message, kind=error.kind, latency_s=_since(started))
        wanted = {upstream for _public, upstream in self._account.models}
        missing = tuple(sorted(wanted - set(names))) if complete and names else ()
        message = f"answers; does not list {', '.join(map(repr, missing))}" if missing else "answers"
        return HealthReport(
            ok=not missing,
            message=message,
            kind=UpstreamKind.MODEL_MISSING if missing else None,
            latency_s=_since(started),
            models=names,
            models_missing=missing,
        )

    async def aclose(self) -> None:
        """See ``base.ProviderAdapter``."""
        self._closed = True
        try:
            async with asyncio.timeout(self._account.timeout_s):
                await self._idle.wait()
        except TimeoutError:
            pass
        await self._exchange.aclose()

    async def _deltas(self, stream: EventStream, decoder: StreamDecoder) -> AsyncGenerator[ChatDelta, None]:
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    try:
                        deltas: Sequence[ChatDelta] = decoder.feed(event)
                    except ValueError:
                        if not event.whole:
                            raise broken_off(self._wire.provider, began=decoder.began) from None
                        what = "sent an event that is not JSON"
                        raise garbage(self._wire.provider, what, billed=True if decoder.began else None) from None
                    for delta in deltas:
                        yield delta
                    if decoder.finished:
                        break
        except UpstreamError as error:
            if not decoder.complete:
                raise _in_stream(error, decoder) from None
            # Only bookkeeping was lost: the answer is whole, its usage is estimated.
        if not decoder.complete and not decoder.finished:
            raise broken_off(self._wire.provider, began=decoder.began)
        yield decoder.end()

    async def _refuse(self, stream: EventStream) -> None:
        """Raise what a streamed response's head already tells to be no answer."""
        if 200 <= stream.status < 300 and stream.is_events:
            return
        body = await stream.body()
        self._json(HttpReply(status=stream.status, headers=stream.headers, body=body))
        raise garbage(self._wire.provider, "answered without streaming", billed=True, status=stream.status)

    def _json(self, reply: HttpReply) -> Json:
        """Return the JSON of a success; raises UpstreamError for everything else."""
        body = self._success(reply)
        if has_error(body):
            raise classify_event(body, provider=self._wire.provider, began=False)
        return body

    def _success(self, reply: HttpReply) -> Json:
        """Return the JSON under a success status, which may speak of an error; raises UpstreamError."""
        provider = self._wire.provider
        if not 200 <= reply.status < 300:
            raise classify_response(reply.status, reply.headers, reply.body, provider=provider, now_s=time.time())
        try:
            return parse_json(reply.body)
        except ValueError:
            raise garbage(provider, "sent a body that is not JSON", billed=None, status=reply.status) from None

    def _keyed(self, call: WireCall, key: str | None) -> WireCall:
        """Return the request with our key, where the endpoint bills the same key once."""
        if key is None or self._account.endpoint is not EndpointClass.IDEMPOTENT:
            return call
        return replace(call, headers={**call.headers, "idempotency-key": key})

    async def _find(self, request: ChatRequest, lost_at_s: float, timeout_s: float) -> ChatResult | None:
        """Return the answer to an earlier sending, once the endpoint lists it; None where it certainly never will.

        Raises:
            UpstreamError: it cannot be looked for, so nothing may be sent; whether it was billed stays unknown.
        """
        assert self._finder is not None, "only asked of endpoints that list calls"
        until_s = time.monotonic() + timeout_s
        while True:
            # Looked at before the list is: what comes to be listed meanwhile is found the next time.
            overdue = time.time() - lost_at_s >= self._account.lookup_lag_s
            try:
                left_s = max(0.001, until_s - time.monotonic())
                found = self._finder.decode_found(self._json(await self._fetch(self._finder.find(request), left_s)))
            except UpstreamError as error:
                error.billed = None
                raise
            if found is not None:
                return self._wire.decode(found, request)
            if overdue:
                return None
            wait_s = min(LOOK_AGAIN_S, max(0.0, lost_at_s + self._account.lookup_lag_s - time.time()))
            await asyncio.sleep(wait_s)

    async def _fetch(self, call: WireCall, timeout_s: float) -> HttpReply:
        self._depart()
        try:
            return await self._exchange.fetch(call, timeout_s=min(timeout_s, self._account.timeout_s))
        finally:
            self._arrive()

    def _depart(self) -> None:
        """Count a call that closing waits for; ``_arrive`` ends it."""
        if self._closed:
            raise UpstreamError(
                f"the adapter of {self._account.name!r} is closed", kind=UpstreamKind.CONNECTION, billed=False
            )
        self._flights += 1
        self._idle.clear()

    def _arrive(self) -> None:
        self._flights -= 1
        if self._flights == 0:
            self._idle.set()


def _in_stream(error: UpstreamError, decoder: StreamDecoder) -> UpstreamError:
    """Return ``error`` as seen from the middle of an answer: what had come was billed."""
    if decoder.began:
        error.billed = True
        if error.kind is UpstreamKind.CONNECTION:
            error.kind = UpstreamKind.CUT
    return error


def _since(started: float) -> float:
    return time.monotonic() - started
