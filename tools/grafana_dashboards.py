"""Makes the Grafana dashboards of deploy/grafana: the same bytes from the same code, by ``make docs``.

Every query is put together from declared metrics, so that a renamed one breaks a test and no panel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.domain import metric_names as names
from app.domain.metric_names import ACCOUNT, ERROR, MODEL, PROVIDER, TOKEN_TYPE, MetricSpec

Object = dict[str, object]

SCHEMA_VERSION = 39
"""Of Grafana 10 and 11; later ones migrate it by themselves."""
DATASOURCE: Object = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
WINDOW = "$__rate_interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel: queries with their legends, in a unit of Grafana's."""

    title: str
    meaning: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    stacked: bool = False
    maximum: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """Panels under one title."""

    uid: str
    title: str
    panels: tuple[Panel, ...]


def rate(metric: MetricSpec, *by: str, only: str = "", window: str = WINDOW) -> str:
    """Return what a counter grows by in a second, or a histogram counts, summed by labels."""
    series = metric.exported[-1] if metric.kind == "histogram" else metric.exported[0]
    return _sum(f"rate({series}{_braces(only)}[{window}])", by)


def quantile(share: float, metric: MetricSpec, *by: str, only: str = "", window: str = WINDOW) -> str:
    """Return a quantile of a histogram by labels."""
    counts = _sum(f"rate({metric.exported[0]}{_braces(only)}[{window}])", ("le", *by))
    return f"histogram_quantile({share}, {counts})"


def level(metric: MetricSpec, how: str, *by: str, only: str = "") -> str:
    """Return a gauge by labels: its `min`, `max` or `sum`."""
    return f"{how} by ({', '.join(by)}) ({metric.exported[0]}{_braces(only)})" if by else f"{how}({metric.exported[0]})"


def _sum(series: str, by: Iterable[str]) -> str:
    labels = ", ".join(by)
    return f"sum by ({labels}) ({series})" if labels else f"sum({series})"


def _braces(only: str) -> str:
    return f"{{{only}}}" if only else ""


def _legend(*labels: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in labels)


def _quantiles(metric: MetricSpec, only: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((quantile(share, metric, only=only), f"p{share * 100:g}") for share in (0.5, 0.95, 0.99))


GATEWAY_CALLS = 'route=~"/.*(completions|messages|responses|embeddings)"'
CACHE_NOTE = "Input holds cached tokens, output holds reasoning."

OVERVIEW = Dashboard(
    uid="tutti-overview",
    title="Tutti · overview",
    panels=(
        Panel(
            title="Requests",
            meaning="HTTP requests answered, by status.",
            unit="reqps",
            stacked=True,
            queries=((rate(names.REQUESTS, "status"), _legend("status")),),
        ),
        Panel(
            title="Requests that failed here",
            meaning="Share of gateway requests answered with 5xx.",
            unit="percentunit",
            maximum=1,
            queries=(
                (
                    f"{rate(names.REQUESTS, only=GATEWAY_CALLS + ',status=~' + chr(34) + '5..' + chr(34))} / "
                    f"{rate(names.REQUESTS, only=GATEWAY_CALLS)}",
                    "5xx",
                ),
            ),
        ),
        Panel(
            title="Request duration",
            meaning="Gateway requests from the first to the last byte.",
            unit="s",
            queries=_quantiles(names.REQUEST_DURATION, GATEWAY_CALLS),
        ),
        Panel(
            title="Gateway overhead",
            meaning="What a call took beside the provider's own time, waiting included.",
            unit="s",
            queries=_quantiles(names.OVERHEAD),
        ),
        Panel(
            title="Time to the first chunk",
            meaning="Streamed answers, p95 by model.",
            unit="s",
            queries=((quantile(0.95, names.FIRST_CHUNK, MODEL), _legend(MODEL)),),
        ),
        Panel(
            title="Waits",
            meaning="Of calls that had to wait, for their caller's limits or for an account; p95.",
            unit="s",
            queries=((quantile(0.95, names.QUEUE_WAIT, "waits_for"), _legend("waits_for")),),
        ),
        Panel(
            title="Calls that had to wait",
            meaning="For their caller's limits, or for an account.",
            unit="cps",
            stacked=True,
            queries=((rate(names.QUEUE_WAIT, "waits_for"), _legend("waits_for")),),
        ),
        Panel(
            title="Waiting calls",
            meaning="That wait for an account now.",
            unit="short",
            queries=((level(names.WAITING, "sum"), "waiting"),),
        ),
        Panel(
            title="Tokens",
            meaning=CACHE_NOTE,
            unit="short",
            stacked=True,
            queries=((rate(names.TOKENS_USED, MODEL, TOKEN_TYPE), _legend(MODEL, TOKEN_TYPE)),),
        ),
        Panel(
            title="Spend an hour",
            meaning="At the prices known when calls ended; the books decide.",
            unit="currencyUSD",
            stacked=True,
            queries=((f"3600 * {rate(names.SPEND, PROVIDER, MODEL)}", _legend(PROVIDER, MODEL)),),
        ),
        Panel(
            title="Calls at providers",
            meaning="p95 of their duration by model.",
            unit="s",
            queries=((quantile(0.95, names.OPERATION_DURATION, PROVIDER, MODEL), _legend(PROVIDER, MODEL)),),
        ),
        Panel(
            title="Tokens of a call",
            meaning="Median of input and output.",
            unit="short",
            queries=((quantile(0.5, names.TOKEN_USAGE, MODEL, TOKEN_TYPE), _legend(MODEL, TOKEN_TYPE)),),
        ),
        Panel(
            title="Spans",
            meaning="Sent to the receiver of traces, and lost on the way.",
            unit="short",
            queries=((rate(names.SPANS_SENT), "sent"), (rate(names.SPANS_DROPPED), "lost")),
        ),
    ),
)

ACCOUNTS = Dashboard(
    uid="tutti-accounts",
    title="Tutti · accounts and limits",
    panels=(
        Panel(
            title="Headroom",
            meaning="What the tightest limit would still let start; 0 while an account cools down.",
            unit="percentunit",
            maximum=1,
            queries=((level(names.HEADROOM, "min", ACCOUNT, MODEL), _legend(ACCOUNT, MODEL)),),
        ),
        Panel(
            title="Headroom of the pool",
            meaning="Mean over the accounts of each model.",
            unit="percentunit",
            maximum=1,
            queries=((level(names.HEADROOM, "avg", MODEL), _legend(MODEL)),),
        ),
        Panel(
            title="Accounts that do not serve",
            meaning="Cooling down, starting, or with a refused key.",
            unit="short",
            queries=((f"1 - {level(names.SERVING, 'min', ACCOUNT)}", _legend(ACCOUNT)),),
        ),
        Panel(
            title="Until they serve again",
            meaning="Cooldowns.",
            unit="s",
            queries=((level(names.COOLDOWN, "max", ACCOUNT), _legend(ACCOUNT)),),
        ),
        Panel(
            title="Calls in flight",
            meaning="Admitted and not ended.",
            unit="short",
            stacked=True,
            queries=((level(names.IN_FLIGHT, "max", ACCOUNT, MODEL), _legend(ACCOUNT, MODEL)),),
        ),
        Panel(
            title="Refusals and failures",
            meaning="By kind; minute_limit and day_limit are 429s.",
            unit="cps",
            stacked=True,
            queries=((rate(names.REFUSALS, ACCOUNT, ERROR), _legend(ACCOUNT, ERROR)),),
        ),
        Panel(
            title="Share of calls that failed",
            meaning="Of all calls at the account.",
            unit="percentunit",
            maximum=1,
            queries=(
                (f"{rate(names.REFUSALS, ACCOUNT)} / {rate(names.OPERATION_DURATION, ACCOUNT)}", _legend(ACCOUNT)),
            ),
        ),
        Panel(
            title="Calls",
            meaning="Sent to providers.",
            unit="cps",
            stacked=True,
            queries=((rate(names.OPERATION_DURATION, ACCOUNT), _legend(ACCOUNT)),),
        ),
        Panel(
            title="Tokens a minute",
            meaning="As providers count them against their limits.",
            unit="short",
            stacked=True,
            queries=((f"60 * {rate(names.TOKENS_USED, ACCOUNT)}", _legend(ACCOUNT)),),
        ),
    ),
)

RUNS = Dashboard(
    uid="tutti-runs",
    title="Tutti · runs",
    panels=(
        Panel(
            title="Runs being conducted",
            meaning="Now.",
            unit="short",
            queries=((level(names.RUNS_OPEN, "sum"), "runs"),),
        ),
        Panel(
            title="Oldest run",
            meaning="Since it was accepted, or went on.",
            unit="s",
            queries=((level(names.RUN_OLDEST, "max"), "oldest"),),
        ),
        Panel(
            title="Runs that ended",
            meaning="An hour, by status.",
            unit="short",
            stacked=True,
            queries=((f"3600 * {rate(names.RUNS, 'status')}", _legend("status")),),
        ),
        Panel(
            title="Duration of runs",
            meaning="p95 by status.",
            unit="s",
            queries=((quantile(0.95, names.RUN_DURATION, "status"), _legend("status")),),
        ),
        Panel(
            title="Tasks that ended",
            meaning="A minute, by state.",
            unit="short",
            stacked=True,
            queries=((f"60 * {rate(names.RUN_TASKS, 'state')}", _legend("state")),),
        ),
        Panel(
            title="Tasks by whom",
            meaning="Whether a model did them, or what stands in for one.",
            unit="short",
            stacked=True,
            queries=((f"60 * {rate(names.RUN_TASKS, 'produced_by')}", _legend("produced_by")),),
        ),
        Panel(
            title="Judgements",
            meaning="A minute.",
            unit="short",
            stacked=True,
            queries=((f"60 * {rate(names.JUDGEMENTS, 'verdict')}", _legend("verdict")),),
        ),
    ),
)

EVENTS = Dashboard(
    uid="tutti-events",
    title="Tutti · events on their way",
    panels=(
        Panel(
            title="Events that wait",
            meaning="Kept on this machine and not shipped yet, by source.",
            unit="short",
            stacked=True,
            queries=((level(names.EVENTS_WAITING, "sum", "source"), _legend("source")),),
        ),
        Panel(
            title="Age of the oldest",
            meaning="How far behind the receiver is.",
            unit="s",
            queries=((level(names.EVENTS_OLDEST, "max", "source"), _legend("source")),),
        ),
        Panel(
            title="What became of them",
            meaning="A second; `already` were stored by an earlier try whose answer was lost.",
            unit="short",
            stacked=True,
            queries=((rate(names.EVENTS_SHIPPED, "outcome"), _legend("outcome")),),
        ),
        Panel(
            title="On their way",
            meaning="Sent, and not answered yet.",
            unit="short",
            queries=((level(names.EVENTS_IN_FLIGHT, "sum", "source"), _legend("source")),),
        ),
        Panel(
            title="Room they take",
            meaning="On disk, against `events.spool_mb`.",
            unit="bytes",
            stacked=True,
            queries=((level(names.EVENTS_BYTES, "sum", "source"), _legend("source")),),
        ),
        Panel(
            title="Dead letters",
            meaning="Refused for good: `tutti events dead list`.",
            unit="short",
            queries=((level(names.EVENTS_DEAD, "sum", "source"), _legend("source")),),
        ),
        Panel(
            title="Given up",
            meaning="Telemetry and debug lines for which there was no room.",
            unit="short",
            queries=((level(names.EVENTS_DROPPED, "sum", "source"), _legend("source")),),
        ),
    ),
)

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, ACCOUNTS, RUNS, EVENTS)


def dashboard_file(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana imports it."""
    document: Object = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["tutti"],
        "timezone": "browser",
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2}]},
        "panels": [_panel(number, panel) for number, panel in enumerate(dashboard.panels)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def queries_of(dashboards: Sequence[Dashboard]) -> list[str]:
    """Return every query of these dashboards."""
    return [query for dashboard in dashboards for panel in dashboard.panels for query, _legend in panel.queries]


def _panel(number: int, panel: Panel) -> Object:
    in_row = COLUMNS // WIDTH
    custom: Object = {"fillOpacity": 20 if panel.stacked else 0, "showPoints": "never"}
    if panel.stacked:
        custom["stacking"] = {"mode": "normal", "group": "A"}
    defaults: Object = {"unit": panel.unit, "min": 0, "custom": custom}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "id": number + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "gridPos": {"x": WIDTH * (number % in_row), "y": HEIGHT * (number // in_row), "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }
