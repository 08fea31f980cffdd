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
EVENTS_WAITING = Gauge(names.EVENTS_WAITING)
EVENTS_BYTES = Gauge(names.EVENTS_BYTES)
EVENTS_OLDEST = Gauge(names.EVENTS_OLDEST)
EVENTS_DEAD = Gauge(names.EVENTS_DEAD)
EVENTS_DROPPED = Gauge(names.EVENTS_DROPPED)
EVENTS_IN_FLIGHT = Gauge(names.EVENTS_IN_FLIGHT)
EVENTS_SHIPPED = Counter(names.EVENTS_SHIPPED)
SPANS_SENT = Counter(names.SPANS_SENT)
SPANS_DROPPED = Counter(names.SPANS_DROPPED)

WAITED_S = 0.002
"""What is shorter is the way through the code, and no wait."""

ALL: tuple[Instrument, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Counter | Gauge | Histogram)
)
"""What is told to Ray."""


def note_wait(seconds: float, waits_for: str) -> None:
    """Count the wait of a call, where it had to wait."""
    if seconds >= WAITED_S:
        QUEUE_WAIT.observe(seconds, waits_for)
