"""Reads alert rules as Kibana's executors do: what Elasticsearch is asked, and what the answer means.

An equation is worked out here; Kibana lets Elasticsearch do that by a script (``bucket_script``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes.kql import query_of
from tests.fakes.panel_answers import COMPARE, equation

GROUPS_MAX = 1_000


def request_of(rule: dict[str, Any]) -> dict[str, Any]:
    """Return what Elasticsearch is asked for a rule."""
    params = rule["params"]
    if rule["rule_type_id"] == ".es-query":
        window = f"now-{params['timeWindowSize']}{params['timeWindowUnit']}"
        times = {"range": {params["timeField"]: {"gte": window, "lte": "now"}}}
        asked = json.loads(params["esQuery"])["query"]
        assert (params["aggType"], params["groupBy"]) == ("count", "all")
        return {"size": params["size"], "track_total_hits": True, "query": {"bool": {"filter": [asked, times]}}}
    (criterion,) = params["criteria"]
    window = f"now-{criterion['timeSize']}{criterion['timeUnit']}"
    times = {"range": {"@timestamp": {"gte": window, "lte": "now"}}}
    asked = query_of(params["searchConfiguration"]["query"]["query"])
    aggregations: dict[str, Any] = {metric["name"]: _metric(metric) for metric in criterion["metrics"]}
    for group in reversed(params.get("groupBy", [])):
        aggregations = {"groups": {"terms": {"field": group, "size": GROUPS_MAX}, "aggs": aggregations}}
    return {"size": 0, "query": {"bool": {"filter": [asked, times]}}, "aggs": aggregations}


def figures_of(rule: dict[str, Any], answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rule's metrics by group, values joined (``*`` without any)."""
    if rule["rule_type_id"] == ".es-query":
        return {"*": {"A": answer["hits"]["total"]["value"]}}
    (criterion,) = rule["params"]["criteria"]
    return {
        group or "*": {metric["name"]: _value(metric, level[metric["name"]]) for metric in criterion["metrics"]}
        for group, level in _groups(answer["aggregations"])
    }


def fired(rule: dict[str, Any], figures: dict[str, dict[str, Any]]) -> set[str]:
    """Return the groups for which it fires; what has no value does not."""
    params = rule["params"]
    if rule["rule_type_id"] == ".es-query":
        text, comparator, (threshold,) = "A", params["thresholdComparator"], params["threshold"]
    else:
        (criterion,) = params["criteria"]
        text, comparator, (threshold,) = criterion["equation"], criterion["comparator"], criterion["threshold"]
    return {
        group
        for group, values in figures.items()
        if None not in values.values() and COMPARE[comparator](equation(text, values), threshold)
    }


def _groups(level: dict[str, Any], names: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if "groups" not in level:
        yield names, level
        return
    for bucket in level["groups"]["buckets"]:
        yield from _groups(bucket, f"{names},{bucket['key']}".removeprefix(","))


def _metric(metric: dict[str, Any]) -> dict[str, Any]:
    kind = metric["aggType"]
    if kind == "count":
        inner: dict[str, Any] = {}
    elif kind in ("p95", "p99"):
        inner = {"value": {"percentiles": {"field": metric["field"], "percents": [int(kind[1:])]}}}
    else:
        inner = {"value": {kind: {"field": metric["field"]}}}
    made = {"filter": query_of(metric.get("filter", ""))}
    return {**made, "aggs": inner} if inner else made


def _value(metric: dict[str, Any], level: dict[str, Any]) -> Any:
    if metric["aggType"] == "count":
        return level["doc_count"]
    found = level["value"]
    return next(iter(found["values"].values())) if "values" in found else found["value"]
