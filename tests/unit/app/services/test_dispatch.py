"""The dispatcher places a call once, on whoever can start it, and leaves nothing running behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from app.domain.accounts import AccountSpec, CoordinatorSpec, ModelInfo, Orchestra, Provider
from app.domain.calls import CallOrder, ModelCall
from app.domain.chat import ChatRequest, ChatResult, Message, Role
from app.domain.errors import CallLostError, CapacityError, DeadlineError, GatewayError, UpstreamError, UpstreamKind
from app.domain.load import LoadRow
from app.services.dispatch import CallProgress, Dispatcher
from app.services.roster import SnapshotRoster
from tests.fakes.clock import RunningClock
from tests.fakes.hosts import FakeHosts, Script, answered


def a_row(account: str, *, state: str = "healthy", call_s: float = 0.1) -> LoadRow:
    return LoadRow(
        account=account,
        model="m",
        scope=f"account:{account}",
        state=state,  # type: ignore[arg-type]  # one of the states
        in_flight=0,
        concurrency=None,
        buckets=(),
        cooldown_s=0.0,
        call_s=call_s,
        call_output_tokens=100.0,
        error_rate=0.0,
        context_tokens=10_000,
        observed_at_s=0.0,
    )


def a_roster(*rows: LoadRow) -> SnapshotRoster:
    names = {row.account for row in rows}
    orchestra = Orchestra(
        version=1,
        accounts=tuple(
            AccountSpec(name=name, provider=Provider.OPENAI, models=(("m", "m"),)) for name in sorted(names)
        ),
        models=(ModelInfo(name="m", family="f", input_usd_per_mtok="1", output_usd_per_mtok="2"),),
        routes=(),
        coordinator=CoordinatorSpec(
            model="m", requested_model="m", judge_model="m", clarify_model="m", transcribe_model="m"
        ),
        data_dir="unused",
    )
    roster = SnapshotRoster()
    roster.update(orchestra, {name: f"host-{name}" for name in names}, rows)
    return roster


def a_call(call_id: str = "c", *, deadline_s: float = 5.0, rank_s: float = 0.0) -> ModelCall:
    return ModelCall(
        call_id=call_id,
        run_id="r",
        purpose="task",
        task_id="t1",
        attempt=1,
        models=("m",),
        request=ChatRequest(model="m", messages=(Message(role=Role.USER, text="hi"),), output_tokens_max=20),
        deadline_s=deadline_s,
        rank_s=rank_s,
    )


class Stage:
    """A dispatcher on fake hosts, with what it told."""

    def __init__(self, script: Script, *rows: LoadRow) -> None:
        self.hosts = FakeHosts(script)
        self.progress: list[CallProgress] = []
        self.silent: list[str] = []
        self.dispatcher = Dispatcher(
            self.hosts,
            a_roster(*rows),
            RunningClock(),
            owner="me",
            on_progress=self.progress.append,
            on_silence=self._note_silence,
        )

    async def _note_silence(self, host: str) -> None:
        self.silent.append(host)


@pytest.fixture
async def stage() -> AsyncIterator[Callable[..., Stage]]:
    tasks = []

    def build(script: Script, *rows: LoadRow) -> Stage:
        built = Stage(script, *(rows or (a_row("a"),)))
        tasks.append(asyncio.create_task(built.dispatcher.run()))
        return built

    yield build
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def say_ok(order: CallOrder) -> ChatResult:
    return answered("ok")


async def test_an_answer_comes_back_with_its_account_and_without_a_price(stage: Callable[..., Stage]) -> None:
    """The caller learns who answered and when; what it cost is for the books to say, which know every price row."""
    answer = await stage(say_ok).dispatcher.call(a_call())

    assert (answer.result.text, answer.account, answer.model, answer.cost_usd) == ("ok", "a", "m", None)
    assert answer.queued_at_s <= answer.finished_at_s


async def test_waiting_calls_of_one_account_travel_together(stage: Callable[..., Stage]) -> None:
    """32 orders in one Ray call cost 23 µs each instead of 750."""
    built = stage(say_ok)
    batches: list[int] = []
    submit = built.hosts.submit

    async def counting(host: str, orders: list[CallOrder]) -> object:
        batches.append(len(orders))
        return await submit(host, orders)

    built.hosts.submit = counting  # type: ignore[method-assign,assignment]
    await asyncio.gather(*(built.dispatcher.call(a_call(f"c{index}")) for index in range(40)))

    assert sorted(batches) == [8, 32]


async def test_the_most_urgent_call_is_placed_first(stage: Callable[..., Stage]) -> None:
    """Critical path first, whatever came first."""
    built = stage(say_ok)
    await asyncio.gather(*(built.dispatcher.call(a_call(f"c{rank}", rank_s=rank)) for rank in (1, 9, 5)))

    assert [order.call_id for order in built.hosts.orders] == ["c9", "c5", "c1"]


async def test_a_refused_order_is_offered_again(stage: Callable[..., Stage]) -> None:
    """The account has the last word; the call stays with us until somebody can start it."""
    refusals = iter([0.01, 0.01])

    def script(order: CallOrder) -> ChatResult | GatewayError | float:
        return next(refusals, None) or answered("ok")

    built = stage(script)

    assert (await built.dispatcher.call(a_call())).result.text == "ok"
    assert len(built.hosts.orders) == 3


async def test_a_dead_host_fails_its_calls_as_unknown_and_is_reported(stage: Callable[..., Stage]) -> None:
    """Nobody may pretend to know whether a lost call was billed."""
    built = stage(say_ok)
    built.hosts.held.clear()
    running = asyncio.create_task(built.dispatcher.call(a_call()))
    await asyncio.wait_for(_until(lambda: bool(built.hosts.orders)), 2)
    built.hosts.gone.add("host-a")
    built.hosts.held.set()

    with pytest.raises(UpstreamError) as lost:
        await running
    assert (lost.value.kind, lost.value.billed, lost.value.account) == (UpstreamKind.CONNECTION, None, "a")
    await asyncio.wait_for(_until(lambda: built.silent == ["host-a"]), 2)


async def test_a_host_that_died_and_is_back_between_two_questions_has_lost_its_calls(
    stage: Callable[..., Stage],
) -> None:
    """The new life answers, but knows nothing of the old one's calls: nobody may wait for them."""
    built = stage(say_ok)
    assert (await built.dispatcher.call(a_call("c1"))).result.text == "ok"
    built.hosts.held.clear()
    running = asyncio.create_task(built.dispatcher.call(a_call("c2")))
    await asyncio.wait_for(_until(lambda: len(built.hosts.orders) == 2), 2)
    built.hosts.reborn()
    built.hosts.held.set()

    with pytest.raises(CallLostError):
        await asyncio.wait_for(running, 2)


async def test_a_host_that_went_away_gets_no_calls_until_it_is_back(stage: Callable[..., Stage]) -> None:
    """One dead actor must not swallow every waiting call of the run, one after the other."""
    built = stage(say_ok, a_row("a"), a_row("b", call_s=9.0))
    built.hosts.gone.add("host-a")
    with pytest.raises(CallLostError):
        await built.dispatcher.call(a_call("c1"))
    answers = [await built.dispatcher.call(a_call(f"c{number}")) for number in (2, 3)]

    assert [answer.account for answer in answers] == ["b", "b"]


async def test_a_call_waits_for_the_only_account_to_come_back(stage: Callable[..., Stage]) -> None:
    """An actor that is being restarted is no reason to give a call up."""
    built = stage(say_ok)
    built.hosts.gone.add("host-a")
    with pytest.raises(CallLostError):
        await built.dispatcher.call(a_call("c1"))
    built.hosts.gone.clear()

    with pytest.raises(CapacityError, match="no account could start"):
        await built.dispatcher.call(a_call("c2", deadline_s=0.05))
    assert [(item.kind, item.reason) for item in built.progress] == [("waiting", "its account is starting")]


async def test_a_cancelled_call_is_stopped_at_the_account(stage: Callable[..., Stage]) -> None:
    """Cancelling must reach the provider, or money runs on."""
    built = stage(say_ok)
    built.hosts.held.clear()
    running = asyncio.create_task(built.dispatcher.call(a_call()))
    await asyncio.wait_for(_until(lambda: bool(built.hosts.orders)), 2)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.wait_for(_until(lambda: built.hosts.cancelled == ["c"]), 2)


async def test_a_late_answer_ends_at_the_deadline_and_is_stopped(stage: Callable[..., Stage]) -> None:
    """A deadline that nobody enforces is no deadline."""
    built = stage(say_ok)
    built.hosts.held.clear()

    with pytest.raises(DeadlineError):
        await built.dispatcher.call(a_call(deadline_s=0.05))
    await asyncio.wait_for(_until(lambda: built.hosts.cancelled == ["c"]), 2)


async def test_a_call_that_nobody_can_take_waits_and_then_says_so(stage: Callable[..., Stage]) -> None:
    """Busy is told at once and becomes an honest refusal at the deadline."""
    built = stage(lambda order: 9.0)

    with pytest.raises(CapacityError):
        await built.dispatcher.call(a_call(deadline_s=0.1))


async def test_a_call_without_any_living_account_fails_at_once(stage: Callable[..., Stage]) -> None:
    """Waiting for a dead key would be waiting for ever."""
    built = stage(say_ok, a_row("a", state="dead"))

    with pytest.raises(CapacityError, match="refused by their provider"):
        await built.dispatcher.call(a_call(deadline_s=60.0))


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  the condition is somebody else's state
        await asyncio.sleep(0.001)
