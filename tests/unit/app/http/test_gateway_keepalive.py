"""A client that waits for its stream hears something now and then, and nothing beside the answer once it is there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import anthropic
import httpx
import httpx2
import openai
import orjson
import pytest
from starlette.types import Message

from app.domain.accounts import GatewaySpec
from app.domain.gateway import ANONYMOUS
from app.http.formats.anthropic_messages import AnthropicMessages
from app.http.formats.base import ClientFormat
from app.http.formats.openai_chat import OpenAIChat
from app.http.formats.openai_responses import OpenAIResponses
from app.http.gateway.door import ChatDoor, Keys
from app.http.gateway.keepalive import KEEPALIVE, KEEPALIVE_S, KeepAlive
from app.services.gateway.gateway import Gateway
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import Scene, a_scene

BODY = {"model": "m", "stream": True}
WORDS = [{"role": "user", "content": "hello"}]
FORMATS: dict[str, tuple[ClientFormat, dict[str, object]]] = {
    "chat": (OpenAIChat(), {**BODY, "messages": WORDS}),
    "responses": (OpenAIResponses(), {**BODY, "input": "hello"}),
    "messages": (AnthropicMessages(), {**BODY, "messages": WORDS, "max_tokens": 100}),
}
SLOTS = 4
"""Of the scene's account."""
HEADERS = [(b"x-request-id", b"r")]


@pytest.mark.parametrize(("waits_s", "comments"), [(0.5, 0), (KEEPALIVE_S + 1, 1), (3 * KEEPALIVE_S + 1, 3)])
def test_waiting_client_hears_a_comment_now_and_then_until_the_wait_ends(waits_s: float, comments: int) -> None:
    """The first one starts the response; none comes afterwards, and ending twice is harmless."""

    async def story(_clock: VirtualClock) -> None:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        alive = KeepAlive(send, HEADERS)
        await asyncio.sleep(waits_s)
        assert await alive.end() is (comments > 0)
        await asyncio.sleep(5 * KEEPALIVE_S)

        assert [message.get("body") for message in sent[1:]] == [KEEPALIVE] * comments
        assert sent[:1] == [{"type": "http.response.start", "status": 200, "headers": HEADERS}][: len(sent)]
        assert await alive.end() is (comments > 0)

    play(story)


def test_client_that_is_gone_ends_the_comments_and_nothing_else() -> None:
    """Whoever waits for the stream hears of it in its own way."""

    async def story(_clock: VirtualClock) -> None:
        async def send(_message: Message) -> None:
            raise OSError("gone")

        alive = KeepAlive(send, HEADERS)
        await asyncio.sleep(2 * KEEPALIVE_S)
        assert await alive.end()

    play(story)


async def queued(scene: Scene, name: str, *, busy_s: float) -> list[Message]:
    """Ask for a stream while every slot of the account is taken for so long; return what the client is sent."""
    form, body = FORMATS[name]
    got: list[Message] = []
    waits_s = iter((0.0, 1e9))

    async def gateway() -> Gateway:
        return scene.gateway

    async def receive() -> Message:
        await asyncio.sleep(next(waits_s))
        return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

    async def send(message: Message) -> None:
        got.append(message)

    scene.upstream.seconds = busy_s
    calls = [scene.call() for _ in range(SLOTS)]
    others = [asyncio.create_task(scene.gateway.complete(replace(call, caller=ANONYMOUS))) for call in calls]
    await asyncio.sleep(0.5)
    scene.upstream.seconds = 0.1
    await ChatDoor(gateway, form, Keys())({"type": "http", "headers": []}, receive, send)
    await asyncio.gather(*others)
    return got


def sdk_reads(name: str, data: bytes) -> str:
    """Return the text that the format's official SDK makes of a stream."""
    headers = {"content-type": "text/event-stream"}
    if name == "messages":
        theirs = httpx2.MockTransport(lambda _request: httpx2.Response(200, content=data, headers=headers))
        http = httpx2.Client(transport=theirs)
        messages = anthropic.Anthropic(base_url="http://t", api_key="k", max_retries=0, http_client=http).messages
        with messages.stream(model="m", max_tokens=9, messages=[{"role": "user", "content": "hello"}]) as stream:
            return str(stream.get_final_text())
    ours = httpx.MockTransport(lambda _request: httpx.Response(200, content=data, headers=headers))
    client = openai.OpenAI(base_url="http://t/v1", api_key="k", max_retries=0, http_client=httpx.Client(transport=ours))
    if name == "responses":
        events = client.responses.create(model="m", input="hello", stream=True)
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")
    chunks = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}], stream=True)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("name", FORMATS)
def test_queued_stream_is_kept_alive_and_then_answered_in_the_same_response(name: str) -> None:
    """The client's SDK sees comments, which it skips, and then the stream as ever."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            got = await queued(scene, name, busy_s=2.5 * KEEPALIVE_S)
            bodies = [message["body"] for message in got[1:]]

            assert [message["type"] for message in got].count("http.response.start") == 1
            assert bodies[:2] == [KEEPALIVE] * 2
            assert KEEPALIVE not in bodies[2:]
            assert sdk_reads(name, b"".join(bodies)) == "hi"
            assert (got[0]["status"], got[-1].get("more_body")) == (200, False)

    play(story)


@pytest.mark.parametrize("name", FORMATS)
def test_stream_that_waited_in_vain_ends_with_an_error_event_after_its_comments(name: str) -> None:
    """The status was sent with the first comment; what its 429 would have said is the last event."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=GatewaySpec(queue_timeout_s=1.5 * KEEPALIVE_S)) as scene:
            got = await queued(scene, name, busy_s=5 * KEEPALIVE_S)
            bodies = [message["body"] for message in got[1:]]
            event, data = bodies[-1].strip().split(b"\n")

            assert got[0]["status"] == 200
            assert bodies[:-1] == [KEEPALIVE]
            assert event == b"event: error"
            assert "rate_limit" in str(orjson.loads(data.removeprefix(b"data: "))["error"])
            with pytest.raises((openai.APIError, anthropic.APIError)):
                sdk_reads(name, b"".join(bodies))

    play(story)
