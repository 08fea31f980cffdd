"""Answers what a panel or an alert rule asks, from the values that events were made of: no document, no query.

The other way round the same declaration: what Elasticsearch says of the stored documents has to be this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, assert_never

from app.domain.kibana.questions import By, Cases, Condition, Conditions, Metric, OverTime, Panel, Split
from app.domain.kibana.rules import Rule
from tests.fakes.event_samples import HOUR, MINUTE, NS, Sample

Rows = dict[tuple[Any, ...], dict[str, Any]]
_UNITS = {"m": MINUTE, "h": HOUR}


class Percentile:
    """What a percentile may be: servers estimate it; equal to any number between its neighbours.

    Args:
        values: All of them.
        which: Per cent.
    """

    SLACK = 3
    """Per cent of the values that an estimate may be off."""

    def __init__(self, values: Sequence[float], which: int) -> None:
        ordered = sorted(values)
        last = len(ordered) - 1
        self.least = ordered[max(0, math.floor((which - self.SLACK) / 100 * last))]
        self.most = ordered[min(last, math.ceil((which + self.SLACK) / 100 * last))]

    def __repr__(self) -> str:
        return f"{self.least:g}..{self.most:g}"


def agree(said: Any, computed: Any) -> bool:
    """Tell whether a number is the computed one; sums of floats may differ in their last digits."""
    if isinstance(computed, Percentile):
        return said is not None and computed.least - 1e-6 <= said <= computed.most + 1e-6
    if said is None or computed is None:
        return said is computed
    return math.isclose(said, computed, rel_tol=1e-9)


def differing(said: Rows, computed: Rows) -> list[str]:
    """Return what differs, in words."""
    found = [f"only said: {key}" for key in said.keys() - computed.keys()]
    found += [f"only computed: {key}" for key in computed.keys() - said.keys()]
    for key in said.keys() & computed.keys():
        for label in {*said[key], *computed[key]}:
            one, other = said[key].get(label), computed[key].get(label)
            if not agree(one, other):
                found.append(f"{key} {label}: said {one}, computed {other}")
    return found


def rows(panel: Panel, samples: Sequence[Sample], now_ns: int) -> Rows:
    """Return the panel's rows."""
    splits = sorted(panel.splits, key=lambda split: isinstance(split, OverTime))
    chosen = [sample for sample in samples if _all(panel.where, sample, now_ns)]
    return dict(_rows(chosen, splits, panel.metrics, (), now_ns))


def figures(rule: Rule, samples: Sequence[Sample], now_ns: int) -> dict[str, dict[str, Any]]:
    """Return the metrics of a rule by the values of its groups, joined (``*`` without any)."""
    since_ns = now_ns - rule.window_s * NS
    chosen = [one for one in samples if one.time_ns >= since_ns and _all(rule.where, one, now_ns)]
    groups: dict[str, list[Sample]] = {"": chosen}
    for name in rule.groups:
        groups = {
            f"{group},{value}".removeprefix(","): of
            for group, all_of_it in groups.items()
            for value, of in _grouped(all_of_it, name).items()
        }
    return {
        group or "*": {
            name: number(metric, of, now_ns) for name, metric in zip(rule.metric_names(), rule.metrics, strict=True)
        }
        for group, of in groups.items()
    }


def number(metric: Metric, samples: Sequence[Sample], now_ns: int) -> Any:
    """Return one number over these events."""
    chosen = [sample for sample in samples if _all(metric.only, sample, now_ns)]
    if metric.field is None:
        return len(chosen)
    found: list[Any] = [value for sample in chosen if (value := sample.get(metric.field)) is not None]
    match metric.operation:
        case "sum":
            return sum(found)
        case "unique_count":
            return len(set(found))
        case _ if not found:
            return None
        case "average":
            return sum(found) / len(found)
        case "max":
            return max(found)
        case "min":
            return min(found)
        case "percentile":
            return Percentile(found, metric.percentile)
        case "count":
            raise AssertionError("a count has no field")
        case _:
            assert_never(metric.operation)


def _rows(
    samples: Sequence[Sample],
    splits: Sequence[Split],
    metrics: Sequence[Metric],
    keys: tuple[Any, ...],
    now_ns: int,
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if not samples:
        return
    if not splits:
        yield keys, {metric.label: number(metric, samples, now_ns) for metric in metrics}
        return
    first, *below = splits
    match first:
        case OverTime():
            found: dict[Any, list[Sample]] = {}
            for sample in samples:
                found.setdefault(sample.time_ns // (HOUR * NS) * HOUR * 1_000, []).append(sample)
        case Cases():
            found = {label: [one for one in samples if _all(held, one, now_ns)] for label, held in first.cases}
        case By():
            grouped = _grouped(samples, first.field)
            sizes = {key: _size(number(metrics[0], of, now_ns)) for key, of in grouped.items()}
            largest = sorted(grouped, key=lambda key: (-sizes[key], key))[: first.size]
            found = {key: grouped[key] for key in largest}
        case _:
            assert_never(first)
    for key, of in found.items():
        yield from _rows(of, below, metrics, (*keys, key), now_ns)


def _grouped(samples: Sequence[Sample], name: str) -> dict[Any, list[Sample]]:
    found: dict[Any, list[Sample]] = {}
    for sample in samples:
        value = sample.get(name)
        if value is not None:
            found.setdefault(value, []).append(sample)
    return found


def _size(value: Any) -> float:
    return value.most if isinstance(value, Percentile) else float("-inf") if value is None else float(value)


def _all(conditions: Conditions, sample: Sample, now_ns: int) -> bool:
    return all(_holds(condition, sample, now_ns) != condition.negated for condition in conditions)


def _holds(condition: Condition, sample: Sample, now_ns: int) -> bool:
    value: Any = sample.get(condition.field)
    match condition.how:
        case "there":
            return value is not None
        case "is":
            return value in condition.values
        case "at_least":
            return value is not None and value >= condition.values[0]
        case "older":
            age = str(condition.values[0])
            return sample.time_ns <= now_ns - int(age[:-1]) * _UNITS[age[-1]] * NS
        case _:
            assert_never(condition.how)


COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">": lambda one, other: bool(one > other),
    ">=": lambda one, other: bool(one >= other),
    "<": lambda one, other: bool(one < other),
    "<=": lambda one, other: bool(one <= other),
}


def equation(text: str, values: Mapping[str, float]) -> float:
    """Return what an equation of Kibana's makes of these values: ``+ - * /``, comparisons, ``a ? b : c``."""
    tokens = re.findall(r"[A-Z]|\d+(?:\.\d+)?|>=|<=|[-+*/()?:<>]", text)
    assert "".join(tokens) == text.replace(" ", ""), f"unknown signs in {text!r}"
    value = _choice(tokens, values)
    assert not tokens, f"{text!r} goes on after its end"
    return float(value)


def _choice(tokens: list[str], values: Mapping[str, float]) -> Any:
    value = _sum(tokens, values)
    if tokens and tokens[0] in COMPARE:
        value = COMPARE[tokens.pop(0)](value, _sum(tokens, values))
    if tokens and tokens[0] == "?":
        tokens.pop(0)
        one = _choice(tokens, values)
        assert tokens.pop(0) == ":"
        other = _choice(tokens, values)
        return one if value else other
    return value


def _sum(tokens: list[str], values: Mapping[str, float]) -> Any:
    value = _product(tokens, values)
    while tokens and tokens[0] in "+-":
        sign = tokens.pop(0)
        other = _product(tokens, values)
        value = value + other if sign == "+" else value - other
    return value


def _product(tokens: list[str], values: Mapping[str, float]) -> Any:
    value = _atom(tokens, values)
    while tokens and tokens[0] in "*/":
        sign = tokens.pop(0)
        other = _atom(tokens, values)
        # As floats of the server do: the branch that is not taken may divide by nothing.
        value = value * other if sign == "*" else value / other if other else math.nan
    return value


def _atom(tokens: list[str], values: Mapping[str, float]) -> Any:
    token = tokens.pop(0)
    if token == "(":
        value = _choice(tokens, values)
        assert tokens.pop(0) == ")"
        return value
    return values[token] if token.isalpha() else float(token)
