"""Reads a JSON value out of what a model answered: rungs 0 to 3 of the repair ladder (prompts.md section 6).

Strips thinking and code fences, parses, repairs syntax without ever inventing a value, coerces what the schema allows
and lists what is still wrong. Pure; the rungs that call a model again are in ``app/services/ask.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from json_repair import repair_json

from app.domain.chat import Json
from app.domain.schema_check import Problem, check, coerced

SOURCE_CHARS_MAX = 200_000
"""Longer answers are not repaired: the tolerant parser is slower than linear."""
NESTING_MAX = 40

_THINK = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What could be read from an answer."""

    value: Json
    """None where ``found`` is false."""
    found: bool
    repaired: bool
    """Syntax was repaired or a value coerced: no longer quite what the model wrote."""
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = field(default=())
    """What the schema still objects to; empty where the value is good."""

    @property
    def good(self) -> bool:
        """True where there is a value and the schema has no objection."""
        return self.found and not self.problems


def is_blank(text: str) -> bool:
    """Tell whether an answer holds nothing: some providers replace what is not JSON by spaces."""
    return not strip_thinking(text).strip("\ufeff\u200b \t\r\n")


def strip_thinking(text: str) -> str:
    """Return ``text`` without think blocks; a lone closing tag ends a block whose start was cut off."""
    text = _THINK.sub("", text)
    text = _THINK_END.sub("", text)
    # An opening tag alone: everything after it is thinking that never ended.
    return re.sub(r"\A\s*<think(?:ing)?>.*\Z", "", text, flags=re.DOTALL | re.IGNORECASE)


def read(text: str, reasoning: str | None, schema: Mapping[str, Json]) -> Reading:
    """Read the value that ``schema`` describes.

    Args:
        text: The answer's content.
        reasoning: The reasoning content, used only where the content is blank: some servers put the JSON there.
        schema: In the subset of ``schema_check``.
    """
    notes: list[str] = []
    body = strip_thinking(text)
    if body != text:
        notes.append("stripped thinking from the answer")
    if is_blank(body) and reasoning:
        body = reasoning
        notes.append("took the JSON from the reasoning content, the answer was blank")
    if is_blank(body):
        return _nothing(notes, "the answer is blank")
    found, value = _parsed(body)
    repaired = False
    if not found:
        found, value = _repaired(body)
        repaired = found
        if found:
            notes.append("repaired the JSON syntax")
    if not found:
        return _nothing(notes, "the answer holds no JSON")
    changes: list[str] = []
    value = coerced(value, schema, changes)
    notes.extend(changes)
    repaired = repaired or any(not change.startswith("dropped") for change in changes)
    return Reading(value=value, found=True, repaired=repaired, notes=tuple(notes), problems=tuple(check(value, schema)))


def numbered(problems: Sequence[Problem]) -> str:
    """Return the problems as the numbered list that a repair prompt shows."""
    return "\n".join(f"{number}. {problem}" for number, problem in enumerate(problems, 1))


def leaves(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Return (path, scalar) of every leaf; an empty object or list is a leaf of its own."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, value


def touched_elsewhere(before: Json, after: Json, problems: Sequence[Problem]) -> list[str]:
    """Return the paths that a repair changed although no problem names them."""
    old, new = dict(leaves(before)), dict(leaves(after))
    changed = [path for path in {**old, **new} if path not in old or path not in new or old[path] != new[path]]
    allowed = tuple(problem.path for problem in problems)
    return [path for path in changed if not any(_under(path, name) or _under(name, path) for name in allowed)]


def unsupported(value: Json, source: str, *, chars_min: int) -> list[str]:
    """Return the paths of strings of ``chars_min`` or more characters that ``source`` does not contain."""
    haystack = _plain(source)
    return [
        path
        for path, item in leaves(value)
        if isinstance(item, str) and len(item) >= chars_min and _plain(item) not in haystack
    ]


def _nothing(notes: list[str], why: str) -> Reading:
    return Reading(
        value=None, found=False, repaired=False, notes=tuple(notes), problems=(Problem(path="", message=why),)
    )


def _parsed(body: str) -> tuple[bool, Json]:
    for candidate in _candidates(body):
        try:
            value = json.loads(candidate, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict | list) and _plain_enough(value):
            return True, value
    return False, None


def _candidates(body: str) -> Iterator[str]:
    """Return what may be the JSON: all of it, each fenced block, then the first bracket to the last."""
    yield body.strip()
    for block in _FENCE.findall(body):
        yield block.strip()
    # Only from the outermost bracket: the list inside of a broken object is not what was asked for.
    starts = {position: closing for opening, closing in ("{}", "[]") if (position := body.find(opening)) >= 0}
    if starts:
        first = min(starts)
        yield body[first : body.rfind(starts[first]) + 1]


def _repaired(body: str) -> tuple[bool, Json]:
    """Repair the syntax of the JSON in ``body``; only where every scalar of the result stands in the source."""
    blocks = [block for block in _FENCE.findall(body) if "{" in block or "[" in block]
    source = blocks[0] if blocks else body
    starts = [position for position in (source.find("{"), source.find("[")) if position >= 0]
    if not starts or len(source) > SOURCE_CHARS_MAX:
        return False, None
    source = source[min(starts) :]
    try:
        value = repair_json(source, return_objects=True, skip_json_loads=True)
    except (ValueError, RecursionError):
        return False, None
    if not isinstance(value, dict | list) or not value or not _plain_enough(value):
        return False, None
    plain = _plain(source)
    if all(_stands_in(item, plain) for _path, item in leaves(value)) and _keys_stand_in(value, source):
        return True, value
    return False, None


def _stands_in(item: Json, plain: str) -> bool:
    if isinstance(item, dict | list):
        return True
    if isinstance(item, str):
        return not item or _plain(item) in plain
    if item is None:
        return "null" in plain or "none" in plain
    if isinstance(item, bool):
        return str(item).casefold() in plain
    return str(item) in plain or (isinstance(item, float) and item.is_integer() and str(int(item)) in plain)


def _keys_stand_in(value: Json, source: str) -> bool:
    if isinstance(value, dict):
        return all(name in source and _keys_stand_in(item, source) for name, item in value.items())
    return all(_keys_stand_in(item, source) for item in value) if isinstance(value, list) else True


def _plain_enough(value: Json, depth: int = 0) -> bool:
    if depth > NESTING_MAX:
        return False
    if isinstance(value, dict):
        return all(_plain_enough(item, depth + 1) for item in value.values())
    if isinstance(value, list):
        return all(_plain_enough(item, depth + 1) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _plain(text: str) -> str:
    """Return ``text`` without escapes, quotes and spaces, as scalars are searched in their source."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match.group(1), 16)), text)
    text = re.sub(r"\\[nrtbf]", "", text)
    return re.sub(r"[\s\\\"'“”‘’]+", "", text).casefold()


def _under(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith((f"{prefix}.", f"{prefix}["))


def _no_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")
