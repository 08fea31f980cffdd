"""One client call from its caller's limits to a settled answer: nothing stays reserved, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from app.domain.accounts import AccountSpec, CacheSpec, GatewaySpec, Provider
from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Message, Role, Usage
from app.domain.errors import ConflictError, NotFoundError, QuotaError, RequestError, UpstreamError, UpstreamKind
from app.domain.gateway import Asked, Caller, EmbeddingRequest, EmbeddingResult, RoutingWish
from app.domain.hosting import CALLERS_HOST, CALLERS_MODEL, caller_account
from app.domain.limits import LimitSpec
from app.domain.ports import Upstream
from app.domain.retries import RetryBudget
from app.services.gateway.attempts import Attempts
from app.services.gateway.caller_gate import SLOT_PATIENCE_S, CallerGate
from app.services.gateway.gateway import ClientCall, EmbeddingCall, Gateway
from app.services.gateway.repeats import Repeats
from tests.fakes.books import PRICE, a_spending
from tests.fakes.permit_hosts import OfficeHosts, an_account, cancel
from tests.fakes.permit_world import World, a_world, play
from tests.fakes.repeat_keys import RowKeys
from tests.fakes.virtual_time import VirtualClock

TEAM = Caller(name="team", limits=LimitSpec(tpm=10_000, concurrency=4, window="sliding", charge="used"))
CHAT = ChatRequest(model="m", messages=(Message(role=Role.USER, text="hello"),), output_tokens_max=100)
VECTORS = EmbeddingResult(vectors=((0.1, 0.2),), input_tokens=2)
USED = Usage(input_tokens=20, output_tokens=30)


@dataclass
class Provided(Upstream):
    """Answers after a second, or fails; without usage where none is set."""

    seconds: float = 1.0
    error: Exception | None = None
    usage: Usage = USED
    refusal: str | None = None
    sent: int = 0
    names: list[str | None] = field(default_factory=list)
    stopped: int = 0

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        self.sent += 1
        self.names.append(request.call_key)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return ChatResult(text="hi", usage=self.usage, refusal=self.refusal)

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
        self.sent += 1
        return VECTORS


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
            repeats = Repeats(RowKeys(clock), clock, owner="replica")
            gateway = Gateway(world.rosters[0], attempts, gate, spending, clock, spec=spec, repeats=repeats)
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


def test_ceiling_of_cost_is_kept_by_the_prices_in_force() -> None:
    """By the configuration's rows, all choices together, at the tier that is asked for: as the books reckon."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            scene.world.hosts.prices = (PRICE,)
            await asyncio.sleep(3)  # the rosters hear of it
            wish = RoutingWish(cost_usd_max="0.001")
            result, _facts = await scene.gateway.complete(replace(scene.call(), wish=wish))
            fast = replace(CHAT, extra=(("service_tier", '"priority"'),))
            refusals = []
            for chat in (replace(CHAT, output_tokens_max=500), replace(CHAT, choices=5), fast):
                with pytest.raises(RequestError) as refused:
                    await scene.gateway.complete(replace(scene.call(chat), wish=wish))
                assert refused.value.param == "x-tutti-max-cost"
                refusals.append(refused.value.message)

            assert result.text == "hi"
            assert ["it may cost" in said for said in refusals] == [True, True, False]
            assert "its price is unknown" in refusals[2]
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
            scene.upstream.seconds = 2 * SLOT_PATIENCE_S
            calls = [asyncio.create_task(scene.gateway.complete(scene.call())) for _ in range(5)]
            await asyncio.sleep(1.5 * SLOT_PATIENCE_S)
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


def keyed(call: ClientCall, *, stream: bool = False) -> ClientCall:
    chat = replace(call.asked.chat, stream=stream)
    return replace(call, asked=replace(call.asked, chat=chat), idempotency_key="k")


def test_gateway_buys_once_when_a_key_comes_again_and_charges_its_caller_once() -> None:
    """Streamed or not: the answer is the same, and its headers are those of the first."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            first, facts = await scene.gateway.complete(keyed(scene.call()))
            again, kept = await scene.gateway.complete(keyed(scene.call()))
            deltas, streamed = await scene.gateway.stream(keyed(scene.call(), stream=True))

            assert (first, facts.served) == (again, kept.served)
            assert "".join([delta.text async for delta in deltas]) == "hi"
            assert streamed.served == facts.served
            assert facts.upstream_s == pytest.approx(1.0, abs=0.01)
            assert kept.upstream_s == 0.0
            assert scene.upstream.sent == 1
            assert await scene.used() == 50

    play(story)


def test_gateway_goes_on_with_a_keyed_stream_when_its_client_leaves() -> None:
    """The repeat gets the answer that was paid for, with its usage and what the model refused."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            scene.upstream.refusal = "I will not."
            client = asyncio.create_task(scene.gateway.stream(keyed(scene.call(), stream=True)))
            await asyncio.sleep(0.5)
            client.cancel()
            await asyncio.gather(client, return_exceptions=True)
            deltas, _facts = await scene.gateway.stream(keyed(scene.call(), stream=True))
            parts = [delta async for delta in deltas]

            assert "".join(part.text for part in parts) == "hiI will not."
            assert parts[-1].usage == USED
            assert scene.upstream.sent == 1
            assert await scene.used() == 50

    play(story)


def test_gateway_names_a_keyed_call_to_its_provider_as_every_replica_would() -> None:
    """A provider that honours the name bills the call once, also where another replica takes it over."""

    async def story(clock: VirtualClock) -> None:
        names = []
        for _replica in range(2):
            async with a_scene(clock) as scene:
                await scene.gateway.complete(keyed(scene.call()))
                other = replace(scene.call(), idempotency_key="another")
                await scene.gateway.complete(other)
                names.append(scene.upstream.names)
        (first, second) = names

        assert first == second
        assert len(set(first)) == 2
        assert all(first)

    play(story)


def test_gateway_honours_the_key_of_embeddings() -> None:
    """A key is a key."""

    async def story(clock: VirtualClock) -> None:
        async with a_scene(clock) as scene:
            roster = scene.world.rosters[0]
            roster._orchestra = replace(
                roster.orchestra(), models=tuple(replace(each, kind="embedding") for each in roster.orchestra().models)
            )
            call = EmbeddingCall(
                request_id="e",
                caller=TEAM,
                request=EmbeddingRequest(model="m", inputs=("hello",)),
                idempotency_key="k",
            )
            first, again = [await scene.gateway.embed(call) for _ in range(2)]

            assert first[0] == again[0] == VECTORS
            assert scene.upstream.sent == 1
            with pytest.raises(ConflictError):
                await scene.gateway.complete(keyed(scene.call()))

    play(story)
