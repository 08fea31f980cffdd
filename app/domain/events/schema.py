"""One declaration of every event type: its class, what it is about, and the fields it may hold.

A type may hold only what it declares: prompts, answers and keys have no field here, so no event can carry them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from app.domain.events.fields import EVERY, FIELD


class EventClass(StrEnum):
    """What losing an event would mean, so what happens where there is no more room for it."""

    AUDIT = "audit"
    """Who did what. The writer is refused, with a clear error."""
    BILLING = "billing"
    """What was bought. The writer is refused, with a clear error."""
    BUSINESS = "business"
    """What became of people's work. The writer waits."""
    TELEMETRY = "telemetry"
    """How the machine does. The oldest are dropped, and the drop is told."""
    DEBUG = "debug"
    """Log lines. Dropped first, and told."""


Kind: TypeAlias = Literal["event", "alert", "state", "metric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """One type of event."""

    name: str
    """``event.action``."""
    meaning: str
    event_class: EventClass
    dataset: str
    category: tuple[str, ...]
    type: tuple[str, ...]
    kind: Kind = "event"
    fields: tuple[str, ...] = ()
    """By short name; ``EVERY`` is not repeated here."""
    sample: float = 1.0
    """Share that is kept by default; only telemetry and debug may be less than whole."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.fields if name not in FIELD or name in EVERY]
        if unknown:
            raise ValueError(f"{self.name} declares fields that there are not: {unknown}")
        if not 0 < self.sample <= 1 or (self.sample < 1 and self.event_class not in SAMPLED):
            raise ValueError(f"{self.name} may not be sampled")


SAMPLED = (EventClass.TELEMETRY, EventClass.DEBUG)

_WHO = ("tenant", "team", "user", "caller")
_RUN = (*_WHO, "run_id", "conversation_id", "sequence")
_TASK = (*_RUN, "task_id", "attempt")
_TOKENS = ("input_tokens", "output_tokens")
_USAGE = (*_TOKENS, "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_SERVED = ("provider", "account", "model")
_BACKLOG = ("backlog", "backlog_bytes", "oldest_age_s", "dead_letters")


def _type(
    name: str,
    event_class: EventClass,
    meaning: str,
    fields: tuple[str, ...],
    *,
    about: tuple[str, str, str] = ("gateway", "api", "info"),
    kind: Kind = "event",
) -> EventType:
    part, category, how = about
    return EventType(
        name=name,
        meaning=meaning,
        event_class=event_class,
        dataset=f"tutti.{part}",
        category=(category,),
        type=(how,),
        kind=kind,
        fields=tuple(dict.fromkeys(fields)),
    )


_GATEWAY = (
    _type(
        "request.finished",
        EventClass.TELEMETRY,
        "A client's call to the gateway ended, whichever way.",
        (
            "team", "user", "caller", "outcome", "reason", "error_type", "operation", *_SERVED, "request_model",
            "request_id", "endpoint", "http_method", "http_status", "stream", "duration_ns", "overhead_ms", "cache",
            "route_class", "finish_reasons", "response_id", "request_max_tokens", "temperature", *_TOKENS,
        ),
        about=("gateway", "api", "end"),
    ),
    _type(
        "call.retried",
        EventClass.TELEMETRY,
        "A provider call failed and is made again, after a pause or elsewhere (then `event.reason` is `failover`).",
        (
            "account", "outcome", "reason", "error_type", "http_status", "request_id", "attempts", "caller",
        ),
        about=("gateway", "api", "error"),
    ),
    _type(
        "limit.hit",
        EventClass.TELEMETRY,
        "A limit of the caller's refused a call. A provider's: see `error.type` of `call.finished`.",
        ("user", "caller", "scope", "limit_name", "retry_after_ms", "request_id", "outcome"),
        about=("limits", "api", "denied"),
    ),
    _type(
        "access.refused",
        EventClass.AUDIT,
        "Somebody came without a valid key, or with one that may not do this; at most a hundred a minute and process.",
        ("endpoint", "http_method", "http_status", "reason", "outcome", "caller", "request_id"),
        about=("access", "authentication", "denied"),
    ),
    _type(
        "access.granted",
        EventClass.AUDIT,
        "A key was used: at its first use in a replica, and again when an hour has passed. The trace is that call's.",
        ("caller", "team", "outcome"),
        about=("access", "authentication", "start"),
    ),
)  # fmt: skip

_ACCOUNTS = (
    _type(
        "account.changed",
        EventClass.TELEMETRY,
        "An account cools down, is parked, or serves again.",
        ("account", "provider", "model", "account_state", "retry_after_ms"),
        about=("limits", "api", "change"),
        kind="state",
    ),
    _type(
        "account.load",
        EventClass.TELEMETRY,
        "How much of its limits an account has left; once a minute.",
        ("account", "provider", "model", "account_state", "limit_name", "headroom"),
        about=("limits", "api", "info"),
        kind="metric",
    ),
)

_BOOKS = (
    _type(
        "call.finished",
        EventClass.BILLING,
        "One provider call, as the books have it: the posting of its entry. Sums of these are the bill.",
        (
            *_WHO, *_SERVED, *_USAGE, "outcome", "error_type", "usage_source", "cost_nano", "savings_nano", "price_id",
            "ending", "entry_id", "hold_id", "duration_ns", "ttft_s", "request_id", "run_id", "conversation_id",
            "task_id", "task_type",
        ),
        about=("books", "api", "end"),
    ),
    _type(
        "ledger.corrected",
        EventClass.BILLING,
        "The provider's own figures replaced what an entry said; figures here are the new ones.",
        ("correction_id", "entry_id", *_USAGE, "usage_source", "cost_nano", "price_id"),
        about=("books", "api", "change"),
    ),
    _type(
        "ledger.unknown",
        EventClass.BILLING,
        "Holders fell silent: what they held counts as spent until somebody knows.",
        ("holds", "reason"),
        about=("books", "api", "error"),
        kind="alert",
    ),
    _type(
        "ledger.verified",
        EventClass.AUDIT,
        "The books were added up again.",
        ("difference", "outcome"),
        about=("books", "api", "info"),
    ),
    _type(
        "budget.alert",
        EventClass.BUSINESS,
        "A budget reached the share from which people want to hear of it.",
        ("user", "budget_id", "budget_owner", "budget_window", "budget_unit", "budget_limit", "budget_spent"),
        about=("books", "api", "info"),
        kind="alert",
    ),
    _type(
        "budget.refused",
        EventClass.TELEMETRY,
        "A call was refused: a budget has no room for it.",
        (*_WHO, "budget_id", "budget_owner", "budget_window", "budget_unit", "budget_limit", "reason", "run_id"),
        about=("books", "api", "denied"),
    ),
)  # fmt: skip


def _run(name: str, meaning: str, fields: tuple[str, ...], how: str = "info", kind: Kind = "event") -> EventType:
    return _type(name, EventClass.BUSINESS, meaning, fields, about=("runs", "process", how), kind=kind)


_MADE = ("account", "model", "produced_by", "duration_ns", *_TOKENS)

_RUNS = (
    _run("run.accepted", "A project was accepted.", _RUN, "start"),
    _run("run.questions", "A run pauses for answers: clarification.", (*_RUN, "questions")),
    _run("run.answered", "People answered, and it goes on.", (*_RUN, "questions")),
    _run("run.note", "Something its owner should know; the words are in the run.", _RUN),
    _run("run.retried", "A part of it is done again.", (*_TASK, "tasks"), "start"),
    _run("run.forked", "It took over results of another run.", (*_TASK, "forked_from", "tasks"), "start"),
    _run(
        "run.finished",
        "A run ended.",
        (*_RUN, "run_status", "makespan_s", "lower_bound_s", "duration_ns", "cost_nano", *_TOKENS, "outcome"),
        "end",
    ),
    _run("plan.ready", "The plan is there.", (*_RUN, "tasks", "lower_bound_s")),
    _run("stage.started", "A stage outside the tasks began.", (*_RUN, "stage"), "start"),
    _run("stage.finished", "A stage outside the tasks ended.", (*_RUN, "stage", *_MADE, "outcome"), "end"),
    _run("task.queued", "A task's inputs are there.", _TASK),
    _run("task.started", "A task's call is made.", (*_TASK, "account", "model"), "start"),
    _run("task.output", "A task has a result.", (*_TASK, *_MADE, "cost_nano")),
    _run("task.judging", "A result is judged.", _TASK),
    _run("task.judged", "The judgement of a result.", (*_TASK, "verdict", "produced_by")),
    _run("task.redo", "A task is done again with the judge's feedback.", _TASK),
    _run("task.finished", "A task ended.", (*_TASK, "task_status", "task_type", *_MADE, "cost_nano", "outcome"), "end"),
    _run("call.waiting", "A run's call waits for an account.", (*_TASK, "reason", "retry_after_ms")),
    _run(
        "call.failed",
        "A run's call failed; `event.reason` is what follows: `failover`, or `gave up`.",
        (*_TASK, "account", "error_type", "reason"),
        "error",
    ),
)

_SYSTEM = (
    _type(
        "configuration.changed",
        EventClass.AUDIT,
        "Another configuration is in force.",
        ("config_version", "config_fingerprint", "config_source", "changed", "outcome", "reason"),
        about=("configuration", "configuration", "change"),
    ),
    _type(
        "configuration.refused",
        EventClass.AUDIT,
        "A configuration was wrong, and changed nothing.",
        ("outcome", "reason"),
        about=("configuration", "configuration", "denied"),
    ),
    _type(
        "operator.acted",
        EventClass.AUDIT,
        "An operator settled a hold, corrected an entry, deleted a person's events, replayed or dropped dead letters.",
        ("operator", "subject", "reason", "outcome", "hold_id", "entry_id", "cost_nano"),
        about=("audit", "configuration", "change"),
    ),
    _type(
        "actor.started",
        EventClass.TELEMETRY,
        "An actor began its life.",
        ("actor",),
        about=("system", "process", "start"),
    ),
    _type(
        "actor.ended",
        EventClass.TELEMETRY,
        "An actor was ended, or was found dead (`event.outcome` is `failure`).",
        ("actor", "reason", "outcome"),
        about=("system", "process", "end"),
    ),
    _type(
        "events.dropped",
        EventClass.AUDIT,
        "Events were lost: their class had no more room, or their process could not hand them over.",
        ("lost_class", "lost", "reason"),
        about=("system", "process", "error"),
        kind="alert",
    ),
    _type(
        "events.damaged",
        EventClass.AUDIT,
        "The spool's file was damaged: it was put aside and a new one begun.",
        ("subject", "reason"),
        about=("system", "process", "error"),
        kind="alert",
    ),
    _type(
        "events.backlog",
        EventClass.TELEMETRY,
        "What waits to be shipped; once a minute.",
        (*_BACKLOG, "subject", "reason"),
        about=("system", "process", "info"),
        kind="metric",
    ),
    _type(
        "log.line",
        EventClass.DEBUG,
        "A line of a process's log.",
        ("message", "log_level", "logger", "error_type", "stack_trace"),
        about=("log", "process", "info"),
    ),
)

TYPES: tuple[EventType, ...] = (*_GATEWAY, *_ACCOUNTS, *_BOOKS, *_RUNS, *_SYSTEM)
TYPE: Mapping[str, EventType] = {one.name: one for one in TYPES}
