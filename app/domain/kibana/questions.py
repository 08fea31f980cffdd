"""What a panel or a rule asks of the events, in short names of fields: conditions, metrics, splits.

One declaration, rendered for Kibana by ``lens`` and ``rules``; tests answer it again, from the values that events were
made of. Conditions become KQL, with the field paths of the profile that is in force.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, TypeAlias

from app.domain.events.fields import DEFAULT_PROFILE, FIELD, Profile, path_of

Value: TypeAlias = "str | int | float | bool"
Operation: TypeAlias = Literal["count", "sum", "average", "max", "min", "percentile", "unique_count"]
Shape: TypeAlias = Literal["figure", "lines", "areas", "bars", "shares", "table", "donut"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One thing that must hold; where several stand together, all of them."""

    field: str
    """By short name."""
    how: Literal["is", "at_least", "there", "older"]
    values: tuple[Value, ...] = ()
    """Any of them; of ``at_least`` the one, of ``older`` an age such as ``1h``."""
    negated: bool = False


Conditions: TypeAlias = tuple[Condition, ...]


def is_(field: str, *values: Value) -> Condition:
    """Hold where the field has one of these values."""
    return Condition(field=field, how="is", values=values)


def at_least(field: str, value: float) -> Condition:
    """Hold where the field is that much or more."""
    return Condition(field=field, how="at_least", values=(value,))


def there(field: str) -> Condition:
    """Hold where the field has a value."""
    return Condition(field=field, how="there")


def older(age: str) -> Condition:
    """Hold for events of longer ago."""
    return Condition(field="at", how="older", values=(age,))


def no(condition: Condition) -> Condition:
    """Hold where that does not."""
    return Condition(field=condition.field, how=condition.how, values=condition.values, negated=not condition.negated)


def told(*actions: str) -> Condition:
    """Hold for events of these types."""
    return is_("action", *actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number."""

    label: str
    operation: Operation
    field: str | None = None
    percentile: int = 95
    only: Conditions = ()
    """Of the panel's events, those it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """A split by a field's values, the largest first metric first."""

    field: str
    label: str
    size: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class OverTime:
    """A split by time; how fine, whoever looks decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """A split by conditions, each with its label; an event may be in several."""

    cases: tuple[tuple[str, Conditions], ...]


Split: TypeAlias = "By | OverTime | Cases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of a dashboard."""

    title: str
    shape: Shape
    where: Conditions
    metrics: tuple[Metric, ...]
    splits: tuple[Split, ...] = ()
    width: int = 24
    """Of 48 columns."""
    height: int = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """Panels under one title."""

    name: str
    """Of its file, and what its id is made of."""
    title: str
    description: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A list of events with chosen columns."""

    name: str
    title: str
    description: str
    where: Conditions
    columns: tuple[str, ...]


def count(label: str, *only: Condition) -> Metric:
    """Return how many events."""
    return Metric(label=label, operation="count", only=only)


def total(label: str, field: str, *only: Condition) -> Metric:
    """Return a sum."""
    return Metric(label=label, operation="sum", field=field, only=only)


def percentile(field: str, which: int, label: str = "") -> Metric:
    """Return a percentile."""
    return Metric(label=label or f"p{which}", operation="percentile", field=field, percentile=which)


def kql(conditions: Conditions, profile: Profile = DEFAULT_PROFILE) -> str:
    """Return conditions as Kibana's query language has them."""
    return " and ".join(_term(condition, profile) for condition in conditions)


def _term(condition: Condition, profile: Profile) -> str:
    assert condition.field in FIELD, f"there is no field {condition.field}"
    path = path_of(condition.field, profile)
    match condition.how:
        case "there":
            term = f"{path}: *"
        case "at_least":
            term = f"{path} >= {condition.values[0]}"
        case "older":
            term = f"{path} <= now-{condition.values[0]}"
        case "is":
            values = [_literal(value) for value in condition.values]
            term = f"{path}: {values[0]}" if len(values) == 1 else f"{path}: ({' or '.join(values)})"
    return f"not {term}" if condition.negated else term


def _literal(value: Value) -> str:
    # JSON's quoting of text is KQL's.
    return json.dumps(value, ensure_ascii=False)
