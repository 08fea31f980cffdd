"""A call goes on until somebody answers or nothing is left to try; every permit ends in exactly one report."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from app.domain.chat import ChatDelta, ChatRequest, ChatResult, FinishReason, Usage
from app.domain.errors import CallLostError, GatewayError, InternalError, RequestError, UpstreamError, UpstreamKind
from app.domain.gateway import ANONYMOUS, Candidate, EmbeddingRequest, EmbeddingResult
from app.domain.limits import LimitSpec
from app.domain.ports import Upstream
from app.domain.retries import RetryBudget
from app.services.gateway.attempts import Attempts, Bid
from tests.fakes.books import LedgerBooks, a_spending
from tests.fakes.permit_hosts import an_account
from tests.fakes.permit_world import World, a_world, play
from tests.fakes.virtual_time import VirtualClock

USAGE = Usage(input_tokens=7, output_tokens=3)
LIMITS = LimitSpec(rpm=600, concurrency=8, burst_ms=4_000)
Deed = BaseException | float | None
"""What an account does with a call: fails, answers after so many seconds, or at once."""


def failure(kind: UpstreamKind, **more: float) -> UpstreamError:
    return UpstreamError("failed", kind=kind, retry_after_s=more.get("retry_after_s"))


@dataclass
class Account(Upstream):
    """An adapter that does as told, call by call; the last deed is repeated."""

    name: str
    clock: VirtualClock
    deeds: list[Deed] = field(default_factory=lambda: [None])
    deltas: int = 3
    breaks_after: tuple[int, Exception] | None = None
    sent: list[tuple[float, str]] = field(default_factory=list)
    """(when, model)."""
    keys: list[str | None] = field(default_factory=list)
    closed: int = 0
    yielded: int = 0

    async def _do(self, request: ChatRequest) -> None:
        self.sent.append((self.clock.now_s, request.model))
        self.keys.append(request.call_key)
        deed = self.deeds[min(len(self.sent), len(self.deeds)) - 1]
        if isinstance(deed, BaseException):
            raise deed
        await asyncio.sleep(deed or 0.01)

    async def chat_completion(self, request: ChatRequest, *, timeout_s: float) -> ChatResult:
        await self._do(request)
        return ChatResult(text=self.name, usage=USAGE)

    async def chat_completion_stream(
        self, request: ChatRequest, *, timeout_s: float, idle_timeout_s: float
    ) -> AsyncGenerator[ChatDelta, None]:
        try:
            await self._do(request)
            for number in range(self.deltas):
                if self.breaks_after is not None and number == self.breaks_after[0]:
                    raise self.breaks_after[1]
                self.yielded += 1
                yield ChatDelta(text=str(number))
                await asyncio.sleep(0.01)
            yield ChatDelta(finish_reason=FinishReason.STOP, usage=USAGE)
        finally:
            self.closed += 1

    async def embed(self, request: EmbeddingRequest, *, timeout_s: float) -> EmbeddingResult:
        raise AssertionError("not asked here")


@dataclass
class Stage:
    """Accounts that act, and who calls them."""

    world: World
    attempts: Attempts
    accounts: dict[str, Account]
    providers: dict[str, str]
    books: LedgerBooks
    going_on: bool = False

    def goes_on(self, account: str, *, stream: bool) -> bool:
        return self.going_on

    def of(self, account: str) -> Upstream:
        return self.accounts[account]

    def name(self, account: str, model: str) -> str:
        return model

    def provider(self, account: str) -> str:
        return self.providers[account]

    @property
    def used(self) -> list[Usage]:
        """What answered calls are said to have used."""
        told = [report for _host, message in self.world.hosts.messages for report in message.reports]
        return [report.usage for report in told if report.ending == "answered"]

    def bid(self, *candidates: tuple[str, Sequence[str]], deadline_s: float = 60.0) -> Bid[ChatRequest]:
        wanted = candidates or (("m", sorted(self.accounts)),)
        return Bid(
            request=ChatRequest(model="m", messages=()),
            candidates=tuple(Candidate(model=model, accounts=tuple(names)) for model, names in wanted),
            input_tokens=10,
            output_tokens_max=20,
            caller=ANONYMOUS,
            deadline_s=deadline_s,
            queue_s=30.0,
        )

    def endings(self) -> list[str]:
        """Return how every permit of a call ended, as told to its account; each is told once."""
        told = [report for _host, message in self.world.hosts.messages for report in message.reports]
        assert len({report.call_id for report in told}) == len(told), "a permit was reported twice"
        return [report.ending for report in told if not (report.ending == "withdrawn" and "life" in report.call_id)]

    async def nothing_left(self) -> None:
        await self.world.settled()
        assert self.world.hosts.held == 0
        assert self.world.desks[0].outstanding == 0


@asynccontextmanager
async def a_stage(
    clock: VirtualClock,
    deeds: dict[str, list[Deed]],
    *,
    providers: dict[str, str] | None = None,
    models: Sequence[str] = ("m",),
    retries: RetryBudget | None = None,
    attempts_max: int = 4,
) -> AsyncIterator[Stage]:
    specs = [an_account(name, *models, limits=LIMITS) for name in deeds]
    async with a_world(clock, *specs) as world:
        accounts = {name: Account(name, clock, list(told)) for name, told in deeds.items()}
        served = providers or dict.fromkeys(deeds, "openai")
        async with a_spending(world.rosters[0], clock) as (spending, books):
            stage = Stage(world, None, accounts, served, books)  # type: ignore[arg-type]  # the next line gives them
            stage.attempts = Attempts(
                world.desks[0],
                stage,
                clock,
                spending=spending,
                retries=retries or RetryBudget(0.1, 10),
                attempts_max=attempts_max,
            )
            yield stage
            await stage.nothing_left()
        assert "open" not in books.counts()
        assert books.verify() == []


def test_attempts_go_elsewhere_without_a_pause_when_an_account_fails() -> None:
    """Another account is asked at once; the client sees its answer."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [failure(UpstreamKind.TIMEOUT)], "b": [None]}) as stage:
            began_s = clock.now_s
            for _ in range(4):
                result, _won = await stage.attempts.complete(stage.bid())
                assert result.text == "b"

            assert clock.now_s - began_s < 0.3
            await stage.nothing_left()
            assert stage.endings().count("answered") == 4

    play(story)


def test_attempts_pause_with_jitter_when_the_same_account_is_all_there_is() -> None:
    """A lone account that failed is asked again only after a pause, and not before what it asks for."""

    async def story(clock: VirtualClock) -> None:
        deeds: list[Deed] = [failure(UpstreamKind.OVERLOADED, retry_after_s=2.0), None]
        async with a_stage(clock, {"a": deeds}) as stage:
            _result, won = await stage.attempts.complete(stage.bid())

            sent = [at_s for at_s, _model in stage.accounts["a"].sent]
            assert won.attempts == 2
            assert 2.0 <= sent[1] - sent[0] <= 2.0 + 0.5 + 1.0

    play(story)


def test_every_attempt_of_a_call_has_the_same_name_and_other_calls_have_others() -> None:
    """Where an account bills a name once, a lost answer is asked for again, not bought again."""

    async def story(clock: VirtualClock) -> None:
        deeds: list[Deed] = [failure(UpstreamKind.TIMEOUT), None]
        async with a_stage(clock, {"a": deeds}) as stage:
            await stage.attempts.complete(stage.bid())
            await stage.attempts.complete(stage.bid())
            await stage.attempts.complete(replace(stage.bid(), key="the client's"))

            first, again, second, third = stage.accounts["a"].keys
            assert first is not None
            assert first == again != second
            assert third == "the client's"

    play(story)


def test_attempts_end_with_the_last_failure_when_their_number_is_used_up() -> None:
    """One budget of attempts per call, whoever is asked."""

    async def story(clock: VirtualClock) -> None:
        broken: dict[str, list[Deed]] = {name: [failure(UpstreamKind.GARBAGE)] for name in "abcdef"}
        async with a_stage(clock, broken, attempts_max=3) as stage:
            with pytest.raises(UpstreamError) as caught:
                await stage.attempts.complete(stage.bid())

            assert caught.value.kind is UpstreamKind.GARBAGE
            assert sum(len(each.sent) for each in stage.accounts.values()) == 3

    play(story)


def test_attempts_stop_when_the_pool_has_used_up_its_retries() -> None:
    """Over all calls, retries stay within the pool's share."""

    async def story(clock: VirtualClock) -> None:
        broken: dict[str, list[Deed]] = {name: [failure(UpstreamKind.CUT)] for name in "ab"}
        async with a_stage(clock, broken, retries=RetryBudget(0.0, 2)) as stage:
            for _ in range(6):
                with pytest.raises(GatewayError):
                    await stage.attempts.complete(stage.bid(deadline_s=5.0))

            sent = sum(len(each.sent) for each in stage.accounts.values())
            assert sent <= 6 + 2

    play(story)


@pytest.mark.parametrize("kind", [UpstreamKind.INVALID_REQUEST, UpstreamKind.REFUSED])
def test_attempts_do_not_repeat_a_request_when_it_is_refused_as_such(kind: UpstreamKind) -> None:
    """What the provider refuses because of its content fails everywhere."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [failure(kind)], "b": [failure(kind)]}) as stage:
            with pytest.raises(UpstreamError):
                await stage.attempts.complete(stage.bid())

            assert sum(len(each.sent) for each in stage.accounts.values()) == 1

    play(story)


@pytest.mark.parametrize("accounts", [("a",), ("a", "b")])
def test_attempts_take_another_model_when_the_request_is_too_long(accounts: tuple[str, ...]) -> None:
    """A larger model is asked, also where it is the very same account's."""

    async def story(clock: VirtualClock) -> None:
        deeds: dict[str, list[Deed]] = {name: [failure(UpstreamKind.TOO_LONG), None] for name in accounts}
        async with a_stage(clock, deeds, models=("m", "large")) as stage:
            _result, won = await stage.attempts.complete(stage.bid(("m", accounts), ("large", [accounts[0]])))

            assert (won.permit.model, won.attempts) == ("large", 2)

    play(story)


def test_attempts_take_another_model_of_the_same_account_when_one_is_at_its_minute_limit() -> None:
    """Limits belong to one model: the account's other one serves at once."""

    async def story(clock: VirtualClock) -> None:
        deeds: dict[str, list[Deed]] = {"a": [failure(UpstreamKind.MINUTE_LIMIT, retry_after_s=20.0), None]}
        async with a_stage(clock, deeds, models=("m", "other")) as stage:
            began_s = clock.now_s
            _result, won = await stage.attempts.complete(stage.bid(("m", "a"), ("other", "a")))

            assert won.permit.model == "other"
            assert clock.now_s - began_s < 1.0

    play(story)


def test_attempts_take_another_provider_when_one_cannot_be_told_the_request() -> None:
    """An adapter's refusal is final for its provider only, and costs its account nothing."""

    async def story(clock: VirtualClock) -> None:
        refused: list[Deed] = [RequestError("no such field", param="seed")]
        deeds: dict[str, list[Deed]] = {"a": refused, "b": refused, "c": [None]}
        async with a_stage(clock, deeds, providers={"a": "x", "b": "x", "c": "y"}) as stage:
            result, _won = await stage.attempts.complete(stage.bid())

            assert result.text == "c"
            assert len(stage.accounts["a"].sent) + len(stage.accounts["b"].sent) <= 1
            await stage.nothing_left()
            assert set(stage.endings()) <= {"withdrawn", "answered"}

    play(story)


def test_attempts_say_what_is_wrong_with_the_request_when_no_provider_can_be_told_it() -> None:
    """The refusal names the field, as the client needs it."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [RequestError("no such field", param="seed")]}) as stage:
            with pytest.raises(RequestError, match="no such field"):
                await stage.attempts.complete(stage.bid())

    play(story)


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("bug"), asyncio.CancelledError()])
def test_attempts_report_a_permit_once_when_an_adapter_fails_in_an_unforeseen_way(error: BaseException) -> None:
    """A bug must not cost the account a slot for ever, nor settle it twice."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [error]}) as stage:
            for how in (stage.attempts.complete, stage.attempts.open):
                with pytest.raises(type(error)):
                    await how(stage.bid())
            await stage.nothing_left()

            assert stage.endings() == ["cancelled", "cancelled"]

    play(story)


def test_attempts_go_elsewhere_when_an_account_reached_through_its_actor_is_lost() -> None:
    """Our own failure on the way is one that another account may make good."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [InternalError("the actor is gone")], "b": [None]}) as stage:
            for how in (stage.attempts.complete, stage.attempts.open):
                for _ in range(2):
                    answer, won = await how(stage.bid())
                    assert won.permit.account == "b"
                    if not isinstance(answer, ChatResult):
                        await answer.aclose()

    play(story)


async def drained(deltas: AsyncGenerator[ChatDelta, None]) -> list[str]:
    return [delta.text async for delta in deltas if delta.text]


def test_streams_go_elsewhere_when_they_fail_before_the_first_delta() -> None:
    """Nothing was shown to the client yet."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [failure(UpstreamKind.CUT)], "b": [None]}) as stage:
            for _ in range(3):
                deltas, won = await stage.attempts.open(stage.bid())

                assert won.permit.account == "b"
                assert await drained(deltas) == ["0", "1", "2"]

    play(story)


@pytest.mark.parametrize("error", [failure(UpstreamKind.CUT), InternalError("the actor is gone")])
def test_streams_raise_when_they_fail_after_the_first_delta(error: GatewayError) -> None:
    """What the client has seen cannot be taken back; the permit is reported as failed, once."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None], "b": [None]}) as stage:
            for account in stage.accounts.values():
                account.breaks_after = (2, error)
            deltas, _won = await stage.attempts.open(stage.bid())
            seen = [(await anext(deltas)).text, (await anext(deltas)).text]
            with pytest.raises(UpstreamError) as caught:
                await anext(deltas)

            assert seen == ["0", "1"]
            assert isinstance(error, UpstreamError) or isinstance(caught.value, CallLostError)
            await stage.nothing_left()
            assert stage.endings() == ["failed"]

    play(story)


@pytest.mark.parametrize("seen", [0, 1, 3, 4])
def test_streams_stop_the_provider_and_are_reported_once_when_the_client_leaves(seen: int) -> None:
    """Also where the client left before it read anything, and where it had everything but the end."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None]}) as stage:
            deltas, _won = await stage.attempts.open(stage.bid())
            for _ in range(seen):
                await anext(deltas)
            await deltas.aclose()

            assert stage.accounts["a"].closed == 1
            await stage.nothing_left()
            assert stage.endings() == ["answered" if seen == 4 else "cancelled"]

    play(story)


def test_streams_are_settled_with_what_was_used_when_they_end() -> None:
    """The last delta's usage replaces the reservation; where there is none, all of it counts."""

    async def story(clock: VirtualClock) -> None:
        async with a_stage(clock, {"a": [None]}) as stage:
            deltas, _won = await stage.attempts.open(stage.bid())
            await drained(deltas)
            await stage.nothing_left()

            told = [report for _host, message in stage.world.hosts.messages for report in message.reports]
            assert [report.usage for report in told if report.ending == "answered"] == [USAGE]

    play(story)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after_s", [0.0005, 0.0015, 0.0025, 0.005, 0.5, 3.0])
def test_attempts_leave_nothing_when_they_are_cancelled(stream: bool, after_s: float) -> None:
    """At whichever moment: while waiting, while sending, during the pause."""

    async def story(clock: VirtualClock) -> None:
        deeds: list[Deed] = [failure(UpstreamKind.OVERLOADED, retry_after_s=1.0), 5.0]
        async with a_stage(clock, {"a": deeds}) as stage:
            bid = stage.bid()
            work = stage.attempts.open(bid) if stream else stage.attempts.complete(bid)
            task: asyncio.Task[object] = asyncio.create_task(work)
            await asyncio.sleep(after_s)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await stage.nothing_left()

            assert stage.world.waiting == 0
            assert len(stage.endings()) == len(stage.accounts["a"].sent) + stage.endings().count("withdrawn")

    play(story)


def test_attempts_give_up_when_their_deadline_is_over() -> None:
    """One deadline over all attempts."""

    async def story(clock: VirtualClock) -> None:
        forever = itertools.repeat(failure(UpstreamKind.OVERLOADED), 50)
        async with a_stage(clock, {"a": list(forever)}, attempts_max=50) as stage:
            began_s = clock.now_s
            with pytest.raises(GatewayError):
                await stage.attempts.complete(stage.bid(deadline_s=4.0))

            assert clock.now_s - began_s <= 4.1

    play(story)
