"""What survives an actor's restart of a limiter, as plain data that turns into JSON and back.

Made by ``limiter.Limiter.snapshot``, read by ``limiter.Limiter.restore``; storage keeps it as text and does not look
inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast

from app.domain.chat import Json
from app.domain.limits import RateName


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeState:
    """One bucket or window."""

    name: RateName
    kind: Literal["bucket", "sliding"]
    level_parts: int = 0
    """Bucket: level in parts of a unit (``buckets``)."""
    entries: tuple[tuple[int, int], ...] = ()
    """Window: (leaves in nanoseconds after the snapshot, units)."""
    largest: int = 0
    """Largest single charge so far, in units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterState:
    """One limiter at one moment. Unsettled reservations are kept as if all of their charge was used."""

    wall_ns: int
    """Wall clock at the snapshot, nanoseconds since the epoch; the only link to the time after a restart."""
    gauges: tuple[GaugeState, ...] = ()
    observed: tuple[tuple[RateName, int], ...] = ()
    """Limits that the provider reported."""
    factor_ppm: int = 1_000_000
    """Share of the rates that is used after 429s, in millionths."""
    cooldown_ns: int = 0
    """Cooldown left at the snapshot."""
    day_index: int = 0
    day_requests: int = 0
    """Requests counted on that day."""

    def to_dict(self) -> dict[str, Json]:
        """Return the state as JSON values."""
        return {
            "wall_ns": self.wall_ns,
            "gauges": [
                {
                    "name": gauge.name,
                    "kind": gauge.kind,
                    "level_parts": gauge.level_parts,
                    "entries": [[leaves_in_ns, amount] for leaves_in_ns, amount in gauge.entries],
                    "largest": gauge.largest,
                }
                for gauge in self.gauges
            ],
            "observed": [[name, limit] for name, limit in self.observed],
            "factor_ppm": self.factor_ppm,
            "cooldown_ns": self.cooldown_ns,
            "day_index": self.day_index,
            "day_requests": self.day_requests,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """Return the state that ``to_dict`` wrote; raises KeyError or TypeError on anything else."""
        gauges = tuple(
            GaugeState(
                name=cast("RateName", gauge["name"]),
                kind=cast("Literal['bucket', 'sliding']", gauge["kind"]),
                level_parts=cast("int", gauge["level_parts"]),
                entries=tuple((pair[0], pair[1]) for pair in cast("list[list[int]]", gauge["entries"])),
                largest=cast("int", gauge["largest"]),
            )
            for gauge in cast("list[dict[str, object]]", values["gauges"])
        )
        observed = cast("list[tuple[RateName, int]]", values["observed"])
        return cls(
            wall_ns=cast("int", values["wall_ns"]),
            gauges=gauges,
            observed=tuple((name, limit) for name, limit in observed),
            factor_ppm=cast("int", values["factor_ppm"]),
            cooldown_ns=cast("int", values["cooldown_ns"]),
            day_index=cast("int", values["day_index"]),
            day_requests=cast("int", values["day_requests"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedLimiter:
    """A limiter's state as JSON text; ``clean`` says that nothing was admitted after it was saved."""

    scope: str
    model: str
    state: str
    clean: bool
