"""What installing into Elasticsearch or Kibana says of itself, and the one way it speaks to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from app.domain.chat import Json

CHANGES_MAX = 5
"""Changes that are named of one piece; of more the number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminAnswer:
    """A complete answer, whatever its status."""

    status: int
    document: Mapping[str, Json]
    """Empty where it was no JSON object."""
    words: str
    """What it says about itself, where it is no success."""

    @property
    def fine(self) -> bool:
        """Whether it did what it was asked."""
        return 200 <= self.status < 300


class AdminRequests(Protocol):
    """Requests to one server; implemented by ``app/sinks/admin``."""

    url: str
    """For messages."""

    async def ask(self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json") -> AdminAnswer:
        """Make one request.

        Raises:
            InternalError: no complete answer came.
        """


class Done(StrEnum):
    """What was done about one piece, or would be."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    PUT = "put"
    """There now, whatever was there before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One piece of an installation."""

    what: str
    name: str
    done: Done
    detail: str = ""
    """What changed, or why it was skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What an installation did, or would do."""

    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)
    """A new key, encoded as the configuration takes it; told once and kept nowhere."""


def differences(wanted: Json, present: Json) -> tuple[str, ...]:
    """Return the paths at which ``present`` is not as wanted; what it has beside that is the server's.

    Servers give settings back as text and spell nesting their own way: compared is what remains of that.
    """
    have = dict(_leaves(present))
    return tuple(path for path, value in _leaves(wanted) if have.get(path) != value)


def _leaves(value: Json, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(item, f"{path}.{position}")
    elif isinstance(value, list):
        yield path, ", ".join(_scalar(item) for item in value)
    else:
        yield path, _scalar(value)


def _scalar(value: Json) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def at(document: Json, way: tuple[str | int, ...]) -> Json:
    """Return what stands at the end of ``way``; None where it ends early."""
    for step in way:
        if isinstance(document, Mapping) and isinstance(step, str):
            document = document.get(step)
        elif isinstance(document, list) and isinstance(step, int) and step < len(document):
            document = document[step]
        else:
            return None
    return document


def named(changes: tuple[str, ...]) -> str:
    """Return changes for people, not all of them where there are many."""
    # The version first; of the levels of a mapping only the names.
    said = {change.replace(".properties.", ".") for change in changes}
    names = sorted(said, key=lambda name: ("version" not in name, name))
    more = len(names) - CHANGES_MAX
    return ", ".join(names[:CHANGES_MAX]) + (f" and {more} more" if more > 0 else "")
