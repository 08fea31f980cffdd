"""What is left of a caller's limits, as its answers tell: the caller's own, or the user's where less is left. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.domain.limits import LimitSpec
from app.domain.load import BucketKind, BucketLevel, LoadRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One limit a minute."""

    kind: BucketKind
    limit: int
    remaining: float
    """What may start at once."""
    reset_s: float
    """Seconds until it is as if nothing had been used, if nothing more is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InHand:
    """Permits that are taken from the limits already and not used yet."""

    count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    """Of all of them together."""

    def of(self, kind: BucketKind) -> int:
        """Return what they hold of one limit."""
        if kind == "requests":
            return self.count
        if kind == "input_tokens":
            return self.input_tokens
        return self.output_tokens if kind == "output_tokens" else self.input_tokens + self.output_tokens


NOTHING = InHand()


def allowances(limits: LimitSpec, row: LoadRow, now_s: float, in_hand: InHand = NOTHING) -> list[Allowance]:
    """Return what is left of the limits that are configured, by the last known row."""
    configured: dict[BucketKind, int | None] = {
        "requests": limits.rpm,
        "tokens": limits.tpm,
        "input_tokens": limits.itpm,
        "output_tokens": limits.otpm,
    }
    found = []
    for bucket in row.buckets:
        limit = configured[bucket.kind]
        if limit is not None:
            remaining = max(0.0, min(bucket.capacity, bucket.level + in_hand.of(bucket.kind)))
            reset_s = _reset_s(bucket, remaining, now_s - row.observed_at_s)
            found.append(Allowance(kind=bucket.kind, limit=limit, remaining=remaining, reset_s=reset_s))
    return found


def tightest(each: Iterable[Sequence[Allowance]]) -> tuple[Allowance, ...]:
    """Return, of every kind of limit, the one of which less is left; the longer wait of two that are equal."""
    found: dict[BucketKind, Allowance] = {}
    for group in each:
        for one in group:
            known = found.get(one.kind)
            if known is None or (one.remaining, -one.reset_s) < (known.remaining, -known.reset_s):
                found[one.kind] = one
    return tuple(found.values())


def _reset_s(bucket: BucketLevel, remaining: float, age_s: float) -> float:
    missing = bucket.capacity - remaining
    if missing <= 0:
        return 0.0
    if bucket.full_s is not None:
        return max(0.0, bucket.full_s - max(0.0, age_s))
    return missing / bucket.rate_per_s if bucket.rate_per_s > 0 else 0.0
