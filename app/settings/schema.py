"""The schema of the configuration: every key with its type, default, unit and meaning.

``docs/configuration.md`` is generated from it. Checks that need more than one field stand in ``references``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator

from app.domain.accounts import EndpointClass, ModelKind, OnUnknown, Provider, StructuredOutput, Tier
from app.settings.books_schema import AlertsSection, BudgetSection, LongContextSection, PeakSection, PriceSection
from app.settings.events_schema import ElasticsearchSection, EventsSection, FileSection, OtlpSection
from app.settings.fields import (
    EMPTY_IF_NULL,
    BaseUrl,
    ModelName,
    Name,
    Option,
    Positive,
    Price,
    Ratio,
    Secret,
    ServedModel,
    Share,
    StoreUrl,
    Text,
    seconds,
    task_type,
    whole,
)
from app.settings.gateway_schema import (
    AuthKeySection,
    AuthSection,
    CacheSection,
    CorsSection,
    GatewaySection,
    KeyLimitsSection,
    UserLimitsSection,
)
from app.settings.problems import FieldPath
from app.settings.sections import LimitsSection, Section, setting
from app.settings.telemetry_schema import TelemetrySection, TracesSection

ModelLimits = dict[str, Annotated[LimitsSection, EMPTY_IF_NULL]]


class GroupSection(LimitsSection):
    """The limits that the members of one quota group share, for each model."""

    model_limits: Annotated[ModelLimits, EMPTY_IF_NULL] = setting(
        dict, "Limits that differ for a model.", kind="mapping of model to limits", example="{gpt-5: {rpm: 100}}"
    )


class AccountSection(Section):
    """One account at one provider: an API key that you are entitled to use."""

    name: Name = setting(..., "Unique name; shown everywhere.", kind="name", example="openai-a")
    identity: Text | None = setting(
        None,
        "Whose account it is; `tutti accounts --by identity` groups by it.",
        kind="text",
        example="ops@acme.example",
    )
    provider: Provider = setting(
        ...,
        "Who serves it. `custom` is any OpenAI-compatible server, `local` the embedded model.",
        kind="one of " + ", ".join(f"`{provider.value}`" for provider in Provider),
        example="openai",
    )
    api_key: Secret | None = setting(
        None,
        "The key. Required but for `custom` and `local`. Refer to an environment variable: the file then holds no key.",
        kind="text",
        example="${OPENAI_API_KEY_A}",
    )
    base_url: BaseUrl | None = setting(
        None,
        "Where the provider answers, default per provider; required for `custom`, not for `local`.",
        kind="http or https address",
        example="https://llm.example.com/v1",
        without="the provider's own",
    )
    models: tuple[ServedModel, ...] = setting(
        ...,
        "What it may serve: names, or aliases `{name: upstream}`. Accounts that serve one name share its work.",
        kind="list, not empty",
        example="[gpt-5-mini, {fast: gpt-5.4-nano}]",
    )
    limits: Annotated[LimitsSection, EMPTY_IF_NULL] = setting(
        LimitsSection, "Limits of every model of this account.", kind="limits", example="{rpm: 500, concurrency: 32}"
    )
    model_limits: Annotated[ModelLimits, EMPTY_IF_NULL] = setting(
        dict,
        "Overrides for single models; keys left out keep the value of `limits`.",
        kind="mapping of model to limits",
        example="{gpt-5-mini: {rpm: 100}}",
    )
    quota_group: Name | None = setting(
        None,
        "Members of a group share one limiter; the limits then stand under `quota_groups`, not here.",
        kind="name",
        example="acme-openai",
    )
    timeout_s: Annotated[float, BeforeValidator(seconds(1, 86_400))] = setting(
        600.0, "Longest time one call may take.", kind="number from 1 to 86400", unit="seconds", example="120"
    )
    endpoint: EndpointClass = setting(
        EndpointClass.OPAQUE,
        "What it offers when an answer was lost: `opaque` nothing; `lookup` finds calls by our key (OpenAI's stored "
        "completions: every call is then stored there); `reattach` makes runs' calls without us, and keeps their "
        "answers for some minutes (OpenAI's Responses in the background); `batch` makes runs' calls in OpenAI's "
        "batches, within a day, at the batch price (for models that only such accounts serve; give account and run a "
        "long `timeout_s`); `idempotent` honours `Idempotency-Key`.",
        kind="one of " + ", ".join(f"`{kind.value}`" for kind in EndpointClass),
        example="idempotent",
    )
    lookup_lag_s: Annotated[float, BeforeValidator(seconds(0, 3_600))] = setting(
        60.0,
        "At `lookup` and `batch` endpoints: how long after a crash a call that was made before it may first be listed. "
        "Only after that is it sent again, so count in the longest answer of a `lookup` endpoint.",
        kind="number from 0 to 3600",
        unit="seconds",
        example="120",
    )
    batch_window_s: Annotated[float, BeforeValidator(seconds(0, 3_600))] = setting(
        10.0,
        "At a `batch` endpoint: how long calls are gathered before their batch leaves.",
        kind="number from 0 to 3600",
        unit="seconds",
        example="60",
    )
    options: Annotated[dict[str, Option], EMPTY_IF_NULL] = setting(
        dict,
        "Options for the provider's adapter, listed below.",
        kind="mapping of text",
        example="{model_path: /models/a.gguf}",
    )


class CoordinatorSection(Section):
    """Who conducts projects, and how far they may go."""

    model: ModelName = setting(
        "r1",
        "Plans, merges and evaluates. `r1` stands for DeepSeek's current reasoning model; where no account serves it, "
        "the strongest reasoning model configured conducts, and a note says which.",
        kind="model",
        example="r1",
    )
    judge_model: ModelName | None = setting(
        None,
        "Judges results. null: a model of another family if there is one, else the coordinator's.",
        kind="model or null",
        example="claude-sonnet-5",
    )
    clarify_model: ModelName | None = setting(
        None,
        "Finds what a request leaves open. null: the cheapest model of tier `cheap`, else the coordinator's.",
        kind="model or null",
        example="gpt-5-mini",
    )
    transcribe_model: ModelName | None = setting(
        None,
        "Writes strict JSON from the coordinator's free text. null: the cheapest model that enforces schemas, "
        "else the coordinator's.",
        kind="model or null",
        example="gpt-5-mini",
    )
    max_tasks: Annotated[
        int, BeforeValidator(whole(1, 200, what="a whole number from 1 to 200", remedy="write for instance 24"))
    ] = setting(24, "Most tasks a plan may have.", kind="whole number from 1 to 200", unit="tasks", example="24")
    max_depth: Annotated[
        int, BeforeValidator(whole(1, 100, what="a whole number from 1 to 100", remedy="write for instance 8"))
    ] = setting(
        8,
        "Longest chain of tasks that wait for each other.",
        kind="whole number from 1 to 100",
        unit="tasks",
        example="8",
    )
    max_redo: Annotated[
        int, BeforeValidator(whole(0, 5, what="a whole number from 0 to 5", remedy="write for instance 2"))
    ] = setting(
        2, "How often a task is done again with the judge's feedback.", kind="whole number from 0 to 5", example="2"
    )
    clarify_threshold: Positive = setting(
        1.0,
        "Ask a question only if cost if wrong (1–5) × probability that the default is wrong (0–1) reaches this.",
        kind="number, 0 or more",
        example="1.0",
    )
    retry_share: Share = setting(
        0.2,
        "Retries a run may spend, as a share of its planned calls; at least 3.",
        kind="number from 0 to 1",
        example="0.2",
    )
    on_unknown: OnUnknown = setting(
        "retry",
        "Where a crash leaves open whether a call was billed: `retry` buys it again, `hold` pauses the run and asks.",
        kind="`retry` or `hold`",
        example="hold",
    )


class RouteSection(Section):
    """Models for one task type, best first; replaces the default route of that type."""

    primary: tuple[ModelName, ...] = setting(
        ..., "Taken first, in this order.", kind="list of models, not empty", example="[deepseek-flash]"
    )
    fallback: tuple[ModelName, ...] = setting(
        tuple, "Taken where no account of a primary model can serve.", kind="list of models", example="[gpt-5-mini]"
    )
    on_unknown: OnUnknown | None = setting(
        None,
        "As `coordinator.on_unknown`, for tasks of this type. null: as there.",
        kind="`retry`, `hold` or null",
        example="hold",
    )


_TOKENS = BeforeValidator(
    whole(256, 100_000_000, what="a whole number of tokens, 256 or more", remedy="write for instance 32768")
)


class ModelSection(Section):
    """What you know of a model; each key replaces what the model table says."""

    family: Text | None = setting(
        None, "Who trained it; the judge should be of another family.", kind="text", example="mistral"
    )
    tier: Tier | None = setting(
        None,
        "How much it can be trusted with.",
        kind="one of " + ", ".join(f"`{tier.value}`" for tier in Tier),
        example="standard",
    )
    reasoning: bool | None = setting(None, "Whether it thinks before it answers.", kind="true or false", example="true")
    context_tokens: Annotated[int, _TOKENS] | None = setting(
        None, "Longest input and output together.", kind="whole number", unit="tokens", example="131072"
    )
    output_tokens_max: Annotated[int, _TOKENS] | None = setting(
        None, "Longest answer.", kind="whole number", unit="tokens", example="8192"
    )
    structured: StructuredOutput | None = setting(
        None,
        "What JSON output it enforces: a schema, some JSON object, nothing.",
        kind="one of " + ", ".join(f"`{kind.value}`" for kind in StructuredOutput),
        example="schema",
    )
    input_usd_per_mtok: Price = setting(
        None, "Price of input; 0 is free, null unknown.", kind="price", unit="USD per million tokens", example="0.25"
    )
    output_usd_per_mtok: Price = setting(
        None, "Price of output.", kind="price", unit="USD per million tokens", example="2.00"
    )
    cache_read_usd_per_mtok: Price = setting(
        None,
        "Price of input that the provider had cached.",
        kind="price",
        unit="USD per million tokens",
        example="0.025",
    )
    chars_per_token: Ratio | None = setting(
        None,
        "First guess of how long a token is; learned from bills afterwards.",
        kind="number from 0.5 to 10",
        unit="characters",
        example="4.0",
    )
    strip_reasoning: bool | None = setting(
        None,
        "Leave reasoning out of earlier turns, for servers that refuse it.",
        kind="true or false",
        example="true",
    )
    kind: ModelKind | None = setting(
        None, "What it does: chat, or embeddings.", kind="`chat` or `embedding`", example="embedding"
    )
    images: bool | None = setting(None, "Whether it takes images.", kind="true or false", example="true")
    tools: bool | None = setting(None, "Whether it calls functions.", kind="true or false", example="true")
    strengths: tuple[Text, ...] | None = setting(
        None, "What it is good at, shown in the list of models.", kind="list of text", example="[legal French]"
    )
    best_for: tuple[Annotated[str, BeforeValidator(task_type)], ...] | None = setting(
        None, "Task types it is a good choice for, shown too.", kind="list of task types", example="[translation]"
    )


class StoreSection(Section):
    """Which database keeps runs, limiter states and the books."""

    url: StoreUrl = setting(
        None,
        "A PostgreSQL database; null: a SQLite file in `data_dir`. Refer to an environment variable for the password. "
        "One Tutti writes to it; name the server itself, not a pooler.",
        kind="PostgreSQL address or null",
        example="postgresql://tutti:${PGPASSWORD}@db.example.com/tutti",
        without="null",
    )


class ConfigurationFile(Section):
    """The whole file."""

    accounts: tuple[AccountSection, ...] = setting(
        ..., "The accounts there are.", kind="list of accounts, not empty", example="see below"
    )
    quota_groups: Annotated[dict[str, Annotated[GroupSection, EMPTY_IF_NULL]], EMPTY_IF_NULL] = setting(
        dict,
        "Limits that several accounts share.",
        kind="mapping of group to limits",
        example="{acme-openai: {rpm: 500}}",
    )
    coordinator: Annotated[CoordinatorSection, EMPTY_IF_NULL] = setting(
        CoordinatorSection, "Who conducts.", kind="coordinator", example="{model: r1}"
    )
    routing: Annotated[
        dict[Annotated[str, BeforeValidator(task_type)], Annotated[RouteSection, EMPTY_IF_NULL]], EMPTY_IF_NULL
    ] = setting(
        dict,
        "Which models take which type of task. Types not named here are routed by tier.",
        kind="mapping of task type to route",
        example="{code_generation: {primary: [deepseek-flash]}}",
    )
    models: Annotated[dict[str, Annotated[ModelSection, EMPTY_IF_NULL]], EMPTY_IF_NULL] = setting(
        dict,
        "What you know of models that are not in the model table, or know better.",
        kind="mapping of model to properties",
        example="{my-model: {tier: standard}}",
    )
    auth: Annotated[AuthSection, EMPTY_IF_NULL] = setting(
        AuthSection, "Who may call the gateway.", kind="auth", example="{keys: [{name: team, key: '${TEAM_KEY}'}]}"
    )
    gateway: Annotated[GatewaySection, EMPTY_IF_NULL] = setting(
        GatewaySection, "How calls of clients are served.", kind="gateway", example="{queue_timeout_s: 30}"
    )
    tenant: Name = setting(
        "default",
        "For whom all of this is bought: the books keep its sums, and `for: tenant` limits it.",
        kind="name",
        example="acme",
    )
    budgets: tuple[BudgetSection, ...] = setting(
        tuple,
        "Ceilings of what may be spent.",
        kind="list of budgets",
        example="[{for: 'team:research', window: month, usd: 50.00}]",
    )
    alerts: Annotated[AlertsSection, EMPTY_IF_NULL] = setting(
        AlertsSection, "Who hears that a budget comes near its end.", kind="alerts", example="{webhook: '${ALERT_URL}'}"
    )
    events: Annotated[EventsSection, EMPTY_IF_NULL] = setting(
        EventsSection, "What is told of everything that happens, and to whom.", kind="events", example="{keep_days: 30}"
    )
    prices: tuple[PriceSection, ...] = setting(
        tuple,
        "What models cost you, where that is not what the model table says.",
        kind="list of prices",
        example="[{model: gpt-5-mini, from: 2026-08-01, input: 0.20, output: 1.60}]",
    )
    data_dir: Text | None = setting(
        None,
        "Where runs and limiter state are kept; `~` and relative paths are allowed, the latter from the file's folder.",
        kind="path",
        example="/var/lib/tutti",
        without="~/.local/share/tutti",
    )
    store: Annotated[StoreSection, EMPTY_IF_NULL] = setting(
        StoreSection, "Which database keeps them.", kind="store", example="{url: 'postgresql://…'}"
    )
    telemetry: Annotated[TelemetrySection, EMPTY_IF_NULL] = setting(
        TelemetrySection,
        "What those who watch Tutti are told.",
        kind="telemetry",
        example="{traces: {otlp_endpoint: 'http://localhost:4318'}}",
    )
    accounts_per_actor: Annotated[
        int, BeforeValidator(whole(1, 10_000, what="a whole number from 1 to 10000", remedy="write for instance 1"))
    ] = setting(
        1,
        "Accounts in one actor's process. More than one saves memory where there are hundreds.",
        kind="whole number from 1 to 10000",
        unit="accounts",
        example="50",
    )


SECTIONS: Mapping[str, type[Section]] = {
    "": ConfigurationFile,
    "accounts[]": AccountSection,
    "accounts[].limits": LimitsSection,
    "accounts[].model_limits.*": LimitsSection,
    "quota_groups.*": GroupSection,
    "quota_groups.*.model_limits.*": LimitsSection,
    "coordinator": CoordinatorSection,
    "routing.*": RouteSection,
    "models.*": ModelSection,
    "auth": AuthSection,
    "auth.keys[]": AuthKeySection,
    "auth.keys[].limits": KeyLimitsSection,
    "auth.keys[].user_limits": UserLimitsSection,
    "gateway": GatewaySection,
    "gateway.cache": CacheSection,
    "gateway.cors": CorsSection,
    "budgets[]": BudgetSection,
    "alerts": AlertsSection,
    "prices[]": PriceSection,
    "prices[].long_context[]": LongContextSection,
    "prices[].peak[]": PeakSection,
    "store": StoreSection,
    "telemetry": TelemetrySection,
    "telemetry.traces": TracesSection,
    "events": EventsSection,
    "events.elasticsearch": ElasticsearchSection,
    "events.file": FileSection,
    "events.otlp": OtlpSection,
}
"""Every mapping with fixed keys, by where it stands: ``[]`` for a list's item, ``*`` for a name of the user's own."""

_NAMED_BY_USER = ("model_limits", "quota_groups", "routing", "models")


def section_at(path: FieldPath) -> type[Section] | None:
    """Return the section that stands at ``path``, if it is one with fixed keys."""
    pattern = ""
    previous: str | int | None = None
    for part in path:
        if isinstance(part, int):
            pattern += "[]"
        else:
            word = "*" if previous in _NAMED_BY_USER and isinstance(previous, str) else part
            pattern += f".{word}" if pattern else word
            part = word
        previous = part
    return SECTIONS.get(pattern)
