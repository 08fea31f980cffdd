"""Turns a checked configuration into the one value that every actor sees. Reads nothing, refuses nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from app.domain.accounts import AccountSpec, CacheSpec, GatewaySpec, ModelInfo, Orchestra, Provider, Tier
from app.domain.callers import CallerSpec
from app.domain.gateway import Caller
from app.domain.limits import LimitSpec
from app.settings.books_assembly import budgets_of, prices_of, unseen_defaults
from app.settings.events_schema import events_of
from app.settings.gateway_schema import KeyLimitsSection
from app.settings.model_table import ModelTable, Serving, describe_model
from app.settings.provider_defaults import EMBEDDED_CONCURRENCY
from app.settings.references import Offer
from app.settings.roles import Find, cast_roles
from app.settings.schema import AccountSection, ConfigurationFile, GroupSection
from app.settings.sections import LimitsSection
from app.settings.telemetry_schema import telemetry_of

FIRST_VERSION = 1
TINY_NOTE = "Only an embedded model plays every part: small model, real machinery; add a key for quality."


def assemble(file: ConfigurationFile, *, table: ModelTable, data_dir: Path, source: str) -> Orchestra:
    """Return the orchestra that ``file`` describes.

    Args:
        file: Checked, references included.
        table: What is known of models.
        data_dir: Absolute.
        source: Where the configuration came from, for people.
    """
    accounts = tuple(_account(section, file.quota_groups, table) for section in file.accounts)
    notes = _shared_keys(accounts)
    offer = Offer()
    servings: dict[str, list[Serving]] = {}
    for account in accounts:
        for public, upstream in account.models:
            offer.upstreams.setdefault(public, []).append(upstream)
            servings.setdefault(public, []).append(
                Serving(account=account.name, provider=account.provider, upstream=upstream)
            )
    models: list[ModelInfo] = []
    for name, places in servings.items():
        info, said = describe_model(name, tuple(places), file.models.get(name), table)
        models.append(info)
        notes.extend(said)
    speaking = [model for model in models if model.kind == "chat"]
    if not speaking:
        notes.append("Only embedding models are served: no project can be conducted and no chat call served.")
    able = {model.name for model in speaking or models}

    def find_able(name: str) -> str | None:
        found = offer.find(name, table)
        return found if found in able else None

    cast = cast_roles(speaking or models, file.coordinator, file.routing, find_able)
    notes.extend(cast.notes)
    notes.extend(_unused(file, offer, accounts))
    priced = dict.fromkeys(section.model for section in file.prices)
    notes.extend(
        f"No account serves {name!r}, priced under `prices`." for name in priced if not offer.find(name, table)
    )
    budgets = budgets_of(file.budgets, file.tenant)
    notes.extend(unseen_defaults(accounts, budgets))
    if all(model.tier is Tier.TINY for model in models):
        notes.insert(0, TINY_NOTE)
    orchestra = Orchestra(
        version=FIRST_VERSION,
        accounts=accounts,
        models=tuple(models),
        routes=cast.routes,
        coordinator=cast.coordinator,
        data_dir=str(data_dir),
        store_url=file.store.url,
        accounts_per_actor=file.accounts_per_actor,
        aliases=tuple(offer.aliases(table)),
        callers=_callers(file, lambda name: offer.find(name, table)),
        gateway=_gateway(file, lambda name: offer.find(name, table)),
        tenant=file.tenant,
        prices=prices_of(models, servings, file.prices, table, lambda name: offer.find(name, table)),
        budgets=budgets,
        alert_webhook=file.alerts.webhook,
        telemetry=telemetry_of(file.telemetry),
        events=events_of(file.events),
    )
    return _named(orchestra, source, notes)


def _named(orchestra: Orchestra, source: str, notes: Sequence[str]) -> Orchestra:
    content = json.dumps(asdict(orchestra), sort_keys=True, default=str)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    return replace(orchestra, source=source, notes=tuple(notes), fingerprint=fingerprint)


def _account(section: AccountSection, groups: Mapping[str, GroupSection], table: ModelTable) -> AccountSpec:
    models = tuple(
        (public, upstream or table.upstream_of(public, section.provider.value)) for public, upstream in section.models
    )
    group = groups[section.quota_group] if section.quota_group else None
    base: LimitsSection = group or section.limits
    overrides = group.model_limits if group else section.model_limits
    own = section.provider is Provider.LOCAL and group is None
    limits = tuple(
        (public, _limits(base, overrides.get(public), EMBEDDED_CONCURRENCY if own else None)) for public, _ in models
    )
    return AccountSpec(
        name=section.name,
        provider=section.provider,
        api_key=section.api_key or "",
        base_url=section.base_url,
        identity=section.identity,
        models=models,
        limits=limits,
        quota_group=section.quota_group,
        timeout_s=section.timeout_s,
        endpoint=section.endpoint,
        lookup_lag_s=section.lookup_lag_s,
        batch_window_s=section.batch_window_s,
        options=tuple(section.options.items()),
    )


def _limits(base: LimitsSection, override: LimitsSection | None, concurrency_default: int | None) -> LimitSpec:
    given = {name: getattr(base, name) for name in LimitsSection.model_fields}
    if "concurrency" not in base.model_fields_set:
        given["concurrency"] = concurrency_default
    if override is not None:
        given |= {name: getattr(override, name) for name in override.model_fields_set}
    burst_s = given.pop("burst_s")
    return LimitSpec(**given, burst_ms=round(burst_s * 1_000))


def _caller_limits(section: KeyLimitsSection) -> LimitSpec:
    """Return limits that we count ourselves; who says how much may come at once wants a bucket."""
    limits = replace(_limits(section, None, None), counted_from="start")
    if limits.unlimited:
        return LimitSpec()
    bucket = "burst_s" in section.model_fields_set and "window" not in section.model_fields_set
    return replace(limits, window="bucket") if bucket else limits


def _callers(file: ConfigurationFile, find: Find) -> tuple[CallerSpec, ...]:
    """Return the gateway's keys; aliases among the models they may use are resolved."""
    return tuple(
        CallerSpec(
            caller=Caller(
                name=section.name,
                limits=_caller_limits(section.limits),
                user_limits=_caller_limits(section.user_limits),
                # A name that nobody serves stays: an empty list would allow everything.
                allowed_models=tuple(dict.fromkeys(find(name) or name for name in section.allowed_models)),
                service_class=section.service_class,
                weight=section.weight,
                team=section.team or "",
                admin=section.admin,
            ),
            key_sha256=section.key or section.key_hash or "",
        )
        for section in file.auth.keys
    )


def _gateway(file: ConfigurationFile, find: Find) -> GatewaySpec:
    section = file.gateway
    fallbacks: dict[str, list[str]] = {}
    for name, stands_in in section.fallbacks.items():
        model = find(name) or name
        others = [find(other) or other for other in stands_in]
        fallbacks.setdefault(model, []).extend(other for other in others if other != model)
    return GatewaySpec(
        queue_max=section.queue_max,
        queue_timeout_s=section.queue_timeout_s,
        attempts_max=section.attempts_max,
        retry_ratio=section.retry_ratio,
        batch_headroom=section.batch_headroom,
        idle_timeout_s=section.idle_timeout_s,
        classifier=find(section.classifier) if section.classifier else None,
        cache=CacheSpec(
            enabled=section.cache.enabled,
            ttl_s=section.cache.ttl_s,
            scope=section.cache.scope,
            size_bytes=section.cache.size_mb * 1_000_000,
        ),
        cors_origins=section.cors.origins,
        fallbacks=tuple((model, tuple(dict.fromkeys(others))) for model, others in fallbacks.items()),
    )


def _shared_keys(accounts: Sequence[AccountSpec]) -> list[str]:
    """Return notes on accounts that use one key without saying so: each would spend the whole limit."""
    scopes: dict[tuple[str, str | None], dict[str, str]] = {}
    for account in accounts:
        if account.api_key:
            scopes.setdefault((account.api_key, account.base_url), {}).setdefault(account.scope, account.name)
    return [
        f"Accounts {', '.join(repr(name) for name in by_scope.values())} use the same key: together they may exceed "
        "its limit; put them into one quota group."
        for by_scope in scopes.values()
        if len(by_scope) > 1
    ]


def _unused(file: ConfigurationFile, offer: Offer, accounts: Sequence[AccountSpec]) -> list[str]:
    used = {account.quota_group for account in accounts}
    return [
        *(f"No account is in quota group {name!r}." for name in file.quota_groups if name not in used),
        *(
            f"No account serves {name!r}, described under `models`."
            for name in file.models
            if name not in offer.upstreams
        ),
    ]
