"""Some thousand events of every type, told through the real emitter, and the values that they were made of.

Three stories: ``calm`` (all is well), ``trouble`` (every alert has a cause), ``silent`` (nothing for a day). Ages
keep clear of the edges of the alerts' windows, so that a slow machine changes no verdict.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.domain.events.batches import BatchKept, EventBatch, EventTerms
from app.domain.events.fields import FIELD, FieldType
from app.domain.events.record import Origin, index_date
from app.domain.events.schema import TYPE, TYPES, EventType
from app.domain.events.spooled import SpooledEvent
from app.services.events.emitter import Emitter
from tests.fakes.clock import ManualClock

NS = 1_000_000_000
MINUTE, HOUR = 60, 3_600
EACH = 40
"""Events of each type in the past of trouble; of the busy types ten times as many."""
BUSY = ("call.finished", "request.finished")
NODES = ("replica-1", "replica-2")
OLD = "replica-2"
"""The process in trouble."""

WORDS: Mapping[str, Sequence[str]] = {
    "provider": ("openai", "anthropic", "gcp.gemini"),
    "account": tuple(f"account-{number}" for number in range(6)),
    "model": ("small", "large", "fast", "wise"),
    "team": ("research", "support", "sales"),
    "user": tuple(f"user-{number}" for number in range(30)),
    "run_id": tuple(f"run-{number:02}" for number in range(60)),
    "outcome": ("success", "success", "success", "failure", "unknown"),
    "error_type": ("minute_limit", "day_limit", "timeout", "overloaded"),
    "account_state": ("healthy", "cooling_minute", "dead"),
    "verdict": ("accepted", "accepted", "redo"),
}
"""Values of keyword fields; others have three of their own name."""
NUMBERS: Mapping[str, tuple[int, int]] = {
    "duration_ns": (10_000_000, 90 * NS),
    "cost_nano": (0, 400_000_000),
    "http_status": (200, 503),
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One event as it was told."""

    type: str
    time_ns: int
    node: str
    values: Mapping[str, object]

    def get(self, name: str) -> object:
        """Return a field's value, by short name, frame fields included; None where it has none."""
        declared = TYPE[self.type]
        frame: dict[str, object] = {
            "at": self.time_ns,
            "action": self.type,
            "kind": declared.kind,
            "event_class": declared.event_class.value,
            "node": self.node,
        }
        return frame[name] if name in frame else self.values.get(name)


@dataclass
class Kept:
    """The node's spool, in memory."""

    batches: list[EventBatch] = field(default_factory=list)

    async def keep(self, batch: EventBatch) -> BatchKept:
        """Take a batch."""
        self.batches.append(batch)
        return BatchKept(terms=EventTerms())

    async def terms(self) -> EventTerms:
        """Tell everything, whole."""
        return EventTerms()


async def told(samples: Sequence[Sample]) -> list[SpooledEvent]:
    """Return the documents that the processes' emitters make of them."""
    kept = Kept()
    for node in NODES:
        chance = random.Random(node).random
        emitter = Emitter(kept, Origin(node=node, host="h", pid=1, version="1"), ManualClock(), chance=chance)
        for sample in samples:
            if sample.node == node:
                emitter.emit(sample.type, at_ns=sample.time_ns, **sample.values)
        assert await emitter.flush()
        assert not emitter.dropped, "an event could not be told"
    records = [record for batch in kept.batches for record in batch.records()]
    assert len(records) == len(samples)
    return [
        SpooledEvent(seq=seq, event_id=one.event_id, index_date=index_date(one.time_ns), body=one.body)
        for seq, one in enumerate(records)
    ]


def past(now_ns: int, each: int = EACH) -> list[Sample]:
    """Return events of every type, of all fields it may have, from before all windows of alerts: 26 to 50 hours ago."""
    chance = random.Random(7)
    found = []
    for declared in TYPES:
        for _ in range(each * (10 if declared.name in BUSY else 1)):
            age_s = chance.uniform(26 * HOUR, 50 * HOUR)
            values = {name: _value(name, chance) for name in declared.fields if chance.random() > 0.15}
            found.append(_sample(declared, now_ns, age_s, values, chance.choice(NODES)))
    return found


def calm(now_ns: int) -> list[Sample]:
    """Return a day on which nothing is wrong: limits with room, few errors, runs that end or wait for people."""
    found: list[Sample] = []
    for age_s in _ages(25 * HOUR, 300):
        good = {"account": "good", "provider": "good", "model": "good", "team": "good", "outcome": "success"}
        call: dict[str, Any] = {**good, "duration_ns": 2 * NS, "ttft_s": 0.5, "cost_nano": 20_000_000}
        found.append(_of("call.finished", now_ns, age_s, **call))
        found.append(_of("request.finished", now_ns, age_s, outcome="success", http_status=200))
    for age_s in (10.0, 20.0, 30.0):
        for node in NODES:
            found.append(_of("events.backlog", now_ns, age_s, node, backlog=5, oldest_age_s=3.0, dead_letters=0))
        found += _load(now_ns, age_s, "good", rpm=0.8, tpm=0.6)
    # Of so few calls two refusals say nothing.
    rare: dict[str, Any] = {"account": "rare", "outcome": "failure", "error_type": "minute_limit"}
    found += [_of("call.finished", now_ns, age_s, **rare) for age_s in (200, 201)]
    found.append(_of("ledger.verified", now_ns, 900, difference=0, outcome="success"))
    found.append(_of("budget.alert", now_ns, 900, **_budget("day", 50, 100)))
    found += _run(now_ns, "run-done", ("run.accepted", 5 * HOUR), ("run.finished", 4 * HOUR))
    found += _run(now_ns, "run-young", ("run.accepted", 90 * MINUTE))
    found += _run(now_ns, "run-asks", ("run.accepted", 6 * HOUR), ("run.questions", 5 * HOUR))
    return found


def trouble(now_ns: int) -> list[Sample]:
    """Return the calm day with a cause for every alert but the one of silence."""
    found = [*past(now_ns), *calm(now_ns)]
    for age_s in (10.0, 20.0, 30.0):
        found += _load(now_ns, age_s, "full", rpm=0.05, tpm=0.9)
        found.append(_of("events.backlog", now_ns, age_s, OLD, backlog=900, oldest_age_s=900.0, dead_letters=4))
    for number, age_s in enumerate(_ages(9 * MINUTE, 100, least_s=310)):
        limited: dict[str, Any] = (
            {"outcome": "failure", "error_type": "day_limit"} if number % 3 == 0 else {"outcome": "success"}
        )
        broken: dict[str, Any] = (
            {"outcome": "failure", "error_type": "timeout"} if number % 4 == 0 else {"outcome": "success"}
        )
        found.append(_of("call.finished", now_ns, age_s, account="limited", provider="good", **limited))
        found.append(_of("call.finished", now_ns, age_s, account="good", provider="broken", **broken))
        failed: dict[str, Any] = {"outcome": "failure", "http_status": 503} if number % 2 else {"http_status": 200}
        found.append(_of("request.finished", now_ns, age_s, **failed))
        found.append(_of("call.finished", now_ns, age_s, model="slow", outcome="success", duration_ns=120 * NS))
        found.append(_of("call.finished", now_ns, age_s, model="late", outcome="success", duration_ns=NS, ttft_s=30.0))
        found.append(_of("call.finished", now_ns, age_s, team="leak", outcome="success", cost_nano=500_000_000))
    for age_s in _ages(25 * HOUR, 100, least_s=2 * HOUR):
        found.append(_of("call.finished", now_ns, age_s, team="leak", outcome="success", cost_nano=100_000_000))
    found.append(_of("budget.alert", now_ns, 900, **_budget("day", 95, 100)))
    # The same owner's larger budget has room: that hides nothing.
    found.append(_of("budget.alert", now_ns, 901, **_budget("month", 500, 1_000)))
    found.append(_of("ledger.verified", now_ns, 900, difference=3, outcome="failure"))
    found.append(_of("ledger.unknown", now_ns, 900, holds=2, reason="holder silent"))
    found.append(_of("events.dropped", now_ns, 400, lost_class="debug", lost=7, reason="buffer full"))
    found += _run(now_ns, "run-stuck", ("run.accepted", 6 * HOUR))
    answered = (("run.accepted", 6 * HOUR), ("run.questions", 5 * HOUR), ("run.answered", 4 * HOUR))
    found += _run(now_ns, "run-stuck-after-answers", *answered)
    return found


def silent(now_ns: int) -> list[Sample]:
    """Return what happened before nothing did."""
    return past(now_ns, 1)


def _of(name: str, now_ns: int, age_s: float, node: str = NODES[0], **values: object) -> Sample:
    return _sample(TYPE[name], now_ns, age_s, values, node)


def _sample(declared: EventType, now_ns: int, age_s: float, values: Mapping[str, object], node: str) -> Sample:
    # Documents hold microseconds.
    return Sample(type=declared.name, time_ns=now_ns - int(age_s * 1e6) * 1_000, node=node, values=values)


def _load(now_ns: int, age_s: float, account: str, **headroom: float) -> Iterator[Sample]:
    for limit, left in headroom.items():
        values: dict[str, Any] = {"account": account, "model": "m", "limit_name": limit, "headroom": left}
        yield _of("account.load", now_ns, age_s, **values)


def _budget(window: str, spent: int, limit: int) -> dict[str, Any]:
    return {
        "budget_id": f"team:a:{window}:UTC",
        "budget_owner": "team:a",
        "budget_window": window,
        "budget_unit": "usd",
        "budget_spent": spent,
        "budget_limit": limit,
    }


def _run(now_ns: int, run_id: str, *steps: tuple[str, float]) -> Iterator[Sample]:
    for name, age_s in steps:
        yield _of(name, now_ns, age_s, run_id=run_id)


def _ages(most_s: float, how_many: int, least_s: float = 10) -> Iterator[float]:
    """Yield ages that no alert's window ends near: three minutes before an edge are left out."""
    edges = (5 * MINUTE, 10 * MINUTE, 15 * MINUTE, HOUR, 2 * HOUR, 24 * HOUR, 25 * HOUR)
    chance = random.Random(most_s)
    while how_many:
        age_s = chance.uniform(least_s, most_s)
        if not any(edge - 180 <= age_s <= edge for edge in edges):
            how_many -= 1
            yield age_s


def _value(name: str, chance: random.Random) -> object:
    match FIELD[name].type:
        case FieldType.LONG:
            return chance.randint(*NUMBERS.get(name, (0, 1_000)))
        case FieldType.DOUBLE:
            return round(chance.random() * 10, 3)
        case FieldType.BOOLEAN:
            return chance.random() < 0.5
        case FieldType.KEYWORD:
            return chance.choice(WORDS.get(name) or [f"{name}-{number}" for number in range(3)])
        case _:
            return "words of ours"
