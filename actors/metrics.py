"""Tells Ray twice a second what this process measured, from a thread of its own; the endpoint is that of Ray's agent.

What was added up since the last time is told: a counter in one step, a distribution value by value, since Ray takes no
counts. Every number thus leaves late and off the request's path.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import ray
from ray.util import metrics as ray_metrics

from app.services.telemetry import instruments
from app.services.telemetry.metrics import Counter, Gauge, Histogram, Instrument, Labels

PERIOD_S = 0.5
REFRESH_PERIODS = 10
"""A level is told again so often: Ray's agent forgets what nobody repeats."""

_log = logging.getLogger(__name__)


class MetricsReporter:
    """Carries instruments over to Ray. One per process."""

    def __init__(self, sources: tuple[Instrument, ...] = instruments.ALL) -> None:
        self._sources = sources
        self._told: dict[tuple[str, Labels], Any] = {}
        self._metrics: dict[str, Any] = {}
        self._round = 0
        self._ended = threading.Event()

    def start(self) -> None:
        """Report until ``close``."""
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Tell no more after the next round."""
        self._ended.set()

    def report(self) -> None:
        """Tell what is new."""
        self._round += 1
        for source in self._sources:
            match source:
                case Counter():
                    self._count(source)
                case Gauge():
                    self._level(source)
                case Histogram():
                    self._distribute(source)

    def _run(self) -> None:
        while not self._ended.wait(PERIOD_S):
            try:
                if ray.is_initialized():
                    self.report()
            except Exception:  # noqa: BLE001  the thread's outermost edge: without it nothing is ever told again
                _log.exception("metrics could not be told")

    def _count(self, source: Counter) -> None:
        for labels, value in source.values().items():
            key = (source.spec.name, labels)
            new = value - self._told.get(key, 0.0)
            if new > 0:
                self._told[key] = value
                self._metric(source).inc(new, tags=_tags(source, labels))

    def _level(self, source: Gauge) -> None:
        for labels, value in source.values().items():
            key = (source.spec.name, labels)
            if self._told.get(key) != value or self._round % REFRESH_PERIODS == 0:
                self._told[key] = value
                self._metric(source).set(value, tags=_tags(source, labels))

    def _distribute(self, source: Histogram) -> None:
        bounds = source.spec.buckets
        inside = (*bounds, bounds[-1] * 2)
        for labels, counts in source.values().items():
            key = (source.spec.name, labels)
            told = self._told.get(key)
            if told == counts:
                continue
            self._told[key] = counts
            metric, tags = self._metric(source), _tags(source, labels)
            for value, count, before in zip(inside, counts, told or (0,) * len(counts), strict=True):
                for _ in range(count - before):
                    metric.observe(value, tags=tags)

    def _metric(self, source: Instrument) -> Any:
        spec = source.spec
        found = self._metrics.get(spec.name)
        if found is None:
            kinds: dict[str, Any] = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}
            if spec.kind == "histogram":
                found = ray_metrics.Histogram(
                    spec.name, description=spec.meaning, boundaries=list(spec.buckets), tag_keys=spec.labels
                )
            else:
                found = kinds[spec.kind](spec.name, description=spec.meaning, tag_keys=spec.labels)
            self._metrics[spec.name] = found
        return found


class _Process:
    reporter: MetricsReporter | None = None


def follow(*, wanted: bool) -> None:
    """Report this process's metrics, or stop it, as configured; may be called again."""
    if wanted and _Process.reporter is None:
        _Process.reporter = MetricsReporter()
        _Process.reporter.start()
    elif not wanted and _Process.reporter is not None:
        _Process.reporter.close()
        _Process.reporter = None


def _tags(source: Instrument, labels: Labels) -> dict[str, str]:
    return dict(zip(source.spec.labels, labels, strict=True))
