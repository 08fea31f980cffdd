"""Events at rest, as sources hand them out: what waits to be shipped, what was refused for good, how much there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledEvent:
    """One event that waits to be shipped."""

    seq: int
    """Its number at its source; grows, with gaps."""
    event_id: str
    """The document's ``_id``."""
    index_date: str
    """``2026.11.21``: the day of the event's own time, in UTC. The same event is always in the same index."""
    body: bytes
    """The document, serialised once where it happened: one line of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that the receiver refused for good."""

    event_id: str
    type: str
    status: int
    reason: str
    at_s: float
    """When it was refused, in seconds since 1970."""
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What one source still has to ship; dead letters are not in it."""

    count: int
    bytes: int
    oldest_age_s: float
    """0 where nothing waits."""
    dead: int = 0
    dropped: int = 0
    """Since the source was opened, because it was full."""
    note: str = ""
    """What an operator should know: the disk is full, the file was damaged; empty is well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptEvent:
    """One event for people who ask."""

    seq: int
    event_id: str
    time_ns: int
    type: str
    shipped: bool
    body: bytes
