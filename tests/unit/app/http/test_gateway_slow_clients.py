"""A client that takes nothing of its stream is bounded in memory and time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import orjson
import pytest
from starlette.types import Message

from app.domain.chat import ChatDelta, ChatRequest, FinishReason
from app.http.formats.openai_chat import OpenAIChat
from app.http.gateway.door import ChatDoor, Keys
from app.http.gateway.patience import LOOK_S, STALLED_S
from app.services.gateway.gateway import Gateway
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import USED, Scene, a_scene

DELTAS = 1_000
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 100, "stream": True}


class Client:
    """Takes some messages at a pace, then no more for a while; never says that it has gone."""

    def __init__(self, takes: int, *, pause_s: float = 0.0, then_waits_s: float = 1e6) -> None:
        self.takes = takes
        self.pause_s = pause_s
        self.then_waits_s = then_waits_s
        self.got: list[Message] = []
        self._asked = False

    async def receive(self) -> Message:
        if self._asked:
            await asyncio.sleep(1e9)
        self._asked = True
        return {"type": "http.request", "body": orjson.dumps(BODY), "more_body": False}

    async def send(self, message: Message) -> None:
        await asyncio.sleep(self.then_waits_s if len(self.got) == self.takes else self.pause_s)
        self.got.append(message)


def door(scene: Scene) -> ChatDoor:
    """Return a door to the scene's gateway, whose provider sends a long answer."""

    async def gateway() -> Gateway:
        return scene.gateway

    async def long_stream(
        request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        try:
            for _number in range(DELTAS):
                scene.upstream.sent += 1
                yield ChatDelta(text="x")
            yield ChatDelta(finish_reason=FinishReason.STOP, usage=USED)
        finally:
            scene.upstream.stopped += 1

    scene.upstream.chat_completion_stream = long_stream  # type: ignore[method-assign]  # another provider
    return ChatDoor(gateway, OpenAIChat(), Keys())


@pytest.mark.parametrize("going_on", [False, True])
def test_client_that_takes_nothing_holds_no_permit_for_ever(going_on: bool) -> None:
    """The provider sends no more than is taken; after a while its call is left like one whose client went away."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, going_on=going_on) as scene:
            client, began_s = Client(takes=5), clock.now_s
            task = asyncio.create_task(door(scene)({"type": "http", "headers": []}, client.receive, client.send))
            await asyncio.sleep(10.0)
            assert (scene.upstream.sent < 40, scene.world.hosts.held) == (True, 1)
            await task

            assert STALLED_S <= clock.now_s - began_s <= STALLED_S + 2 * LOOK_S
            assert scene.upstream.sent == (DELTAS if going_on else 5)
            await scene.world.settled()
            assert (scene.upstream.stopped, scene.world.hosts.held) == (1, 0)

    play(story)


def test_client_that_reads_slowly_gets_its_answer() -> None:
    """However long the whole takes."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            client = Client(takes=50, pause_s=1.0, then_waits_s=STALLED_S - LOOK_S)
            await door(scene)({"type": "http", "headers": []}, client.receive, client.send)

            assert b"[DONE]" in b"".join(message.get("body", b"") for message in client.got)
            assert clock.now_s > DELTAS

    play(story)
