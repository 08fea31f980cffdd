"""Reads single fields of an OpenAI chat body, each with its type and bounds checked.

Every refusal names the field as the client wrote it. Called by ``openai_chat`` and ``openai_chat_messages``; knows no
message and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

import orjson

from app.domain.chat import Json, ToolSpec
from app.domain.errors import RequestError

NAME_CHARS_MAX = 256
"""Longest name, id or label; providers allow 64 to 256."""
TOOLS_MAX = 512
_ROOM = 8
"""Levels that a provider's body adds around a value of ours. The serialiser ends at 254 levels."""


def refuse(param: str, message: str, remedy: str | None = None) -> NoReturn:
    """Raise RequestError for the field ``param``."""
    raise RequestError(message, param=param, remedy=remedy)


def wrong_type(param: str, value: Json, wanted: str) -> NoReturn:
    """Raise RequestError for a value of the wrong type, without showing it."""
    raise RequestError(f"{param} must be {wanted}, not {_type_name(value)}", param=param, remedy=f"send {wanted}")


def as_object(value: Json, param: str) -> dict[str, Json]:
    """Return an object; raises RequestError for anything else."""
    if not isinstance(value, dict):
        wrong_type(param, value, "an object")
    return value


def as_tools(value: Json, read: Callable[[Json, str], ToolSpec]) -> tuple[ToolSpec, ...]:
    """Return the tools of a list, each read by ``read`` with where it stands; none where there is no list."""
    if value is None:
        return ()
    if not isinstance(value, list):
        wrong_type("tools", value, "a list of tools")
    if len(value) > TOOLS_MAX:
        refuse("tools", f"there are {len(value)} tools", f"send at most {TOOLS_MAX}")
    return tuple([read(item, f"tools[{index}]") for index, item in enumerate(value)])


def as_text(value: Json, param: str) -> str:
    """Return a string; raises RequestError for anything else."""
    if not isinstance(value, str):
        wrong_type(param, value, "a string")
    return value


def as_name(value: Json, param: str, *, most: int = NAME_CHARS_MAX) -> str:
    """Return a short, non-empty string; raises RequestError for anything else."""
    if not isinstance(value, str) or not value:
        wrong_type(param, value, "a non-empty string")
    if len(value) > most:
        refuse(param, f"{param} has {len(value)} characters", f"use at most {most}")
    return value


def find_name(fields: Mapping[str, Json], name: str, where: str = "") -> str | None:
    """Return the name at ``name``; None where it is absent or null."""
    value = fields.get(name)
    return None if value is None else as_name(value, where + name)


def find_bool(fields: Mapping[str, Json], name: str, where: str = "") -> bool | None:
    """Return the truth value at ``name``; None where it is absent or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        wrong_type(where + name, value, "true or false")
    return value


def find_count(fields: Mapping[str, Json], name: str, *, least: int, most: int) -> int | None:
    """Return the whole number at ``name``; None where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        wrong_type(name, value, "a whole number")
    if not least <= value <= most:
        refuse(name, f"{name} is {value!r}", f"use {least} to {most}")
    return value


def find_number(fields: Mapping[str, Json], name: str, *, most: float) -> float | None:
    """Return the number from 0 to ``most`` at ``name``; None where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(name, value, "a number")
    if not 0 <= value <= most:
        refuse(name, f"{name} is {value!r}", f"use 0 to {most:g}")
    return value


def schema_of(value: Json, param: str) -> dict[str, Json]:
    """Return a JSON schema, which any provider's body must be able to hold; raises RequestError."""
    schema = as_object(value, param)
    json_text(schema, param)
    return schema


def json_text(value: Json, param: str) -> str:
    """Return ``value`` as JSON text; raises RequestError where it is nested too deeply to be sent on."""
    try:
        text = orjson.dumps(value)
        if isinstance(value, dict | list):
            orjson.dumps(_wrapped(value))
    except TypeError:
        refuse(param, f"{param} is nested too deeply", "use fewer levels")
    return text.decode()


def only(fields: Iterable[str], known: frozenset[str], values: Mapping[str, Json], where: str) -> None:
    """Refuse by name the first of ``fields`` that is set and not ``known``; null and [] count as not set."""
    for name in fields:
        if name not in known and values[name] is not None and values[name] != []:
            param = f"{where}{name}"
            refuse(param, f"{param} is not known here and would be lost", "leave it out")


def _wrapped(value: Json) -> Json:
    for _level in range(_ROOM):
        value = [value]
    return value


def _type_name(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
