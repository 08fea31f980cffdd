"""Fills scripted replies: ``{name}`` captures, ``$for_each`` lists, and which rule answers a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from pydantic import JsonValue

from app.simulator.config import Reply, ReplyRule
from app.simulator.exchange import ChatRequest

Captures = Mapping[str, str]
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a rule's expression; ``.`` also matches line breaks."""
    return re.compile(pattern, re.DOTALL)


def captures_of(match: re.Match[str]) -> dict[str, str]:
    """Return a match's groups by name and by number; a group that took no part is empty."""
    numbered = {str(index): text or "" for index, text in enumerate((match[0], *match.groups()))}
    return numbered | {name: text or "" for name, text in match.groupdict().items()}


def fill_text(template: str, captures: Captures) -> str:
    """Replace ``{name}`` where ``name`` was captured; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda found: captures.get(found[1], found[0]), template)


def fill_json(template: JsonValue, captures: Captures, text: str) -> JsonValue:
    """Fill every string of a JSON template; ``$for_each`` objects become one item per match in ``text``."""
    if isinstance(template, str):
        return fill_text(template, captures)
    if isinstance(template, list):
        return [fill_json(item, captures, text) for item in template]
    if not isinstance(template, dict):
        return template
    pattern = template.get("$for_each")
    if isinstance(pattern, str):
        item = template["$item"]
        return [fill_json(item, {**captures, **captures_of(found)}, text) for found in compiled(pattern).finditer(text)]
    return {fill_text(name, captures): fill_json(value, captures, text) for name, value in template.items()}


class Script:
    """The scripted replies and how often each rule has answered."""

    def __init__(self, rules: tuple[ReplyRule, ...]) -> None:
        self._rules = rules
        self._answered = [0] * len(rules)

    def find(self, request: ChatRequest, key: str) -> tuple[Reply, Captures] | None:
        """Return the first matching rule's reply with what its expression captured."""
        for index, rule in enumerate(self._rules):
            captures = _match(rule, request, key)
            if captures is None:
                continue
            turn = self._answered[index]
            self._answered[index] += 1
            if rule.sequence:
                return rule.sequence[min(turn, len(rule.sequence) - 1)], captures
            return rule, captures
        return None


def _match(rule: ReplyRule, request: ChatRequest, key: str) -> Captures | None:
    wanted = rule.match
    exact = (
        (wanted.model, request.model),
        (wanted.key, key),
        (wanted.format, request.format),
        (wanted.schema_name, request.schema_name),
    )
    if any(want is not None and want != have for want, have in exact):
        return None
    if wanted.contains is not None and wanted.contains not in request.text:
        return None
    if wanted.body is not None and wanted.body.encode() not in request.body:
        return None
    if wanted.regex is None:
        return {}
    found = compiled(wanted.regex).search(request.text)
    return None if found is None else captures_of(found)
