"""Prices of attempts and what is booked for one whose end nobody knows: the same for a client's call and a run's.

Called by ``gateway/spending`` and ``run_books``. Keeps no books and holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.domain.accounts import Orchestra
from app.domain.books.entries import Ending
from app.domain.books.prices import PriceRow, find_row, price_nano
from app.domain.chat import NO_USAGE, Usage
from app.domain.errors import GatewayError, UpstreamError
from app.domain.ports import Clock

INPUT_MARGIN = 2
"""Estimates of input tokens err; a ceiling holds so many times the estimate."""
PRICE_FRESH_S = 60.0
"""How long a looked-up price row is believed: rows change at midnight."""


class PriceList:
    """The rows in force, looked up once a minute.

    Args:
        orchestra: The newest configuration.
        clock: Time.

    Not thread-safe: one event loop.
    """

    def __init__(self, orchestra: Callable[[], Orchestra], clock: Clock) -> None:
        self._orchestra = orchestra
        self._clock = clock
        self._found: dict[tuple[str, str], PriceRow | None] = {}
        self._found_in: Orchestra | None = None
        self._found_s = 0.0

    def find(self, model: str, provider: str) -> PriceRow | None:
        """Return what holds for a model now; ``provider`` may be empty."""
        orchestra, now_s = self._orchestra(), self._clock.wall_s()
        if orchestra is not self._found_in or abs(now_s - self._found_s) > PRICE_FRESH_S:
            self._found, self._found_in, self._found_s = {}, orchestra, now_s
        key = model, provider
        if key not in self._found:
            self._found[key] = find_row(orchestra.prices, model=model, provider=provider or None, at_s=now_s)
        return self._found[key]


def saved_nano(usage: Usage, price: PriceRow | None, cost: int | None, *, at_s: float, batch: bool = False) -> int:
    """Return what the provider's prompt cache saved: the same input at the full price, less what it cost."""
    if not usage.cache_read_tokens or cost is None:
        return 0
    full = price_nano(replace(usage, cache_read_tokens=0), price, at_s=at_s, batch=batch)
    return max(0, (full or 0) - cost)


def without_answer(error: GatewayError | None, most: Usage) -> tuple[Ending, Usage]:
    """Return how an attempt ended that was sent and gave no answer, and what it consumed.

    Args:
        error: What the provider did, if anybody knows.
        most: All that it may have consumed: booked wherever that is not known.
    """
    billed = error.billed if isinstance(error, UpstreamError) else None
    if billed is None:
        return Ending.UNKNOWN, most
    return Ending.FAILED, most if billed else NO_USAGE
