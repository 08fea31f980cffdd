"""The names under which others know what we measure: metrics with their labels and buckets, and attributes of spans.

Our own table: the convention's library marks its own constants as moved. Names as of OpenTelemetry's GenAI semantic
conventions 1.41, in Prometheus' spelling (dots are underscores, the unit stands last); ``ray_`` is put in front by Ray.
A label's values are bounded: what comes after the first ``values_max`` of one metric is ``other``.

Source: opentelemetry.io, semantic conventions, GenAI metrics 1.41.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "ray_"
"""Put before every name by Ray's endpoint."""
OTHER = "other"

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""The convention's buckets of durations."""
TOKENS = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864)
"""The convention's buckets of token counts."""
OURS_SECONDS = tuple(0.0005 * 2**power for power in range(18))
"""What we add ourselves, from half a millisecond to a minute of waiting."""
RUN_SECONDS = (0.5, 1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560)

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """One metric as it stands on the endpoint."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of histograms only."""
    values_max: int = 100
    """Distinct values of one label; the rest is ``other``."""

    @property
    def exported(self) -> tuple[str, ...]:
        """The names of its series on the endpoint."""
        name = PREFIX + self.name
        if self.kind == "counter":
            return (f"{name}_total",)
        if self.kind == "gauge":
            return (name,)
        return (f"{name}_bucket", f"{name}_sum", f"{name}_count")


OPERATION, PROVIDER, MODEL, ERROR = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "error_type",
)
ACCOUNT, TOKEN_TYPE = "tutti_account", "gen_ai_token_type"

OPERATION_DURATION = MetricSpec(
    name="gen_ai_client_operation_duration_seconds",
    kind="histogram",
    meaning="How long calls at providers took, failed ones included.",
    labels=(OPERATION, PROVIDER, MODEL, ACCOUNT, ERROR),
    buckets=SECONDS,
)
TOKEN_USAGE = MetricSpec(
    name="gen_ai_client_token_usage",
    kind="histogram",
    meaning="Tokens of a call; for sums take tutti_tokens: Ray's histograms place a value at the middle of its bucket.",
    labels=(PROVIDER, MODEL, TOKEN_TYPE),
    buckets=TOKENS,
)
FIRST_CHUNK = MetricSpec(
    name="gen_ai_client_operation_time_to_first_chunk_seconds",
    kind="histogram",
    meaning="From sending to the first part of a streamed answer.",
    labels=(PROVIDER, MODEL),
    buckets=SECONDS,
)
TOKENS_USED = MetricSpec(
    name="tutti_tokens",
    kind="counter",
    meaning="Tokens that providers counted; input holds cached tokens, output holds reasoning.",
    labels=(PROVIDER, MODEL, ACCOUNT, TOKEN_TYPE),
)
SPEND = MetricSpec(
    name="tutti_spend_usd",
    kind="counter",
    meaning="What calls cost at the prices known when they ended; the books decide.",
    labels=(PROVIDER, MODEL, ACCOUNT),
)
REFUSALS = MetricSpec(
    name="tutti_upstream_failures",
    kind="counter",
    meaning="Calls that providers refused or failed, by kind; minute_limit and day_limit are 429s.",
    labels=(PROVIDER, ACCOUNT, ERROR),
)
REQUESTS = MetricSpec(
    name="tutti_gateway_requests",
    kind="counter",
    meaning="HTTP requests answered.",
    labels=("route", "status"),
)
REQUEST_DURATION = MetricSpec(
    name="http_server_request_duration_seconds",
    kind="histogram",
    meaning="HTTP requests from their first to their last byte.",
    labels=("route",),
    buckets=SECONDS,
)
OVERHEAD = MetricSpec(
    name="tutti_gateway_overhead_seconds",
    kind="histogram",
    meaning="What a gateway call took beside the provider's own time, waiting included.",
    labels=(),
    buckets=OURS_SECONDS,
)
QUEUE_WAIT = MetricSpec(
    name="tutti_queue_wait_seconds",
    kind="histogram",
    meaning="Of calls that had to wait: for their caller's limits, or for an account that may start them.",
    labels=("waits_for",),
    buckets=OURS_SECONDS,
)
WAITING = MetricSpec(
    name="tutti_gateway_waiting_calls", kind="gauge", meaning="Calls that wait for an account in a replica."
)
HEADROOM = MetricSpec(
    name="tutti_account_headroom_ratio",
    kind="gauge",
    meaning="What an account's tightest limit would still let start, as a share of the limit; 0 while it cools down.",
    labels=(ACCOUNT, MODEL),
    values_max=500,
)
IN_FLIGHT = MetricSpec(
    name="tutti_account_in_flight",
    kind="gauge",
    meaning="Calls admitted and not ended.",
    labels=(ACCOUNT, MODEL),
    values_max=500,
)
SERVING = MetricSpec(
    name="tutti_account_serving",
    kind="gauge",
    meaning="1 where an account takes calls, 0 where it cools down, its key is refused, or it is starting.",
    labels=(ACCOUNT,),
    values_max=500,
)
COOLDOWN = MetricSpec(
    name="tutti_account_cooldown_seconds",
    kind="gauge",
    meaning="Until an account serves again.",
    labels=(ACCOUNT,),
    values_max=500,
)
RUNS = MetricSpec(name="tutti_runs", kind="counter", meaning="Runs that came to rest.", labels=("status",))
RUN_DURATION = MetricSpec(
    name="tutti_run_duration_seconds",
    kind="histogram",
    meaning="From a run's acceptance to its rest.",
    labels=("status",),
    buckets=RUN_SECONDS,
)
RUNS_OPEN = MetricSpec(name="tutti_runs_open", kind="gauge", meaning="Runs being conducted.")
RUN_OLDEST = MetricSpec(
    name="tutti_run_oldest_seconds", kind="gauge", meaning="Age of the oldest run being conducted; 0 without one."
)
RUN_TASKS = MetricSpec(
    name="tutti_run_tasks", kind="counter", meaning="Tasks that ended.", labels=("state", "produced_by")
)
JUDGEMENTS = MetricSpec(name="tutti_judgements", kind="counter", meaning="Results judged.", labels=("verdict",))
EVENTS_WAITING = MetricSpec(
    name="tutti_events_waiting", kind="gauge", meaning="Events kept here and not shipped yet.", labels=("source",)
)
EVENTS_BYTES = MetricSpec(
    name="tutti_events_waiting_bytes", kind="gauge", meaning="What they take on disk.", labels=("source",)
)
EVENTS_OLDEST = MetricSpec(
    name="tutti_events_oldest_seconds",
    kind="gauge",
    meaning="Age of the oldest event that is not shipped yet; 0 without one.",
    labels=("source",),
)
EVENTS_DEAD = MetricSpec(
    name="tutti_events_dead_letters",
    kind="gauge",
    meaning="Events that were refused for good and wait for a person.",
    labels=("source",),
)
EVENTS_DROPPED = MetricSpec(
    name="tutti_events_dropped",
    kind="gauge",
    meaning="Events that were given up for want of room, since the keeper began.",
    labels=("source",),
)
EVENTS_IN_FLIGHT = MetricSpec(
    name="tutti_events_in_flight",
    kind="gauge",
    meaning="Events that are on their way to the receiver and not judged yet.",
    labels=("source",),
)
EVENTS_SHIPPED = MetricSpec(
    name="tutti_events_shipped",
    kind="counter",
    meaning="Events that the receiver judged, each time it did; `already` are its 409s: an earlier try stored them.",
    labels=("source", "outcome"),
)
SPANS_SENT = MetricSpec(name="tutti_spans_sent", kind="counter", meaning="Spans that the receiver took.")
SPANS_DROPPED = MetricSpec(
    name="tutti_spans_dropped", kind="counter", meaning="Spans that were lost: the receiver was down, or refused them."
)

ALL: tuple[MetricSpec, ...] = tuple(value for value in list(globals().values()) if isinstance(value, MetricSpec))
"""Every metric there is."""


class Attribute:
    """Names of what spans say, in the convention's own spelling."""

    OPERATION = "gen_ai.operation.name"
    PROVIDER = "gen_ai.provider.name"
    REQUEST_MODEL = "gen_ai.request.model"
    RESPONSE_MODEL = "gen_ai.response.model"
    INPUT_TOKENS = "gen_ai.usage.input_tokens"
    OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
    FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
    CONVERSATION = "gen_ai.conversation.id"
    ERROR = "error.type"
    STATUS = "http.response.status_code"
    METHOD = "http.request.method"
    ROUTE = "http.route"
    ACCOUNT = "tutti.account"
    ATTEMPT = "tutti.attempt"
    PURPOSE = "tutti.purpose"
    RUN = "tutti.run.id"
    TASK = "tutti.task.id"
    REQUEST = "tutti.request.id"
    CALLER = "tutti.caller"
    CANDIDATES = "tutti.candidates"
    EVENTS = "tutti.events.count"
    EVENTS_SOURCE = "tutti.events.source"
    EVENTS_SINK = "tutti.events.sink"
