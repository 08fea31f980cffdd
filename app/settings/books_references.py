"""Checks what concerns the books and needs more than one field: limits given, names that exist, rows given once.

As ``references`` it works on data that may be wrong elsewhere and says nothing of what cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from app.domain.books.budgets import EVERYONE
from app.domain.chat import Json
from app.settings.document import Document
from app.settings.problems import FieldPath, did_you_mean, field_name, shown

_UTC = "UTC"


def check_books(document: Document, data: Mapping[str, Json]) -> None:
    """Report mistakes in ``budgets`` and ``prices`` into ``document``."""
    callers = list(_callers(data))
    names = {
        "key": [name for caller in callers if isinstance(name := caller.get("name"), str)],
        "team": [name for caller in callers if isinstance(name := caller.get("team"), str)],
    }
    seen: dict[tuple[str, ...], FieldPath] = {}
    for path, budget in _entries(data, "budgets"):
        if budget.get("usd") is None and budget.get("tokens") is None:
            document.report(path, "limits nothing", "write `usd:` or `tokens:`, or delete it")
        owner, window, zone = budget.get("for"), budget.get("window"), budget.get("time_zone", _UTC)
        if isinstance(owner, str):
            owner = _squeezed(owner)
            _check_owner(document, (*path, "for"), owner, names)
        if isinstance(owner, str) and isinstance(window, str) and isinstance(zone, str):
            _check_once(document, path, (owner, window, zone.strip()), seen, lambda name: f"the same budget as {name}")
    seen = {}
    for path, price in _entries(data, "prices"):
        model, provider, day = price.get("model"), price.get("provider"), price.get("from")
        if isinstance(model, str):
            place = (model.strip(), str(provider or ""), str(day or ""))
            _check_once(document, path, place, seen, lambda name: f"the same model, provider and day as {name}")


def _callers(data: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    auth = data.get("auth")
    keys = auth.get("keys") if isinstance(auth, dict) else None
    yield from (entry for entry in (keys if isinstance(keys, list) else ()) if isinstance(entry, dict))


def _entries(data: Mapping[str, Json], section: str) -> Iterator[tuple[FieldPath, Mapping[str, Json]]]:
    found = data.get(section)
    for index, entry in enumerate(found if isinstance(found, list) else ()):
        if isinstance(entry, dict):
            yield (section, index), entry


def _squeezed(owner: str) -> str:
    kind, colon, name = owner.partition(":")
    return f"{kind.strip()}{colon}{name.strip()}"


def _check_owner(document: Document, path: FieldPath, owner: str, names: Mapping[str, list[str]]) -> None:
    """Keys and teams are configured, so that one which is not is a slip; users and runs come with the calls."""
    kind, _colon, name = owner.partition(":")
    known = names.get(kind)
    if known is None or not name or name == EVERYONE or name in (item.strip() for item in known):
        return
    said = "no key in `auth.keys` has that name" if kind == "key" else "no key in `auth.keys` has that team"
    document.report(path, f"{said}, found {shown(document.get(path), path)}", did_you_mean(name, sorted(set(known))))


def _check_once(
    document: Document,
    path: FieldPath,
    place: tuple[str, ...],
    seen: dict[tuple[str, ...], FieldPath],
    said: Callable[[str], str],
) -> None:
    if place in seen:
        document.report(path, said(field_name(seen[place])), "keep one of them")
    seen.setdefault(place, path)
