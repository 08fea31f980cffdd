"""What is measured: added up exactly, and bounded whatever labels come."""

from __future__ import annotations

import re
import string
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import metric_names as names
from app.domain.metric_names import ALL, OTHER, MetricSpec
from app.services.telemetry import instruments
from app.services.telemetry.metrics import SERIES_MAX, Counter, Gauge, Histogram


def spec(kind: names.Kind, *labels: str, values_max: int = 3) -> MetricSpec:
    buckets = (1.0, 2.0, 4.0) if kind == "histogram" else ()
    return MetricSpec(name="m", kind=kind, meaning="x", labels=labels, buckets=buckets, values_max=values_max)


def test_counter_adds_up_under_its_labels() -> None:
    """Each combination of labels has its own sum."""
    counter = Counter(spec("counter", "account", "model"))
    for amount, account in ((1, "a"), (2, "b"), (3, "a")):
        counter.add(amount, account, "m")

    assert counter.values() == {("a", "m"): 4, ("b", "m"): 2}


def test_histogram_counts_a_value_in_the_bucket_that_holds_it() -> None:
    """A bound is in its own bucket, as Prometheus' ``le`` says; what is above all has one too."""
    histogram = Histogram(spec("histogram"))
    for value in (0.5, 1.0, 1.5, 4.0, 4.1, 1_000):
        histogram.observe(value)

    assert histogram.values() == {(): (2, 1, 1, 2)}


@given(st.lists(st.text(string.printable, max_size=3), max_size=200))
def test_labels_are_bounded_whatever_comes(values: list[str]) -> None:
    """A label that a client can choose must not fill Prometheus; nothing is lost by it but the name."""
    counter, histogram = Counter(spec("counter", "label")), Histogram(spec("histogram", "label"))
    for value in values:
        counter.add(1, value)
        histogram.observe(1.0, value)

    assert len(counter.values()) <= 4
    assert sum(counter.values().values()) == len(values)
    assert sum(map(sum, histogram.values().values())) == len(values)
    if len(set(values)) > 3:
        assert (OTHER,) in counter.values()


def test_combinations_of_labels_are_bounded_too() -> None:
    """Four labels of a hundred values are a hundred million series."""
    counter = Counter(spec("counter", "a", "b", values_max=100))
    for first, second in product(range(60), repeat=2):
        counter.add(1, str(first), str(second))

    assert len(counter.values()) == SERIES_MAX + 1
    assert sum(counter.values().values()) == 3_600


def test_gauge_forgets_what_is_not_there_any_more() -> None:
    """An account that was removed must not stand at its last level for ever."""
    gauge = Gauge(spec("gauge", "account"))
    gauge.set(0.5, "a")
    gauge.set(0.25, "b")

    assert gauge.values() == {("a",): 0.5, ("b",): 0.25}
    gauge.replace({("b",): 1.0})
    assert gauge.values() == {("b",): 1.0}


def test_wrong_number_of_labels_is_a_bug() -> None:
    """Ray would refuse them half a second later, where nobody knows who it was."""
    with pytest.raises(AssertionError):
        Counter(spec("counter", "a")).add(1)


def test_every_declared_metric_has_its_instrument() -> None:
    """The table is what dashboards and alert rules are checked against."""
    assert {each.spec.name for each in instruments.ALL} == {each.name for each in ALL}
    assert len({each.name for each in ALL}) == len(ALL)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_declared_metric_is_one_that_prometheus_takes(metric: MetricSpec) -> None:
    """Ray drops a name it does not like with a warning in some log, and refuses bounds of 0."""
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in metric.labels)
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert all(bound > 0 for bound in metric.buckets)
