"""The one table of fields that an event may hold: our short name, where it stands in the document, how it is mapped.

Names follow the Elastic Common Schema, OpenTelemetry's conventions for generative AI (`gen_ai.*`), and `tutti.*` for
what neither knows. Mappings, docs/events.md and every dashboard are computed from here.

The conventions are still moving: a profile says which of their states the documents follow. Both names are mapped
always, so that a change of profile never makes a document that its index refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from app.domain.chat import Json

SCHEMA = "tutti-events/1"
ECS_VERSION = "9.2.0"

Profile: TypeAlias = Literal["otel-1.41", "genai-main"]
DEFAULT_PROFILE: Profile = "otel-1.41"
PROFILES: tuple[Profile, ...] = ("otel-1.41", "genai-main")


class FieldType(StrEnum):
    """How Elasticsearch keeps a field."""

    DATE = "date"
    KEYWORD = "keyword"
    """Also lists of words."""
    LONG = "long"
    DOUBLE = "double"
    BOOLEAN = "boolean"
    TEXT = "text"
    STORED = "stored"
    """Kept and shown, not searched: long text of machines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventField:
    """One field."""

    name: str
    """How our code says it: ``emit(type, name=value)``."""
    path: str
    """Where it stands in the document, by the default profile."""
    type: FieldType
    meaning: str
    unit: str = ""
    genai_main: str | None = None
    """Its path by the profile ``genai-main``, where that renamed it."""

    def path_in(self, profile: Profile) -> str:
        """Return where it stands by that profile."""
        return self.path if profile == "otel-1.41" or self.genai_main is None else self.genai_main


def _keyword(name: str, path: str, meaning: str) -> EventField:
    return EventField(name=name, path=path, type=FieldType.KEYWORD, meaning=meaning)


def _long(name: str, path: str, meaning: str, unit: str = "", main: str | None = None) -> EventField:
    return EventField(name=name, path=path, type=FieldType.LONG, meaning=meaning, unit=unit, genai_main=main)


def _of(kind: FieldType, name: str, path: str, meaning: str, unit: str = "") -> EventField:
    return EventField(name=name, path=path, type=kind, meaning=meaning, unit=unit)


_EVERY = (
    _of(FieldType.DATE, "at", "@timestamp", "When it happened, in UTC."),
    _keyword("event_id", "event.id", "Made once, where it happened; grows with time. The document's `_id`."),
    _keyword("action", "event.action", "The event's type: `call.finished`, `run.accepted`, …"),
    _keyword("kind", "event.kind", "`event`, `alert`, `state` or `metric`, as ECS has it."),
    _keyword("category", "event.category", "As ECS has it."),
    _keyword("type", "event.type", "As ECS has it: start, end, info, change, denied, error."),
    _keyword("dataset", "event.dataset", "Which part of Tutti tells it."),
    _keyword("event_class", "tutti.event.class", "`audit`, `billing`, `business`, `telemetry` or `debug`."),
    _keyword("schema", "tutti.event.schema", "The version of this table that made the document."),
    _keyword("ecs_version", "ecs.version", "The version of ECS that names come from."),
    _keyword("service", "service.name", "Always `tutti`."),
    _keyword("service_version", "service.version", "Tutti's version."),
    _keyword("node", "service.node.name", "The process that tells it: its role and its process id at the machine."),
    _keyword("host", "host.name", "The machine."),
    _long("pid", "process.pid", "The process."),
    _keyword("trace_id", "trace.id", "The trace of the request or run; the same in responses, logs and spans."),
    _keyword("span_id", "span.id", "The span within which it happened."),
    _keyword("parent_id", "parent.id", "The span above that."),
)

_ECS = (
    _of(FieldType.TEXT, "message", "message", "A sentence for people; no prompt, no answer, no secret."),
    _keyword("outcome", "event.outcome", "`success`, `failure` or `unknown`."),
    _keyword("reason", "event.reason", "Why, in a word of ours."),
    _long("duration_ns", "event.duration", "How long it took.", "nanoseconds"),
    _long("sequence", "event.sequence", "Its number within its run."),
    _keyword("log_level", "log.level", "`debug`, `info`, `warning`, `error`."),
    _keyword("logger", "log.logger", "The module that logs."),
    _keyword("error_type", "error.type", "The kind of failure: `minute_limit`, `timeout`, a class of ours."),
    _of(FieldType.STORED, "stack_trace", "error.stack_trace", "Where it was raised."),
    _keyword("http_method", "http.request.method", "The client's method."),
    _long("http_status", "http.response.status_code", "What the client was answered."),
    _keyword("endpoint", "url.path", "The route the client called, as declared."),
    _keyword("user", "user.id", "On behalf of which user."),
    _keyword("tenant", "organization.id", "On behalf of which tenant."),
)

_GEN_AI = (
    _keyword("operation", "gen_ai.operation.name", "`chat`, `text_completion`, `embeddings`, `invoke_workflow`, …"),
    _keyword("provider", "gen_ai.provider.name", "Who answers, as the conventions name them; also as `gen_ai.system`."),
    _keyword("request_model", "gen_ai.request.model", "The model asked for, by its public name."),
    _long("request_max_tokens", "gen_ai.request.max_tokens", "The most that might be generated.", "tokens"),
    _of(FieldType.DOUBLE, "temperature", "gen_ai.request.temperature", "As asked for."),
    _of(FieldType.BOOLEAN, "stream", "gen_ai.request.stream", "Whether the answer was streamed."),
    _keyword("response_id", "gen_ai.response.id", "The provider's id of the answer."),
    _keyword("model", "gen_ai.response.model", "The model that answered, by its public name."),
    _keyword("finish_reasons", "gen_ai.response.finish_reasons", "Why it stopped, one for each choice."),
    _of(FieldType.DOUBLE, "ttft_s", "gen_ai.response.time_to_first_chunk", "Until the first part of it.", "seconds"),
    _long("input_tokens", "gen_ai.usage.input_tokens", "Everything read, cached parts included.", "tokens"),
    _long("output_tokens", "gen_ai.usage.output_tokens", "Everything generated, reasoning included.", "tokens"),
    _long(
        "cache_read_tokens",
        "gen_ai.usage.cache_read.input_tokens",
        "Included in `gen_ai.usage.input_tokens`.",
        "tokens",
    ),
    _long(
        "cache_write_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "Included in `gen_ai.usage.input_tokens`.",
        "tokens",
        "gen_ai.usage.cache_write.input_tokens",
    ),
    _long(
        "reasoning_tokens",
        "gen_ai.usage.reasoning.output_tokens",
        "Included in `gen_ai.usage.output_tokens`.",
        "tokens",
    ),
    _keyword("conversation_id", "gen_ai.conversation.id", "What several calls belong to: the run."),
)

_TUTTI = (
    _keyword("request_id", "tutti.request.id", "The client's call; also in its answer's headers."),
    _keyword("route_class", "tutti.request.service_class", "`interactive`, `standard` or `batch`."),
    _long("attempts", "tutti.request.attempts", "Provider calls made for it."),
    _keyword("cache", "tutti.request.cache", "`hit` where our own cache answered, else `miss` or `off`."),
    _of(
        FieldType.DOUBLE,
        "overhead_ms",
        "tutti.request.overhead_ms",
        "What was ours of its time, waits included.",
        "milliseconds",
    ),
    _keyword("caller", "tutti.caller.key", "The name of the gateway key."),
    _keyword("team", "tutti.caller.team", "The key's team."),
    _keyword("run_id", "tutti.run.id", "The run."),
    _keyword("run_status", "tutti.run.status", "Where it stands."),
    _keyword("forked_from", "tutti.run.forked_from", "The run whose results it took over."),
    _long("tasks", "tutti.run.tasks", "Tasks of its plan."),
    _long("questions", "tutti.run.questions", "Questions it asks."),
    _of(FieldType.DOUBLE, "makespan_s", "tutti.run.makespan_s", "First dispatch to last result.", "seconds"),
    _of(FieldType.DOUBLE, "lower_bound_s", "tutti.run.lower_bound_s", "No schedule is faster, provably.", "seconds"),
    _keyword("stage", "tutti.stage.name", "clarify, plan, merge or evaluate."),
    _keyword("produced_by", "tutti.produced_by", "`model`, or `rules` where no model could."),
    _keyword("task_id", "tutti.task.id", "The task within its run."),
    _keyword("task_type", "tutti.task.type", "What kind of work."),
    _keyword("task_status", "tutti.task.status", "How it ended."),
    _long("attempt", "tutti.task.attempt", "From 1; more where it was done again."),
    _keyword("verdict", "tutti.judgement.verdict", "`accepted` or `redo`."),
    _keyword("account", "tutti.account.id", "The account that was called."),
    _keyword(
        "account_state", "tutti.account.state", "`healthy`, `cooling_minute`, `cooling_day`, `dead`, `half_open`."
    ),
    _keyword("scope", "tutti.limit.scope", "Whose limit: an account, a quota group, a key, a user."),
    _keyword("limit_name", "tutti.limit.name", "rpm, tpm, concurrency, budget, …"),
    _long("retry_after_ms", "tutti.limit.retry_after_ms", "When it allows more.", "milliseconds"),
    _of(FieldType.DOUBLE, "headroom", "tutti.limit.headroom", "Share of the limit that is left, from 0 to 1."),
    _long("cost_nano", "tutti.cost.nano_usd", "What it cost; absent where the price is unknown.", "nano-USD"),
    _long("savings_nano", "tutti.cost.savings_nano_usd", "What a cache saved.", "nano-USD"),
    _keyword("price_id", "tutti.cost.price_id", "The price row that made the cost."),
    _keyword("usage_source", "tutti.usage.source", "`provider`, or `estimated` by us."),
    _keyword(
        "ending", "tutti.ledger.ending", "answered, failed, cancelled, cache_hit, hedge, unknown or settled (by hand)."
    ),
    _keyword("entry_id", "tutti.ledger.entry_id", "The entry in the books."),
    _keyword("correction_id", "tutti.ledger.correction_id", "The correction in the books."),
    _keyword("hold_id", "tutti.ledger.hold_id", "The hold that paid for it."),
    _long("holds", "tutti.ledger.holds", "Holds whose holders fell silent."),
    _long("difference", "tutti.ledger.difference", "Sums that differ when the books are added up again; 0 is right."),
    _keyword("budget_id", "tutti.budget.id", "The budget."),
    _keyword("budget_owner", "tutti.budget.owner", "Whose it is: `team:research`."),
    _keyword("budget_window", "tutti.budget.window", "day, week, month or total."),
    _keyword("budget_unit", "tutti.budget.unit", "`usd` (nano-dollars) or `tokens`."),
    _long("budget_limit", "tutti.budget.limit", "Its ceiling, in its unit."),
    _long("budget_spent", "tutti.budget.spent", "Spent and unknown, in its unit."),
    _long("config_version", "tutti.configuration.version", "Which configuration is in force, from 1."),
    _keyword("config_fingerprint", "tutti.configuration.fingerprint", "Hash of it, first 16 digits."),
    _keyword("config_source", "tutti.configuration.source", "Where it came from: `file`, `environment`, …"),
    _keyword("changed", "tutti.configuration.changed", "Sections that differ from the one before."),
    _keyword("actor", "tutti.actor.name", "The actor."),
    _keyword("operator", "tutti.audit.operator", "Who did it, as far as known."),
    _keyword("subject", "tutti.audit.subject", "What it was done to."),
    _keyword("lost_class", "tutti.events.class", "The class whose events were dropped."),
    _long("lost", "tutti.events.dropped", "How many events were dropped."),
    _long("backlog", "tutti.events.backlog", "Events that wait to be shipped."),
    _long("backlog_bytes", "tutti.events.backlog_bytes", "Their size.", "bytes"),
    _of(FieldType.DOUBLE, "oldest_age_s", "tutti.events.oldest_age_s", "Age of the oldest of them.", "seconds"),
    _long("dead_letters", "tutti.events.dead_letters", "Events that Elasticsearch refuses for good."),
)

FIELDS: tuple[EventField, ...] = (*_EVERY, *_ECS, *_GEN_AI, *_TUTTI)
FIELD: Mapping[str, EventField] = {field.name: field for field in FIELDS}
EVERY: frozenset[str] = frozenset(field.name for field in _EVERY)
"""Fields that every document may hold: the record's frame fills them, no event type declares them."""
ALIASES: Mapping[str, str] = {"gen_ai.system": "gen_ai.provider.name"}
"""Older names of fields that dashboards of others ask for."""

PROVIDERS: Mapping[str, str] = {"gemini": "gcp.gemini"}
"""Names of providers in the conventions where ours differ."""


def path_of(name: str, profile: Profile = DEFAULT_PROFILE) -> str:
    """Return where a field stands in documents; raises KeyError where there is none of that name."""
    return FIELD[name].path_in(profile)


def mappings() -> dict[str, Json]:
    """Return the mappings of an index of events, whatever the profile, as Elasticsearch takes them."""
    properties: dict[str, Json] = {}
    for field in FIELDS:
        for path in dict.fromkeys(field.path_in(profile) for profile in PROFILES):
            _place(properties, path, _mapping(field.type))
    for alias, path in ALIASES.items():
        _place(properties, alias, {"type": "alias", "path": path})
    _place(properties, "event.ingested", {"type": "date"})
    return {"dynamic": False, "_meta": {"schema": SCHEMA}, "properties": properties}


def _mapping(kind: FieldType) -> dict[str, Json]:
    match kind:
        case FieldType.KEYWORD:
            return {"type": "keyword", "ignore_above": 1_024}
        case FieldType.STORED:
            return {"type": "keyword", "index": False, "doc_values": False}
        case _:
            return {"type": kind.value}


def _place(properties: dict[str, Json], path: str, mapping: dict[str, Json]) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        inner = properties.setdefault(parent, {"properties": {}})
        assert isinstance(inner, dict), "every level is an object"
        below = inner["properties"]
        assert isinstance(below, dict), "a field is no object"
        properties = below
    assert leaf not in properties, f"{path} is mapped twice"
    properties[leaf] = mapping
