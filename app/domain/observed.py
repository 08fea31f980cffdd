"""What a provider's rate-limit headers say about our own level: limits, and use by others.

Pure bookkeeping for ``limiter``. The trap it avoids: ``limit - remaining`` is not "used by somebody", because a
provider's bucket may hold less than a minute's limit; only a fall of ``remaining`` beyond what we sent in between is
foreign use. What the provider's refill hides is not seen here: refill cannot be assumed, because fixed windows have
none. There the cap by ``remaining`` and 429s do the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.domain.limits import RateName

TOKEN_MARGIN = 1_000
"""Providers round remaining tokens to the thousand and our size estimates err; a tenth of our own use comes on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One limit as a response's headers state it; None where they are silent."""

    name: RateName | Literal["rpd"]
    limit: int | None = None
    remaining: int | None = None
    reset_ns: int | None = None
    """From now until the provider forgets what was used; only a sliding window makes use of it."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Our cumulative use when a request was reserved, itself included in ``started``."""

    started: int
    settled: int


@dataclass(frozen=True, slots=True)
class _Seen:
    limit: int | None
    remaining: int
    seen_ns: int
    included: int
    """Our cumulative use that the reading certainly includes."""


class UseLedger:
    """Cumulative units of one limit that we reserved and that came to an end, and the last observation."""

    def __init__(self, name: RateName) -> None:
        self.started = 0
        self.settled = 0
        self._counts_requests = name == "rpm"
        self._seen: _Seen | None = None

    def start(self, amount: int) -> Mark:
        """Count a reservation."""
        self.started += amount
        return Mark(self.started, self.settled)

    def end(self, amount: int) -> None:
        """Count units that are certainly behind us: used and answered, or never sent."""
        self.settled += amount

    def foreign_use(self, observation: Observation, mark: Mark, *, start_ns: int, now_ns: int) -> int:
        """Return how many units others certainly used since the previous observation, and remember this one.

        Args:
            observation: Headers of the response to one of our requests.
            mark: Our use when that request was reserved.
            start_ns: When that request was sent; one sent before the previous response came may carry an older reading
                and is not compared.
            now_ns: When the headers came.
        """
        remaining, seen = observation.remaining, self._seen
        if remaining is None or (seen is not None and start_ns < seen.seen_ns):
            return 0
        # The reading includes the request that carried it; of its tokens that is not certain (output comes later).
        included = mark.settled + (1 if self._counts_requests else 0)
        self._seen = _Seen(observation.limit, remaining, now_ns, included)
        if seen is None or seen.limit != observation.limit:
            return 0
        ours = self.started - seen.included
        margin = 0 if self._counts_requests else TOKEN_MARGIN + ours // 10
        foreign = seen.remaining - ours - remaining
        return foreign if foreign > margin else 0
