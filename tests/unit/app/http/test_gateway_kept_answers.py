"""Kept answers at the door: who gets one, who does not, and that it says so."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app.domain.accounts import CacheSpec, GatewaySpec
from app.domain.gateway import Caller
from app.http.formats.openai_chat import OpenAIChat
from app.http.gateway.door import ChatDoor, Keys
from app.services.gateway.gateway import Gateway
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import Scene, a_scene

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100}


class Known(Keys):
    """Takes the presented key for the caller's name."""

    def identify(self, headers: Any, orchestra: Any) -> Caller:
        return Caller(name=headers[b"x-api-key"].decode())


async def ask(scene: Scene, caller: str, control: str | None = None, **more: Any) -> tuple[bool, bytes]:
    """Return whether the answer says that it was kept, and its body."""
    got: list[Message] = []
    waits_s = iter((0.0, 1e9))
    headers = [(b"x-api-key", caller.encode())]
    headers += [] if control is None else [(b"cache-control", control.encode())]

    async def gateway() -> Gateway:
        return scene.gateway

    async def receive() -> Message:
        await asyncio.sleep(next(waits_s))
        return {"type": "http.request", "body": orjson.dumps({**BODY, **more}), "more_body": False}

    async def send(message: Message) -> None:
        got.append(message)

    await ChatDoor(gateway, OpenAIChat(), Known())({"type": "http", "headers": headers}, receive, send)
    assert got[0]["status"] == 200
    kept = dict(got[0]["headers"]).get(b"x-tutti-cache") == b"hit"
    return kept, b"".join(message.get("body", b"") for message in got)


@pytest.mark.parametrize("control", ["no-store", "no-cache, max-age=0", "No-Store"])
def test_client_that_wants_no_kept_answer_gets_none_and_leaves_none(control: str) -> None:
    """Neither is its request answered from what is kept, nor is its answer kept."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=GatewaySpec(cache=CacheSpec(enabled=True))) as scene:
            told = [(await ask(scene, "ann", each))[0] for each in (control, None, None, control)]

            assert told == [False, False, True, False]
            assert scene.upstream.sent == 3

    play(story)


@pytest.mark.parametrize(("scope", "bought"), [("caller", 2), ("shared", 1)])
def test_kept_answer_is_its_callers_own_unless_it_is_to_be_shared(scope: Any, bought: int) -> None:
    """Prompts of one team answer nobody else, by default."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=GatewaySpec(cache=CacheSpec(enabled=True, scope=scope))) as scene:
            told = [(await ask(scene, caller))[0] for caller in ("ann", "bob", "ann", "bob")]

            assert told == [False, scope == "shared", True, True]
            assert scene.upstream.sent == bought

    play(story)


def test_kept_answer_is_streamed_to_who_wants_a_stream() -> None:
    """With every event that the provider's own would have had."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=GatewaySpec(cache=CacheSpec(enabled=True))) as scene:
            await ask(scene, "ann")
            kept, body = await ask(scene, "ann", stream=True, stream_options={"include_usage": True})
            chunks = [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: {")]

            assert kept
            assert "".join(each["delta"].get("content") or "" for chunk in chunks for each in chunk["choices"]) == "hi"
            assert chunks[-1]["usage"]["completion_tokens"] == 30
            assert body.endswith(b"data: [DONE]\n\n")
            assert scene.upstream.sent == 1

    play(story)


def test_nothing_is_kept_unless_it_is_configured() -> None:
    """An answer that was sampled is not given twice by surprise."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            told = [(await ask(scene, "ann"))[0] for _ in range(2)]

            assert told == [False, False]
            assert scene.upstream.sent == 2

    play(story)
