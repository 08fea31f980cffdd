"""The account actor's class without Ray: what it admits, what it delivers, what it saves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from actors.account import AccountHost
from app.domain.accounts import AccountSpec, EndpointClass, ModelInfo, Provider
from app.domain.calls import CallOrder, CallOutcome, CallPlace
from app.domain.chat import ChatRequest, ChatResult
from app.domain.errors import ConflictError, InternalError, UpstreamError, UpstreamKind
from app.domain.leases import Exchange, PermitWish
from app.domain.limiter_state import SavedLimiter
from app.domain.limits import LimitSpec
from tests.fakes.adapters import FakeAdapter, FakeBackgroundAdapter, say_ok
from tests.fakes.virtual_time import VirtualClock, run

MODELS = [ModelInfo(name="m", family="f")]


class Saved:
    """Where limiter states and the places of calls go."""

    def __init__(self) -> None:
        self.places: list[tuple[str, str, str]] = []
        self.not_any_more: set[str] = set()
        self.states: dict[tuple[str, str], SavedLimiter] = {}

    async def save_limiters(self, states: Sequence[SavedLimiter], wall_s: float) -> None:
        self.states.update({(state.scope, state.model): state for state in states})

    async def find_limiters(self, keys: Sequence[tuple[str, str]]) -> Sequence[SavedLimiter]:
        return [self.states[key] for key in keys if key in self.states]

    async def place_call(self, place: CallPlace) -> None:
        if place.key in self.not_any_more:
            raise ConflictError("it was taken for lost")
        self.places.append((place.key, place.account, place.model))


def an_account(name: str = "a", limits: LimitSpec | None = None, *, key: str = "k") -> AccountSpec:
    return AccountSpec(
        name=name,
        provider=Provider.CUSTOM,
        api_key=key,
        models=(("m", "upstream-m"),),
        limits=(("m", limits or LimitSpec()),),
    )


def an_order(call_id: str, *, account: str = "a", owner: str = "o") -> CallOrder:
    return CallOrder(
        call_id=call_id,
        owner=owner,
        account=account,
        model="m",
        request=ChatRequest(model="m", messages=()),
        input_tokens=3,
        output_tokens_max=5,
        timeout_s=30.0,
    )


class Stage:
    """A configured host with its adapter and store."""

    def __init__(self) -> None:
        self.adapter = FakeAdapter()
        self.saved = Saved()
        self.host = AccountHost("host", self.saved, lambda account, models: self.adapter)

    async def configure(self, *accounts: AccountSpec, version: int = 1) -> None:
        await self.host.configure(version, accounts, MODELS)

    async def collect(self, count: int) -> list[CallOutcome]:
        found: list[CallOutcome] = []
        while len(found) < count:
            got = (await self.host.collect("o", 5.0)).outcomes
            assert got, "no outcome came"
            found.extend(got)
        return found


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    built = Stage()
    yield built
    built.adapter.gate.set()
    await built.host.drain(1.0)


async def test_an_admitted_order_goes_upstream_under_the_providers_name_for_the_model(stage: Stage) -> None:
    """Public names are ours; the provider knows its own."""
    await stage.configure(an_account())
    (admission,) = await stage.host.submit([an_order("c1")])
    (outcome,) = await stage.collect(1)

    assert admission.admitted
    assert outcome.result is not None
    assert (outcome.result.text, outcome.result.model) == ("ok", "upstream-m")
    assert outcome.load is not None


async def test_no_more_run_at_once_than_the_concurrency_allows(stage: Stage) -> None:
    """What does not fit is refused with the reason, not queued where nobody sees it."""
    await stage.configure(an_account(limits=LimitSpec(concurrency=2)))
    stage.adapter.gate.clear()
    admissions = await stage.host.submit([an_order(f"c{index}") for index in range(5)])
    await asyncio.sleep(0)
    stage.adapter.gate.set()
    await stage.collect(2)

    assert [admission.admitted for admission in admissions] == [True, True, False, False, False]
    assert {admission.reason for admission in admissions[2:]} == {"concurrency"}
    assert stage.adapter.running_max == 2


async def test_a_failure_is_delivered_with_the_account_that_failed(stage: Stage) -> None:
    """Who failed decides who is avoided next."""

    def fail(request: ChatRequest) -> ChatResult:
        raise UpstreamError("overloaded", kind=UpstreamKind.OVERLOADED, status=529)

    stage.adapter.behaviour = fail
    await stage.configure(an_account())
    await stage.host.submit([an_order("c1")])
    (outcome,) = await stage.collect(1)

    assert isinstance(outcome.error, UpstreamError)
    assert (outcome.error.account, outcome.error.kind) == ("a", UpstreamKind.OVERLOADED)


async def test_an_adapters_bug_becomes_an_outcome_and_frees_the_slot(stage: Stage) -> None:
    """A bug must not lose a caller or a slot."""

    def crash(request: ChatRequest) -> ChatResult:
        raise KeyError("choices")

    stage.adapter.behaviour = crash
    await stage.configure(an_account(limits=LimitSpec(concurrency=1)))
    await stage.host.submit([an_order("c1")])
    (outcome,) = await stage.collect(1)
    (again,) = await stage.host.submit([an_order("c2")])

    assert isinstance(outcome.error, InternalError)
    assert again.admitted


async def test_cancelling_reaches_the_provider_and_delivers_nothing(stage: Stage) -> None:
    """Money stops when the caller gives up."""
    await stage.configure(an_account(limits=LimitSpec(concurrency=1)))
    stage.adapter.gate.clear()
    await stage.host.submit([an_order("c1")])
    await asyncio.sleep(0)
    await stage.host.cancel("o", ["c1", "unknown"])
    await asyncio.sleep(0.01)

    assert stage.adapter.cancelled == 1
    assert (await stage.host.collect("o", 0.01)).outcomes == ()
    stage.adapter.gate.set()
    (again,) = await stage.host.submit([an_order("c2")])
    assert again.admitted


async def test_a_dead_key_is_refused_until_a_new_key_is_configured(stage: Stage) -> None:
    """Never retried; a person's change gives it a new chance."""

    def refuse(request: ChatRequest) -> ChatResult:
        raise UpstreamError("the key is refused", kind=UpstreamKind.DEAD_KEY, status=401)

    stage.adapter.behaviour = refuse
    await stage.configure(an_account())
    await stage.host.submit([an_order("c1")])
    await stage.collect(1)
    (refused,) = await stage.host.submit([an_order("c2")])
    (view,) = await stage.host.views()
    await stage.configure(an_account(key="new"), version=2)
    (after,) = await stage.host.submit([an_order("c3")])

    assert (refused.admitted, view.state, view.last_error) == (False, "dead", "the key is refused")
    assert after.admitted
    await stage.collect(1)


async def test_a_drained_host_saves_its_limiters_as_clean_and_admits_nothing(stage: Stage) -> None:
    """After an orderly end the next life goes on where this one stood; after a crash it starts empty."""
    await stage.configure(an_account(limits=LimitSpec(rpm=60)))
    key = ("account:a", "m")
    assert not stage.saved.states[key].clean
    await stage.host.submit([an_order("c1")])
    await stage.collect(1)
    await stage.host.drain(1.0)

    assert stage.saved.states[key].clean
    assert stage.adapter.closed
    (refused,) = await stage.host.submit([an_order("c2")])
    assert not refused.admitted


def test_draining_takes_its_time_once_for_calls_and_permits() -> None:
    """Who ends everything has promised one time, not one for each kind of work."""
    clock = VirtualClock()

    async def drained_after_s() -> float:
        stage = Stage()
        await stage.configure(an_account())
        stage.adapter.gate.clear()
        await stage.host.submit([an_order("c1")])
        wish = PermitWish(call_id="p1", account="a", model="m", input_tokens=1, output_tokens_max=1)
        (admission,) = (await stage.host.exchange(Exchange(owner="replica", wishes=(wish,)))).admissions
        assert admission.admitted
        began_s = clock.now_s
        await stage.host.drain(4.0)
        return clock.now_s - began_s

    assert run(drained_after_s(), clock) == pytest.approx(4.0, abs=0.5)


async def test_a_lost_life_starts_empty_and_an_orderly_one_continues(stage: Stage) -> None:
    """A second burst right after a kill would exceed the provider's limit."""
    await stage.configure(an_account(limits=LimitSpec(rpm=60)))
    key = ("account:a", "m")
    admitted = {}
    for clean in (False, True):
        saved = Saved()
        saved.states[key] = replace(stage.saved.states[key], clean=clean)
        life = AccountHost("host", saved, lambda account, models: FakeAdapter())
        await life.configure(1, [an_account(limits=LimitSpec(rpm=60))], MODELS)
        admitted[clean] = (await life.submit([an_order("c1")]))[0].admitted
        await life.drain(1.0)

    assert admitted == {False: False, True: True}


async def test_orders_for_accounts_that_live_elsewhere_are_refused(stage: Stage) -> None:
    """A stale roster costs one refusal, not an error."""
    await stage.configure(an_account())
    (refused,) = await stage.host.submit([an_order("c1", account="gone")])

    assert (refused.admitted, refused.reason) == (False, "not served here now")


async def test_a_changed_limit_keeps_the_connection_and_a_changed_key_replaces_it(stage: Stage) -> None:
    """A reload must not drop connections for nothing, nor keep an old key."""
    await stage.configure(an_account())
    first = stage.adapter
    await stage.configure(an_account(limits=LimitSpec(rpm=5)), version=2)
    assert not first.closed
    stage.adapter = FakeAdapter()
    await stage.configure(an_account(key="new"), version=3)
    await asyncio.sleep(0.01)

    assert first.closed


async def test_a_live_check_stays_within_the_limits_and_revives_a_topped_up_key(stage: Stage) -> None:
    """A check is a call like any other for the provider; a person who asks for it may have paid the bill."""

    def refuse(request: ChatRequest) -> ChatResult:
        raise UpstreamError("the key has no money", kind=UpstreamKind.DEAD_KEY, status=402)

    await stage.configure(an_account(limits=LimitSpec(concurrency=1)))
    stage.adapter.behaviour = refuse
    dead = await stage.host.check("a")
    stage.adapter.behaviour = say_ok
    paid = await stage.host.check("a")
    stage.adapter.gate.clear()
    await stage.host.submit([an_order("c1")])
    full = await stage.host.check("a")

    assert (dead.ok, dead.message) == (False, "the key has no money")
    assert (paid.ok, paid.message) == (True, "answered")
    assert not full.ok
    assert full.message.startswith("not called: concurrency")


@pytest.mark.parametrize(
    ("endpoint", "places"),
    [
        (EndpointClass.OPAQUE, []),
        (EndpointClass.LOOKUP, [("k1", "a", "m")]),
        (EndpointClass.REATTACH, [("k1", "a", "m")]),
        (EndpointClass.BATCH, [("k1", "a", "m")]),
        (EndpointClass.IDEMPOTENT, [("k1", "a", "m")]),
    ],
)
async def test_where_a_call_goes_is_written_down_before_it_leaves_if_it_can_be_asked_for_again(
    stage: Stage, endpoint: EndpointClass, places: list[tuple[str, str, str]]
) -> None:
    """Elsewhere it would be a commit for nothing."""
    seen: list[list[tuple[str, str, str]]] = []

    def answer(request: ChatRequest) -> ChatResult:
        seen.append(list(stage.saved.places))
        return ChatResult(text="ok")

    stage.adapter.behaviour = answer
    await stage.configure(replace(an_account(), endpoint=endpoint))
    order = an_order("c1")
    await stage.host.submit([replace(order, request=replace(order.request, call_key="k1"))])
    await stage.collect(1)

    assert seen == [places]


async def test_a_call_that_was_taken_for_lost_meanwhile_is_not_sent(stage: Stage) -> None:
    """Its run's new conductor has decided on it; a late sending would be a bill that nobody expects."""
    stage.saved.not_any_more.add("k1")
    await stage.configure(replace(an_account(), endpoint=EndpointClass.IDEMPOTENT))
    order = an_order("c1")
    await stage.host.submit([replace(order, request=replace(order.request, call_key="k1"))])
    (outcome,) = await stage.collect(1)

    assert isinstance(outcome.error, ConflictError)
    assert stage.adapter.requests == []


@pytest.mark.parametrize(("cancelled", "stopped"), [("dead", []), ("o", ["name-0"])])
def test_a_call_that_the_next_conductor_waits_for_is_stopped_by_nobody_else(cancelled: str, stopped: list[str]) -> None:
    """The last conductor's order ends, by itself or because that one woke up again; who came after it waits."""

    async def story() -> None:
        stage, adapter = Stage(), FakeBackgroundAdapter()
        stage.adapter = adapter
        adapter.gate.clear()
        await stage.configure(replace(an_account(), endpoint=EndpointClass.REATTACH))
        order = an_order("c1")
        request = replace(order.request, call_key="c1")
        await stage.host.submit([replace(order, owner="dead", request=request)])
        await asyncio.sleep(1.0)
        await stage.host.submit([replace(order, request=replace(request, begun_as="name-0"))])
        await asyncio.sleep(1.0)
        await stage.host.cancel(cancelled, ["c1"])
        await asyncio.sleep(1.0)

        assert adapter.abandoned == stopped
        adapter.gate.set()
        if cancelled == "dead":
            (outcome,) = await stage.collect(1)
            assert outcome.result is not None
        await stage.host.drain(5.0)

    run(story(), VirtualClock())


def test_a_call_that_comes_too_late_for_the_last_conductor_goes_on_for_the_next() -> None:
    """Its own time has just begun."""

    async def story() -> None:
        stage, adapter = Stage(), FakeBackgroundAdapter()
        stage.adapter = adapter
        adapter.gate.clear()
        await stage.configure(replace(an_account(), endpoint=EndpointClass.REATTACH))
        order = an_order("c1")
        request = replace(order.request, call_key="c1")
        await stage.host.submit([replace(order, owner="dead", request=request, timeout_s=5.0)])
        await asyncio.sleep(1.0)
        await stage.host.submit([replace(order, request=replace(request, begun_as="name-0"))])
        await asyncio.sleep(10.0)

        assert adapter.abandoned == []
        adapter.gate.set()
        (outcome,) = await stage.collect(1)
        assert outcome.result is not None
        await stage.host.drain(5.0)

    run(story(), VirtualClock())
