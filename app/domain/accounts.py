"""Which accounts there are, what they may serve, and what we know of the models they serve.

Plain values made by ``app/settings.py`` from the configuration and the model table; every layer reads them. Decides
nothing about load: limits live in ``limiter``, choice in ``schedule``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from app.domain.limits import LimitSpec


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
    options: tuple[tuple[str, str], ...] = ()
    """Provider options, for instance ``model_path`` of a local account."""

    @property
    def scope(self) -> str:
        """Who shares one limiter: the quota group, else the account alone."""
        return f"group:{self.quota_group}" if self.quota_group else f"account:{self.name}"

    def upstream_model(self, model: str) -> str | None:
        """Return the upstream's name of public ``model``, or None where this account does not serve it."""
        return dict(self.models).get(model)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """Models for one task type, best first."""

    task_type: str
    primary: tuple[str, ...]
    fallback: tuple[str, ...] = ()


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
    accounts_per_actor: int = 1
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
