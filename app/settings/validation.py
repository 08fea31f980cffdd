"""Checks expanded data against the schema and puts every mistake into words: field, line, remedy.

Field by field only; what needs several fields stands in ``references``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from app.domain.chat import Json
from app.settings.document import Document
from app.settings.problems import FieldPath, did_you_mean, hide_keys, meant, shown
from app.settings.schema import SECTIONS, ConfigurationFile, section_at
from app.settings.sections import Section

_TYPE_WORDS = {
    "list_type": ("must be a list", "write [first, second]"),
    "tuple_type": ("must be a list", "write [first, second]"),
    "dict_type": ("must be a mapping", "write `key: value` lines below it"),
    "model_type": ("must be a mapping", "write `key: value` lines below it"),
    "model_attributes_type": ("must be a mapping", "write `key: value` lines below it"),
    "string_type": ("must be text", "put it in quotes"),
    "bool_type": ("must be true or false", "write true or false"),
    "bool_parsing": ("must be true or false", "write true or false"),
}


def validate_fields(document: Document, data: dict[str, Json], failed: set[FieldPath]) -> ConfigurationFile | None:
    """Return the configuration, or None where a field is wrong; then ``document`` has every mistake.

    Args:
        document: Where the data came from; takes the mistakes.
        data: Its data with variables expanded.
        failed: Fields whose variables could not be expanded; nothing more is said about them.
    """
    try:
        return ConfigurationFile.model_validate(data)
    except ValidationError as error:
        for item in error.errors(include_url=False, include_input=False):
            # A dict's key is at fault where pydantic says so; the field is the mapping's entry.
            path = tuple(part for part in item["loc"] if part != "[key]")
            if path not in failed:
                of_key = path != item["loc"]
                _report(document, path, item["type"], item.get("ctx", {}), of_key=of_key)
        return None


def _report(document: Document, path: FieldPath, kind: str, context: dict[str, Any], *, of_key: bool) -> None:
    found = document.get(path)
    match kind:
        case "extra_forbidden":
            document.report(path, "unknown key", _where_it_belongs(path))
        case "missing":
            section = section_at(path[:-1])
            document.report(path, "missing", _how_to_write(section, str(path[-1])))
        case "tutti":
            found_words = "" if of_key else f", found {shown(found, path)}"
            document.report(path, f"{context['message']}{found_words}", context["remedy"])
        case "enum" | "literal_error":
            section = section_at(path[:-1])
            words = _allowed(section, str(path[-1]))
            document.report(
                path,
                f"unknown {str(path[-1]).replace('_', ' ')} {shown(found, path)}",
                did_you_mean(found if isinstance(found, str) else "", words),
            )
        case _:
            message, remedy = _TYPE_WORDS.get(kind, ("is not valid", "see docs/configuration.md"))
            if message == "must be a list" and isinstance(found, str) and path[-1] != "accounts":
                remedy = f"write [{hide_keys(found)}]"
            document.report(path, f"{message}, found {shown(found, path)}", remedy)


def _where_it_belongs(path: FieldPath) -> str:
    key = str(path[-1])
    section = section_at(path[:-1])
    known: Sequence[str] = list(section.by_key()) if section else []
    if key not in known and meant(key, known) is None:
        for place, other in SECTIONS.items():
            if key in other.by_key():
                return f"it belongs to `{place}`" if place else "it belongs to the top level"
    return did_you_mean(key, known)


def _how_to_write(section: type[Section] | None, key: str) -> str:
    field = section.by_key().get(key) if section else None
    extra = field.json_schema_extra if field else None
    if key == "accounts":
        return "list at least one account, or delete the file to use the keys in the environment"
    return f"write for instance `{key}: {extra['example']}`" if isinstance(extra, dict) else "add it"


def _allowed(section: type[Section] | None, key: str) -> list[str]:
    """Return the words that a closed field takes, from its schema."""
    if section is None:
        return []
    schema = section.model_json_schema()
    words: list[str] = []
    pending = [schema["properties"].get(key, {})]
    while pending:
        part = pending.pop()
        words.extend(str(word) for word in part.get("enum", []))
        pending.extend(part.get("anyOf", []))
        if "$ref" in part:
            pending.append(schema["$defs"][part["$ref"].rsplit("/", 1)[-1]])
    return words
