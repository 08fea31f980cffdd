"""Reads YAML, or plain data, into JSON values with the line of every field, reporting every mistake on the way.

Follows YAML 1.2 where PyYAML's 1.1 would surprise: ``yes`` and ``on`` are text, ``0500`` is not octal, dates are text.
Knows no field; expands nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from app.domain.chat import Json
from app.settings.problems import FieldPath, Problem, field_name, hide_keys

VALUES_MAX = 100_000
"""More values than any configuration has; stops aliases that multiply."""
LEVELS_MAX = 20
"""More levels than the schema has."""
_TAG = "tag:yaml.org,2002:"
_PLAIN_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_SYNTAX_REMEDIES = {
    "found character '\\t' that cannot start any token": "indent with spaces, not tabs",
    "expected ',' or '}', but got '{'": 'inside { } put references into quotes: "${NAME}"',
    "expected ',' or ']', but got '{'": 'inside [ ] put references into quotes: "${NAME}"',
    "mapping values are not allowed here": "put text that holds a colon into quotes, and check the indentation",
}


@dataclass(slots=True)
class Document:
    """A configuration as it was written."""

    data: dict[str, Json] = field(default_factory=dict)
    lines: dict[FieldPath, int] = field(default_factory=dict)
    """Where each field stands, from 1; empty for plain data."""
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: FieldPath) -> int | None:
        """Return the line of the field, or of the nearest field around it."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def report(self, path: FieldPath, message: str, remedy: str, *, line: int | None = None) -> None:
        """Add a mistake at ``path``."""
        self.problems.append(
            Problem(path=field_name(path), message=message, remedy=remedy, line=line or self.line(path))
        )

    def get(self, path: FieldPath) -> Json:
        """Return the value at ``path`` as written; None where there is none."""
        value: Json = self.data
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value


def parse_yaml(text: str) -> Document:
    """Return the document; syntax errors are problems in it, not exceptions."""
    document = Document()
    try:
        root = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = str(error.problem or error.context or "not valid YAML")
        remedy = _SYNTAX_REMEDIES.get(what, "correct the YAML at or just above this line")
        start = error.context_mark
        inside = f", in what begins on line {start.line + 1}" if start and mark and start.line < mark.line else ""
        document.report((), f"not valid YAML: {hide_keys(what)}{inside}", remedy, line=mark.line + 1 if mark else None)
        return document
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.report((), "a control character that YAML forbids", "delete it", line=line)
        return document
    except _TooDeep as error:
        document.report((), "nested too deeply", "write fewer levels", line=error.line)
        return document
    if root is None:
        return document
    value = _Reader(document).read(root, ())
    if isinstance(value, dict):
        document.data = value
    elif not document.problems:
        document.report((), "the top level must be a mapping", "begin with `accounts:`", line=root.start_mark.line + 1)
    return document


def from_mapping(mapping: Mapping[str, object]) -> Document:
    """Return the document of plain data, as Ray Serve hands it over."""
    document = Document()
    value = _plain(mapping, (), document)
    assert isinstance(value, dict), "a mapping becomes one"
    document.data = value
    return document


def _plain(value: object, path: FieldPath, document: Document) -> Json:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if len(path) > LEVELS_MAX:
        document.report(path, "nested too deeply", "write fewer levels")
        return None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                document.report(path, f"the key {key!r} is not text", "put it in quotes")
        return {key: _plain(item, (*path, key), document) for key, item in value.items() if isinstance(key, str)}
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, index), document) for index, item in enumerate(value)]
    document.report(path, f"a value of type {type(value).__name__}", "use text, numbers, true, false, lists, mappings")
    return None


class _TooDeep(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Composes nodes down to a depth; a line of brackets would cost seconds before Python's own limit stops it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._levels = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._levels > LEVELS_MAX:
            raise _TooDeep(self.get_mark().line + 1)
        self._levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1


class _Reader:
    """Turns YAML nodes into JSON values, noting lines."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._open: set[int] = set()
        self._values = 0
        self._constructor = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, path: FieldPath) -> Json:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        self._values += 1
        if self._values > VALUES_MAX or id(node) in self._open:
            if self._values <= VALUES_MAX + 1:
                self._document.report(path, "aliases that never end", "write the values out")
                self._values = VALUES_MAX + 1
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode), "YAML knows three kinds of nodes"
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Json]:
        found: dict[str, Json] = {}
        first_lines: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == f"{_TAG}merge":
                merged.append(value_node)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._document.report(path, "a key that is a list or a mapping", "use text as the key", line=line)
                continue
            key = key_node.value
            where = (*path, key)
            if key in first_lines:
                self._document.report(
                    where,
                    f"the key stands twice, first on line {first_lines[key]}",
                    "keep one of them",
                    line=line,
                )
                continue
            first_lines[key] = line
            self._document.lines[where] = line
            found[key] = self.read(value_node, where)
        for value_node in merged:
            self._merge(found, value_node, path)
        return found

    def _merge(self, found: dict[str, Json], node: yaml.Node, path: FieldPath) -> None:
        """Add what ``<<: *anchor`` brings; keys of the mapping itself win, then earlier merges."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                line = source.start_mark.line + 1
                self._document.report(path, "`<<` takes mappings only", "write `<<: *name`", line=line)
                continue
            brought = self.read(source, path)
            assert isinstance(brought, dict), "a mapping node becomes one"
            for key, value in brought.items():
                found.setdefault(key, value)

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Json:
        text = str(node.value)
        kind = node.tag.removeprefix(_TAG)
        if kind == "bool" and text.lower() not in ("true", "false"):
            return text
        if kind == "timestamp" or (kind == "int" and not _PLAIN_INT.fullmatch(text)):
            return text
        if kind not in ("null", "bool", "int", "float", "str"):
            self._document.report(path, f"the tag {node.tag!r} means nothing here", "delete the tag")
            return None
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, yaml.YAMLError):
            return text
        assert value is None or isinstance(value, bool | int | float | str), "these tags make no other values"
        return value
