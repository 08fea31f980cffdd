"""What headers say of limits and users."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from starlette.types import Message

from app.domain.allowance import Allowance
from app.domain.errors import RequestError
from app.http.formats.openai_chat import OpenAIChat
from app.http.gateway.answer_headers import limit_headers
from app.http.gateway.door import ChatDoor, Keys
from app.http.gateway.reading import read_user
from app.services.gateway.gateway import Gateway
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import TEAM, a_scene


def test_limit_headers_have_the_names_and_forms_of_openai() -> None:
    """Whole numbers, rounded down so that nobody is promised too much; a duration in seconds."""
    told = limit_headers(
        [
            Allowance(kind="requests", limit=600, remaining=599.9, reset_s=0.1),
            Allowance(kind="tokens", limit=40_000, remaining=0.0, reset_s=61.05),
            Allowance(kind="input_tokens", limit=7, remaining=7.0, reset_s=0.0),
        ]
    )

    assert dict(told) == {
        b"x-ratelimit-limit-requests": b"600",
        b"x-ratelimit-remaining-requests": b"599",
        b"x-ratelimit-reset-requests": b"0.100s",
        b"x-ratelimit-limit-tokens": b"40000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"61.050s",
        b"x-ratelimit-limit-input-tokens": b"7",
        b"x-ratelimit-remaining-input-tokens": b"7",
        b"x-ratelimit-reset-input-tokens": b"0.000s",
    }


@pytest.mark.parametrize(
    ("header", "named", "user"),
    [
        (b"", None, None),
        (b"ann", None, "ann"),
        (b"", "ann", "ann"),
        (b" ann ", "ann", "ann"),
        ("\u00e4nne".encode(), None, "\u00e4nne"),
        (b"\xff", None, "\ufffd"),
    ],
)
def test_user_is_who_body_or_header_name(header: bytes, named: str | None, user: str | None) -> None:
    """The body as every SDK sends it, the header for clients that cannot."""
    assert read_user({b"x-tutti-user": header} if header else {}, named) == user


def test_two_users_for_one_call_are_refused() -> None:
    """Nobody can tell whose limit it should count against."""
    with pytest.raises(RequestError) as caught:
        read_user({b"x-tutti-user": b"ann"}, "bob")

    assert caught.value.param == "x-tutti-user"


def test_refusal_for_want_of_limits_tells_them_too() -> None:
    """A client that is over its limit sees which, and when all of it is back."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            got: list[Message] = []

            class Known(Keys):
                def identify(self, headers: Any, orchestra: Any) -> Any:
                    return TEAM

            async def gateway() -> Gateway:
                return scene.gateway

            waiting = iter((0.0, 1e9))

            async def receive() -> Message:
                await asyncio.sleep(next(waiting))
                words = [{"role": "user", "content": "hello"}]
                body = {"model": "m", "messages": words, "max_tokens": 50_000}
                return {"type": "http.request", "body": orjson.dumps(body), "more_body": False}

            async def send(message: Message) -> None:
                got.append(message)

            await ChatDoor(gateway, OpenAIChat(), Known())({"type": "http", "headers": []}, receive, send)

            headers = dict(got[0]["headers"])
            assert got[0]["status"] == 429
            assert headers[b"x-ratelimit-limit-tokens"] == headers[b"x-ratelimit-remaining-tokens"] == b"10000"

    play(story)
