"""The part of the schema that concerns the gateway: its keys, queue, retries, cache and origins.

``schema`` puts it into the whole; checks that need more than one field stand in ``gateway_references``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from app.domain.gateway import ServiceClass
from app.settings.fields import (
    EMPTY_IF_NULL,
    Burst,
    Classifier,
    GatewayKey,
    KeyHash,
    ModelName,
    Name,
    Origin,
    Share,
    Weight,
    refusal,
    seconds,
    whole,
)
from app.settings.sections import LimitsSection, Section, setting


def _count(minimum: int, maximum: int, example: str) -> BeforeValidator:
    what = f"a whole number from {minimum} to {maximum}"
    return BeforeValidator(whole(minimum, maximum, what=what, remedy=f"write for instance {example}"))


def _no_day(value: object) -> object:
    if value is not None:
        raise refusal("users have no limit per day", "limit the day of the key: limits: {rpd: 10000}")
    return value


class KeyLimitsSection(LimitsSection):
    """Limits of one key of the gateway, over all models. A key that is left out, or null, is unlimited.

    Reserved before a call, settled after it with what was used.
    """

    burst_s: Burst = setting(
        1.0,
        "Asks for a bucket, and says what may be sent at once, as seconds of the steady rate; at least one request.",
        kind="number from 0 to 3600",
        unit="seconds",
        example="5",
    )
    window: Literal["bucket", "sliding"] = setting(
        "sliding",
        "`sliding`: never more than the limit in any 60 s, all of it at once if need be. `bucket`: `burst_s` at once, "
        "then limit / 60 a second. The default where `burst_s` is given is `bucket`.",
        kind="`bucket` or `sliding`",
        example="bucket",
    )
    charge: Literal["max_tokens", "used"] = setting(
        "used",
        "What counts against token limits in the end: the most a call may generate, or what it generated.",
        kind="`max_tokens` or `used`",
        example="max_tokens",
    )


class UserLimitsSection(KeyLimitsSection):
    """Limits of every single user of one key, over all models; the key's own limits hold beside them.

    The user of a call is the body's `user` (Anthropic: `metadata.user_id`), or the header `x-tutti-user`; all calls
    that name none are one user's.
    """

    rpd: Annotated[None, BeforeValidator(_no_day)] = setting(
        None,
        "Not for users: what each of them used is kept for minutes, not for a day.",
        kind="nothing",
        unit="requests per day",
    )


class AuthKeySection(Section):
    """One key of the gateway: who calls with it, what they may use and how much of it."""

    name: Name = setting(..., "Unique name of the caller; shown everywhere.", kind="name", example="team-search")
    key: GatewayKey | None = setting(
        None,
        "The key, 8 characters or more; only its SHA-256 is kept. Use an environment variable, or give `key_hash`.",
        kind="text",
        example="${TEAM_SEARCH_KEY}",
    )
    key_hash: KeyHash | None = setting(
        None,
        "Instead of `key`: its SHA-256, as `printf %s KEY | sha256sum` prints it, so that the file holds no key.",
        kind="`sha256:` and 64 hexadecimal digits",
        example="sha256:9f86d081…",
    )
    limits: Annotated[KeyLimitsSection, EMPTY_IF_NULL] = setting(
        KeyLimitsSection, "Limits of this key over all models.", kind="limits", example="{rpm: 600, tpm: 400000}"
    )
    user_limits: Annotated[UserLimitsSection, EMPTY_IF_NULL] = setting(
        UserLimitsSection, "Limits of every single user of this key.", kind="limits", example="{rpm: 20}"
    )
    team: Name | None = setting(
        None, "The team whose budgets its calls count in, and by which use is summed.", kind="name", example="research"
    )
    admin: bool = setting(
        False,
        "Whether it sees everybody's use and budgets under `/api/v1`; other keys see their own.",
        kind="true or false",
        example="true",
    )
    allowed_models: tuple[ModelName, ...] = setting(
        tuple, "Models it may use; all where none is named.", kind="list of models", example="[gpt-5-mini, r1]"
    )
    service_class: ServiceClass = setting(
        ServiceClass.STANDARD,
        "How urgent its calls are. Earlier classes go first; `batch` leaves `batch_headroom` of every limit free.",
        kind="one of " + ", ".join(f"`{each.value}`" for each in ServiceClass),
        example="interactive",
        alias="class",
    )
    weight: Weight = setting(
        1.0,
        "Its share of the pool, relative to other callers of its class, while calls wait.",
        kind="number from 0.001 to 1000",
        example="2.0",
    )


class AuthSection(Section):
    """Who may call. Without any key everybody on this machine may, and nobody else can."""

    keys: tuple[AuthKeySection, ...] = setting(
        tuple,
        "The gateway's keys. Where there is one, every call needs one.",
        kind="list of keys, not empty",
        example="see below",
    )


class CacheSection(Section):
    """Keeps answers for requests that are equal in every field that matters."""

    enabled: bool = setting(False, "Whether answers are kept.", kind="true or false", example="true")
    ttl_s: Annotated[float, BeforeValidator(seconds(1, 2_592_000))] = setting(
        3_600.0, "How long.", kind="number from 1 to 2592000", unit="seconds", example="600"
    )
    scope: Literal["caller", "shared"] = setting(
        "caller",
        "Who is answered from a kept answer: the caller whose request made it, or everybody.",
        kind="`caller` or `shared`",
        example="shared",
    )
    size_mb: Annotated[int, _count(1, 100_000, "64")] = setting(
        64,
        "What may be kept in one replica; the least recently used goes first.",
        kind="whole number from 1 to 100000",
        unit="megabytes",
        example="256",
    )


class CorsSection(Section):
    """Which web pages may call from a browser."""

    origins: tuple[Origin, ...] = setting(
        tuple, "Their origins, or `'*'` for all.", kind="list of origins", example="[https://app.example.com]"
    )


class GatewaySection(Section):
    """How calls of clients are served."""

    queue_max: Annotated[int, _count(0, 1_000_000, "10000")] = setting(
        10_000,
        "Calls that wait in one replica while every account is busy; more are refused with 429.",
        kind="whole number from 0 to 1000000",
        unit="calls",
        example="2000",
    )
    queue_timeout_s: Annotated[float, BeforeValidator(seconds(0, 3_600))] = setting(
        120.0,
        "Longest wait; a client's deadline shortens it.",
        kind="number from 0 to 3600",
        unit="seconds",
        example="30",
    )
    attempts_max: Annotated[int, _count(1, 20, "4")] = setting(
        4,
        "Upstream calls that one call may make, the first included.",
        kind="whole number from 1 to 20",
        unit="calls",
        example="3",
    )
    retry_ratio: Share = setting(
        0.1,
        "Attempts beyond the first that the whole pool may make, as a share of its calls.",
        kind="number from 0 to 1",
        example="0.1",
    )
    batch_headroom: Share = setting(
        0.1,
        "Share of every limit that calls of class `batch` leave free for the others.",
        kind="number from 0 to 1",
        example="0.2",
    )
    idle_timeout_s: Annotated[float, BeforeValidator(seconds(1, 3_600))] = setting(
        60.0,
        "Longest silence of a provider between two events that carry data.",
        kind="number from 1 to 3600",
        unit="seconds",
        example="120",
    )
    classifier: Classifier = setting(
        None,
        "The model that finds the task type of calls to `auto` that name none; false takes them as `general`.",
        kind="model or false",
        example="gpt-5-mini",
        without="false",
    )
    fallbacks: Annotated[dict[str, tuple[ModelName, ...]], EMPTY_IF_NULL] = setting(
        dict,
        "Models that stand in, best first, for a model that a client names. Without it nothing but that model serves.",
        kind="mapping of model to list of models",
        example="{gpt-5-mini: [claude-haiku-4-5]}",
    )
    cache: Annotated[CacheSection, EMPTY_IF_NULL] = setting(
        CacheSection, "Answers that are kept.", kind="cache", example="{enabled: true}"
    )
    cors: Annotated[CorsSection, EMPTY_IF_NULL] = setting(
        CorsSection, "Web pages that may call.", kind="cors", example="{origins: [https://app.example.com]}"
    )
