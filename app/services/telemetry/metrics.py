"""Counts, levels and distributions of this process, added up here and told to Ray twice a second (``actors/metrics``).

To measure costs about a microsecond: one look into a dictionary, one addition. Labels are bounded whatever the caller
names: what comes after a metric's first values is ``other``.

Not thread-safe for writers: an instrument is written by one thread (mostly the event loop). One other may read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

from app.domain.metric_names import OTHER, MetricSpec

SERIES_MAX = 1_000
"""Of one metric in one process; further combinations of labels are one series of ``other``."""

Labels = tuple[str, ...]


class _Bounded:
    """Keeps a metric's labels within their bounds."""

    def __init__(self, spec: MetricSpec) -> None:
        self._spec = spec
        self._seen: tuple[set[str], ...] = tuple(set() for _ in spec.labels)
        self._count = 0

    def labels(self, labels: Labels) -> Labels:
        """Return the labels under which a new combination counts."""
        assert len(labels) == len(self._spec.labels), f"{self._spec.name} has labels {self._spec.labels}"
        bounded = tuple(map(self._value, self._seen, labels))
        if self._count >= SERIES_MAX:
            return (OTHER,) * len(labels)
        return bounded

    def note(self) -> None:
        """Count a series that was made."""
        self._count += 1

    def _value(self, seen: set[str], value: str) -> str:
        if value in seen:
            return value
        if len(seen) >= self._spec.values_max:
            return OTHER
        seen.add(value)
        return value


class Counter:
    """Only grows."""

    def __init__(self, spec: MetricSpec) -> None:
        assert spec.kind == "counter"
        self.spec = spec
        self._bounded = _Bounded(spec)
        self._series: dict[Labels, float] = {}

    def add(self, amount: float, *labels: str) -> None:
        """Add ``amount``, 0 or more, to the series of these label values."""
        if labels not in self._series:
            labels = self._bounded.labels(labels)
            if labels not in self._series:
                self._bounded.note()
                self._series[labels] = 0.0
        self._series[labels] += amount

    def values(self) -> dict[Labels, float]:
        """Return every series' sum so far."""
        return self._series.copy()


class Gauge:
    """Stands at some level."""

    def __init__(self, spec: MetricSpec) -> None:
        assert spec.kind == "gauge"
        self.spec = spec
        self._series: dict[Labels, float] = {}

    def set(self, level: float, *labels: str) -> None:
        """Set one series."""
        self.replace({**self._series, labels: level})

    def replace(self, levels: Mapping[Labels, float]) -> None:
        """Set all series at once; those that are not named are gone."""
        bounded, series = _Bounded(self.spec), {}
        for labels, level in levels.items():
            under = bounded.labels(labels)
            if under not in series:
                bounded.note()
            series[under] = level
        self._series = series

    def values(self) -> dict[Labels, float]:
        """Return every series' level."""
        return self._series


class Histogram:
    """Counts values by size."""

    def __init__(self, spec: MetricSpec) -> None:
        assert spec.kind == "histogram"
        self.spec = spec
        self._bounds = spec.buckets
        self._bounded = _Bounded(spec)
        self._series: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Count a value in the series of these label values."""
        series = self._series.get(labels)
        if series is None:
            labels = self._bounded.labels(labels)
            series = self._series.get(labels)
            if series is None:
                self._bounded.note()
                series = self._series[labels] = [0] * (len(self._bounds) + 1)
                self._sums[labels] = 0.0
        series[bisect_left(self._bounds, value)] += 1
        self._sums[labels] += value

    def values(self) -> dict[Labels, tuple[int, ...]]:
        """Return every series' counts so far: one for each bucket, then those above all."""
        return {labels: tuple(counts) for labels, counts in self._series.copy().items()}

    def sum(self, labels: Labels) -> float:
        """Return what the values of one series add up to."""
        return self._sums[labels]


Instrument = Counter | Gauge | Histogram
