"""Money set aside ahead of calls: what a replica may still spend, by owner, and what its calls have consumed.

Pure: decides what to tell the books and when a call needs none of their time; ``bookkeeper`` sends. A hold covers the
calls of a moment (docs/adr/0006): it is drawn on in memory and settled with the entries of what it paid for. Calls that
are under way when that happens move to the next hold. Not thread-safe: one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.domain.books.balances import SPARE_PARTS
from app.domain.books.budgets import Ledger, Owners
from app.domain.books.entries import Command, Hold, Refusal, Settle, UsageEntry, Void

HOLD_LIFE_S = 60.0
"""A hold that was not renewed by then belonged to a process that is gone."""
RENEW_S = 20.0
AHEAD_S = 1.5
"""Holds are taken ahead for so many seconds of the demand just seen."""
SPARE_CALLS = 2
"""At least so many of the calls just seen."""
IDLE_S = 30.0
"""What nobody drew on for so long is given back."""
TIGHT_S = 2.0
RATE_WEIGHT = 0.5
SIZE_DECAY = 0.9
NO_MOST = 10**15


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that one call can cost and consume."""

    nano: int | None
    """Nano-dollars; None: the price is unknown."""
    tokens: int


@dataclass(slots=True, eq=False)
class Ticket:
    """A call that may be sent: its ceiling is held."""

    ceiling: Ceiling
    purse: Purse
    block: Block
    """One of the purse's, which is not empty while a call flies on it; another one when the call moves."""

    def close(self, entry: UsageEntry | None) -> None:
        """End the call, exactly once; without an entry nothing was bought."""
        self.purse.close(self, entry)


@dataclass(slots=True, eq=False)
class Block:
    """One hold and what it covers."""

    hold_id: str | None
    """None where the books had no room for calls that were under way already: they are booked all the same."""
    taken_s: float
    nano: int = 0
    """Left to draw on, with ``tokens`` and ``calls``."""
    tokens: int = 0
    calls: int = 0
    flying: set[Ticket] = field(default_factory=set)
    entries: list[UsageEntry] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Purse:
    """Everything held for the same owners.

    Args:
        owners: Those whose budgets apply, and the tenant.
        priced: Whether these calls have a price; the others are held in tokens alone.
        names: Gives unique ids.
        holder: The process that settles.
    """

    owners: Owners
    priced: bool
    names: Callable[[], str]
    holder: str
    current: Block | None = None
    sealed: list[Block] = field(default_factory=list)
    asked: bool = False
    """A hold for calls to come is under way."""
    waiting: int = 0
    """Calls that wait for a hold of their own."""
    tight_until_s: float = 0.0
    """The books had none to give ahead: until then every call asks for itself."""
    most_nano: int = NO_MOST
    """The books had less room than was asked for: not more than this is asked next, with ``most_tokens``."""
    most_tokens: int = NO_MOST
    drawn_s: float = 0.0
    """When it was last drawn on."""
    drawn_calls: int = 0
    drawn_nano: int = 0
    drawn_tokens: int = 0
    calls_per_s: float = 0.0
    nano_per_s: float = 0.0
    tokens_per_s: float = 0.0
    call_nano: int = 0
    """The largest ceiling seen lately."""
    call_tokens: int = 0

    def draw(self, ceiling: Ceiling, now_s: float) -> Ticket | None:
        """Take a call's ceiling out of what is held; None where there is not enough."""
        self._note(ceiling, now_s)
        block = self.current
        nano = ceiling.nano or 0
        if block is None or now_s - block.taken_s > HOLD_LIFE_S / 2:
            return None
        if block.calls < 1 or block.nano < nano or block.tokens < ceiling.tokens:
            return None
        block.nano -= nano
        block.tokens -= ceiling.tokens
        block.calls -= 1
        return self._fly(block, ceiling)

    def wants_ahead(self, now_s: float, *, tick: bool) -> bool:
        """Tell whether a hold for calls to come should be asked for: little is left, or at a tick what is there ages.

        A new one also lets the books have the entries of the one before.
        """
        block = self.current
        if self.asked or now_s < self.tight_until_s or now_s - self.drawn_s > IDLE_S:
            return False
        if block is None or block.calls < SPARE_CALLS or block.nano < self.call_nano or block.tokens < self.call_tokens:
            return True
        return tick and (bool(block.entries) or now_s - block.taken_s > RENEW_S)

    def ask_ahead(self, now_s: float) -> Hold:
        """Return the hold for the calls of the next moment; ``take_ahead`` tells what came of it."""
        self.asked = True
        calls = max(SPARE_CALLS, int(self.calls_per_s * AHEAD_S) + 1, self.drawn_calls)
        nano = max(SPARE_CALLS * self.call_nano, int(self.nano_per_s * AHEAD_S), self.drawn_nano)
        tokens = max(SPARE_CALLS * self.call_tokens, int(self.tokens_per_s * AHEAD_S), self.drawn_tokens)
        return self._hold(min(nano, self.most_nano), min(tokens, self.most_tokens), calls, now_s, spare=True)

    def take_ahead(self, hold: Hold, refusal: Refusal | None) -> None:
        """Draw on a granted hold from now on; what the one before covers is settled with the next ``gather``.

        Where it was refused, less is asked for next; where that would not do for two calls, they ask one by one for a
        while: what is left goes to whoever comes first, to the end.
        """
        self.asked = False
        if refusal is None:
            self.seal()
            self.current = _block(hold)
            self.most_nano, self.most_tokens = 2 * self.most_nano, 2 * self.most_tokens
            return
        most = refusal.left // SPARE_PARTS // 2
        if refusal.ledger is Ledger.USD:
            self.most_nano = most
        else:
            self.most_tokens = most
        enough = self.most_nano >= SPARE_CALLS * self.call_nano and self.most_tokens >= SPARE_CALLS * self.call_tokens
        if refusal.reason == "unpriced" or not enough:
            self.seal()
            self.most_nano = self.most_tokens = NO_MOST
            self.tight_until_s = hold.at_s + TIGHT_S

    def ask_one(self, ceiling: Ceiling, now_s: float) -> Hold:
        """Return the hold for one call that has to wait for it; end it with ``take_one`` or ``refuse_one``."""
        self.waiting += 1
        return self._hold(ceiling.nano or 0, ceiling.tokens, 1, now_s, spare=False)

    def take_one(self, hold: Hold, ceiling: Ceiling) -> Ticket:
        """Return the ticket of a call whose own hold was granted."""
        self.waiting -= 1
        block = Block(hold_id=hold.hold_id, taken_s=hold.at_s)
        self.sealed.append(block)
        return self._fly(block, ceiling)

    def refuse_one(self) -> None:
        """Forget a call whose own hold was not granted."""
        self.waiting -= 1

    def close(self, ticket: Ticket, entry: UsageEntry | None) -> None:
        """End a call; without an entry nothing was bought. What it did not need can be drawn again."""
        block = ticket.block
        block.flying.discard(ticket)
        if entry is not None:
            block.entries.append(entry)
        if block is self.current:
            cost = entry.cost_nano or 0 if entry is not None else 0
            used = entry.usage.input_tokens + entry.usage.output_tokens if entry is not None else 0
            block.nano += max(0, (ticket.ceiling.nano or 0) - cost)
            block.tokens += max(0, ticket.ceiling.tokens - used)

    def gather(self, now_s: float) -> list[Command]:
        """Return what has to be told to the books now: settlements, and calls under way moved to one new hold.

        The commands are for one transaction, in this order.
        """
        if now_s - self.drawn_s > IDLE_S:
            self.seal()
        commands: list[Command] = []
        done: list[Block] = []
        kept: list[Block] = []
        for block in self.sealed:
            overdue = now_s - block.taken_s > RENEW_S
            (done if block.entries or overdue or not block.flying else kept).append(block)
        self.sealed = kept
        flying: set[Ticket] = set()
        for block in done:
            commands.extend(_ended(block, now_s))
            flying |= block.flying
        if flying:
            commands.append(self._carry(flying, now_s))
        return commands

    def note_carried(self, hold: Hold, *, granted: bool) -> None:
        """Learn whether calls under way are held anew; those that are not are booked without a hold."""
        if not granted:
            for block in self.sealed:
                if block.hold_id == hold.hold_id:
                    block.hold_id = None

    def seal(self) -> None:
        """Let the next ``gather`` settle everything: the replica ends, or whoever drew on it is gone."""
        if self.current is not None:
            self.sealed.append(self.current)
            self.current = None

    def keeps_back(self) -> bool:
        """Tell whether the books may have more room once they have heard of all that ended here."""
        return self.current is not None or any(block.entries or not block.flying for block in self.sealed)

    def is_empty(self) -> bool:
        """Tell whether nothing would be lost if this were forgotten."""
        return self.current is None and not self.sealed and not self.asked and not self.waiting

    def tick(self, seconds: float) -> None:
        """Follow the demand of the ``seconds`` since the last tick."""
        self.calls_per_s += RATE_WEIGHT * (self.drawn_calls / seconds - self.calls_per_s)
        self.nano_per_s += RATE_WEIGHT * (self.drawn_nano / seconds - self.nano_per_s)
        self.tokens_per_s += RATE_WEIGHT * (self.drawn_tokens / seconds - self.tokens_per_s)
        # Smaller calls may follow a large one: what is held ahead follows them.
        self.call_nano, self.call_tokens = int(self.call_nano * SIZE_DECAY), int(self.call_tokens * SIZE_DECAY)
        self.drawn_calls = self.drawn_nano = self.drawn_tokens = 0

    def _carry(self, flying: set[Ticket], now_s: float) -> Hold:
        nano, tokens = sum(one.ceiling.nano or 0 for one in flying), sum(one.ceiling.tokens for one in flying)
        hold = self._hold(nano, tokens, len(flying), now_s, spare=False)
        block = Block(hold_id=hold.hold_id, taken_s=now_s, flying=flying)
        for one in flying:
            one.block = block
        self.sealed.append(block)
        return hold

    def _hold(self, nano: int, tokens: int, calls: int, now_s: float, *, spare: bool) -> Hold:
        return Hold(
            hold_id=self.names(),
            owners=self.owners,
            amount_nano=nano if self.priced else None,
            tokens=tokens,
            at_s=now_s,
            expires_s=now_s + HOLD_LIFE_S,
            holder=self.holder,
            calls=calls,
            spare=spare,
        )

    def _fly(self, block: Block, ceiling: Ceiling) -> Ticket:
        ticket = Ticket(ceiling, self, block)
        block.flying.add(ticket)
        return ticket

    def _note(self, ceiling: Ceiling, now_s: float) -> None:
        self.drawn_s = now_s
        self.drawn_calls += 1
        self.drawn_nano += ceiling.nano or 0
        self.drawn_tokens += ceiling.tokens
        self.call_nano = max(self.call_nano, ceiling.nano or 0)
        self.call_tokens = max(self.call_tokens, ceiling.tokens)


def _block(hold: Hold) -> Block:
    return Block(
        hold_id=hold.hold_id, taken_s=hold.at_s, nano=hold.amount_nano or 0, tokens=hold.tokens, calls=hold.calls
    )


def _ended(block: Block, now_s: float) -> list[Command]:
    """Return the end of a hold; entries that no hold covers are booked as they are."""
    if block.entries:
        return [Settle(hold_id=block.hold_id, entries=tuple(block.entries), at_s=now_s)]
    return [Void(hold_id=block.hold_id, at_s=now_s)] if block.hold_id is not None else []
