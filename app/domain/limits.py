"""What a limit is and what a call charges against it: the values that limiter, settings and schedule share.

Values only: admission is decided in ``limiter``, the arithmetic lives in ``buckets`` and ``windows``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

RateName = Literal["rpm", "tpm", "itpm", "otpm"]
"""Limits per minute: requests, all tokens, input tokens, output tokens."""

LimitName = Literal["rpm", "tpm", "itpm", "otpm", "rpd", "concurrency"]

RATE_NAMES: tuple[RateName, ...] = ("rpm", "tpm", "itpm", "otpm")
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSpec:
    """The limits of one account (or quota group) for one model; None means unlimited.

    Raises:
        ValueError: a limit is not positive, or ``burst_ms`` is negative.
    """

    rpm: int | None = None
    tpm: int | None = None
    """Input and output tokens together."""
    itpm: int | None = None
    otpm: int | None = None
    rpd: int | None = None
    concurrency: int | None = None
    burst_ms: int = 1_000
    """What may be sent at once, as milliseconds of the steady rate; at least one request."""
    window: Literal["bucket", "sliding"] = "bucket"
    counted_from: Literal["answer", "start"] = "answer"
    """Sliding: whether a call counts for a minute after its answer, because nobody knows when the provider counted it,
    or after its start, because we are who counts."""
    charge: Literal["max_tokens", "used"] = "max_tokens"
    """Whether the provider counts ``max_tokens`` or what was generated."""

    def __post_init__(self) -> None:
        for name in (*RATE_NAMES, "rpd", "concurrency"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit!r}; use a positive whole number, or null for unlimited")
        if self.burst_ms < 0:
            raise ValueError(f"burst_ms is {self.burst_ms!r}; use 0 or more")

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited, however it would be counted."""
        return self.rpm is self.tpm is self.itpm is self.otpm is self.rpd is self.concurrency is None

    def rate(self, name: RateName) -> int | None:
        """Return the limit per minute of that name."""
        limits = {"rpm": self.rpm, "tpm": self.tpm, "itpm": self.itpm, "otpm": self.otpm}
        return limits[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What a call, or a lease of several, takes from the limits; also what was used in the end.

    Raises:
        ValueError: a part is negative.
    """

    requests: int = 1
    input_tokens: int = 0
    output_tokens_max: int = 0
    """Before the call: what may be generated at most. In ``settle``: what was."""

    def __post_init__(self) -> None:
        if min(self.requests, self.input_tokens, self.output_tokens_max) < 0:
            raise ValueError(f"a charge cannot be negative: {self!r}")

    def of(self, name: RateName) -> int:
        """Return the part that counts against the limit of that name."""
        match name:
            case "rpm":
                return self.requests
            case "tpm":
                return self.input_tokens + self.output_tokens_max
            case "itpm":
                return self.input_tokens
            case "otpm":
                return self.output_tokens_max
            case _:
                assert_never(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLoad:
    """One limit now. ``level`` and ``capacity`` are what may start at once, now and at best; negative in debt."""

    name: LimitName
    limit: int
    used: int
    level: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterLoad:
    """What a load table needs of one limiter."""

    in_flight: int
    concurrency: int | None
    opens_ns: int | None
    """When the smallest call may start; None where that depends on calls in flight, or never."""
    cooldown_until_ns: int
    limits: tuple[LimitLoad, ...]
