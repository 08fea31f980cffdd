"""What is told to Ray: every number once, however often one looks."""

from __future__ import annotations

from typing import Any

import pytest

from actors.metrics import REFRESH_PERIODS, MetricsReporter
from app.domain.metric_names import Kind, MetricSpec
from app.services.telemetry.metrics import Counter, Gauge, Histogram


class Told:
    """Stands for Ray's metrics: keeps what each was told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, float, dict[str, str]]] = []

    def make(self, name: str, *, description: str, tag_keys: tuple[str, ...]) -> Any:
        assert description
        told = self

        class Metric:
            def inc(self, value: float, tags: dict[str, str]) -> None:
                assert tuple(tags) == tag_keys
                told.heard.append((name, value, tags))

            set = inc

        return Metric()

    def take(self) -> list[tuple[str, float, dict[str, str]]]:
        heard, self.heard = self.heard, []
        return heard


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(f"ray.util.metrics.{kind}", told.make)
    return told


def spec(kind: Kind) -> MetricSpec:
    return MetricSpec(
        name=kind, kind=kind, meaning="x", labels=("a",), buckets=(1.0, 2.0) if kind == "histogram" else ()
    )


def test_counter_is_told_what_came_since_the_last_time(told: Told) -> None:
    """Each addition reaches Ray once."""
    counter = Counter(spec("counter"))
    reporter = MetricsReporter((counter,))
    counter.add(2, "x")
    reporter.report()
    reporter.report()
    counter.add(3, "x")
    reporter.report()

    assert told.take() == [("counter", 2, {"a": "x"}), ("counter", 3, {"a": "x"})]


def test_histogram_is_told_by_its_buckets_counts(told: Told) -> None:
    """A bucket's own bound lies in it, each holds those below, and the sum is exact."""
    histogram = Histogram(spec("histogram"))
    reporter = MetricsReporter((histogram,))
    for value in (0.1, 1.0, 1.5, 9.0):
        histogram.observe(value, "x")
    reporter.report()
    first = told.take()
    reporter.report()
    unchanged = told.take()
    histogram.observe(1.75, "x")
    reporter.report()

    assert first == [
        ("histogram_bucket", 2, {"a": "x", "le": "1.0"}),
        ("histogram_bucket", 3, {"a": "x", "le": "2.0"}),
        ("histogram_bucket", 4, {"a": "x", "le": "+Inf"}),
        ("histogram_count", 4, {"a": "x"}),
        ("histogram_sum", 11.6, {"a": "x"}),
    ]
    assert unchanged == []
    assert [value for _name, value, _tags in told.take()] == [2, 4, 5, 5, 13.35]


def test_histogram_is_told_again_before_ray_forgets_it(told: Told) -> None:
    """A server that is asked nothing for a while still says how fast it was."""
    histogram = Histogram(spec("histogram"))
    reporter = MetricsReporter((histogram,))
    histogram.observe(1.0, "x")
    for _ in range(REFRESH_PERIODS):
        reporter.report()

    assert len(told.take()) == 2 * 5


def test_level_is_told_when_it_changes_and_again_before_ray_forgets_it(told: Told) -> None:
    """Ray's agent drops a level that nobody repeats; one of an account that is gone must be dropped."""
    gauge = Gauge(spec("gauge"))
    reporter = MetricsReporter((gauge,))
    gauge.set(0.5, "x")
    for _ in range(REFRESH_PERIODS - 1):
        reporter.report()
    assert told.take() == [("gauge", 0.5, {"a": "x"})]
    reporter.report()
    assert told.take() == [("gauge", 0.5, {"a": "x"})]
    gauge.replace({})
    for _ in range(REFRESH_PERIODS):
        reporter.report()

    assert told.take() == []
