"""What installing into Elasticsearch or Kibana says of itself, and the one way it speaks to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from app.domain.chat import Json


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
