"""The instruments of this process, one for each metric that ``metric_names`` declares."""

from __future__ import annotations

from app.domain import metric_names as names
from app.services.telemetry.metrics import Counter, Gauge, Histogram, Instrument

OPERATION_DURATION = Histogram(names.OPERATION_DURATION)
TOKEN_USAGE = Histogram(names.TOKEN_USAGE)
FIRST_CHUNK = Histogram(names.FIRST_CHUNK)
TOKENS_USED = Counter(names.TOKENS_USED)
SPEND = Counter(names.SPEND)
REFUSALS = Counter(names.REFUSALS)
REQUESTS = Counter(names.REQUESTS)
REQUEST_DURATION = Histogram(names.REQUEST_DURATION)
OVERHEAD = Histogram(names.OVERHEAD)
QUEUE_WAIT = Histogram(names.QUEUE_WAIT)
WAITING = Gauge(names.WAITING)
HEADROOM = Gauge(names.HEADROOM)
IN_FLIGHT = Gauge(names.IN_FLIGHT)
SERVING = Gauge(names.SERVING)
COOLDOWN = Gauge(names.COOLDOWN)
RUNS = Counter(names.RUNS)
RUN_DURATION = Histogram(names.RUN_DURATION)
RUNS_OPEN = Gauge(names.RUNS_OPEN)
RUN_OLDEST = Gauge(names.RUN_OLDEST)
RUN_TASKS = Counter(names.RUN_TASKS)
JUDGEMENTS = Counter(names.JUDGEMENTS)
SPANS_SENT = Counter(names.SPANS_SENT)
SPANS_DROPPED = Counter(names.SPANS_DROPPED)

ALL: tuple[Instrument, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Counter | Gauge | Histogram)
)
"""What is told to Ray."""
