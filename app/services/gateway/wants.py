"""What a desk of permits is asked for, and the calls that wait for it: which of them are worth a look, and when.

Sends nothing and knows no accounts: the desk (``permits``) binds what is decided here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from app.domain.fair_queue import FairQueue
from app.domain.gateway import Candidate, ServiceClass
from app.domain.leases import PermitWish
from app.domain.placement import Board, Choice, ReadyCall, Wait
from app.domain.worth import Worths

LOOK_AHEAD = 512
"""Waiting calls that are looked at together, at most."""
APPRAISED_NS = 250_000_000
"""For so long the worths are believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A call that needs a permit."""

    candidates: tuple[Candidate, ...]
    """Best model first, each with the accounts that may take it."""
    input_tokens: int
    output_tokens_max: int
    caller: str = ""
    weight: float = 1.0
    service_class: ServiceClass = ServiceClass.STANDARD
    avoid_accounts: frozenset[str] = frozenset()
    """Failed this very call before; asked again only where nobody else can serve."""

    def ready(self, call_id: str) -> ReadyCall:
        """Return it as placement sees it."""
        return ReadyCall(
            call_id=call_id,
            models=tuple(candidate.model for candidate in self.candidates),
            input_tokens=self.input_tokens,
            output_tokens_max=self.output_tokens_max,
            avoid_accounts=tuple(self.avoid_accounts),
            only=frozenset(
                (account, candidate.model) for candidate in self.candidates for account in candidate.accounts
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """The right to send one call now."""

    call_id: str
    account: str
    model: str
    host: str


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits for a permit."""

    want: Want
    ready: ReadyCall
    answer: asyncio.Future[tuple[Permit, int]]
    """The permit, and when (monotonic ns) it may be used."""
    asked: PermitWish | None = None
    """The wish under way for it; None while it is not bound to an account."""
    asked_host: str = ""
    not_before_ns: int = 0
    """An account refused it until then; asking earlier would only be refused again."""
    due: tuple[str, str, int] = ("", "", 0)
    """The account and model that refused it, and when by its own word it could be promised a start there."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much may wait, and what batch work leaves to others."""

    queue_max: int = 10_000
    batch_headroom: float = 0.1


class WaitingCalls:
    """The calls that wait, in fair order (``fair_queue``).

    Args:
        calls_max: How many may wait.

    Not thread-safe: one event loop.
    """

    def __init__(self, calls_max: int) -> None:
        self._queue: FairQueue[Waiting] = FairQueue(calls_max)
        self._models: Counter[str] = Counter()
        """How many of them may take each model."""
        self._fresh: list[Waiting] = []
        """Those that came since all were last looked at."""
        self._worths = Worths()
        self._appraised_ns = -APPRAISED_NS
        self._all_late = False
        """Nobody can start anything soon: a further call changes nothing."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether no further call may wait."""
        return self._queue.full

    def find_displaced(self, caller: str) -> Waiting | None:
        """Return the call to refuse so that one of ``caller`` may wait; see ``FairQueue.find_displaced``."""
        return self._queue.find_displaced(caller)

    def peek(self) -> list[Waiting]:
        """Return the first calls."""
        return self._queue.peek(LOOK_AHEAD)

    def wants(self, model: str) -> bool:
        """Tell whether any call may take that model."""
        return self._models[model] > 0

    def push(self, item: Waiting, *, again: bool) -> bool:
        """Let a call wait; ``again``: its turn came to nothing, so it keeps its place. True if that is worth a look."""
        want = item.want
        enter = self._queue.restore if again else self._queue.push
        enter(
            item,
            want.caller,
            weight=want.weight,
            service_class=want.service_class,
            cost_tokens=max(1, want.input_tokens + want.output_tokens_max),
        )
        self._fresh.append(item)
        is_news = not self._all_late or not all(self.wants(model) for model in item.ready.models)
        self._models.update(item.ready.models)
        return is_news

    def remove(self, item: Waiting, *, served: bool) -> None:
        """Take a call out, if it is there."""
        if item in self._queue:
            (self._queue.take if served else self._queue.withdraw)(item)
            self._models.subtract(item.ready.models)

    def decide(
        self, board: Board, now_ns: int, *, is_asking: Callable[[Waiting], bool]
    ) -> list[tuple[Waiting, Choice | Wait]]:
        """Return what to do with the first calls, until nobody could start anything soon.

        Args:
            board: The accounts.
            now_ns: Monotonic time.
            is_asking: Whether a call's wish is under way, so that it has to be reckoned with and not asked for again.
        """
        self._value(board, now_ns)
        decided: list[tuple[Waiting, Choice | Wait]] = []
        shut: set[tuple[str, ...]] = set()
        for item in islice(self._queue, LOOK_AHEAD):
            if item.asked is not None and is_asking(item):
                board.note(item.ready, item.asked.account, item.asked.model)
            elif item.not_before_ns <= now_ns and item.ready.models not in shut:
                decided.append((item, board.place(item.ready)))
                if board.is_full:
                    break
                if board.is_shut(item.ready):
                    shut.add(item.ready.models)
        self._all_late = board.all_late
        fresh, self._fresh = self._fresh, []
        known = {item for item, _decision in decided}
        for item in fresh:
            if item in self._queue and item not in known and item.asked is None and not board.serves(item.ready):
                # It need not wait for its turn to hear that it waits in vain.
                decided.append((item, board.place(item.ready)))
        return decided

    def _value(self, board: Board, now_ns: int) -> None:
        """Tell the board what its limits are worth to those who wait: the fewer they are, the less."""
        waiting = len(self._queue)
        if now_ns - self._appraised_ns >= APPRAISED_NS:
            self._appraised_ns = now_ns
            calls = [item.ready for item in islice(self._queue, LOOK_AHEAD) if item.asked is None]
            board.appraise(self._worths, calls, waiting)
        board.value(self._worths, waiting)
