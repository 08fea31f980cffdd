"""Turns domain values into JSON text for the journal's columns and back.

Reading validates: a row written by an older version either still fits or fails loudly here, not somewhere later.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TypeVar

import orjson
from pydantic import TypeAdapter

from app.domain.books.budgets import Owners
from app.domain.chat import Json, Usage
from app.domain.plan import Plan, Question
from app.domain.run import RunRequest

Value = TypeVar("Value")

REQUEST = TypeAdapter(RunRequest)
PLAN = TypeAdapter(Plan)
USAGE = TypeAdapter(Usage)
QUESTIONS = TypeAdapter(tuple[Question, ...])
ANSWERS = TypeAdapter(tuple[tuple[str, str], ...])
BUYERS = TypeAdapter(Owners)
STRINGS = TypeAdapter(tuple[str, ...])

ADDED_LATER = ("budget_usd",)
"""Fields of a request that the first version did not have."""


def dump(adapter: TypeAdapter[Value], value: Value) -> str:
    """Return ``value`` as JSON text."""
    return adapter.dump_json(value).decode()


def dump_request(request: RunRequest) -> str:
    """Return what a run's request asks for as JSON text.

    Who asks has a column of its own, and its trace is not asked for. What is left out is as if it had never been known,
    so that a key of an older version still names the same request.
    """
    values = REQUEST.dump_python(request, mode="json", exclude={"buyers", "trace"})
    for name in ADDED_LATER:
        if values[name] is None:
            del values[name]
    return orjson.dumps(values).decode()


def with_trace(asked: str, request: RunRequest) -> str:
    """Return ``asked``, as ``dump_request`` made it, with the trace that the request is part of."""
    if request.trace is None:
        return asked
    return orjson.dumps({**orjson.loads(asked), "trace": asdict(request.trace)}).decode()


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
