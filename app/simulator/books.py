"""What the simulator counts: requests, refusals, faults and billed tokens, per key, per group and in total."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from app.simulator.config import FaultKind
from app.simulator.exchange import RefusalKind
from app.simulator.faults import is_failing
from app.simulator.json_reading import JsonObject

LOG_TEXT_CHARS = 120


@dataclass(slots=True)
class Counters:
    """Counts of one key, group, or of all. ``accepted`` = completed + failed by fault + cancelled + in flight."""

    requests: int = 0
    accepted: int = 0
    completed: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed_by_fault: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Every fault applied, whether the request failed by it or not."""
    cancelled_by_client: int = 0
    billed_requests: int = 0
    billed_input_tokens: int = 0
    billed_output_tokens: int = 0
    repeated: int = 0
    """Answered again under an idempotency key; neither accepted nor billed."""
    in_flight: int = 0
    in_flight_max: int = 0

    def as_json(self) -> JsonObject:
        """Return the counts for ``/__stats``."""
        return {
            "requests": self.requests,
            "accepted": self.accepted,
            "completed": self.completed,
            "rejected": dict(self.rejected),
            "rejected_total": self.rejected.total(),
            "failed_by_fault": dict(self.failed_by_fault),
            "faults": dict(self.faults),
            "cancelled_by_client": self.cancelled_by_client,
            "billed_requests": self.billed_requests,
            "billed_input_tokens": self.billed_input_tokens,
            "billed_output_tokens": self.billed_output_tokens,
            "repeated": self.repeated,
            "in_flight": self.in_flight,
            "in_flight_max": self.in_flight_max,
        }


@dataclass(slots=True, kw_only=True)
class LogRow:
    """One request of the log; times are nanoseconds since the start or the last reset."""

    at_ns: int
    key: str
    model: str
    format: str
    text: str
    traceparent: str = ""
    """As it came; empty where the caller told of no trace."""
    status: int | None = None
    """None while in flight, 0 where the connection was dropped, 499 where the client left."""
    rejected: str | None = None
    fault: str | None = None
    end_ns: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    """Tokens billed; 0 until the end."""
    demand_tokens: int = 0
    """Prompt and the largest output the request allowed: what ``charge: max_tokens`` counts at arrival."""

    def as_json(self) -> JsonObject:
        """Return the row for ``/__stats?log=1``."""
        return {
            "at_s": self.at_ns / 1e9,
            "at_ns": self.at_ns,
            "end_ns": self.end_ns,
            "key": self.key,
            "model": self.model,
            "format": self.format,
            "status": self.status,
            "rejected": self.rejected,
            "fault": self.fault,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "demand_tokens": self.demand_tokens,
            "text": self.text,
            "traceparent": self.traceparent,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an admitted request ended."""

    status: int
    input_tokens: int
    output_tokens: int
    """Tokens billed."""
    cancelled: bool
    ended_ns: int


class Books:
    """Keeps the counts. A reset makes new books; requests in flight then end in the old ones."""

    def __init__(self, *, start_ns: int, log_rows_max: int) -> None:
        self._start_ns = start_ns
        self._total = Counters()
        self._keys: dict[str, Counters] = {}
        self._groups: dict[str, Counters] = {}
        self._log: deque[LogRow] = deque(maxlen=log_rows_max)
        self._rows = 0

    def elapsed_ns(self, now_ns: int) -> int:
        """Return the time since these books were opened."""
        return now_ns - self._start_ns

    def reject(self, row: LogRow, group: str | None, kind: RefusalKind, status: int) -> None:
        """Count a request that was refused."""
        for counters in self._counters(row.key, group):
            counters.requests += 1
            counters.rejected[kind] += 1
        row.status, row.rejected, row.end_ns = status, kind, row.at_ns
        self._keep(row)

    def repeat(self, row: LogRow, group: str | None) -> None:
        """Count a request that is answered again."""
        for counters in self._counters(row.key, group):
            counters.requests += 1
            counters.repeated += 1
        row.status, row.end_ns = 200, row.at_ns
        self._keep(row)

    def accept(self, row: LogRow, group: str | None) -> Ticket:
        """Count a request that was admitted; the ticket ends it."""
        sets = self._counters(row.key, group)
        for counters in sets:
            counters.requests += 1
            counters.accepted += 1
            counters.in_flight += 1
            counters.in_flight_max = max(counters.in_flight_max, counters.in_flight)
        self._keep(row)
        return Ticket(row, sets, self._start_ns)

    def as_json(self, *, with_log: bool, now_ns: int) -> JsonObject:
        """Return all counts."""
        told: JsonObject = {
            "elapsed_s": self.elapsed_ns(now_ns) / 1e9,
            "total": self._total.as_json(),
            "keys": {key: counters.as_json() for key, counters in self._keys.items()},
            "groups": {group: counters.as_json() for group, counters in self._groups.items()},
        }
        if with_log:
            told["log"] = [row.as_json() for row in self._log]
            told["log_rows_dropped"] = self._rows - len(self._log)
        return told

    def _counters(self, key: str, group: str | None) -> tuple[Counters, ...]:
        own = self._keys.setdefault(key, Counters())
        if group is None:
            return self._total, own
        return self._total, own, self._groups.setdefault(group, Counters())

    def _keep(self, row: LogRow) -> None:
        self._rows += 1
        self._log.append(row)


class Ticket:
    """An admitted request in the books."""

    def __init__(self, row: LogRow, counters: tuple[Counters, ...], start_ns: int) -> None:
        self._row = row
        self._counters = counters
        self._start_ns = start_ns

    def end(self, outcome: Outcome, fault: FaultKind | None) -> None:
        """Count how the request ended and what it is billed."""
        row = self._row
        row.status, row.fault, row.end_ns = outcome.status, fault, outcome.ended_ns - self._start_ns
        row.input_tokens, row.output_tokens = outcome.input_tokens, outcome.output_tokens
        for counters in self._counters:
            counters.in_flight -= 1
            counters.billed_input_tokens += outcome.input_tokens
            counters.billed_output_tokens += outcome.output_tokens
            counters.billed_requests += 1 if outcome.input_tokens or outcome.output_tokens else 0
            if fault is not None:
                counters.faults[fault] += 1
            if outcome.cancelled:
                counters.cancelled_by_client += 1
            elif fault is not None and is_failing(fault):
                counters.failed_by_fault[fault] += 1
            else:
                counters.completed += 1
