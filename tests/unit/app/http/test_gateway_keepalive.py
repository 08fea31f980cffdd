"""A client that waits for its stream hears something now and then, and nothing beside the answer once it is there."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from app.http.gateway.keepalive import KEEPALIVE, KEEPALIVE_S, KeepAlive
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock

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
