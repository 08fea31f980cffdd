"""Tells Ray twice a second what this process measured, from a thread of its own; the endpoint is that of Ray's agent.

What was added up since the last time is told: a counter in one step, a distribution by its buckets' counts, each as a
level that only grows. Ray's own histogram takes no counts, and its agent records every value once more: with six values
a request that was a tenth of all that it costs. Names, labels and queries are those of a histogram.
"""

from __future__ import annotations

import logging
import threading
from itertools import accumulate
from typing import Any

import ray
from ray.util import metrics as ray_metrics

from app.services.telemetry import instruments
from app.services.telemetry.metrics import Counter, Gauge, Histogram, Instrument, Labels

PERIOD_S = 0.5
LE = "le"
"""Prometheus' label of a bucket: its bound, which lies in it; each bucket holds those below."""
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
        bounds = [str(bound) for bound in source.spec.buckets]
        for labels, counts in source.values().items():
            key = (source.spec.name, labels)
            if self._told.get(key) == counts and self._round % REFRESH_PERIODS:
                continue
            self._told[key] = counts
            tags = _tags(source, labels)
            bucket = self._metric(source, "_bucket", (LE,))
            for bound, count in zip((*bounds, "+Inf"), accumulate(counts), strict=True):
                bucket.set(count, tags={**tags, LE: bound})
            self._metric(source, "_count").set(sum(counts), tags=tags)
            self._metric(source, "_sum").set(source.sum(labels), tags=tags)

    def _metric(self, source: Instrument, part: str = "", more_labels: tuple[str, ...] = ()) -> Any:
        spec, name = source.spec, source.spec.name + part
        found = self._metrics.get(name)
        if found is None:
            kind = ray_metrics.Counter if spec.kind == "counter" else ray_metrics.Gauge
            found = self._metrics[name] = kind(name, description=spec.meaning, tag_keys=(*spec.labels, *more_labels))
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
