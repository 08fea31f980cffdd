"""Reads Kibana's saved objects as Kibana does: what is wrong with them, and what Elasticsearch would be asked.

Shares no code with what writes them. Knows the part of Lens and of KQL that the written objects use, and refuses the
rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tests.fakes.kql import query_of

ALLOWED = {
    "dashboard": {
        "title", "description", "kibanaSavedObjectMeta", "timeRestore", "timeFrom", "timeTo", "refreshInterval",
        "controlGroupInput", "panelsJSON", "optionsJSON", "hits", "version",
    },
    "index-pattern": {"title", "name", "timeFieldName", "allowNoIndex", "fieldFormatMap", "runtimeFieldMap"},
    "search": {"title", "description", "columns", "sort", "grid", "hideChart", "kibanaSavedObjectMeta"},
}  # fmt: skip
"""Attributes that an import takes, by type; a dashboard with another one is refused."""
NEWEST = {"dashboard": "8.9.0", "index-pattern": "8.0.0", "search": "8.0.0"}
"""Versions that Kibana 8.9 knows; it refuses newer ones."""
COLUMNS = 48
INTERVAL = "1h"
"""For `auto`, which Kibana works out from the screen."""
_METRICS = {"sum": "sum", "average": "avg", "max": "max", "min": "min", "unique_count": "cardinality"}


def parse(text: str) -> list[dict[str, Any]]:
    """Return the objects of a file."""
    return [json.loads(line) for line in text.splitlines()]


def lens_panels(saved: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (title, Lens attributes) of a dashboard's panels."""
    for panel in json.loads(saved["attributes"]["panelsJSON"]):
        yield panel["title"], panel["embeddableConfig"]["attributes"]


def mistakes(objects: Sequence[dict[str, Any]]) -> list[str]:
    """Return what Kibana would refuse of these objects, or show as a broken panel."""
    found: list[str] = []
    have = {(one["type"], one["id"]) for one in objects}
    if len(have) < len(objects):
        found.append("an id stands twice")
    for one in objects:
        kind, title = one["type"], one["attributes"]["title"]
        found += [f"{title}: unknown attribute {name}" for name in set(one["attributes"]) - ALLOWED[kind]]
        if _numbers(one["typeMigrationVersion"]) > _numbers(NEWEST[kind]) or one["coreMigrationVersion"] != "8.8.0":
            found.append(f"{title}: a version that Kibana 8.9 does not know")
        for reference in one["references"]:
            if (reference["type"], reference["id"]) not in have:
                found.append(f"{title}: missing reference {reference['name']}")
        if kind == "dashboard":
            found += [f"{title}: {mistake}" for mistake in _dashboard(one)]
        elif kind == "search":
            source = json.loads(one["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
            if source["indexRefName"] not in {reference["name"] for reference in one["references"]}:
                found.append(f"{title}: its data view is not referred to")
    return found


def fields_of(saved: dict[str, Any]) -> set[str]:
    """Return every field path that an object asks for."""
    found: set[str] = set()
    if saved["type"] == "dashboard":
        for _, attributes in lens_panels(saved):
            found |= _query_fields(query_of(attributes["state"]["query"]["query"]))
            for column in _layer(attributes)["columns"].values():
                found |= {column["sourceField"]} if "sourceField" in column else set()
                queries = [column["filter"]] if "filter" in column else []
                queries += [one["input"] for one in column.get("params", {}).get("filters", [])]
                for query in queries:
                    found |= _query_fields(query_of(query["query"]))
    elif saved["type"] == "search":
        source = json.loads(saved["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
        found |= _query_fields(query_of(source["query"]["query"])) | set(saved["attributes"]["columns"])
    else:
        found |= {saved["attributes"]["timeFieldName"], *json.loads(saved["attributes"]["fieldFormatMap"])}
    return found - {"___records___"}


def request_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return what Elasticsearch is asked for a panel."""
    layer = _layer(attributes)
    columns = [(name, layer["columns"][name]) for name in layer["columnOrder"]]
    metrics = {name: _metric(column) for name, column in columns if not column["isBucketed"]}
    aggregations = {name: made for name, made in metrics.items() if made}
    for name, column in reversed([pair for pair in columns if pair[1]["isBucketed"]]):
        # A split is ordered by a metric of its own level, as Kibana adds it there.
        by = column.get("params", {}).get("orderBy", {}).get("columnId")
        ordering = {by: metrics[by]} if by and metrics[by] else {}
        aggregations = {name: {**_bucket(column, layer["columns"]), "aggs": aggregations | ordering}}
    query = query_of(attributes["state"]["query"]["query"])
    return {"size": 0, "track_total_hits": True, "query": query, "aggs": aggregations}


def rows_of(attributes: dict[str, Any], answer: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the panel's rows: values of its buckets, to metrics by label."""
    layer = _layer(attributes)
    columns = [(name, layer["columns"][name]) for name in layer["columnOrder"]]
    buckets = [(name, column) for name, column in columns if column["isBucketed"]]
    metrics = [(name, column) for name, column in columns if not column["isBucketed"]]
    top = {**answer.get("aggregations", {}), "doc_count": answer["hits"]["total"]["value"]}
    return dict(_rows(top, buckets, metrics, ()))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _rows(
    level: dict[str, Any],
    buckets: list[tuple[str, dict[str, Any]]],
    metrics: list[tuple[str, dict[str, Any]]],
    keys: tuple[Any, ...],
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    if not buckets:
        if level["doc_count"]:
            yield keys, {column["label"]: _value(level, name, column) for name, column in metrics}
        return
    (name, _), *below = buckets
    found = level[name]["buckets"]
    named = found.items() if isinstance(found, dict) else ((bucket["key"], bucket) for bucket in found)
    for key, bucket in named:
        yield from _rows(bucket, below, metrics, (*keys, key))


def _value(level: dict[str, Any], name: str, column: dict[str, Any]) -> Any:
    if "filter" in column:
        level = level[name]
    if column["operationType"] == "count":
        return level["doc_count"]
    if column["operationType"] == "percentile":
        return next(iter(level[name]["values"].values()))
    return level[name]["value"]


def _metric(column: dict[str, Any]) -> dict[str, Any]:
    operation = column["operationType"]
    if operation == "count":
        assert column["sourceField"] == "___records___"
        made: dict[str, Any] = {}
    elif operation == "percentile":
        made = {"percentiles": {"field": column["sourceField"], "percents": [column["params"]["percentile"]]}}
    else:
        made = {_METRICS[operation]: {"field": column["sourceField"]}}
    if "filter" not in column:
        return made
    assert column["filter"]["language"] == "kuery"
    inner = {"aggs": {"inner": made}} if made else {}
    assert not inner, "no panel filters anything but a count"
    return {"filter": query_of(column["filter"]["query"])}


def _bucket(column: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    match column["operationType"]:
        case "date_histogram":
            assert column["params"]["interval"] == "auto"
            return {"date_histogram": {"field": column["sourceField"], "fixed_interval": INTERVAL, "min_doc_count": 1}}
        case "filters":
            cases = {one["label"]: query_of(one["input"]["query"]) for one in column["params"]["filters"]}
            return {"filters": {"filters": cases}}
        case "terms":
            params = column["params"]
            assert not params["otherBucket"]
            assert params["orderBy"]["type"] == "column"
            by = params["orderBy"]["columnId"]
            counted = columns[by]["operationType"] == "count"
            if columns[by]["operationType"] == "percentile":
                by = f"{by}.{columns[by]['params']['percentile']}"
            order = {"_count" if counted else by: params["orderDirection"]}
            return {"terms": {"field": column["sourceField"], "size": params["size"], "order": order}}
        case other:
            raise AssertionError(f"no panel splits by {other}")


def _layer(attributes: dict[str, Any]) -> dict[str, Any]:
    (layer,) = attributes["state"]["datasourceStates"]["formBased"]["layers"].values()
    return dict(layer)


def _dashboard(saved: dict[str, Any]) -> Iterator[str]:
    names = {reference["name"] for reference in saved["references"]}
    taken: set[tuple[int, int]] = set()
    panels = json.loads(saved["attributes"]["panelsJSON"])
    for panel in panels:
        index, grid = panel["panelIndex"], panel["gridData"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        if taken & cells:
            yield f"{panel['title']} overlaps another panel"
        taken |= cells
        if grid["x"] + grid["w"] > COLUMNS or grid["i"] != index:
            yield f"{panel['title']} does not fit"
        attributes = panel["embeddableConfig"]["attributes"]
        for reference in attributes["references"]:
            if f"{index}:{reference['name']}" not in names:
                yield f"{panel['title']}: the dashboard does not carry its reference"
        yield from (f"{panel['title']}: {mistake}" for mistake in _lens(attributes))


def _lens(attributes: dict[str, Any]) -> Iterator[str]:
    layers = attributes["state"]["datasourceStates"]["formBased"]["layers"]
    names = {reference["name"] for reference in attributes["references"]}
    drawn = attributes["state"]["visualization"]
    for layer_id, layer in layers.items():
        if f"indexpattern-datasource-layer-{layer_id}" not in names:
            yield f"layer {layer_id} has no data view"
        columns = layer["columns"]
        if layer["columnOrder"] != list(columns):
            yield "columnOrder is not the columns"
        wanted = set(_accessors(drawn))
        if wanted != set(columns):
            yield f"drawn are {sorted(wanted)}, there are {sorted(columns)}"
        flags = [columns[name]["isBucketed"] for name in layer["columnOrder"] if name in columns]
        if flags != sorted(flags, reverse=True):
            yield "a bucket stands behind a metric"
    if {one["layerId"] for one in drawn.get("layers", [drawn])} != set(layers):
        yield "draws a layer that there is not"


def _accessors(drawn: dict[str, Any]) -> Iterator[str]:
    for layer in drawn.get("layers", [drawn]):
        for name in ("metricAccessor", "xAccessor", "splitAccessor"):
            if name in layer:
                yield layer[name]
        for name in ("accessors", "primaryGroups", "metrics"):
            yield from layer.get(name, [])
        yield from (column["columnId"] for column in layer.get("columns", []))


def _query_fields(query: dict[str, Any]) -> set[str]:
    """Return the fields of a query."""
    found: set[str] = set()
    for kind, body in query.items():
        if kind == "bool":
            for clauses in body.values():
                for clause in clauses if isinstance(clauses, list) else []:
                    found |= _query_fields(clause)
        elif kind == "exists":
            found.add(body["field"])
        elif kind != "match_all":
            found |= set(body)
    return found
