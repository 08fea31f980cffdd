"""Equal streams at once are bought once, and a stream's answer is kept as any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from app.domain.accounts import CacheSpec, GatewaySpec
from app.domain.chat import ChatDelta
from app.domain.errors import UpstreamError, UpstreamKind
from tests.fakes.permit_world import play
from tests.fakes.virtual_time import VirtualClock
from tests.unit.app.services.gateway.test_gateway import CHAT, Scene, a_scene

KEEPING = GatewaySpec(cache=CacheSpec(enabled=True))


async def read(deltas: AsyncGenerator[ChatDelta, None]) -> str:
    return "".join([delta.text async for delta in deltas])


async def streamed(scene: Scene) -> tuple[str, bool]:
    """Return a stream's text, and whether it came from a call that was made before."""
    deltas, facts = await scene.gateway.stream(scene.call())
    return await read(deltas), facts.cached


def test_equal_streams_at_once_are_bought_once_and_kept() -> None:
    """Whoever comes second waits for the first, asks as a stream or whole, and pays no tokens."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=KEEPING) as scene:
            together = await asyncio.gather(*(streamed(scene) for _ in range(3)))
            whole, facts = await scene.gateway.complete(scene.call())

            assert sorted(together) == [("hi", False), ("hi", True), ("hi", True)]
            assert (whole.text, facts.cached) == ("hi", True)
            assert scene.upstream.sent == 1
            assert await scene.used() == 50

    play(story)


def test_a_whole_call_waits_for_an_equal_stream() -> None:
    """It is the same answer."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=KEEPING) as scene:
            first = asyncio.create_task(streamed(scene))
            await asyncio.sleep(0.1)
            result, facts = await scene.gateway.complete(scene.call())

            assert (result.text, facts.cached) == ("hi", True)
            assert await first == ("hi", False)
            assert scene.upstream.sent == 1

    play(story)


@pytest.mark.parametrize("began", [False, True])
def test_who_waits_makes_the_call_when_the_first_client_leaves(began: bool) -> None:
    """Its leaving stops the provider, before the answer has begun or after."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=KEEPING) as scene:
            opening = asyncio.create_task(scene.gateway.stream(scene.call()))
            await asyncio.sleep(0.1)
            others = [asyncio.create_task(streamed(scene)) for _ in range(2)]
            await asyncio.sleep(0.1)
            if began:
                deltas, _facts = await opening
                await anext(deltas)
                await deltas.aclose()
            else:
                opening.cancel()

            assert sorted(await asyncio.gather(*others)) == [("hi", False), ("hi", True)]
            assert scene.upstream.sent == 2

    play(story)


def test_a_stream_that_fails_fails_nobody_else() -> None:
    """Each who waited tries for itself, one after the other."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=KEEPING) as scene:
            scene.upstream.error = UpstreamError("no", kind=UpstreamKind.INVALID_REQUEST, billed=False)
            failing = asyncio.create_task(streamed(scene))
            await asyncio.sleep(0.1)
            waiting = asyncio.create_task(streamed(scene))
            with pytest.raises(UpstreamError):
                await failing
            scene.upstream.error = None

            assert await waiting == ("hi", False)

    play(story)


def test_a_kept_answer_names_the_model_that_was_meant_by_auto() -> None:
    """A client sees who answered, not what it wrote."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=KEEPING) as scene:
            anybody = replace(CHAT, model="auto")
            _result, bought = await scene.gateway.complete(scene.call(anybody))
            _result, kept = await scene.gateway.complete(scene.call(anybody))

            assert (bought.cached, kept.cached) == (False, True)
            assert bought.served.model == kept.served.model == "m"

    play(story)


def test_nothing_is_shared_where_nothing_is_kept() -> None:
    """Who did not ask for a cache gets an answer of its own."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            await asyncio.gather(*(streamed(scene) for _ in range(2)))

            assert scene.upstream.sent == 2

    play(story)
