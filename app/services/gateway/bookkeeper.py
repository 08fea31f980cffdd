"""The replica's side of the books: no call leaves before its ceiling is held, and every attempt gets its entry.

Most calls draw on a hold taken ahead and cost no message (``purses``); one that finds none waits for its own. Entries
go to the books twice a second, with the hold that paid for them. Nothing is sent to a provider while the books cannot
be written.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.domain.books.budgets import Owners
from app.domain.books.entries import Answer, Command, Hold, Settle, UsageEntry
from app.domain.books.refusals import exhausted
from app.domain.crash_points import CrashPoint, passes
from app.domain.errors import GatewayError, InternalError, QuotaError
from app.domain.ports import Books, Clock
from app.services.gateway.purses import Ceiling, Purse, Ticket

TICK_S = 0.5
HOLD_TIMEOUT_S = 15.0
IN_TROUBLE_S = 5.0
"""How long a call waits for its hold while the books are known not to be writable; a restart may be that short."""
RETRY_PAUSE_S = 0.5
COMMANDS_MAX = 2_000
"""In one message."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    hold: Hold
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Outbox:
    commands: list[Command] = field(default_factory=list)
    ahead: dict[str, Purse] = field(default_factory=dict)
    """By hold id: who asked for a hold ahead."""
    carried: dict[str, Purse] = field(default_factory=dict)
    """By hold id: whose calls under way it covers."""
    waiting: dict[str, _Waiting] = field(default_factory=dict)


class Bookkeeper:
    """One per replica.

    Args:
        books: The store.
        clock: Time.
        holder: Name of this process; unique per life.

    Not thread-safe: one event loop.
    """

    def __init__(self, books: Books, clock: Clock, *, holder: str) -> None:
        self._books = books
        self._clock = clock
        self._holder = holder
        self._numbers = itertools.count(1)
        self._purses: dict[tuple[Owners, bool], Purse] = {}
        self._outbox = _Outbox()
        self._trouble: GatewayError | None = None
        """Why the books could not be written just now."""
        self._sender: asyncio.Task[None] | None = None

    def entry_id(self) -> str:
        """Return an id for an entry; unique for ever."""
        return f"{self._holder}/e{next(self._numbers)}"

    async def hold(self, owners: Owners, ceiling: Ceiling) -> Ticket:
        """Set a call's ceiling aside; close the ticket exactly once.

        Raises:
            QuotaError: a budget has no room for it, or the call has no price where money is limited.
            InternalError: the books cannot be written: nothing may be bought.
        """
        key = owners, ceiling.nano is not None
        purse = self._purses.get(key)
        if purse is None:
            purse = self._purses[key] = Purse(owners, key[1], self._name, self._holder)
        now_s = self._now_s()
        ticket = purse.draw(ceiling, now_s)
        if purse.wants_ahead(now_s, tick=False):
            self._ask_ahead(purse, now_s)
        if ticket is not None:
            return ticket
        return await self._hold_one(purse, ceiling)

    def note(self, entry: UsageEntry) -> None:
        """Book an entry that no hold covers: a cache hit, which costs nothing."""
        self._say([Settle(hold_id=None, entries=(entry,), at_s=self._clock.wall_s())], at_once=False)

    async def run(self) -> None:
        """Tell the books what happened, for ever; the owner runs this as a background task."""
        while True:
            await asyncio.sleep(TICK_S)
            self._tick()

    async def aclose(self) -> None:
        """Settle everything; calls that are still under way are booked as unknown when their hold expires."""
        for purse in self._purses.values():
            purse.seal()
            self._gather(purse)
        while self._sender is not None and not self._sender.done():
            await asyncio.wait({self._sender})

    def _tick(self) -> None:
        now_s = self._now_s()
        for key, purse in list(self._purses.items()):
            if purse.wants_ahead(now_s, tick=True):
                self._ask_ahead(purse, now_s)
            purse.tick(TICK_S)
            self._gather(purse)
            if purse.is_empty():
                del self._purses[key]
        if self._outbox.commands:
            self._say([])

    def _ask_ahead(self, purse: Purse, now_s: float) -> None:
        hold = purse.ask_ahead(now_s)
        self._outbox.ahead[hold.hold_id] = purse
        self._say([hold])

    def _gather(self, purse: Purse) -> None:
        commands = purse.gather(self._now_s())
        for command in commands:
            if isinstance(command, Hold):
                self._outbox.carried[command.hold_id] = purse
        if commands:
            self._say(commands)

    async def _hold_one(self, purse: Purse, ceiling: Ceiling) -> Ticket:
        try:
            return await self._asked_one(purse, ceiling)
        except QuotaError:
            if not purse.keeps_back():
                raise
        # What calls of ours held and did not need is free as soon as the books hear how they ended.
        purse.seal()
        self._gather(purse)
        return await self._asked_one(purse, ceiling)

    async def _asked_one(self, purse: Purse, ceiling: Ceiling) -> Ticket:
        hold = purse.ask_one(ceiling, self._now_s())
        waiting = _Waiting(hold, asyncio.get_running_loop().create_future())
        self._outbox.waiting[hold.hold_id] = waiting
        self._say([hold])
        try:
            async with asyncio.timeout(HOLD_TIMEOUT_S if self._trouble is None else IN_TROUBLE_S):
                answer = await asyncio.shield(waiting.answer)
        except BaseException as error:
            # Whether it was taken nobody knows here: it is given back as soon as the answer is there.
            waiting.answer.add_done_callback(lambda done: self._return(purse, hold, done))
            if isinstance(error, TimeoutError):
                raise self._no_answer() from None
            raise
        if answer.refusal is not None:
            purse.refuse_one()
            raise exhausted(answer.refusal)
        return purse.take_one(hold, ceiling)

    def _no_answer(self) -> InternalError:
        """Return the refusal of a call that nothing was paid for; what is wrong is said where that is known."""
        trouble = self._trouble
        if trouble is None:
            return InternalError("the books do not answer", remedy="try again in a few seconds")
        return InternalError(f"the books do not answer: {trouble.message}", remedy=trouble.remedy)

    def _return(self, purse: Purse, hold: Hold, done: asyncio.Future[Answer]) -> None:
        if not done.cancelled() and done.exception() is None and done.result().accepted:
            purse.take_one(hold, Ceiling(hold.amount_nano, hold.tokens)).close(None)
        else:
            purse.refuse_one()

    def _say(self, commands: Sequence[Command], *, at_once: bool = True) -> None:
        self._outbox.commands.extend(commands)
        if at_once and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._outbox.commands:
            outbox, self._outbox = self._outbox, _Outbox()
            late = outbox.commands[COMMANDS_MAX:]
            answers = await self._apply(outbox.commands[:COMMANDS_MAX])
            while late:
                answers += await self._apply(late[:COMMANDS_MAX])
                late = late[COMMANDS_MAX:]
            for command, answer in zip(outbox.commands, answers, strict=True):
                if isinstance(command, Hold):
                    self._take(command, answer, outbox)

    async def _apply(self, commands: list[Command]) -> list[Answer]:
        """Say it until it is written: every command may be repeated."""
        while True:
            try:
                answers = list(await self._books.apply_books(commands))
            except GatewayError as error:
                # Once a silence, not once a try.
                _log.log(logging.DEBUG if self._trouble else logging.WARNING, "the books: %s", error.message)
                self._trouble = error
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                self._trouble = None
                if any(isinstance(command, Settle) for command in commands):
                    passes(CrashPoint.SETTLED)
                return answers

    def _take(self, hold: Hold, answer: Answer, outbox: _Outbox) -> None:
        waiting = outbox.waiting.get(hold.hold_id)
        if waiting is not None:
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
            return
        purse = outbox.ahead.get(hold.hold_id)
        if purse is not None:
            purse.take_ahead(hold, answer.refusal)
            if purse.wants_ahead(self._now_s(), tick=False):
                self._ask_ahead(purse, self._now_s())
            self._gather(purse)
            return
        outbox.carried[hold.hold_id].note_carried(hold, granted=answer.accepted)

    def _name(self) -> str:
        return f"{self._holder}/h{next(self._numbers)}"

    def _now_s(self) -> float:
        # Wall clock, as the books have it: a hold's life is compared with theirs.
        return self._clock.wall_s()
