"""Makes a client's repeated request the same request: one key, one answer, bought once by all replicas together.

Whoever makes the call holds the key in the store (``ports.RepeatKeys``) and says that it lives; the others wait there.
The answer is on disk before the client has it, and is given again for a day. A call that failed is forgotten: repeating
it is what the key was for. One whose holder died is made again by the next who asks, who is told so: it may have been
bought (``lost_calls``).

A call whose clients have all left goes on, within a number and a time, and its answer is kept for the repeat. What this
replica knows is answered without asking the store.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from app.domain.chat import ChatRequest
from app.domain.errors import CancelledError, CapacityError, ConflictError, DeadlineError, GatewayError
from app.domain.gateway import EmbeddingRequest
from app.domain.ports import Clock, RepeatKeys
from app.domain.repeats import LEASE_S, Claim, KeptAnswer, Standing, a_claim, answer_bytes

KEPT_MAX = 2_000
KEPT_BYTES_MAX = 64 * 1024 * 1024
KEPT_S = 600.0
"""In this replica; afterwards the store is asked again."""
FLIGHTS_MAX = 10_000
LEFT_MAX = 200
"""Calls without a client at once; one more is stopped instead."""
LEFT_S = 120.0
RENEW_S = LEASE_S / 4
WAIT_S = 15.0
"""For another replica's call, in one message."""
PAUSE_S = 0.5
"""Between two messages where the store did not wait."""
KEEP_WAIT_S = 5.0
"""A store that takes longer to keep an answer goes on with it behind the client's back."""

CLOSE_S = 1.0
"""A key that the store has not freed by then is free when its lease ends."""

Make: TypeAlias = Callable[[float, float | None], Awaitable[KeptAnswer]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    fingerprint: str
    answer: KeptAnswer
    size_bytes: int
    until_ns: int


@dataclass(slots=True, eq=False)
class _Flight:
    claim: Claim
    task: asyncio.Task[KeptAnswer]
    waiting: int = 0
    buying: bool = False
    """Whether leaving it may lose something that was paid for."""
    timer: asyncio.TimerHandle | None = None
    """Set while it goes on without a client."""
    lost_at_s: float | None = None
    """When its key was taken over from a holder that died."""


class Repeats:
    """Answers by (caller, idempotency key). One per replica.

    Args:
        keys: Of all replicas.
        clock: Time.
        owner: Name of this holder; unique per life.

    Not thread-safe: one event loop.
    """

    def __init__(self, keys: RepeatKeys, clock: Clock, *, owner: str) -> None:
        self._keys = keys
        self._clock = clock
        self._owner = owner
        self._numbers = itertools.count(1)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._kept_bytes = 0
        self._flights: dict[str, _Flight] = {}
        self._left = 0
        self._held: dict[str, Claim] = {}
        """By holder: what is being made here, until the store knows how it ended."""
        self._renewer: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(
        self, caller: str, key: str, request: ChatRequest | EmbeddingRequest, make: Make, *, deadline_s: float
    ) -> KeptAnswer:
        """Return the answer of the first request with this key, or make it.

        Args:
            caller: Whose key it is; callers do not see each other's.
            key: As the client sent it.
            request: What is asked.
            make: Makes the call within the seconds that it is given; told when a holder was found dead that may have
                bought it, in seconds since 1970.
            deadline_s: From now.

        Raises:
            RequestError: the key is too long.
            ConflictError: the key was used with another request, or its answer is too large to be given again here.
            DeadlineError: another request with this key is still under way.
            InternalError: the store cannot be asked; nothing was sent.
        """
        claim = a_claim(caller=caller, key=key, request=request, holder=f"{self._owner}/{next(self._numbers)}")
        self._forget_old()
        kept, flight = self._kept.get(claim.place), self._flights.get(claim.place)
        known = kept.fingerprint if kept is not None else flight.claim.fingerprint if flight is not None else None
        if known not in (None, claim.fingerprint):
            raise _conflict()
        if kept is not None:
            return kept.answer
        if flight is not None:
            return await self._wait(flight, deadline_s)
        if len(self._flights) >= FLIGHTS_MAX or self._closed:
            raise CapacityError("too many calls with an Idempotency-Key are under way", retry_after_s=1.0)
        return await self._wait(self._start(claim, make, deadline_s), None)

    async def aclose(self) -> None:
        """Stop the calls without a client, and free their keys."""
        self._closed = True
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._renewer is not None:
            self._renewer.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=CLOSE_S)

    def _start(self, claim: Claim, make: Make, deadline_s: float) -> _Flight:
        async def fly() -> KeptAnswer:
            try:
                return await self._fly(flight, make, self._clock.monotonic_ns() + int(deadline_s * 1e9))
            finally:
                # Before anybody wakes: who asks from now on finds the answer, or makes a new call.
                self._land(flight)

        flight = _Flight(claim, self._spawn(fly()))
        self._flights[claim.place] = flight
        return flight

    async def _wait(self, flight: _Flight, deadline_s: float | None) -> KeptAnswer:
        flight.waiting += 1
        if flight.timer is not None:
            self._join(flight)
        try:
            async with asyncio.timeout(deadline_s):
                # Does not pass our cancellation on to the call, nor the call's to us.
                await asyncio.wait((flight.task,))
        except TimeoutError:
            raise _still_under_way() from None
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                await self._leave(flight)
        if flight.task.cancelled():
            raise CancelledError("the call was withdrawn")
        return flight.task.result()

    async def _leave(self, flight: _Flight) -> None:
        """Let a call go on without a client, or stop it where nothing is lost, or no room is."""
        if flight.buying and self._left < LEFT_MAX and not self._closed:
            self._left += 1
            flight.timer = asyncio.get_running_loop().call_later(LEFT_S, flight.task.cancel)
            return
        self._land(flight)
        flight.task.cancel()
        # Its connection is closed when we return.
        await asyncio.wait((flight.task,))

    def _join(self, flight: _Flight) -> None:
        assert flight.timer is not None, "it has been left"
        flight.timer.cancel()
        flight.timer = None
        self._left -= 1

    def _land(self, flight: _Flight) -> None:
        if flight.timer is not None:
            self._join(flight)
        if self._flights.get(flight.claim.place) is flight:
            del self._flights[flight.claim.place]

    async def _fly(self, flight: _Flight, make: Make, ends_ns: int) -> KeptAnswer:
        claim = flight.claim
        answer = await self._ask(flight, ends_ns)
        if answer is None:
            flight.buying = True
            answer = await self._buy(flight, make, ends_ns)
        self._remember(claim, answer)
        return answer

    async def _ask(self, flight: _Flight, ends_ns: int) -> KeptAnswer | None:
        """Return the answer that another call got; None where the key is ours."""
        claim = flight.claim
        while (left_s := (ends_ns - self._clock.monotonic_ns()) / 1e9) > 0:
            try:
                async with asyncio.timeout(left_s):
                    claimed = await self._keys.claim(claim, wait_s=min(left_s, WAIT_S))
                    if claimed.standing is Standing.RUNNING:
                        # A store with too much to do answers at once.
                        await asyncio.sleep(PAUSE_S)
            except BaseException as error:
                # It may be ours by now, and nobody would use it.
                self._spawn(self._forget(claim))
                if isinstance(error, TimeoutError):
                    break
                raise
            match claimed.standing:
                case Standing.NEW:
                    # By our own clock: the store's may differ, and providers list late.
                    flight.lost_at_s = self._clock.wall_s() if claimed.lost else None
                    return None
                case Standing.CONFLICT:
                    raise _conflict()
                case Standing.DONE if claimed.answer is None:
                    raise _too_large()
                case Standing.DONE:
                    return claimed.answer
        raise _still_under_way()

    async def _buy(self, flight: _Flight, make: Make, ends_ns: int) -> KeptAnswer:
        claim = flight.claim
        self._held[claim.holder] = claim
        if self._renewer is None or self._renewer.done():
            self._renewer = asyncio.create_task(self._renew())
        try:
            answer = await make((ends_ns - self._clock.monotonic_ns()) / 1e9, flight.lost_at_s)
        except BaseException:
            self._held.pop(claim.holder, None)
            self._spawn(self._forget(claim))
            raise
        keeping = self._spawn(self._keep(claim, replace(answer, upstream_s=0.0)))
        await asyncio.wait((keeping,), timeout=KEEP_WAIT_S)
        known = keeping.done() and not keeping.cancelled() and keeping.exception() is None
        standing = keeping.result() if known else None
        return answer if standing is None else standing

    async def _keep(self, claim: Claim, answer: KeptAnswer) -> KeptAnswer | None:
        """Have the answer kept; returns the one that stands where that is another's."""
        try:
            standing = await self._keys.finish(claim, answer)
        except GatewayError as error:
            _log.warning("an answer is kept by this replica only: %s", error.message)
            return None
        finally:
            self._held.pop(claim.holder, None)
        return None if standing is answer else standing

    async def _forget(self, claim: Claim) -> None:
        try:
            await self._keys.forget(claim)
        except GatewayError as error:
            _log.info("the key of a failed call is free in %g s: %s", LEASE_S, error.message)

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(RENEW_S)
            try:
                if self._held:
                    await self._keys.renew(tuple(self._held.values()))
            except GatewayError as error:
                _log.warning("the store could not be told of %d calls: %s", len(self._held), error.message)

    def _remember(self, claim: Claim, answer: KeptAnswer) -> None:
        size_bytes = answer_bytes(answer)
        if size_bytes > KEPT_BYTES_MAX:
            return
        before = self._kept.pop(claim.place, None)
        if before is not None:
            self._kept_bytes -= before.size_bytes
        until_ns = self._clock.monotonic_ns() + int(KEPT_S * 1e9)
        self._kept[claim.place] = _Kept(claim.fingerprint, replace(answer, upstream_s=0.0), size_bytes, until_ns)
        self._kept_bytes += size_bytes
        self._forget_old()

    def _forget_old(self) -> None:
        now_ns = self._clock.monotonic_ns()
        while self._kept:
            place, oldest = next(iter(self._kept.items()))
            if oldest.until_ns > now_ns and len(self._kept) <= KEPT_MAX and self._kept_bytes <= KEPT_BYTES_MAX:
                return
            del self._kept[place]
            self._kept_bytes -= oldest.size_bytes

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            # Who waited has it; an error that came when everybody had left is nobody's.
            task.exception()


def _conflict() -> ConflictError:
    return ConflictError(
        "this Idempotency-Key was used with another request", param="idempotency-key", remedy="use a new key"
    )


def _too_large() -> ConflictError:
    return ConflictError(
        "this call was answered, but its answer is too large to be kept for every replica",
        param="idempotency-key",
        remedy="use a new key to buy it again",
    )


def _still_under_way() -> DeadlineError:
    return DeadlineError("another request with this Idempotency-Key is still under way", remedy="come again with it")
