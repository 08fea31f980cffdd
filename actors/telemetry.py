"""A process's metrics and spans, as configured. Called by every actor and replica that learns the configuration."""

from __future__ import annotations

from actors import metrics, tracing
from app.domain.telemetry import TelemetrySpec


def follow(telemetry: TelemetrySpec, *, role: str) -> None:
    """Report what this process measures; called again, follow the change.

    Args:
        telemetry: As configured.
        role: What this process is, for people.
    """
    metrics.follow(wanted=telemetry.metrics)
    tracing.follow(telemetry.traces, role=role)
