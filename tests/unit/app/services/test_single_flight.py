"""Identical concurrent requests share one call, which lives as long as anybody waits for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from app.domain.errors import CancelledError, UpstreamError, UpstreamKind
from app.services.single_flight import SingleFlight

STEPS_MAX = 100


class Upstream:
    """A call that ends when told."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.closed = 0
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.begun += 1
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            await asyncio.sleep(0)  # closing a connection takes a step
            self.closed += 1


async def until(condition: Callable[[], bool]) -> None:
    """Let everybody run until it is so."""
    for _ in range(STEPS_MAX):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come about")


async def settle() -> None:
    """Let everybody run until nothing can happen by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def ask(flights: SingleFlight[str], upstream: Upstream, key: bytes = b"k") -> asyncio.Task[tuple[str, bool]]:
    return asyncio.create_task(flights.run(key, upstream))


async def test_identical_requests_share_one_call() -> None:
    """One is paid for, all are answered, and who did not begin it is told so."""
    flights: SingleFlight[str] = SingleFlight(10)
    upstream = Upstream()
    asked = [ask(flights, upstream) for _ in range(50)]
    await settle()
    upstream.outcome.set_result("42")
    answers = await asyncio.gather(*asked)

    assert upstream.begun == 1
    assert answers == [("42", False)] + [("42", True)] * 49
    assert flights.shared == 49
    assert len(flights) == 0


async def test_different_requests_do_not_share() -> None:
    """Only equal keys are equal questions."""
    flights: SingleFlight[str] = SingleFlight(10)
    one, other = Upstream(), Upstream()
    asked = [ask(flights, one, b"1"), ask(flights, other, b"2")]
    one.outcome.set_result("one")
    other.outcome.set_result("other")

    assert await asyncio.gather(*asked) == [("one", False), ("other", False)]


async def test_request_after_the_end_begins_a_new_call() -> None:
    """This is no cache: a finished call's outcome is not given to those who come later."""
    flights: SingleFlight[str] = SingleFlight(10)
    first, second = Upstream(), Upstream()
    first.outcome.set_result("old")
    assert await flights.run(b"k", first) == ("old", False)
    second.outcome.set_result("new")

    assert await flights.run(b"k", second) == ("new", False)


async def test_error_goes_to_all() -> None:
    """Nobody retries behind the others' back, and the next request is not stuck with it."""
    flights: SingleFlight[str] = SingleFlight(10)
    upstream = Upstream()
    asked = [ask(flights, upstream) for _ in range(3)]
    await settle()
    upstream.outcome.set_exception(UpstreamError("no", kind=UpstreamKind.OVERLOADED))
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [UpstreamError] * 3
    assert len(flights) == 0


@pytest.mark.parametrize("leaver", [0, 1, 2], ids=["leader", "follower", "last"])
async def test_call_goes_on_for_the_others_when_one_leaves(leaver: int) -> None:
    """Above all when the one who began it disconnects: the others' answer is already paid for in part."""
    flights: SingleFlight[str] = SingleFlight(10)
    upstream = Upstream()
    asked = [ask(flights, upstream) for _ in range(3)]
    await settle()
    asked[leaver].cancel()
    await settle()
    assert asked[leaver].cancelled()
    late = ask(flights, upstream)
    await settle()
    upstream.outcome.set_result("42")
    answers = await asyncio.gather(*(task for index, task in enumerate(asked) if index != leaver), late)

    assert [text for text, _shared in answers] == ["42"] * 3
    assert (upstream.begun, upstream.cancelled) == (1, 0)


async def test_call_is_cancelled_when_nobody_waits_any_more() -> None:
    """An answer that nobody reads must not be bought; who left last leaves after its connection is closed."""
    flights: SingleFlight[str] = SingleFlight(10)
    upstream = Upstream()
    asked = [ask(flights, upstream) for _ in range(3)]
    await settle()
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)

    assert all(task.cancelled() for task in asked)
    assert (upstream.cancelled, upstream.closed) == (1, 1)
    assert len(flights) == 0


async def test_request_does_not_join_a_call_that_is_being_cancelled() -> None:
    """It would be told of a withdrawal that it did not ask for."""
    flights: SingleFlight[str] = SingleFlight(10)
    dying, fresh = Upstream(), Upstream()
    leaver = ask(flights, dying)
    await settle()
    leaver.cancel()
    await until(lambda: dying.cancelled == 1)
    assert dying.closed == 0
    fresh.outcome.set_result("42")

    assert await flights.run(b"k", fresh) == ("42", False)
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_leaver_that_is_cancelled_again_while_the_call_closes_leaves_at_once() -> None:
    """A shutdown does not wait for an upstream; the call's own end is nobody's any more, and is not reported lost."""
    reported: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reported.append(context["message"]))
    flights: SingleFlight[str] = SingleFlight(10)
    gate: asyncio.Future[None] = loop.create_future()
    closing: list[bool] = []

    async def stubborn() -> str:
        try:
            return await asyncio.shield(loop.create_future())
        except asyncio.CancelledError:
            closing.append(True)
            await gate
            raise ValueError("closing failed") from None

    leaver = asyncio.create_task(flights.run(b"k", stubborn))
    await settle()
    leaver.cancel()
    await until(lambda: bool(closing))
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    gate.set_result(None)
    await settle()
    gc.collect()

    assert len(flights) == 0
    assert reported == []


async def test_call_that_withdraws_itself_is_an_error_to_all() -> None:
    """Whoever waits was not cancelled: it must be able to answer its client."""
    flights: SingleFlight[str] = SingleFlight(10)

    async def withdrawn() -> str:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    asked = [asyncio.create_task(flights.run(b"k", withdrawn)) for _ in range(2)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [CancelledError] * 2


async def test_deadline_of_one_waiter_is_its_own() -> None:
    """A follower in a hurry gives up alone."""
    flights: SingleFlight[str] = SingleFlight(10)
    upstream = Upstream()
    patient = ask(flights, upstream)
    await settle()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await flights.run(b"k", upstream)
    upstream.outcome.set_result("42")

    assert await patient == ("42", False)


async def test_full_table_shares_no_more_and_answers_all() -> None:
    """The bound costs money, never an answer; keys under way are still shared."""
    flights: SingleFlight[str] = SingleFlight(1)
    one, two, three = Upstream(), Upstream(), Upstream()
    asked = [ask(flights, one, b"1"), ask(flights, two, b"2"), ask(flights, three, b"2"), ask(flights, one, b"1")]
    await settle()
    assert len(flights) == 1
    for upstream in (one, two, three):
        upstream.outcome.set_result("ok")

    assert await asyncio.gather(*asked) == [("ok", False)] * 3 + [("ok", True)]
    assert (one.begun, two.begun, three.begun) == (1, 1, 1)
