"""Makes the Prometheus alert rules of deploy/prometheus: what fired, why, and what to do, by ``make docs``."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from app.domain import metric_names as names
from app.domain.metric_names import ACCOUNT, MODEL, PROVIDER
from tools.grafana_dashboards import GATEWAY_CALLS, level, quantile, rate

WINDOW = "5m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One rule."""

    name: str
    query: str
    holds_for: str
    severity: str
    summary: str
    remedy: str


LIMITS_ONLY = 'error_type=~"minute_limit|day_limit"'
STUCK_S = 7_200

ALERTS: tuple[Alert, ...] = (
    Alert(
        name="TuttiPoolHeadroomLow",
        query=f"{level(names.HEADROOM, 'avg', MODEL)} < 0.2",
        holds_for="10m",
        severity="warning",
        summary="The accounts of {{ $labels.gen_ai_request_model }} have less than a fifth of their limits left.",
        remedy="Add an account, raise its limits, or move batch work to another hour.",
    ),
    Alert(
        name="TuttiAccountDown",
        query=f"{level(names.SERVING, 'min', ACCOUNT)} == 0",
        holds_for="5m",
        severity="warning",
        summary="{{ $labels.tutti_account }} has not served for five minutes.",
        remedy="`tutti doctor` says why: a refused key, a spent day, or an actor that does not start.",
    ),
    Alert(
        name="TuttiManyRateLimits",
        query=(
            f"{rate(names.REFUSALS, ACCOUNT, only=LIMITS_ONLY, window=WINDOW)} / "
            f"{rate(names.OPERATION_DURATION, ACCOUNT, window=WINDOW)} > 0.05"
        ),
        holds_for="10m",
        severity="warning",
        summary="More than one call in twenty at {{ $labels.tutti_account }} meets a 429.",
        remedy="Its configured limits are above the provider's, or somebody else uses its key.",
    ),
    Alert(
        name="TuttiProviderFailing",
        query=(
            f"{rate(names.REFUSALS, PROVIDER, window=WINDOW)} / "
            f"{rate(names.OPERATION_DURATION, PROVIDER, window=WINDOW)} > 0.2"
        ),
        holds_for="5m",
        severity="critical",
        summary="One call in five at {{ $labels.gen_ai_provider_name }} fails.",
        remedy="Look at the provider's status page; other providers of the same models take over by themselves.",
    ),
    Alert(
        name="TuttiRequestsFailing",
        query=(
            rate(names.REQUESTS, only=f'{GATEWAY_CALLS},status=~"5.."', window=WINDOW)
            + " / "
            + rate(names.REQUESTS, only=GATEWAY_CALLS, window=WINDOW)
            + " > 0.05"
        ),
        holds_for="5m",
        severity="critical",
        summary="More than one gateway request in twenty is answered with 5xx.",
        remedy="`tutti doctor`, then the log of the replicas.",
    ),
    Alert(
        name="TuttiSlowAnswers",
        query=f"{quantile(0.95, names.REQUEST_DURATION, only=GATEWAY_CALLS, window=WINDOW)} > 60",
        holds_for="10m",
        severity="warning",
        summary="The slowest twentieth of gateway requests takes over a minute.",
        remedy="See which model is slow in the dashboard, and whether calls wait for accounts.",
    ),
    Alert(
        name="TuttiSlowFirstChunk",
        query=f"{quantile(0.95, names.FIRST_CHUNK, MODEL, window=WINDOW)} > 10",
        holds_for="10m",
        severity="warning",
        summary="Streams of {{ $labels.gen_ai_request_model }} begin after more than ten seconds.",
        remedy="The provider is slow: route the task type to another model.",
    ),
    Alert(
        name="TuttiLongWaits",
        query=f"{quantile(0.95, names.QUEUE_WAIT, 'waits_for', window=WINDOW)} > 10",
        holds_for="10m",
        severity="warning",
        summary="Calls wait over ten seconds for their {{ $labels.waits_for }}.",
        remedy="For `account`: more accounts or higher limits. For `caller`: the key's own limits bind.",
    ),
    Alert(
        name="TuttiSpendRising",
        query=(
            f"{rate(names.SPEND, window='1h')} > 3 * {rate(names.SPEND, window='1d')} "
            f"and {rate(names.SPEND, window='1h')} * 3600 > 1"
        ),
        holds_for="30m",
        severity="warning",
        summary="The last hour cost three times a usual one.",
        remedy="`tutti usage` says by whom; a budget stops it.",
    ),
    Alert(
        name="TuttiRunStuck",
        query=f"{level(names.RUN_OLDEST, 'max')} > {STUCK_S}",
        holds_for="5m",
        severity="warning",
        summary="A run has been conducted for more than two hours.",
        remedy="`tutti projects list` shows it; cancel it, or see which of its tasks waits.",
    ),
    Alert(
        name="TuttiEventsLate",
        query=f"{level(names.EVENTS_OLDEST, 'max', 'source')} > 300",
        holds_for="5m",
        severity="warning",
        summary="Events of the {{ $labels.source }} wait for over five minutes.",
        remedy="The receiver is down or refuses us: `tutti doctor`. Nothing is lost while there is room.",
    ),
    Alert(
        name="TuttiDeadLetters",
        query=f"{level(names.EVENTS_DEAD, 'sum', 'source')} > 0",
        holds_for="5m",
        severity="warning",
        summary="Events of the {{ $labels.source }} were refused for good.",
        remedy="`tutti events dead list` says why; mend it, then `tutti events dead replay`.",
    ),
    Alert(
        name="TuttiSpansLost",
        query=f"{rate(names.SPANS_DROPPED, window=WINDOW)} > 0",
        holds_for="10m",
        severity="info",
        summary="The receiver of traces does not take all spans.",
        remedy="See that it runs, or record a smaller share of traces (`telemetry.traces.ratio`).",
    ),
    Alert(
        name="TuttiSilent",
        query=f"absent({names.SERVING.exported[0]})",
        holds_for="5m",
        severity="critical",
        summary="No metrics of Tutti for five minutes.",
        remedy="It does not run, or Prometheus asks the wrong port: `tutti doctor`.",
    ),
)


def rules_file() -> str:
    """Return the rules as Prometheus reads them."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.query,
            "for": alert.holds_for,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.remedy},
        }
        for alert in ALERTS
    ]
    head = "# Generated by `python -m tools.generate_docs` (`make docs`): change tools/prometheus_rules.py, not this.\n"
    document = {"groups": [{"name": "tutti", "interval": "30s", "rules": rules}]}
    return head + yaml.safe_dump(document, sort_keys=False, width=200, allow_unicode=True)
