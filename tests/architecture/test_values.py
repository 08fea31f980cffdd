"""What crosses an actor border pickles, and is equal afterwards: every error with all its fields, every plain value."""

from __future__ import annotations

import importlib
import inspect
import pickle
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain import errors
from tests.architecture.any_value import values_of

MODULES = (
    *("chat", "accounts", "plan", "run", "calls", "views", "limits", "load", "leases", "gateway", "callers"),
    *("events.spooled", "events.record", "events.spec", "events.batches", "events.delivery"),
    *(
        "trace_context",
        "books.budgets",
        "books.corrections",
        "books.entries",
        "books.figures",
        "books.prices",
        "books.unknown",
        "books.usage",
        "live_usage",
        "repeats",
    ),
)


def value_classes() -> list[type[Any]]:
    """Return every dataclass of the modules whose values travel."""
    found: list[type[Any]] = []
    for name in MODULES:
        module = importlib.import_module(f"app.domain.{name}")
        own = [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
        found.extend(item for item in own if is_dataclass(item))
    return found


def error_classes() -> list[type[errors.GatewayError]]:
    """Return every class of the error tree."""
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, errors.GatewayError)]


@pytest.mark.parametrize("kind", value_classes(), ids=lambda kind: kind.__name__)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_value_pickles_and_is_equal_after(kind: type[Any], data: st.DataObject) -> None:
    """Ray hands values over by pickling them."""
    value = data.draw(values_of(kind))
    after = pickle.loads(pickle.dumps(value))

    assert after == value
    assert type(after) is type(value)
    assert repr(after) == repr(value)


@pytest.mark.parametrize("kind", value_classes(), ids=lambda kind: kind.__name__)
def test_value_is_frozen_with_slots_and_keywords(kind: type[Any]) -> None:
    """Values are shared by copies everywhere; nobody may change one."""
    parameters = kind.__dataclass_params__

    assert parameters.frozen
    assert "__slots__" in vars(kind)
    assert all(field.kw_only for field in kind.__dataclass_fields__.values())


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_error_pickles_with_all_its_fields(kind: type[errors.GatewayError], data: st.DataObject) -> None:
    """Ray turns an error that does not pickle into one that says nothing."""
    hints = get_type_hints(kind.__init__)
    names = [name for name in inspect.signature(kind).parameters if name != "message"]
    given_fields = {name: data.draw(values_of(hints[name])) for name in names}
    error = kind("what happened", **given_fields)
    after = pickle.loads(pickle.dumps(error))

    assert type(after) is kind
    assert after == error
    assert after.args == error.args
    assert str(after) == "what happened"
    assert after.retry is error.retry
    for name, value in given_fields.items():
        assert getattr(after, name) == value


def test_error_tree_in_the_docstring_is_the_tree() -> None:
    """The drawing is what people read."""
    drawing = errors.__doc__ or ""

    assert len(error_classes()) > 5
    for kind in error_classes():
        assert kind.__name__ in drawing
