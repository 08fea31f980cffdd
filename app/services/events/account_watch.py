"""Sees in the accounts' load what is worth an event: a change of state, and once a minute how much is left.

Knows what it saw last; called by the directory with every look at its hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from app.domain.events.fields import PROVIDERS
from app.domain.load import BucketLevel, LoadRow
from app.domain.ports import Tells

LOAD_PERIOD_S = 60.0
_LIMITS = {"requests": "rpm", "tokens": "tpm", "input_tokens": "itpm", "output_tokens": "otpm"}


class AccountWatch:
    """One in the directory.

    Args:
        events: Told what is seen.

    Not thread-safe.
    """

    def __init__(self, events: Tells) -> None:
        self._events = events
        self._states: dict[tuple[str, str], str] = {}
        self._load_s: dict[tuple[str, str], float] = {}
        """When its load was last told."""

    def look(self, rows: Iterable[LoadRow], providers: Mapping[str, str], now_s: float) -> None:
        """Tell what changed since the last look.

        Args:
            rows: Of all accounts.
            providers: By account.
            now_s: Monotonic.
        """
        states: dict[tuple[str, str], str] = {}
        for row in rows:
            key = row.account, row.model
            states[key] = row.state
            name = providers.get(row.account, "")
            provider = PROVIDERS.get(name, name) or None
            if self._states.get(key, "healthy") != row.state:
                self._events.emit(
                    "account.changed",
                    account=row.account,
                    provider=provider,
                    model=row.model,
                    account_state=row.state,
                    retry_after_ms=int(row.cooldown_s * 1_000) or None,
                )
            if now_s - self._load_s.get(key, -LOAD_PERIOD_S) >= LOAD_PERIOD_S:
                self._load_s[key] = now_s
                for limit, headroom in _headrooms(row):
                    self._events.emit(
                        "account.load",
                        account=row.account,
                        provider=provider,
                        model=row.model,
                        account_state=row.state,
                        limit_name=limit,
                        headroom=headroom,
                    )
        self._states = states
        self._load_s = {key: at_s for key, at_s in self._load_s.items() if key in states}


def _headrooms(row: LoadRow) -> Iterable[tuple[str, float]]:
    for bucket in row.buckets:
        yield _LIMITS[bucket.kind], _share(bucket)
    if row.concurrency:
        yield "concurrency", max(0.0, 1 - row.in_flight / row.concurrency)


def _share(bucket: BucketLevel) -> float:
    return round(min(1.0, max(0.0, bucket.level / bucket.capacity)), 4) if bucket.capacity > 0 else 0.0
