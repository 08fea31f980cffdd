"""Dashboards and alert rules: what they ask for exists, and they are the same bytes from the same code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest
import yaml

from app.domain.metric_names import ALL, MetricSpec
from tests.architecture.tracked import ROOT
from tools.grafana_dashboards import COLUMNS, DASHBOARDS, Dashboard, dashboard_file
from tools.prometheus_rules import ALERTS, rules_file

BY_SERIES: dict[str, MetricSpec] = {series: metric for metric in ALL for series in metric.exported}
FUNCTIONS = {"sum", "by", "min", "max", "avg", "rate", "histogram_quantile", "absent", "and"}
NOT_ASKED_FOR: set[str] = set()
"""Declared metrics that no panel and no rule shows."""
_SERIES = re.compile(r"\bray_\w+")
_SELECTOR = re.compile(r"(\bray_\w+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([^)]*)\)")
_WORD = re.compile(r"[A-Za-z_]\w*")


def problems(query: str) -> list[str]:
    """Return what is wrong with a query: unknown series, labels that its metric does not have, brackets."""
    found = [f"no series {name}" for name in _SERIES.findall(query) if name not in BY_SERIES]
    metrics = [BY_SERIES[name] for name in _SERIES.findall(query) if name in BY_SERIES]
    labels = {label for metric in metrics for label in (*metric.labels, "le")}
    asked = {label.strip() for group in _BY.findall(query) for label in group.split(",")}
    for _series, selector in _SELECTOR.findall(query):
        asked |= set(re.findall(r"(\w+)=~?\"", selector))
    found += [f"no label {label}" for label in sorted(asked - labels)]
    if any(query.count(left) != query.count(right) for left, right in ("()", "{}", "[]")):
        found.append("brackets")
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|ray_\w+", " ", query)
    found += [f"no function {word}" for word in _WORD.findall(bare) if word not in FUNCTIONS]
    uses_buckets = [name for name in _SERIES.findall(query) if name.endswith("_bucket")]
    if bool(uses_buckets) != ("histogram_quantile" in query):
        found.append("quantiles are of buckets, and buckets for quantiles")
    return found


def queries() -> Iterable[tuple[str, str]]:
    """Yield every query that we ship, read from the files as they are."""
    for path in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            yield from ((f"{path.stem}/{panel['title']}", target["expr"]) for target in panel["targets"])
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "tutti-alerts.yml").read_text(encoding="utf-8"))
    yield from ((rule["alert"], rule["expr"]) for group in rules["groups"] for rule in group["rules"])


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_query_asks_for_what_exists(where: str, query: str) -> None:
    """A renamed metric or label breaks this test, not somebody's night."""
    assert problems(query) == [], where


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(rate(ray_tutti_no_such_total[5m]))",
        "sum by (nobody) (rate(ray_tutti_runs_total[5m]))",
        'sum(rate(ray_tutti_runs_total{colour="red"}[5m]))',
        "sum(rate(ray_tutti_runs_total[5m])",
        "median(rate(ray_tutti_runs_total[5m]))",
        "histogram_quantile(0.95, sum by (le) (rate(ray_tutti_run_duration_seconds_count[5m])))",
    ],
)
def test_wrong_query_is_found(wrong: str) -> None:
    """The check can fail."""
    assert problems(wrong)


def test_every_metric_is_shown_somewhere() -> None:
    """What nobody looks at need not be measured."""
    asked = {BY_SERIES[name].name for _where, query in queries() for name in _SERIES.findall(query)}

    assert {metric.name for metric in ALL} - asked == NOT_ASKED_FOR


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_dashboard_is_one_that_grafana_takes(dashboard: Dashboard) -> None:
    """Panels beside each other, ids of their own, and a file for it."""
    document = json.loads(dashboard_file(dashboard))
    panels = document["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert all(x < COLUMNS for x, _y in cells)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert dashboard_file(dashboard) == dashboard_file(dashboard)
    assert (ROOT / "deploy" / "grafana" / "dashboards" / f"{dashboard.uid}.json").is_file()


def test_alerts_say_what_fired_and_what_to_do() -> None:
    """Names are unique; labels named in a summary are those that its query leaves."""
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)
    for alert in ALERTS:
        assert alert.remedy
        left = {label.strip() for group in _BY.findall(alert.query) for label in group.split(",")}
        assert set(re.findall(r"\$labels\.(\w+)", alert.summary)) <= left, alert.name
    assert yaml.safe_load(rules_file()) == yaml.safe_load(rules_file())
