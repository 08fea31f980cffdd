"""The gateway's hot path: one ASGI function for every chat format, without a framework in between.

Reads, asks the gateway, writes. A client that goes away, or takes nothing for too long, leaves its call.
``x-request-id`` is not written here: Ray Serve names every request and its answer, and takes a name that the client
gives.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing

import orjson
from starlette.types import Receive, Scope, Send

from app.domain.accounts import Orchestra
from app.domain.callers import CallerIndex, index_callers
from app.domain.chat import ChatDelta, Json, Usage
from app.domain.errors import GatewayError, QuotaError
from app.domain.gateway import AUTO, Caller
from app.http.errors import HttpProblem
from app.http.formats.base import AnswerStream, ClientFormat
from app.http.gateway import reading
from app.http.gateway.answer_headers import Headers, answer_headers, limit_headers
from app.http.gateway.keepalive import KeepAlive
from app.http.gateway.patience import Patience
from app.http.gateway.telling import CLIENT_GONE, RequestTold
from app.http.gateway.wire_errors import headers_of, message_of, problem_type, status_of
from app.services.gateway.gateway import DEADLINE_S, ClientCall, Facts, Gateway
from app.services.telemetry.instruments import OVERHEAD

JSON_TYPE = (b"content-type", b"application/json")
STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
STREAM_HEADERS = [STREAM_TYPE, (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]

GRANTED_PERIOD_S = 3_600.0
"""Between two times that a key's use is told."""

logger = logging.getLogger("tutti.http")

GatewayFactory = Callable[[], Awaitable[Gateway]]


class Keys:
    """The callers by key, for the configuration that holds. One per replica, shared by its doors.

    Args:
        clock_s: Monotonic.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._orchestra: Orchestra | None = None
        self._index: CallerIndex = {}
        self._granted_s: dict[str, float] = {}
        """When a caller was last told of."""

    def identify(self, headers: Mapping[bytes, bytes], gateway: Gateway) -> Caller:
        """Return who calls, and tell it where that was not told for an hour; raises AccessError."""
        orchestra = gateway.orchestra()
        if self._orchestra is not orchestra:
            self._orchestra, self._index = orchestra, index_callers(orchestra.callers)
        caller = reading.identify(headers, self._index)
        now_s = self._clock_s()
        if self._index and now_s - self._granted_s.get(caller.name, -GRANTED_PERIOD_S) >= GRANTED_PERIOD_S:
            self._granted_s[caller.name] = now_s
            gateway.events.emit("access.granted", caller=caller.name, team=caller.team or None, outcome="success")
        return caller


class ChatDoor:
    """Serves one client format.

    Args:
        gateway: Gives the replica's gateway.
        form: The wire format.
        keys: Knows the callers.
        auto: Whether a missing ``model`` means ``auto``.
        id_header: Where this format's SDKs look for the request's id, beside ``x-request-id``.
    """

    def __init__(
        self,
        gateway: GatewayFactory,
        form: ClientFormat,
        keys: Keys,
        *,
        auto: bool = False,
        id_header: bytes | None = None,
    ) -> None:
        self._id_header = id_header
        self._gateway = gateway
        self._form = form
        self._keys = keys
        self._auto = auto

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = reading.headers_by_name(scope)
        request_id = reading.find_request_id(headers) or uuid.uuid4().hex
        told = RequestTold(scope.get("path", ""), request_id)
        try:
            await self._serve(headers, receive, send, request_id, told)
        except reading.ClientGoneError:
            told.refused(0, CLIENT_GONE)
        except GatewayError as error:
            await self._refuse(send, error, request_id, told)
        except HttpProblem as problem:
            told.refused(problem.status, "bad request")
            body = self._form.error(
                problem.status, problem_type(problem), problem.message, param=problem.param, request_id=request_id
            )
            await _send_json(send, problem.status, body, self._named(request_id))
        except Exception:
            logger.exception("request %s failed unexpectedly", request_id)
            told.refused(500, "internal failure")
            message = "Tutti failed unexpectedly; the server's log says more."
            body = self._form.error(500, "internal_error", message, param=None, request_id=request_id)
            await _send_json(send, 500, body, self._named(request_id))
        finally:
            told.tell()

    async def _serve(
        self, headers: Mapping[bytes, bytes], receive: Receive, send: Send, request_id: str, told: RequestTold
    ) -> None:
        gateway = await self._gateway()
        told.events = gateway.events
        told.caller = caller = self._keys.identify(headers, gateway)
        document = reading.parse_object(await reading.read_body(receive, headers))
        if self._auto and not document.get("model"):
            document["model"] = AUTO
        asked = self._form.parse(document)
        call = ClientCall(
            request_id=request_id,
            caller=caller,
            asked=asked,
            user=reading.read_user(headers, asked.chat.user),
            wish=reading.read_wish(headers),
            deadline_s=reading.read_deadline_s(headers, DEADLINE_S),
            may_cache=reading.may_cache(headers),
            idempotency_key=reading.read_idempotency_key(headers),
        )
        told.user, told.model, told.stream = call.user, asked.chat.model, asked.chat.stream
        told.max_tokens, told.temperature = asked.chat.output_tokens_max, asked.chat.temperature
        watcher = asyncio.create_task(_cancel_when_gone(receive, asyncio.current_task()))
        try:
            if asked.chat.stream:
                await self._stream(gateway, call, send, told)
            else:
                result, facts = await gateway.complete(call)
                told.ended(result)
                body = self._form.render(result, asked, facts.served)
                await _send_json(send, 200, body, self._headers(gateway, call, facts, told, result.usage))
        except QuotaError as error:
            await self._refuse(send, error, request_id, told, limit_headers(gateway.limits(caller, call.user)))
        except asyncio.CancelledError:
            if watcher.done():
                raise reading.ClientGoneError from None
            raise
        finally:
            watcher.cancel()

    async def _refuse(
        self,
        send: Send,
        error: GatewayError,
        request_id: str,
        told: RequestTold,
        limits: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        status, kind = status_of(error)
        told.failed(error, status)
        body = self._form.error(status, kind, message_of(error), param=error.param, request_id=request_id)
        await _send_json(send, status, body, [*self._named(request_id), *headers_of(error, status), *limits])

    async def _stream(self, gateway: Gateway, call: ClientCall, send: Send, told: RequestTold) -> None:
        alive = KeepAlive(send, [*STREAM_HEADERS, *self._named(call.request_id)])
        try:
            deltas, facts = await gateway.stream(call)
        except GatewayError as error:
            if not await alive.end():
                raise
            told.failed(error, 200)
            await _send_part(send, self._broken(error, call.request_id), more=False)
            return
        except BaseException:
            await alive.end()
            raise
        async with aclosing(deltas):
            started = await alive.end()
            headers = self._headers(gateway, call, facts, told)
            if not started:
                await _start(send, [*STREAM_HEADERS, *headers])
            patience = Patience(asyncio.current_task())
            try:
                writer = self._form.stream(call.asked, facts.served)
                await self._relay(patience.watched(send), deltas, writer, told)
            except asyncio.CancelledError:
                if patience.over:
                    raise reading.ClientGoneError from None
                raise
            finally:
                patience.end()

    async def _relay(
        self, send: Send, deltas: AsyncGenerator[ChatDelta, None], writer: AnswerStream, told: RequestTold
    ) -> None:
        start = writer.start()
        delta: ChatDelta | None = None
        try:
            async for delta in deltas:
                part = start + writer.feed(delta)
                start = b""
                if part:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
        except GatewayError as error:
            status, kind = status_of(error)
            told.failed(error, status)
            body = self._form.error(status, kind, message_of(error), param=error.param, request_id=told.request_id)
            await _send_part(send, writer.fail(body), more=False)
            return
        if delta is not None:
            told.ended(delta)
        await deltas.aclose()
        await _send_part(send, writer.end(), more=False)

    def _broken(self, error: GatewayError, request_id: str) -> bytes:
        status, kind = status_of(error)
        body = self._form.error(status, kind, message_of(error), param=error.param, request_id=request_id)
        return b"event: error\ndata: %s\n\n" % orjson.dumps(body)

    def _headers(
        self, gateway: Gateway, call: ClientCall, facts: Facts, told: RequestTold, usage: Usage | None = None
    ) -> Headers:
        ours_s = time.perf_counter() - told.began_s - facts.upstream_s
        told.answered(facts, ours_s, usage)
        OVERHEAD.observe(max(0.0, ours_s))
        limits = limit_headers(gateway.limits(call.caller, call.user))
        return [*self._named(call.request_id), *answer_headers(facts, ours_s), *limits]

    def _named(self, request_id: str) -> Headers:
        return [] if self._id_header is None else [(self._id_header, request_id.encode())]


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[object] | None) -> None:
    message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()
    if task is not None:
        task.cancel()


async def _start(send: Send, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _send_part(send: Send, part: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": more})


async def _send_json(send: Send, status: int, body: Mapping[str, Json], headers: Headers) -> None:
    content = orjson.dumps(body)
    all_headers = [JSON_TYPE, (b"content-length", str(len(content)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": content})
