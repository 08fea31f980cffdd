"""Draws alert rules as Kibana's API takes them: thresholds over a window, for each value of a field.

Two of Kibana's types, both free: ``.es-query`` where one number is compared and silence is a number too, custom
thresholds where a rule divides, or asks for a percentile. Rules cannot be imported like dashboards (they would be
disabled, without a key): the API makes them, under ids of their own.

Source: Kibana's rule parameters `es_query/v1` and `custom_threshold/v1`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from app.domain.chat import Json
from app.domain.events.fields import path_of
from app.domain.kibana.questions import Condition, Conditions, Metric, Value, kql
from app.domain.kibana.saved_objects import Setting, fixed_id

Object = dict[str, Json]
Comparator = Literal[">", ">=", "<", "<="]

CUSTOM, QUERY = "observability.rules.custom_threshold", ".es-query"
FIRED = {CUSTOM: "custom_threshold.fired", QUERY: "query matched"}
"""The group whose actions run, by type."""
TAG = "tutti"
_AGGREGATIONS = {"sum": "sum", "average": "avg", "max": "max", "min": "min", "unique_count": "cardinality"}
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a person reads who is woken by it."""

    fired: str
    """What was seen."""
    why: str
    """Why that matters."""
    triage: str
    """What to look at first."""
    remediation: str
    """What to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One alert."""

    name: str
    """What its id is made of."""
    title: str
    where: Conditions
    metrics: tuple[Metric, ...]
    """Named A, B, C, … in ``equation``."""
    equation: str = "A"
    """``+ - * /`` over them."""
    comparator: Comparator
    threshold: float
    window: str
    """Such as ``5m``."""
    groups: tuple[str, ...] = ()
    """Fields for whose every combination of values it is asked."""
    also_silent: bool = False
    """Whether no events at all count as 0; only for a count that is not grouped."""
    delay: int = 1
    """Checks in a row that must see it."""
    words: Words

    @property
    def kind(self) -> str:
        """Kibana's type."""
        return QUERY if self.also_silent else CUSTOM

    @property
    def window_s(self) -> int:
        """The window, in seconds."""
        return int(self.window[:-1]) * _UNITS[self.window[-1]]

    def metric_names(self) -> tuple[str, ...]:
        """Return what the metrics are called in the equation."""
        return tuple("ABCDEFGH"[: len(self.metrics)])


def rule_id(rule: Rule, setting: Setting) -> str:
    """Return the id that this rule always has."""
    return fixed_id(setting.prefix, "rule", rule.name)


def connector_id(setting: Setting) -> str:
    """Return the id of the connector that writes what fired to Kibana's own log."""
    return fixed_id(setting.prefix, "connector")


def connector_body() -> Object:
    """Return that connector: free in every licence; people add their own channels in Kibana."""
    return {"name": "Tutti: server log", "connector_type_id": ".server-log", "config": {}, "secrets": {}}


def rule_body(rule: Rule, setting: Setting) -> Object:
    """Return the rule as the API takes it for an update; ``new_rule_body`` adds what is only said once."""
    action: Object = {
        "group": FIRED[rule.kind],
        "id": connector_id(setting),
        "params": {"level": "warn", "message": message(rule)},
        "frequency": {"summary": False, "notify_when": "onActionGroupChange", "throttle": None},
    }
    return {
        "name": f"Tutti: {rule.title}",
        "tags": [TAG],
        "schedule": {"interval": "1m"},
        "params": _query(rule, setting) if rule.also_silent else _custom(rule, setting),
        "actions": [action],
        "alert_delay": {"active": rule.delay},
    }


def new_rule_body(rule: Rule, setting: Setting) -> Object:
    """Return the rule as the API takes it for the first time."""
    consumer = "stackAlerts" if rule.kind == QUERY else "logs"
    return {**rule_body(rule, setting), "rule_type_id": rule.kind, "consumer": consumer, "enabled": True}


def message(rule: Rule) -> str:
    """Return what is written when it fires."""
    words = rule.words
    group = " ({{context.group}})" if rule.groups else ""
    return (
        f"Tutti: {rule.title}{group}. {words.fired} Computed: {computed(rule)}. Why: {words.why} "
        f"Look first: {words.triage} Do: {words.remediation}"
    )


def computed(rule: Rule) -> str:
    """Return how the number is made, for people."""
    parts = [f"{name} = {_said(metric)}" for name, metric in zip(rule.metric_names(), rule.metrics, strict=True)]
    each = f" for each {', '.join(path_of(name) for name in rule.groups)}" if rule.groups else ""
    return f"{rule.equation} {rule.comparator} {rule.threshold:g} over {rule.window}{each}, with {'; '.join(parts)}"


def _said(metric: Metric) -> str:
    what = "count" if metric.field is None else f"{_aggregation(metric)}({path_of(metric.field)})"
    return f"{what} of {kql(metric.only)}" if metric.only else what


def _aggregation(metric: Metric) -> str:
    return f"p{metric.percentile}" if metric.operation == "percentile" else _AGGREGATIONS[metric.operation]


def _custom(rule: Rule, setting: Setting) -> Object:
    metrics: list[Json] = []
    for name, metric in zip(rule.metric_names(), rule.metrics, strict=True):
        one: Object = {"name": name}
        if metric.field is None:
            one |= {"aggType": "count"}
        else:
            one |= {"aggType": _aggregation(metric), "field": path_of(metric.field, setting.profile)}
        if metric.only:
            one["filter"] = kql(metric.only, setting.profile)
        metrics.append(one)
    criterion: Object = {
        "metrics": metrics,
        "equation": rule.equation,
        "label": rule.title,
        "comparator": rule.comparator,
        "threshold": [rule.threshold],
        "timeSize": int(rule.window[:-1]),
        "timeUnit": rule.window[-1],
    }
    query: Object = {"query": kql(rule.where, setting.profile), "language": "kuery"}
    params: Object = {
        "criteria": [criterion],
        "alertOnNoData": False,
        "alertOnGroupDisappear": False,
        "searchConfiguration": {"index": setting.data_view_id, "query": query},
    }
    if rule.groups:
        params["groupBy"] = [path_of(name, setting.profile) for name in rule.groups]
    return params


def _query(rule: Rule, setting: Setting) -> Object:
    (metric,) = rule.metrics
    assert metric.field is None, "silence is a count of 0"
    assert not rule.groups, "what is silent has no groups"
    query: Object = {"query": {"bool": _bool((*rule.where, *metric.only), setting)}}
    return {
        "searchType": "esQuery",
        "index": [f"{setting.prefix}-*"],
        "timeField": path_of("at"),
        "esQuery": json.dumps(query, separators=(",", ":")),
        "size": 10,
        "aggType": "count",
        "groupBy": "all",
        "threshold": [rule.threshold],
        "thresholdComparator": rule.comparator,
        "timeWindowSize": int(rule.window[:-1]),
        "timeWindowUnit": rule.window[-1],
        "excludeHitsFromPreviousRun": False,
    }


def _bool(conditions: Conditions, setting: Setting) -> Object:
    held: list[Json] = [_clause(one, setting) for one in conditions if not one.negated]
    not_held: list[Json] = [_clause(one, setting) for one in conditions if one.negated]
    return {"filter": held, "must_not": not_held}


def _clause(condition: Condition, setting: Setting) -> Object:
    path = path_of(condition.field, setting.profile)
    values: list[Value] = [*condition.values]
    match condition.how:
        case "there":
            return {"exists": {"field": path}}
        case "is":
            return {"terms": {path: [*values]}}
        case "at_least":
            return {"range": {path: {"gte": values[0]}}}
        case "older":
            return {"range": {path: {"lte": f"now-{values[0]}"}}}
