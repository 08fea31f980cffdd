"""Checks what concerns the gateway and needs more than one field: its keys' names, keys given once, models served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.domain.callers import hash_key
from app.domain.chat import Json
from app.domain.gateway import ANONYMOUS
from app.settings.document import Document
from app.settings.problems import FieldPath, shown

NamedModels = list[tuple[FieldPath, Json]]
"""Models that the configuration names, with the place of each; ``references`` checks that somebody serves them."""


@dataclass(slots=True)
class _Seen:
    names: dict[str, int]
    hashes: dict[str, int]


def check_gateway(document: Document, data: Mapping[str, Json]) -> None:
    """Report mistakes in ``auth`` and ``gateway`` into ``document``."""
    auth = data.get("auth")
    keys = auth.get("keys") if isinstance(auth, dict) else None
    if isinstance(keys, list) and not keys:
        document.report(("auth", "keys"), "empty", "list at least one key, or delete `auth`: then no key is needed")
    seen = _Seen({}, {})
    for index, entry in enumerate(keys if isinstance(keys, list) else ()):
        if isinstance(entry, dict):
            _check_key(document, entry, ("auth", "keys", index), seen)
    for model, stands_in in _fallbacks(data):
        path: FieldPath = ("gateway", "fallbacks", model)
        if isinstance(stands_in, list) and not stands_in:
            document.report(path, "empty", "name at least one model, or delete the line")
        if isinstance(stands_in, list) and model in stands_in:
            document.report((*path, stands_in.index(model)), "a model cannot stand in for itself", "name another")


def gateway_models(data: Mapping[str, Json]) -> NamedModels:
    """Return every model that ``auth`` and ``gateway`` name."""
    named: NamedModels = []
    auth = data.get("auth")
    keys = auth.get("keys") if isinstance(auth, dict) else None
    for index, entry in enumerate(keys if isinstance(keys, list) else ()):
        allowed = entry.get("allowed_models") if isinstance(entry, dict) else None
        for place, name in enumerate(allowed if isinstance(allowed, list) else ()):
            named.append((("auth", "keys", index, "allowed_models", place), name))
    gateway = data.get("gateway")
    classifier = gateway.get("classifier") if isinstance(gateway, dict) else None
    if isinstance(classifier, str) and classifier != "false":
        named.append((("gateway", "classifier"), classifier))
    for model, stands_in in _fallbacks(data):
        named.append((("gateway", "fallbacks", model), model))
        for place, name in enumerate(stands_in if isinstance(stands_in, list) else ()):
            named.append((("gateway", "fallbacks", model, place), name))
    return named


def _fallbacks(data: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    gateway = data.get("gateway")
    fallbacks = gateway.get("fallbacks") if isinstance(gateway, dict) else None
    yield from fallbacks.items() if isinstance(fallbacks, dict) else ()


def _check_key(document: Document, entry: Mapping[str, Json], path: FieldPath, seen: _Seen) -> None:
    name, key, key_hash = entry.get("name"), entry.get("key"), entry.get("key_hash")
    if isinstance(name, str):
        where: FieldPath = (*path, "name")
        if name.strip() == ANONYMOUS.name:
            document.report(
                where, f"{ANONYMOUS.name!r} is who calls where no key is configured", "give it another name"
            )
        _check_once(document, where, name.strip(), seen.names, f"two keys are called {shown(document.get(where))}")
    if key is None and key_hash is None and "key" not in entry:
        document.report((*path, "key"), "missing", "write `key: ${NAME}`, or `key_hash: sha256:…`")
    elif key is None and key_hash is None:
        document.report((*path, "key"), "empty", "write `key: ${NAME}`, or `key_hash: sha256:…`")
    elif key is not None and key_hash is not None:
        document.report((*path, "key_hash"), "given beside `key`", "keep one of them")
    elif isinstance(key, str):
        _check_once(document, (*path, "key"), hash_key(key.strip()), seen.hashes, "this key stands twice")
    elif isinstance(key_hash, str):
        digest = key_hash.strip().lower().removeprefix("sha256:")
        _check_once(document, (*path, "key_hash"), digest, seen.hashes, "this key stands twice")


def _check_once(document: Document, path: FieldPath, value: str, seen: dict[str, int], message: str) -> None:
    """Report ``message`` where an earlier key has the same value; ``seen`` holds the position of each value's first."""
    if value in seen:
        document.report(path, f"{message}, first in auth.keys[{seen[value]}]", "give each caller its own")
    seen.setdefault(value, int(path[2]))
