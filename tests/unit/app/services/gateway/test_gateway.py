"""One client call from its caller's limits to a settled answer: nothing stays reserved, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.domain.accounts import AccountSpec, CacheSpec, GatewaySpec, Provider
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Message, Role, Usage
from app.domain.errors import NotFoundError, QuotaError, UpstreamError, UpstreamKind
from app.domain.gateway import Asked, Caller, EmbeddingRequest, EmbeddingResult
from app.domain.hosting import CALLERS_HOST, CALLERS_MODEL, caller_account
from app.domain.limits import LimitSpec
from app.domain.ports import Upstream
from app.domain.retries import RetryBudget
from app.services.gateway.attempts import Attempts
from app.services.gateway.caller_gate import CallerGate
from app.services.gateway.gateway import ClientCall, Gateway
from tests.fakes.books import a_spending
from tests.fakes.permit_hosts import OfficeHosts, an_account, cancel
from tests.fakes.permit_world import World, a_world, play
from tests.fakes.virtual_time import VirtualClock

TEAM = Caller(name="team", limits=LimitSpec(tpm=10_000, concurrency=4, window="sliding", charge="used"))
CHAT = ChatRequest(model="m", messages=(Message(role=Role.USER, text="hello"),), output_tokens_max=100)
USED = Usage(input_tokens=20, output_tokens=30)


@dataclass
class Provided(Upstream):
    """Answers after a second, or fails; without usage where none is set."""

    error: Exception | None = None
    usage: Usage = USED
    sent: int = 0
    stopped: int = 0

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        self.sent += 1
        await asyncio.sleep(1.0)
        if self.error is not None:
            raise self.error
        return ChatResult(text="hi", usage=self.usage)

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        try:
            result = await self.chat_completion(request, timeout_s=timeout_s)
            for letter in result.text:
                yield ChatDelta(text=letter)
            yield ChatDelta(finish_reason=FinishReason.STOP, usage=result.usage)
        finally:
            self.stopped += 1

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        raise AssertionError("not asked here")


@dataclass
class Scene:
    """A gateway with one account and one caller."""

    gateway: Gateway
    upstream: Provided
    world: World
    callers: OfficeHosts
    clock: VirtualClock
    numbers: list[int] = field(default_factory=list)

    def call(self, chat: ChatRequest = CHAT) -> ClientCall:
        self.numbers.append(0)
        return ClientCall(request_id=f"r{len(self.numbers)}", caller=TEAM, asked=Asked(chat=chat))

    async def used(self) -> int:
        """Return what counts against the caller's tokens, once everything has been said."""
        await self.world.settled()
        assert self.world.hosts.held == 0, "a permit of the account is still out"
        assert self.callers.held == 0, "a permit of the caller is still out"
        (row,) = self.callers.rows()
        (tokens,) = [bucket for bucket in row.buckets if bucket.kind == "tokens"]
        return int(tokens.capacity - tokens.level)


class Only:
    """The port ``Upstreams`` with one account."""

    def __init__(self, upstream: Upstream, *, going_on: bool) -> None:
        self._upstream = upstream
        self.going_on = going_on

    def of(self, account: str) -> Upstream:
        return self._upstream

    def name(self, account: str, model: str) -> str:
        return model

    def provider(self, account: str) -> str:
        return "openai"

    def goes_on(self, account: str, *, stream: bool) -> bool:
        return self.going_on


@asynccontextmanager
async def a_scene(
    clock: VirtualClock, *, spec: GatewaySpec = GatewaySpec(), going_on: bool = False
) -> AsyncIterator[Scene]:
    limited = AccountSpec(
        name=caller_account(TEAM.name),
        provider=Provider.CUSTOM,
        models=((CALLERS_MODEL, CALLERS_MODEL),),
        limits=((CALLERS_MODEL, TEAM.limits),),
    )
    callers = OfficeHosts(clock, [limited], one_host=CALLERS_HOST)
    async with a_world(clock, an_account("a", limits=LimitSpec(rpm=600, concurrency=4))) as world:
        gate = CallerGate(callers, clock, owner="g", on_silence=callers.suspect)
        task = asyncio.create_task(gate.run())
        upstream = Provided()
        async with a_spending(world.rosters[0], clock) as (spending, books):
            attempts = Attempts(
                world.desks[0],
                Only(upstream, going_on=going_on),
                clock,
                spending=spending,
                retries=RetryBudget(0.1, 5),
                attempts_max=2,
            )
            gateway = Gateway(world.rosters[0], attempts, gate, spending, clock, spec=spec)
            try:
                yield Scene(gateway, upstream, world, callers, clock)
            finally:
                await cancel(task)
                await gate.aclose()
        assert "open" not in books.counts()
        assert books.verify() == []


def test_gateway_charges_the_caller_with_what_was_used_when_a_call_is_answered() -> None:
    """Not with what was reserved."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            result, facts = await scene.gateway.complete(scene.call())

            assert result.text == "hi"
            assert (facts.served.account, facts.served.model) == ("a", "m")
            assert facts.upstream_s == pytest.approx(1.0, abs=0.01)
            assert await scene.used() == 50

    play(story)


def test_gateway_charges_a_stream_when_it_has_ended() -> None:
    """By the usage of its last delta."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            deltas, facts = await scene.gateway.stream(scene.call())

            assert facts.served.account == "a"
            assert "".join([delta.text async for delta in deltas]) == "hi"
            assert await scene.used() == 50

    play(story)


def test_gateway_charges_all_that_was_reserved_when_the_provider_names_no_usage() -> None:
    """Unknown is not nothing."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            scene.upstream.usage = Usage(input_tokens=0, output_tokens=0)
            await scene.gateway.complete(scene.call())

            assert await scene.used() > 100

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_gateway_charges_nothing_when_a_call_fails(stream: bool) -> None:
    """The caller got no answer."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            scene.upstream.error = UpstreamError("failed", kind=UpstreamKind.INVALID_REQUEST)
            work = scene.gateway.stream(scene.call()) if stream else scene.gateway.complete(scene.call())
            with pytest.raises(UpstreamError):
                await work

            assert await scene.used() == 0

    play(story)


@pytest.mark.parametrize("stream", [False, True])
def test_gateway_charges_the_reservation_when_the_client_leaves_before_the_answer(stream: bool) -> None:
    """Else leaving just before the end would be a way around every limit."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            work = scene.gateway.stream(scene.call()) if stream else scene.gateway.complete(scene.call())
            task: asyncio.Task[object] = asyncio.create_task(work)
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert scene.upstream.sent == 1
            assert await scene.used() > 100

    play(story)


@pytest.mark.parametrize("read", [0, 1])
def test_gateway_stops_the_provider_when_the_client_leaves_a_stream(read: int) -> None:
    """Also one that it never began to read."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            deltas, _facts = await scene.gateway.stream(scene.call())
            for _ in range(read):
                await anext(deltas)
            await deltas.aclose()

            assert scene.upstream.stopped == 1
            assert await scene.used() > 100

    play(story)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after_s", [0.5, 1.0005])
def test_gateway_charges_what_was_used_when_the_client_leaves_a_call_that_goes_on(stream: bool, after_s: float) -> None:
    """The call is read to its end without its client, whose limits are settled with the provider's own count."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, going_on=True) as scene:
            work = scene.gateway.stream(scene.call()) if stream else scene.gateway.complete(scene.call())
            task: asyncio.Task[object] = asyncio.create_task(work)
            await asyncio.sleep(after_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            assert await scene.used() == 50

    play(story)


@pytest.mark.parametrize("read", [0, 1, 2])
def test_gateway_charges_what_was_used_when_the_client_leaves_a_stream_that_goes_on(read: int) -> None:
    """However much of it was read."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, going_on=True) as scene:
            deltas, _facts = await scene.gateway.stream(scene.call())
            for _ in range(read):
                await anext(deltas)
            await deltas.aclose()

            assert await scene.used() == 50

    play(story)


def test_gateway_refuses_the_caller_when_its_limit_is_used_up_without_asking_an_account() -> None:
    """Its own limit is checked first."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            calls = [asyncio.create_task(scene.gateway.complete(scene.call())) for _ in range(5)]
            await asyncio.sleep(0.1)
            (refused,) = [task for task in calls if task.done()]
            error = refused.exception()
            assert isinstance(error, QuotaError)
            assert error.limit == "concurrency"
            await asyncio.gather(*(task for task in calls if task is not refused))

            assert scene.upstream.sent == 4

    play(story)


def test_gateway_reserves_nothing_when_the_model_is_unknown() -> None:
    """Refused before anything is asked."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            with pytest.raises(NotFoundError):
                await scene.gateway.complete(scene.call(ChatRequest(model="other", messages=CHAT.messages)))

            assert scene.callers.messages == []

    play(story)


def test_gateway_asks_the_provider_once_when_equal_calls_come_together_or_later() -> None:
    """Single flight, then the cache; what is kept costs no tokens."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock, spec=GatewaySpec(cache=CacheSpec(enabled=True))) as scene:
            await asyncio.gather(*(scene.gateway.complete(scene.call()) for _ in range(3)))
            _result, facts = await scene.gateway.complete(scene.call())
            deltas, _facts = await scene.gateway.stream(scene.call())

            assert facts.cached
            assert "".join([delta.text async for delta in deltas]) == "hi"
            assert scene.upstream.sent == 1
            assert await scene.used() == 50

    play(story)
