"""Makes instances of our plain values from their type hints, for properties that must hold for all of them."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from app.domain.errors import GatewayError, InternalError, UpstreamError, UpstreamKind
from app.domain.limits import Charge, LimitSpec


class AnyJson:
    """Stands for the recursive alias ``Json``, which type hints cannot resolve."""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    NoneType: st.none(),
    bool: st.booleans(),
    int: st.integers(),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=8),
    bytes: st.binary(max_size=8),
    date: st.dates(),
    AnyJson: _JSON,
    LimitSpec: st.builds(LimitSpec, rpm=st.none() | st.integers(1, 9), burst_ms=st.integers(0, 9)),
    Charge: st.builds(Charge, requests=st.integers(0, 9), input_tokens=st.integers(0, 9)),
    UpstreamError: st.just(UpstreamError("z", kind=UpstreamKind.MINUTE_LIMIT, account="a", retry_after_s=2.0)),
    GatewayError: st.sampled_from(
        [InternalError("x", remedy="y"), UpstreamError("z", kind=UpstreamKind.CUT, account="a", billed=None)]
    ),
}


def values_of(hint: Any, inside: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Return a strategy for the type; a value that may hold its own kind holds none of it."""
    if hint in _PLAIN:
        return _PLAIN[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, UnionType):
        return st.one_of([values_of(argument, inside) for argument in arguments])
    if origin is tuple and arguments[1:] == (...,):
        if arguments[0] in inside:
            return st.just(())
        return st.lists(values_of(arguments[0], inside), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(argument, inside) for argument in arguments))
    if origin is list:
        return st.lists(values_of(arguments[0], inside), max_size=2)
    if origin is dict:
        return st.dictionaries(values_of(arguments[0], inside), values_of(arguments[1], inside), max_size=2)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint, vars(sys.modules[hint.__module__]), {"Json": AnyJson})
        return st.builds(hint, **{field.name: values_of(hints[field.name], (*inside, hint)) for field in fields(hint)})
    raise TypeError(f"no values are known for {hint!r}; add it to _PLAIN")
