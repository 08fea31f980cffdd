"""Clients of every kind, each a loop of its own until the load ends; every call leaves one record.

Chat, streams, embeddings and Anthropic's messages; clients that leave in the middle or read slowly; repeats by
Idempotency-Key and by content; one over its limit; one that writes nonsense.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.torture.evidence import Call
from tests.torture.setting import CHAT, EMBEDDER, KEY, KEY_NARROW, LONG, PACED, Setting

TIMEOUT_S = 60.0
RECEIVE_BYTES = 16_384
"""Of a slow reader's socket: what it does not read stays with the server."""
SIP_BYTES, SIP_PAUSE_S = 8_192, 0.04
CACHED_ASKS = 5
OUTPUT_TOKENS_MAX = 300
LEAVES_WITHIN_S = 0.6
PAUSE_AFTER_REFUSAL_S = 0.3
NARROW_PAUSE_S = 0.15
"""Of the caller over its limit: several times what its limit allows."""

Body = dict[str, Any]
Play = Callable[["Crowd", random.Random], Coroutine[Any, Any, None]]


@dataclass(slots=True)
class Crowd:
    """Everything clients share."""

    url: str
    http: httpx.AsyncClient
    slow: httpx.AsyncClient
    until_s: float
    calls: list[Call]
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def call(self, kind: str) -> Call:
        """Return the record of a new call with a prompt of its own."""
        return self.again(f"t{next(self._numbers):07d}", kind)

    def again(self, ask: str, kind: str) -> Call:
        """Return the record of a call that repeats a prompt."""
        call = Call(ask=ask, kind=kind, began_s=time.monotonic())
        self.calls.append(call)
        return call

    async def post(self, call: Call, path: str, body: Body | bytes, *, key: str = KEY, **headers: str) -> None:
        """Ask for a whole answer and note what came of it."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            answer = await self.http.post(f"{self.url}{path}", content=content, headers=_headers(key, headers))
            _note_head(call, answer)
            if answer.status_code == 200:
                _note_answer(call, answer.json())
            else:
                call.said = answer.text[:300]
        except (httpx.HTTPError, ValueError) as error:
            call.outcome, call.said = "broken", repr(error)[:300]
        except asyncio.CancelledError:
            call.outcome = "left"
            raise
        finally:
            call.ended_s = time.monotonic()

    async def stream(
        self, call: Call, path: str, body: Body, *, leave_after: int | None = None, slow: bool = False
    ) -> None:
        """Read a stream to its end, or leave after some events."""
        client = self.slow if slow else self.http
        headers = _headers(KEY, {"cache-control": "no-store"})
        try:
            async with client.stream("POST", f"{self.url}{path}", json=body, headers=headers) as answer:
                _note_head(call, answer)
                if answer.status_code != 200:
                    call.said = (await answer.aread()).decode("utf-8", "replace")[:300]
                    return
                call.outcome = "broken"  # until its last event says otherwise
                lines = _sips(answer) if slow else answer.aiter_lines()
                await _read(call, lines, leave_after)
        except httpx.HTTPError as error:
            call.outcome, call.said = "broken", repr(error)[:300]
        finally:
            call.ended_s = time.monotonic()


def _headers(key: str, more: dict[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in more.items()}
    return {"authorization": f"Bearer {key}", "content-type": "application/json", **named}


def _note_head(call: Call, answer: httpx.Response) -> None:
    call.status, call.retry_after = answer.status_code, answer.headers.get("retry-after")
    call.cached = answer.headers.get("x-tutti-cache") == "hit"
    call.outcome = "answered" if call.status == 200 else "failed" if call.status >= 500 else "refused"


def _note_answer(call: Call, document: Any) -> None:
    _note_usage(call, document.get("usage"))
    if document.get("choices"):
        call.text = document["choices"][0]["message"]["content"] or ""
    elif document.get("content"):
        call.text = document["content"][0].get("text", "")


def _note_usage(call: Call, usage: Any) -> None:
    if usage:
        tokens_in = usage.get("prompt_tokens", usage.get("input_tokens"))
        tokens_out = usage.get("completion_tokens", usage.get("output_tokens"))
        call.input_tokens = tokens_in if tokens_in is not None else call.input_tokens
        call.output_tokens = tokens_out if tokens_out is not None else call.output_tokens or 0


async def _sips(answer: httpx.Response) -> AsyncIterator[str]:
    """Yield lines of a stream that is read a little at a time."""
    left = ""
    async for chunk in answer.aiter_bytes(SIP_BYTES):
        *lines, left = (left + chunk.decode("utf-8", "replace")).split("\n")
        for line in lines:
            yield line
        await asyncio.sleep(SIP_PAUSE_S)


async def _read(call: Call, lines: AsyncIterator[str], leave_after: int | None) -> None:
    """Take a stream's events in either format; the last one decides how it ended."""
    events = 0
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            call.outcome = "answered"
            return
        document = json.loads(data)
        if "error" in document:
            call.outcome, call.said = "cut", data[:300]
            return
        _note_usage(call, document.get("usage") or (document.get("message") or {}).get("usage"))
        if document.get("type") == "message_stop":
            call.outcome = "answered"
            return
        events += 1
        if leave_after is not None and events >= leave_after:
            call.outcome = "left"
            return


def _text(call: Call, chance: random.Random) -> str:
    return f"{call.ask} {call.kind}: " + "word " * chance.randint(3, 120)


def chat_body(model: str, text: str, **more: Any) -> Body:
    """Return a body that chat and messages both take."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": OUTPUT_TOKENS_MAX, **more}


async def chat(crowd: Crowd, chance: random.Random) -> None:
    """Ask for a whole chat answer."""
    call = crowd.call("chat")
    await crowd.post(call, "/v1/chat/completions", chat_body(CHAT, _text(call, chance)))
    await _think(call, chance, 0.3)


async def streams(crowd: Crowd, chance: random.Random) -> None:
    """Read a chat stream to its end, sometimes asking for usage."""
    call = crowd.call("stream")
    more = {"stream_options": {"include_usage": True}} if chance.random() < 0.5 else {}
    body = chat_body(chance.choice((CHAT, PACED)), _text(call, chance), stream=True, **more)
    await crowd.stream(call, "/v1/chat/completions", body)
    await _think(call, chance, 0.3)


async def embeddings(crowd: Crowd, chance: random.Random) -> None:
    """Ask for vectors."""
    call = crowd.call("embeddings")
    await crowd.post(call, "/v1/embeddings", {"model": EMBEDDER, "input": _text(call, chance)})
    await _think(call, chance, 0.6)


async def messages(crowd: Crowd, chance: random.Random) -> None:
    """Use Anthropic's format, streamed or not."""
    call = crowd.call("messages")
    body = chat_body(chance.choice((CHAT, PACED)), _text(call, chance))
    if chance.random() < 0.5:
        await crowd.stream(call, "/v1/messages", {**body, "stream": True})
    else:
        await crowd.post(call, "/v1/messages", body)
    await _think(call, chance, 0.3)


async def leaving(crowd: Crowd, chance: random.Random) -> None:
    """Leave in the middle of a stream, or before a whole answer is there."""
    call = crowd.call("leaving")
    body = chat_body(PACED, _text(call, chance))
    if chance.random() < 0.6:
        body["stream"] = True
        await crowd.stream(call, "/v1/chat/completions", body, leave_after=chance.randint(1, 25))
    else:
        asking = asyncio.create_task(crowd.post(call, "/v1/chat/completions", body, cache_control="no-store"))
        _done, late = await asyncio.wait((asking,), timeout=chance.uniform(0.02, LEAVES_WITHIN_S))
        for task in late:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    await _think(call, chance, 0.5)


async def slow(crowd: Crowd, chance: random.Random) -> None:
    """Read a long stream far slower than it comes; every fourth time give up."""
    call = crowd.call("slow")
    body = chat_body(LONG, _text(call, chance), stream=True)
    body["max_tokens"] = 8_000
    leave_after = chance.randint(100, 1_000) if chance.random() < 0.25 else None
    await crowd.stream(call, "/v1/chat/completions", body, leave_after=leave_after, slow=True)
    await _think(call, chance, 1.0)


async def repeats(crowd: Crowd, chance: random.Random) -> None:
    """Send one request three times under one Idempotency-Key, twice at once."""
    first = crowd.call("repeats")
    second = crowd.again(first.ask, "repeats")
    body = chat_body(CHAT, _text(first, chance))
    headers = {"idempotency_key": f"key-{first.ask}", "cache_control": "no-store"}
    path = "/v1/chat/completions"
    await asyncio.gather(*(crowd.post(call, path, body, **headers) for call in (first, second)))
    third = crowd.again(first.ask, "repeats")
    await crowd.post(third, path, body, **headers)
    await _think(third, chance, 1.0)


async def cached(crowd: Crowd, chance: random.Random) -> None:
    """Ask one of a few questions, again and again."""
    call = crowd.again(f"c{chance.randrange(CACHED_ASKS):07d}", "cached")
    await crowd.post(call, "/v1/chat/completions", chat_body(CHAT, f"{call.ask} cached: the same as ever"))
    await _think(call, chance, 0.6)


async def narrow(crowd: Crowd, chance: random.Random) -> None:
    """Call far more often than this key may."""
    call = crowd.call("narrow")
    await crowd.post(call, "/v1/chat/completions", chat_body(CHAT, _text(call, chance)), key=KEY_NARROW)
    await asyncio.sleep(NARROW_PAUSE_S * chance.uniform(0.5, 1.5))


async def wrong(crowd: Crowd, chance: random.Random) -> None:
    """Send what cannot be served: it must be refused, and cost nothing."""
    call = crowd.call("wrong")
    kind = chance.randrange(4)
    good = chat_body(CHAT, _text(call, chance))
    if kind == 0:
        await crowd.post(call, "/v1/chat/completions", {**good, "model": "no-such-model"})
    elif kind == 1:
        await crowd.post(call, "/v1/chat/completions", b'{"model": "')
    elif kind == 2:
        await crowd.post(call, "/v1/chat/completions", good, key="key-of-nobody")
    else:
        await crowd.post(call, "/v1/messages", {**good, "max_tokens": -1})
    await _think(call, chance, 2.0)


async def _think(call: Call, chance: random.Random, mean_s: float) -> None:
    pause_s = chance.uniform(0.2, 1.8) * mean_s
    if call.outcome in ("refused", "failed", "broken"):
        pause_s += PAUSE_AFTER_REFUSAL_S
    await asyncio.sleep(pause_s)


KINDS: tuple[tuple[Play, int], ...] = (
    (chat, 4),
    (streams, 4),
    (embeddings, 2),
    (messages, 3),
    (leaving, 4),
    (slow, 2),
    (repeats, 1),
    (cached, 2),
    (narrow, 2),
    (wrong, 1),
)
"""How many clients of each kind there are."""


async def play(url: str, setting: Setting, calls: list[Call]) -> None:
    """Let all clients call until the time is over and every call has ended."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)]
    transport = httpx.AsyncHTTPTransport(socket_options=options, limits=limits)
    async with (
        httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as http,
        httpx.AsyncClient(timeout=TIMEOUT_S, transport=transport) as slowly,
    ):
        crowd = Crowd(url, http, slowly, time.monotonic() + setting.seconds, calls)
        await asyncio.gather(
            *(
                _repeat(crowd, kind, setting.chance(f"{kind.__name__} {number}"))
                for kind, count in KINDS
                for number in range(count)
            )
        )


async def _repeat(crowd: Crowd, kind: Play, chance: random.Random) -> None:
    while time.monotonic() < crowd.until_s:
        await kind(crowd, chance)
