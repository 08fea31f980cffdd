"""Checks what needs more than one field: unique names, groups that exist, models that somebody serves.

Works on data that may be wrong elsewhere, so that all mistakes are found in one go; where an account's models cannot be
read, nothing is said about models that it might have served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.accounts import EndpointClass, Provider
from app.domain.chat import Json
from app.domain.gateway import AUTO
from app.settings.books_references import check_books
from app.settings.document import Document
from app.settings.events_references import check_events
from app.settings.gateway_references import check_gateway, gateway_models
from app.settings.model_table import ModelTable
from app.settings.problems import FieldPath, did_you_mean, field_name, hide_keys, shown
from app.settings.provider_defaults import KEY_VARIABLES, OPTIONS, PLUGIN_OPTION

_OFFERED = {
    EndpointClass.LOOKUP.value: (Provider.OPENAI.value, Provider.CUSTOM.value),
    EndpointClass.REATTACH.value: (Provider.OPENAI.value, Provider.CUSTOM.value),
    EndpointClass.BATCH.value: (Provider.OPENAI.value, Provider.CUSTOM.value),
    EndpointClass.IDEMPOTENT.value: tuple(kind.value for kind in Provider if kind is not Provider.LOCAL),
}
"""Endpoint classes that an account's provider may be said to have."""
_NEEDS_NO_KEY = frozenset({Provider.CUSTOM.value, Provider.LOCAL.value})


@dataclass(slots=True)
class Offer:
    """Which models accounts serve, as far as that can be read."""

    upstreams: dict[str, list[str]] = field(default_factory=dict)
    """Public name to the names that upstreams know it by."""
    complete: bool = True
    """False where an account's models cannot be read."""
    written: list[str] = field(default_factory=list)
    """The public names as they stand in the source, for messages."""

    def find(self, name: str, table: ModelTable) -> str | None:
        """Return the public name under which ``name``, or what it is an alias of, is served."""
        if name in self.upstreams:
            return name
        for target in (table.aliases.get(name, name), *table.others_of(name)):
            if target in self.upstreams:
                return target
            served = next((public for public, upstreams in self.upstreams.items() if target in upstreams), None)
            if served is not None:
                return served
        return None

    def aliases(self, table: ModelTable) -> list[tuple[str, str]]:
        """Return every name that is not public but stands for a model that is, with the public one."""
        names = [*table.aliases, *(name for upstreams in self.upstreams.values() for name in upstreams), *table.names]
        found = {name: self.find(name, table) for name in names if name not in self.upstreams and name != AUTO}
        return [(name, public) for name, public in found.items() if public is not None]


def check_references(document: Document, data: Mapping[str, Json], failed: set[FieldPath], table: ModelTable) -> None:
    """Report every mistake that spans fields into ``document``."""
    before = len(document.problems)
    accounts = data.get("accounts")
    if isinstance(accounts, list) and not accounts:
        document.report(("accounts",), "empty", "list at least one account, or delete the file")
    offer = Offer(complete=not any(path[0] == "accounts" and path[2:3] == ("models",) for path in failed))
    groups = data.get("quota_groups")
    group_names = list(groups) if isinstance(groups, dict) else []
    names: dict[str, int] = {}
    for index, account in enumerate(accounts if isinstance(accounts, list) else []):
        path: FieldPath = ("accounts", index)
        if not isinstance(account, dict):
            offer.complete = False
            continue
        _check_name(document, account, path, names)
        served = _read_models(document, account, path, offer, table)
        _check_provider(document, account, path)
        _check_limits(document, account, path, served)
        _check_group(document, account, path, group_names)
    _check_group_models(document, groups, offer)
    _check_roles(document, data, offer, table)
    check_gateway(document, data)
    check_books(document, data)
    check_events(document, data)
    # A field whose variable is missing has been reported once; what follows from it is not worth a line.
    spoilt = {field_name(path) for path in failed}
    document.problems[before:] = [item for item in document.problems[before:] if item.path not in spoilt]


def check_data_dir(document: Document, data_dir: Path) -> None:
    """Report a data directory that is a file."""
    path: FieldPath = ("data_dir",)
    written = document.get(path)
    words = repr(str(data_dir)) if written is None else shown(written, path)
    try:
        if data_dir.exists() and not data_dir.is_dir():
            document.report(path, f"{words} is not a directory", "name a directory")
    except OSError as error:
        document.report(path, f"{words} cannot be used: {error.strerror}", "name a directory that you may write to")


def _check_name(document: Document, account: Mapping[str, Json], path: FieldPath, names: dict[str, int]) -> None:
    name = account.get("name")
    if not isinstance(name, str):
        return
    name = name.strip()
    if name in names:
        first = document.line(("accounts", names[name], "name"))
        also = f", first on line {first}" if first else f", first in accounts[{names[name]}]"
        where: FieldPath = (*path, "name")
        document.report(
            where, f"two accounts are called {_written(document, where)}{also}", "give each a name of its own"
        )
    names.setdefault(name, int(path[-1]))


def _read_models(
    document: Document, account: Mapping[str, Json], path: FieldPath, offer: Offer, table: ModelTable
) -> list[str] | None:
    """Add the account's models to ``offer`` and return their public names; None where they cannot be read."""
    written = account.get("models")
    if not isinstance(written, list):
        offer.complete = False
        return None
    if not written:
        document.report((*path, "models"), "empty", "name at least one model, for instance [gpt-5-mini]")
    provider = account.get("provider")
    served: list[str] = []
    readable = True
    for index, entry in enumerate(written):
        pair = served_pair(entry, provider if isinstance(provider, str) else "", table)
        if pair is None:
            offer.complete = readable = False
            continue
        public, upstream = pair
        if public == AUTO:
            document.report(
                (*path, "models", index), f"{AUTO!r} leaves the choice of model to routing", "use another name"
            )
        if public in served:
            document.report((*path, "models", index), "this model stands twice in this account", "keep one of them")
        served.append(public)
        if public not in offer.upstreams:
            offer.written.append(hide_keys(_public_as_written(document.get((*path, "models", index)))))
        offer.upstreams.setdefault(public, []).append(upstream)
    return served if readable else None


def served_pair(entry: object, provider: str, table: ModelTable) -> tuple[str, str] | None:
    """Return (public name, upstream's name) of one entry of ``models``; None where it cannot be read.

    A plain alias of the model table, as ``r1``, stands for its target at the provider that trained it.
    """
    if isinstance(entry, str) and entry.strip():
        name = entry.strip()
        return name, table.upstream_of(name, provider)
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, upstream),) = entry.items()
        if name.strip() and isinstance(upstream, str) and upstream.strip():
            return name.strip(), upstream.strip()
    return None


def _check_provider(document: Document, account: Mapping[str, Json], path: FieldPath) -> None:
    provider = account.get("provider")
    if not isinstance(provider, str) or provider not in {known.value for known in Provider}:
        return
    if provider == Provider.CUSTOM.value and account.get("base_url") is None:
        document.report(
            (*path, "base_url"), "missing; provider 'custom' has no default", "write `base_url: https://host/v1`"
        )
    if provider == Provider.LOCAL.value:
        for key in ("base_url", "api_key"):
            if account.get(key) is not None:
                document.report((*path, key), "provider 'local' takes none", "delete the line")
    endpoint = account.get("endpoint")
    if isinstance(endpoint, str) and provider not in _OFFERED.get(endpoint, (provider,)):
        document.report(
            (*path, "endpoint"), f"provider {provider!r} does not offer {endpoint!r}", "delete the line: it is `opaque`"
        )
    options = account.get("options")
    if isinstance(options, dict) and PLUGIN_OPTION not in options:
        known = [*OPTIONS.get(Provider(provider), {}), PLUGIN_OPTION]
        for key in options:
            if key not in known:
                document.report(
                    (*path, "options", key), f"provider {provider!r} takes no such option", did_you_mean(key, known)
                )
    if provider not in _NEEDS_NO_KEY and account.get("api_key") is None:
        variable = KEY_VARIABLES[Provider(provider)][0]
        document.report((*path, "api_key"), "missing", f"write `api_key: ${{{variable}}}` and export {variable}")


def _check_limits(document: Document, account: Mapping[str, Json], path: FieldPath, served: list[str] | None) -> None:
    overrides = account.get("model_limits")
    for model in overrides if isinstance(overrides, dict) and served is not None else ():
        if served is not None and model not in served:
            document.report(
                (*path, "model_limits", model),
                f"this account does not serve {shown(model)}",
                "name one of the account's models, or add it to them",
            )


def _check_group(document: Document, account: Mapping[str, Json], path: FieldPath, group_names: list[str]) -> None:
    group = account.get("quota_group")
    if not isinstance(group, str):
        return
    where: FieldPath = (*path, "quota_group")
    group = group.strip()
    if group not in group_names:
        document.report(
            where,
            f"no quota group {_written(document, where)} is defined",
            f"{did_you_mean(group, group_names)}; or add it under `quota_groups`",
        )
    for key in ("limits", "model_limits"):
        if account.get(key):
            document.report(
                (*path, key),
                f"conflicts with quota group {_written(document, where)}, whose members share the group's limits",
                "move them to `quota_groups`, or delete this account's `quota_group`",
            )


def _check_group_models(document: Document, groups: Json, offer: Offer) -> None:
    for name, group in groups.items() if isinstance(groups, dict) else ():
        overrides = group.get("model_limits") if isinstance(group, dict) else None
        for model in overrides if isinstance(overrides, dict) else ():
            if offer.complete and model not in offer.upstreams:
                document.report(
                    ("quota_groups", name, "model_limits", model),
                    f"no account serves {shown(model)}",
                    did_you_mean(model, offer.written),
                )


def _check_roles(document: Document, data: Mapping[str, Json], offer: Offer, table: ModelTable) -> None:
    named: list[tuple[FieldPath, Json]] = []
    coordinator = data.get("coordinator")
    if isinstance(coordinator, dict):
        for key in ("model", "judge_model", "clarify_model", "transcribe_model"):
            # An alias of the table for the coordinator falls back to the strongest reasoning model, with a note.
            name = coordinator.get(key)
            if isinstance(name, str) and not (key == "model" and name in table.aliases):
                named.append((("coordinator", key), name))
    routing = data.get("routing")
    for task_type, route in routing.items() if isinstance(routing, dict) else ():
        primary = route.get("primary") if isinstance(route, dict) else None
        if isinstance(primary, list) and not primary:
            document.report(("routing", task_type, "primary"), "empty", "name at least one model")
        for key in ("primary", "fallback"):
            models = route.get(key) if isinstance(route, dict) else None
            for index, name in enumerate(models if isinstance(models, list) else ()):
                named.append((("routing", task_type, key, index), name))
    named.extend(gateway_models(data))
    for path, name in named:
        if isinstance(name, str) and name.strip() and offer.complete and offer.find(name.strip(), table) is None:
            document.report(
                path,
                f"no account serves the model {_written(document, path)}",
                f"add it to an account's `models`; {did_you_mean(str(document.get(path)), offer.written)}",
            )


def _written(document: Document, path: FieldPath) -> str:
    """Return the value for a message as it stands in the source: an expanded variable may hold a secret."""
    return shown(document.get(path), path)


def _public_as_written(entry: Json) -> str:
    return next(iter(entry), "") if isinstance(entry, dict) else str(entry)
