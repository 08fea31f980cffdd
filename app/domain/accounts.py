"""Which accounts there are, what they may serve, and what we know of the models they serve.

Plain values made by ``app/settings.py`` from the configuration and the model table; every layer reads them. Decides
nothing about load: limits live in ``limiter``, choice in ``schedule``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from app.domain.books.budgets import BudgetSpec
from app.domain.books.prices import PriceRow
from app.domain.callers import CallerSpec
from app.domain.events.spec import EventsSpec
from app.domain.limits import LimitSpec
from app.domain.telemetry import TelemetrySpec


class Provider(StrEnum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    GEMINI = "gemini"
    DEEPSEEK = "deepseek"
    QWEN = "qwen"
    CUSTOM = "custom"
    """Any OpenAI-compatible server."""
    LOCAL = "local"
    """The embedded model, in the account actor's own process."""


class Tier(StrEnum):
    """How much a model can be trusted with; ordered as listed."""

    TINY = "tiny"
    """The embedded model: short prompts, everything grammar-constrained."""
    CHEAP = "cheap"
    STANDARD = "standard"
    STRONG = "strong"


class StructuredOutput(StrEnum):
    """What an endpoint can enforce about JSON output (prompts.md section 6)."""

    SCHEMA = "schema"
    JSON_OBJECT = "json_object"
    NONE = "none"


ModelKind = Literal["chat", "embedding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What we know of one model, from the dated model table or the configuration."""

    name: str
    """The public name in configuration and routing."""
    family: str
    """Who trained it (openai, anthropic, deepseek, ...); the judge should be of another family."""
    tier: Tier = Tier.STANDARD
    reasoning: bool = False
    context_tokens: int = 128_000
    output_tokens_max: int = 8_192
    structured: StructuredOutput = StructuredOutput.SCHEMA
    input_usd_per_mtok: str | None = None
    """Decimal text; None means unknown, "0" means free."""
    output_usd_per_mtok: str | None = None
    cache_read_usd_per_mtok: str | None = None
    price_source: str | None = None
    """Where the price row comes from, with its date."""
    chars_per_token: float = 4.0
    """Prior of the learned ratio; lower for Chinese and Vietnamese text, see ``estimate``."""
    strip_reasoning: bool = False
    """True for R1-era endpoints that refuse reasoning content in earlier turns with 400."""
    kind: ModelKind = "chat"
    """What it does; an embedding model never takes a chat call."""
    images: bool | None = None
    """Whether it takes images; None is unknown."""
    tools: bool | None = None
    """Whether it calls functions; None is unknown."""
    strengths: tuple[str, ...] = ()
    """What it is good at, in a few words each, for people who choose."""
    best_for: tuple[str, ...] = ()
    """Task types it is a good choice for."""


class EndpointClass(StrEnum):
    """What an endpoint offers to somebody who lost an answer."""

    OPAQUE = "opaque"
    """Nothing: whether the call was billed stays unknown."""
    LOOKUP = "lookup"
    """Calls can be found again under our key, some time after they were made."""
    REATTACH = "reattach"
    """It names a call at once and makes it without us: the answer can be fetched by that name, for some time."""
    BATCH = "batch"
    """It makes calls in batches, which are found again by our name for them; their answers are fetched."""
    IDEMPOTENT = "idempotent"
    """The same key again is the same call, billed once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSpec:
    """One account/provider pair as configured."""

    name: str
    provider: Provider
    api_key: str = field(default="", repr=False)
    base_url: str | None = None
    """None means the provider's default."""
    identity: str | None = None
    models: tuple[tuple[str, str], ...] = ()
    """(public name, upstream's name) pairs."""
    limits: tuple[tuple[str, LimitSpec], ...] = ()
    """(public model name, limits) for every model above; the quota group's where one is named."""
    quota_group: str | None = None
    timeout_s: float = 600.0
    endpoint: EndpointClass = EndpointClass.OPAQUE
    lookup_lag_s: float = 60.0
    """At ``lookup`` and ``batch`` endpoints: from a crash until every call that was made before it can be found."""
    batch_window_s: float = 10.0
    """At a ``batch`` endpoint: how long calls are gathered before their batch leaves."""
    options: tuple[tuple[str, str], ...] = ()
    """Provider options, for instance ``model_path`` of a local account."""

    @property
    def scope(self) -> str:
        """Who shares one limiter: the quota group, else the account alone."""
        return f"group:{self.quota_group}" if self.quota_group else f"account:{self.name}"

    def upstream_model(self, model: str) -> str | None:
        """Return the upstream's name of public ``model``, or None where this account does not serve it."""
        return dict(self.models).get(model)


OnUnknown = Literal["retry", "hold"]
"""Where nobody knows whether a lost call was billed: buy it again, or let a person decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """Models for one task type, best first."""

    task_type: str
    primary: tuple[str, ...]
    fallback: tuple[str, ...] = ()
    on_unknown: OnUnknown | None = None
    """None: as the coordinator's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorSpec:
    """How projects are conducted. Model names are already resolved to ones that an account serves."""

    model: str
    """Plans, merges and evaluates."""
    requested_model: str
    """What the configuration asked for; differs from ``model`` where no account serves it."""
    judge_model: str
    clarify_model: str
    transcribe_model: str
    """Writes strict JSON from the reasoning model's free text; equal to ``model`` where that enforces schemas."""
    tasks_max: int = 24
    depth_max: int = 8
    redo_max: int = 2
    clarify_threshold: float = 1.0
    """Ask only if cost_if_wrong x probability_default_wrong reaches this (prompts.md 7.2)."""
    retry_share: float = 0.2
    """Retry budget of a run as a share of its planned calls, at least 3."""
    on_unknown: OnUnknown = "retry"
    """For calls that a crash of ours left on their way; a route may say otherwise for its tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """How answers are kept for identical requests."""

    enabled: bool = False
    ttl_s: float = 3_600.0
    scope: Literal["caller", "shared"] = "caller"
    """Who may be answered from a kept answer: the caller whose request made it, or everybody."""
    size_bytes: int = 64_000_000
    """Of one replica."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySpec:
    """How calls of clients are served. Model names are already resolved to ones that an account serves."""

    queue_max: int = 10_000
    """Calls that wait in one replica."""
    queue_timeout_s: float = 120.0
    attempts_max: int = 4
    """Upstream calls that one client's call may make, the first included."""
    retry_ratio: float = 0.1
    """Attempts beyond the first that the whole pool may make, as a share of its calls."""
    batch_headroom: float = 0.1
    """Share of every limit that calls of class batch leave free."""
    idle_timeout_s: float = 60.0
    """Longest silence between two events of a stream that carry data."""
    classifier: str | None = None
    """The model that finds the task type of calls to ``auto`` that name none; None takes them as general."""
    cache: CacheSpec = field(default_factory=CacheSpec)
    cors_origins: tuple[str, ...] = ()
    """Web origins whose pages may call; ``*`` for all."""
    fallbacks: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(model, models that may stand in for it where a client names it), best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orchestra:
    """The whole configuration as the actors see it: one immutable, versioned value."""

    version: int
    accounts: tuple[AccountSpec, ...]
    models: tuple[ModelInfo, ...]
    """Every model that at least one account serves."""
    routes: tuple[RouteSpec, ...]
    coordinator: CoordinatorSpec
    data_dir: str
    store_url: str | None = field(default=None, repr=False)
    """The PostgreSQL database that keeps runs; None: a file in ``data_dir``. Holds a password: never shown."""
    accounts_per_actor: int = 1
    aliases: tuple[tuple[str, str], ...] = ()
    """(other name, public name): what clients may write beside the public names."""
    callers: tuple[CallerSpec, ...] = ()
    """The gateway's keys; where there is one, every call needs one."""
    gateway: GatewaySpec = field(default_factory=GatewaySpec)
    tenant: str = "default"
    """For whom all of this is bought; the books keep its sums."""
    prices: tuple[PriceRow, ...] = ()
    """Every known price of the models above, by public name; ``find_row`` says which one holds."""
    budgets: tuple[BudgetSpec, ...] = ()
    alert_webhook: str | None = field(default=None, repr=False)
    """Told by POST when a budget reaches its soft share; may carry a secret."""
    events: EventsSpec = field(default_factory=EventsSpec)
    telemetry: TelemetrySpec = field(default_factory=TelemetrySpec)
    source: str = ""
    """Where it came from: a file's path, or "environment", or "embedded model"."""
    config_path: str | None = None
    """The file it came from, watched for changes; None for the environment or plain data."""
    notes: tuple[str, ...] = ()
    """What a user should know: substitutions, missing keys, the embedded model."""
    fingerprint: str = ""
    """Hash of the content, keys included; equal configurations compare equal by it."""

    def model(self, name: str) -> ModelInfo:
        """Return the model of that name.

        Raises:
            KeyError: no account serves it.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(name)

    def account(self, name: str) -> AccountSpec:
        """Return the account of that name; raises KeyError."""
        for account in self.accounts:
            if account.name == name:
                return account
        raise KeyError(name)

    def accounts_of(self, model: str) -> tuple[AccountSpec, ...]:
        """Return the accounts that may serve public ``model``, in configured order."""
        return tuple(account for account in self.accounts if account.upstream_model(model) is not None)


AccountState = Literal["healthy", "cooling_minute", "cooling_day", "dead", "half_open"]
