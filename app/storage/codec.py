"""Turns domain values into JSON text for the journal's columns and back.

Reading validates: a row written by an older version either still fits or fails loudly here, not somewhere later.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import orjson
from pydantic import TypeAdapter

from app.domain.chat import Json, Usage
from app.domain.plan import Plan, Question
from app.domain.run import RunRequest

Value = TypeVar("Value")

REQUEST = TypeAdapter(RunRequest)
PLAN = TypeAdapter(Plan)
USAGE = TypeAdapter(Usage)
QUESTIONS = TypeAdapter(tuple[Question, ...])
ANSWERS = TypeAdapter(tuple[tuple[str, str], ...])
STRINGS = TypeAdapter(tuple[str, ...])


def dump(adapter: TypeAdapter[Value], value: Value) -> str:
    """Return ``value`` as JSON text."""
    return adapter.dump_json(value).decode()


def load(adapter: TypeAdapter[Value], text: str) -> Value:
    """Return the value that ``text`` encodes; raises pydantic.ValidationError where it does not fit."""
    return adapter.validate_json(text)


def dump_json(value: dict[str, Json]) -> str:
    """Return a JSON object as text, keys sorted so that equal objects have equal hashes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def load_json(text: str | bytes) -> dict[str, Json]:
    """Return the JSON object that ``text`` encodes."""
    value = orjson.loads(text)
    assert isinstance(value, dict), "the journal holds objects here"
    return value


def sha256(data: bytes) -> str:
    """Return the content address of ``data``."""
    return hashlib.sha256(data).hexdigest()
