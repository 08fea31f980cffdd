"""The part of Kibana's query language that our objects use, as Elasticsearch's queries; the rest is refused.

query = [term {"and" term}]      term = ["not"] field (":" values | comparison value)
"""

from __future__ import annotations

import json
import re
from typing import Any

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\(|\)|>=|<=|>|<|:|[^\s():<>"]+)')
_COMPARISONS = {">=": "gte", "<=": "lte", ">": "gt", "<": "lt"}


def query_of(text: str) -> dict[str, Any]:
    """Return the query for ``text``."""
    tokens = _TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text), f"unknown signs in {text!r}"
    if not tokens:
        return {"match_all": {}}
    held: list[dict[str, Any]] = []
    not_held: list[dict[str, Any]] = []
    while tokens:
        negated = tokens[0] == "not"
        if negated:
            tokens.pop(0)
        (not_held if negated else held).append(_term(tokens))
        if tokens:
            assert tokens.pop(0) == "and", f"only `and` joins terms: {text!r}"
            assert tokens, f"ends with `and`: {text!r}"
    return {"bool": {"filter": held, "must_not": not_held}}


def _term(tokens: list[str]) -> dict[str, Any]:
    field, sign = tokens.pop(0), tokens.pop(0)
    if sign in _COMPARISONS:
        return {"range": {field: {_COMPARISONS[sign]: _value(tokens.pop(0))}}}
    assert sign == ":", f"no sign of KQL: {sign!r}"
    if tokens[0] != "(":
        return _is(field, tokens.pop(0))
    tokens.pop(0)
    cases = [_is(field, tokens.pop(0))]
    while (joined := tokens.pop(0)) != ")":
        assert joined == "or", f"only `or` joins values: {joined!r}"
        cases.append(_is(field, tokens.pop(0)))
    return {"bool": {"should": cases, "minimum_should_match": 1}}


def _is(field: str, token: str) -> dict[str, Any]:
    if token == "*":
        return {"exists": {"field": field}}
    return {"match_phrase" if token.startswith('"') else "match": {field: _value(token)}}


def _value(token: str) -> Any:
    if token.startswith("now-"):
        return token
    return json.loads(token)
