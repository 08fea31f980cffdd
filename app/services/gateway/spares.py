"""What a holder knows of each (account, model): spare permits in the hand, the demand, when to ask for more.

Pure: time is an argument, monotonic nanoseconds. Demand is followed per (account, model).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.domain.gateway import Candidate
from app.domain.leases import BUNDLE_MAX, PERMIT_VALID_S, Bundle, BundleWish
from app.domain.placement import NEVER_S

SPARE_SHARE = 0.95
"""Spare permits are asked for the demand of so much of the time for which they are valid."""
UNHURRIED_SHARE = 0.8
"""Reports wait so much of that time where permits are spare: the account is far from its limits."""
LOW_WATER = 4
"""More are asked for when a quarter is left: fewer messages, and still time for an answer to come."""
EDGE_S = 0.02
"""So much more than the horizon is allowed: what is foreseen at its edge may turn out to lie a little behind it."""
REFUSED_PAUSE_S = 0.01
RECHECK_S = 0.25
"""A call that was refused asks again at the latest after this."""
UNHEARD_S = 0.5
"""An account that seems busy is asked all the same where nothing was heard of it for so long."""
SIZE_DECAY = 0.98
SIZE_MARGIN = 1.2
CALL_S_PRIOR = 1.0
HOPED_S = 0.01
"""Of an account that was not measured yet: short enough that it is soon tried, and then known."""
EWMA_WEIGHT = 0.2
RATE_WEIGHT = 0.5


@dataclass(slots=True, eq=False)
class Slot:
    """What is known here of one (account, model)."""

    account: str
    model: str
    spares: deque[tuple[str, int, int, int, str]] = field(default_factory=deque)
    """(call id, expires_ns, input tokens, output tokens, host that gave it), oldest first."""
    outstanding: int = 0
    call_s: float = CALL_S_PRIOR
    measured: bool = False
    taken: int = 0
    rate: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    valid_s: float = PERMIT_VALID_S
    """Of the latest spare permits."""
    asked: bool = False
    closed_ns: int = 0
    """It refused: nothing goes there before."""
    yield_ns: int = 0
    """No room but by calls that end, or another holder's turn: it is not asked for more before."""
    asked_ns: int = 0
    """When it was last asked for a permit of a waiting call."""

    def note_call(self, duration_s: float) -> None:
        """Take an answered call into the average; the first replaces the prior."""
        self.call_s += (EWMA_WEIGHT if self.measured else 1.0) * (duration_s - self.call_s)
        self.measured = True

    def note_demand(self, input_tokens: int, output_tokens: int) -> None:
        """Follow what is asked: larger calls at once, smaller ones slowly."""
        self.taken += 1
        self.input_tokens = max(self.input_tokens * SIZE_DECAY, input_tokens * SIZE_MARGIN)
        self.output_tokens = max(self.output_tokens * SIZE_DECAY, float(output_tokens))

    def fits(self, input_tokens: int, output_tokens: int, now_ns: int) -> bool:
        """Tell whether the oldest spare permit is valid and large enough."""
        if not self.spares or self.closed_ns > now_ns:
            return False
        _call_id, expires_ns, input_max, output_max, _host = self.spares[0]
        return expires_ns > now_ns and input_tokens <= input_max and output_tokens <= output_max

    def wish(self) -> BundleWish | None:
        """Return what should be asked for, if anything; ``asked`` is then set until the answer."""
        wanted = min(BUNDLE_MAX, int(max(self.rate * SPARE_SHARE * self.valid_s, self.taken)) + 1)
        if self.asked or len(self.spares) * LOW_WATER > wanted:
            return None
        self.asked = True
        return BundleWish(
            account=self.account,
            model=self.model,
            count=wanted - len(self.spares),
            input_tokens=int(self.input_tokens) + 1,
            output_tokens_max=int(self.output_tokens) + 1,
        )

    def note_refusal(self, start_in_s: float, horizon_s: float, now_ns: int, *, turn: bool) -> int:
        """Learn when to ask again from a wish that was refused, for the sake of another's ``turn`` or for want of room.

        Args:
            start_in_s: The earliest start, by the account's own word.
            horizon_s: How far ahead starts are promised.
            now_ns: Monotonic time.
            turn: Another holder goes first.

        Returns:
            When, by the account's word, that start comes within the horizon; far away where it depends on others.
        """
        later_s = start_in_s - horizon_s
        if turn:
            self.yield_ns = now_ns + int(later_s * 1e9)
        elif later_s <= 0:
            # Not the horizon refused it: it depends on calls under way, ours or others'.
            self.yield_ns = now_ns + int(max(start_in_s, REFUSED_PAUSE_S) * 1e9)
        else:
            return now_ns + int(max(later_s, REFUSED_PAUSE_S) * 1e9)
        return now_ns + int(NEVER_S * 1e9)

    def is_worth_asking(self, start_in_s: float, horizon_s: float, now_ns: int, *, known_at_s: float) -> bool:
        """Tell whether a call that is foreseen to start then may be asked for; if so, it counts as asked.

        Now and then also where it seems to be beyond the horizon: others may leave room that we have not heard of since
        ``known_at_s`` (monotonic), and the account's actor gives turns to those who ask.
        """
        heard_ns = max(self.asked_ns, int(known_at_s * 1e9))
        if start_in_s > horizon_s and now_ns < heard_ns + UNHEARD_S * 1e9:
            return False
        self.asked_ns = now_ns
        return True

    def patience_s(self, otherwise_s: float) -> float:
        """Return how long reports may wait for company, where nobody waits for what they free."""
        return UNHURRIED_SHARE * self.valid_s if self.spares else otherwise_s

    def drop(self, until_ns: int | None = None) -> Iterator[tuple[str, str]]:
        """Take out the spare permits that are out of date at ``until_ns``, or all; yields (id, host)."""
        while self.spares and (until_ns is None or self.spares[0][1] <= until_ns):
            call_id, _expires_ns, _input_max, _output_max, host = self.spares.popleft()
            yield call_id, host

    def drop_from(self, host: str) -> list[str]:
        """Take out the spare permits that ``host`` gave; returns their ids."""
        if not any(spare[4] == host for spare in self.spares):
            return []
        dropped = [spare[0] for spare in self.spares if spare[4] == host]
        self.spares = deque(spare for spare in self.spares if spare[4] != host)
        return dropped

    def is_idle(self, now_ns: int) -> bool:
        """Tell whether nothing would be lost but averages if this were forgotten."""
        return not (self.outstanding or self.spares or self.asked or self.taken) and self.closed_ns <= now_ns

    def take_bundle(self, bundle: Bundle, asked_ns: int, host: str) -> None:
        """Keep granted permits; they are valid from before they were asked for."""
        self.valid_s = bundle.valid_s
        expires_ns = asked_ns + int(bundle.valid_s * 1e9)
        self.spares.extend(
            (call_id, expires_ns, bundle.input_tokens, bundle.output_tokens_max, host) for call_id in bundle.call_ids()
        )

    def tick(self, seconds: float) -> None:
        """Follow the demand of the ``seconds`` since the last tick."""
        self.rate += RATE_WEIGHT * (self.taken / seconds - self.rate)
        self.taken = 0


class Slots:
    """All slots of one holder. Not thread-safe: one event loop."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, str], Slot] = {}

    def __iter__(self) -> Iterator[Slot]:
        return iter(tuple(self._slots.values()))

    def of(self, account: str, model: str) -> Slot:
        """Return the slot, made when first asked for."""
        found = self._slots.get((account, model))
        if found is None:
            found = self._slots[account, model] = Slot(account, model)
        return found

    def forget(self, slot: Slot) -> None:
        """Drop what is known of an (account, model) that is idle."""
        self._slots.pop((slot.account, slot.model), None)

    def is_open(self, account: str, model: str, now_ns: int) -> bool:
        """Tell whether that account did not refuse a moment ago."""
        slot = self._slots.get((account, model))
        return slot is None or slot.closed_ns <= now_ns

    def opens_ns(self, account: str, model: str) -> int:
        """Return when that account, which refused or has to be waited for, may be asked again; may lie in the past."""
        slot = self._slots.get((account, model))
        return 0 if slot is None else max(slot.closed_ns, slot.yield_ns)

    def choose(
        self,
        candidates: tuple[Candidate, ...],
        input_tokens: int,
        output_tokens: int,
        avoid: frozenset[str],
        now_ns: int,
    ) -> tuple[Slot | None, Slot | None]:
        """Return the slot to take a spare permit from, and a less loaded one that should give some.

        Of the first model that anybody may serve, the least loaded; a later model is chosen only where every account
        of the earlier ones has refused. An account that nobody has tried is hoped to be as quick as the others.
        """
        for candidate in candidates:
            best: Slot | None = None
            lightest: Slot | None = None
            best_load = lightest_load = float("inf")
            is_open = False
            for account in candidate.accounts:
                slot = self._slots.get((account, candidate.model)) or self.of(account, candidate.model)
                is_open = is_open or slot.closed_ns <= now_ns
                if account in avoid or slot.closed_ns > now_ns:
                    continue
                load = (slot.outstanding + 1) * (slot.call_s if slot.measured else HOPED_S)
                if load < lightest_load:
                    lightest, lightest_load = slot, load
                if load < best_load and slot.fits(input_tokens, output_tokens, now_ns):
                    best, best_load = slot, load
            if best is not None:
                return best, None if lightest is best else lightest
            if is_open:
                return None, None
        return None, None
