"""Turns a checked configuration into the one value that every actor sees. Reads nothing, refuses nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from app.domain.accounts import AccountSpec, ModelInfo, Orchestra, Provider, Tier
from app.domain.limits import LimitSpec
from app.settings.model_table import ModelTable, Serving, describe_model
from app.settings.provider_defaults import EMBEDDED_CONCURRENCY
from app.settings.references import Offer
from app.settings.roles import cast_roles
from app.settings.schema import AccountSection, ConfigurationFile, GroupSection, LimitsSection

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
    cast = cast_roles(models, file.coordinator, file.routing, lambda name: offer.find(name, table))
    notes.extend(cast.notes)
    notes.extend(_unused(file, offer, accounts))
    if all(model.tier is Tier.TINY for model in models):
        notes.insert(0, TINY_NOTE)
    orchestra = Orchestra(
        version=FIRST_VERSION,
        accounts=accounts,
        models=tuple(models),
        routes=cast.routes,
        coordinator=cast.coordinator,
        data_dir=str(data_dir),
        accounts_per_actor=file.accounts_per_actor,
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
