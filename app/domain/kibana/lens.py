"""Draws panels as Kibana's Lens keeps them, for dashboards that bring their panels with them ("by value").

Only operations that Elasticsearch answers without scripts, so that every panel can be asked of the smallest
distribution: no formulas, no last value, no rates.

Source: Kibana's saved objects of Lens, migration version 8.9; accepted by 8.9 and later, 9 included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from app.domain.chat import Json
from app.domain.events.fields import Profile, path_of
from app.domain.kibana.questions import By, Cases, Metric, OverTime, Panel, Split, kql

Object = dict[str, Json]

LAYER = "layer"
REFERENCE = f"indexpattern-datasource-layer-{LAYER}"
RECORDS = "___records___"
_XY = {"lines": "line", "areas": "area_stacked", "bars": "bar_stacked", "shares": "bar_percentage_stacked"}


def lens_attributes(panel: Panel, data_view_id: str, profile: Profile) -> Object:
    """Return the panel as Lens has it.

    Args:
        panel: What it asks.
        data_view_id: Of the events.
        profile: Names their fields.
    """
    splits = _ordered(panel.splits)
    metrics = [f"m{position}" for position in range(len(panel.metrics))]
    # Lens nests buckets in this order: a split stands above time, so that its largest values are those of all of it.
    columns: Object = {
        **{f"b{position}": _bucket(split, metrics[0], profile) for position, split in enumerate(splits)},
        **{name: _metric(metric, profile) for name, metric in zip(metrics, panel.metrics, strict=True)},
    }
    kind, visualization = _visualization(panel, splits, metrics)
    layers: Object = {LAYER: {"columns": columns, "columnOrder": [*columns], "incompleteColumns": {}, "sampling": 1}}
    return {
        "title": panel.title,
        "type": "lens",
        "visualizationType": kind,
        "references": [{"type": "index-pattern", "id": data_view_id, "name": REFERENCE}],
        "state": {
            "query": {"query": kql(panel.where, profile), "language": "kuery"},
            "filters": [],
            "adHocDataViews": {},
            "internalReferences": [],
            "datasourceStates": {"formBased": {"layers": layers}},
            "visualization": visualization,
        },
    }


def _ordered(splits: Sequence[Split]) -> list[Split]:
    return sorted(splits, key=lambda split: isinstance(split, OverTime))


def _bucket(split: Split, first_metric: str, profile: Profile) -> Object:
    match split:
        case OverTime():
            return {
                "label": "time",
                "customLabel": True,
                "dataType": "date",
                "operationType": "date_histogram",
                "sourceField": path_of("at", profile),
                "isBucketed": True,
                "scale": "interval",
                "params": {"interval": "auto", "includeEmptyRows": True, "dropPartials": False},
            }
        case By():
            return {
                "label": split.label,
                "customLabel": True,
                "dataType": "string",
                "operationType": "terms",
                "sourceField": path_of(split.field, profile),
                "isBucketed": True,
                "scale": "ordinal",
                "params": {
                    "size": split.size,
                    "orderBy": {"type": "column", "columnId": first_metric},
                    "orderDirection": "desc",
                    "otherBucket": False,
                    "missingBucket": False,
                    "parentFormat": {"id": "terms"},
                },
            }
        case Cases():
            filters: list[Json] = [
                {"label": label, "input": {"query": kql(conditions, profile), "language": "kuery"}}
                for label, conditions in split.cases
            ]
            return {
                "label": "case",
                "customLabel": True,
                "dataType": "string",
                "operationType": "filters",
                "isBucketed": True,
                "scale": "ordinal",
                "params": {"filters": filters},
            }
        case _:
            assert_never(split)


def _metric(metric: Metric, profile: Profile) -> Object:
    params: Object = {"percentile": metric.percentile} if metric.operation == "percentile" else {"emptyAsNull": True}
    column: Object = {
        "label": metric.label,
        "customLabel": True,
        "dataType": "number",
        "operationType": metric.operation,
        "sourceField": RECORDS if metric.field is None else path_of(metric.field, profile),
        "isBucketed": False,
        "scale": "ratio",
        "params": params,
    }
    if metric.only:
        column["filter"] = {"query": kql(metric.only, profile), "language": "kuery"}
    return column


def _visualization(panel: Panel, splits: Sequence[Split], metrics: list[str]) -> tuple[str, Object]:
    """Return Lens' name of the shape, and its state."""
    buckets = [f"b{position}" for position in range(len(splits))]
    layer: Object = {"layerId": LAYER, "layerType": "data"}
    match panel.shape:
        case "figure":
            return "lnsMetric", {**layer, "metricAccessor": metrics[0]}
        case "table":
            columns: list[Json] = [{"columnId": name, "isTransposed": False} for name in (*buckets, *metrics)]
            return "lnsDatatable", {**layer, "columns": columns}
        case "donut":
            slices: Object = {
                **layer,
                "primaryGroups": [*buckets],
                "metrics": [*metrics],
                "numberDisplay": "percent",
                "categoryDisplay": "default",
                "legendDisplay": "default",
                "nestedLegend": False,
            }
            return "lnsPie", {"shape": "donut", "layers": [slices]}
        case "lines" | "areas" | "bars" | "shares":
            series = _XY[panel.shape]
            drawn: Object = {
                **layer,
                "seriesType": series,
                "xAccessor": buckets[-1],
                "accessors": [*metrics],
                "position": "top",
                "showGridlines": False,
                **({"splitAccessor": buckets[0]} if len(buckets) > 1 else {}),
            }
            return "lnsXY", {
                "preferredSeriesType": series,
                "legend": {"isVisible": True, "position": "right"},
                "valueLabels": "hide",
                "fittingFunction": "None",
                "layers": [drawn],
            }
        case _:
            assert_never(panel.shape)
