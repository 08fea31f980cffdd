"""Mistakes in a configuration: where each one is, what it is, what to do; and one error that carries them all.

Collects and words; finds nothing by itself. Messages show values as they stand in the source, never after ``${NAME}``
is expanded, and never a key: what a message holds may be printed, logged and sent over HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from app.domain.chat import Json
from app.domain.errors import ConfigurationError

FieldPath = tuple[str | int, ...]
"""Keys and list positions from the top of the document, positions from 0."""

SECRET_FIELDS = frozenset({"api_key", "headers", "key", "password", "store"})
"""Never shown, nor what stands below: the address of the store holds a password."""
SHOWN_CHARS_MAX = 60
# Provider keys as they look when somebody writes one into the wrong field.
_KEY_LIKE = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|key|gsk|xai|ghp|hf)[-_]|AIza|AQ\.)[-_A-Za-z0-9.]{12,}|[A-Za-z0-9_]{32,}"
)
_REFERENCES_ONLY = re.compile(r"(\$\{[A-Za-z_][A-Za-z0-9_]*\}|\s)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake."""

    path: str
    """The field, as ``accounts[0].limits.rpm``; empty for the document as a whole."""
    message: str
    remedy: str
    line: int | None = None
    """Line in the source, from 1; None where the source has no lines."""


class ConfigurationProblems(ConfigurationError):
    """A configuration with mistakes: all of them at once.

    Args:
        problems: At least one; sorted here by line.
        source: The file's path, or another name of where the configuration came from.
    """

    def __init__(self, problems: Iterable[Problem], *, source: str) -> None:
        ordered = tuple(sorted(set(problems), key=lambda problem: (problem.line or 10**9, problem.path)))
        assert ordered, "an error needs a reason"
        first = ordered[0]
        super().__init__(
            _summary(ordered, source),
            param=first.path or None,
            remedy=first.remedy,
            line=first.line,
        )
        self.problems = ordered
        self.source = source


def describe_problems(error: ConfigurationProblems) -> str:
    """Return every mistake with its line, field, message and remedy, a line each; the text of `tutti check`."""
    return error.message


def _summary(problems: tuple[Problem, ...], source: str) -> str:
    count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
    return "\n".join([f"{count} in {source}", *(f"  {_sentence(problem)}" for problem in problems)])


def _sentence(problem: Problem) -> str:
    where = ", ".join(word for word in (f"line {problem.line}" if problem.line else "", problem.path) if word)
    return f"{where}: {problem.message}; {problem.remedy}" if where else f"{problem.message}; {problem.remedy}"


def field_name(path: FieldPath) -> str:
    """Return the path as people write it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key of the user's own may be anything, also a secret in the wrong place.
            text += f".{hide_keys(part)}" if text else hide_keys(part)
    return text


def shown(value: Json, path: FieldPath = ()) -> str:
    """Return ``value`` for a message: short, and without anything that is or looks like a key."""
    if isinstance(value, str):
        if any(part in SECRET_FIELDS for part in path) and not _REFERENCES_ONLY.fullmatch(value):
            return "a value that is not shown"
        text = hide_keys(value)
        return repr(text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if any(part in SECRET_FIELDS for part in path):
        return "a value that is not shown"
    if isinstance(value, int | float):
        return repr(value)
    return "a mapping" if isinstance(value, Mapping) else "a list"


def hide_keys(text: str) -> str:
    """Return ``text`` with everything that looks like a provider's key, or a password in an address, left out."""
    without_login = re.sub(r"//[^/@\s]+@", "//(hidden)@", text)
    without_query = re.sub(r"([?&][^=&\s]*=)[^&\s]+", r"\1(hidden)", without_login)
    return _KEY_LIKE.sub("(hidden)", without_query)


def meant(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that ``word`` was probably meant to be."""
    names = list(known)
    # Swapped letters (rdp for rpd) are the likeliest slip, and the one that similarity ranks low.
    swapped = [name for name in names if sorted(name) == sorted(word.lower())]
    close = swapped or get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a remedy that names the likely word first, then all of them."""
    names = [hide_keys(name) for name in known]
    likely = meant(word, names)
    every = f"known: {', '.join(names)}" if names else "none is known"
    return f"did you mean {likely!r}? {every}" if likely else every
