"""What is told of this system's work to those who watch it: traces and metrics, as configured."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class TracesSpec:
    """Where spans go, and how many."""

    otlp_endpoint: str | None = None
    """Address of an OTLP receiver over HTTP; None: no spans are recorded."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent along; they may hold a key."""
    ratio: float = 1.0
    """Share of the traces beginning here that are recorded."""
    tell_providers: bool = False
    """Whether requests to providers carry our trace's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec:
    """Who watches."""

    metrics: bool = True
    metrics_port: int | None = None
    """Of a cluster that we start; None: a free one."""
    traces: TracesSpec = field(default_factory=TracesSpec)
