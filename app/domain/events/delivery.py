"""What became of events that were handed to a receiver, and what follows for the next try.

Pure: chance is an argument. The one rule behind all of it: an event ends as stored, or as a dead letter that a person
can look at; everything else is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.events.spooled import Backlog
from app.domain.retries import full_jitter


class Fate(StrEnum):
    """What became of one event."""

    STORED = "stored"
    ALREADY = "already"
    """Stored by an earlier try whose answer was lost."""
    AGAIN = "again"
    """Not now: the receiver has too much to do. Nothing is wrong with the event."""
    BLOCKED = "blocked"
    """Not until somebody mends its index, or our rights; others may pass."""
    DEAD = "dead"
    """Refused for what it is, now and always."""


class Trouble(StrEnum):
    """Why a whole request came to nothing that is known."""

    IN_DOUBT = "in_doubt"
    """No (complete) answer: some of it may be stored."""
    SLOW = "slow"
    """No answer within the time: as in doubt, and a smaller request may do."""
    BUSY = "busy"
    TOO_LARGE = "too_large"
    """Refused as a whole; its halves may pass, or show which event is at fault."""
    SPOILED = "spoiled"
    """Some of it is refused for good, and it does not say which: its halves show."""
    LOCKED_OUT = "locked_out"
    """Our key is refused: a person must act, nothing is given up."""
    WRONG = "wrong"
    """What answers there is not what we were told: a person must act."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The receiver's word on one event."""

    fate: Fate
    status: int = 0
    reason: str = ""


STORED = Outcome(fate=Fate.STORED, status=201)
ALREADY = Outcome(fate=Fate.ALREADY, status=409)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What a sink says of one request: an outcome for every event, in their order, or a trouble."""

    outcomes: tuple[Outcome, ...] = ()
    trouble: Trouble | None = None
    status: int = 0
    reason: str = ""
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShippingState:
    """How shipping goes from one source, for people; counts since the shipper's start."""

    source: str
    sink: str
    backlog: Backlog | None = None
    """None where the source cannot be asked."""
    in_flight: int = 0
    """Events that are under way now."""
    stored: int = 0
    already: int = 0
    """Were stored before: their first answer was lost."""
    again: int = 0
    """Were refused for the moment; counted every time."""
    dead: int = 0
    requests: int = 0
    batch_docs: int = 0
    trouble: str = ""
    """What is wrong now, in words; empty is well."""
    failures: int = 0
    """Tries in a row that did not store everything."""


_OF_THE_INDEX = frozenset(
    {
        "cluster_block_exception",
        "index_closed_exception",
        "index_not_found_exception",
        "invalid_index_name_exception",
        "validation_exception",
        "unavailable_shards_exception",
    }
)
"""Errors that Elasticsearch gives with a client's status although the index or cluster is at fault (no room for another
shard, closed, read-only, may not be created): a person mends it, and the event passes."""
_BLOCKED = frozenset({401, 403, 404})
_BUSY = frozenset({408, 425, 429})


def judged(status: int, kind: str, reason: str) -> Outcome:
    """Return what a bulk response's item means.

    Args:
        status: The item's own HTTP status.
        kind: The type of its error; empty where there is none.
        reason: The error's words.
    """
    if status in (200, 201):
        return STORED
    if status == 409:
        return ALREADY
    if status in _BLOCKED or kind in _OF_THE_INDEX:
        fate = Fate.BLOCKED
    elif status in _BUSY or not 400 <= status < 500:
        fate = Fate.AGAIN
    else:
        fate = Fate.DEAD
    return Outcome(fate=fate, status=status, reason=f"{kind}: {reason}")


def trouble_of(status: int) -> Trouble:
    """Return what a status of the whole request means, unless it is success."""
    if status in (401, 403):
        return Trouble.LOCKED_OUT
    if status == 413:
        return Trouble.TOO_LARGE
    if status in (408, 425, 429) or status >= 500:
        return Trouble.BUSY
    return Trouble.WRONG


class Pace:
    """How much is sent at once, and how long is waited after a failure.

    Twice as much with every success until the first failure, a tenth more after it; half with every refusal, timeout or
    request that was too large; pauses with full jitter. A size that was too large is not tried again.

    Args:
        docs_max: Most events in one request. Positive.
        bytes_max: Largest request, in bytes. Positive.

    Not thread-safe: its shipper's task is the lock.
    """

    BASE_S = 0.25
    CAP_S = 30.0

    def __init__(self, docs_max: int, bytes_max: int) -> None:
        self._docs_max = docs_max
        self._bytes_max = bytes_max
        self.docs = min(docs_max, 500)
        self.bytes = bytes_max
        self.failures = 0
        self._unhurt = True

    def went_well(self) -> None:
        """Take note that everything of a request was stored."""
        self.failures = 0
        self.docs = min(self._docs_max, self.docs + (self.docs if self._unhurt else self.docs // 10 + 1))
        self.bytes = min(self._bytes_max, self.bytes + self.bytes // 10 + 1)

    def failed(self, trouble: Trouble | None, *, sent_docs: int, sent_bytes: int) -> None:
        """Take note of a failure; None where the receiver wants single events again."""
        self.failures += 1
        self._unhurt = False
        if trouble is Trouble.TOO_LARGE:
            self.failures = 0
            self.docs = max(1, sent_docs // 2)
            self.bytes = max(1, sent_bytes // 2)
            # Whatever is smaller than what was refused may pass; one event alone says nothing about others.
            if sent_docs > 1:
                self._bytes_max = max(1, min(self._bytes_max, sent_bytes - 1))
        elif trouble is Trouble.SPOILED:
            self.failures = 0
            self.docs = max(1, sent_docs // 2)
        elif trouble in (None, Trouble.BUSY, Trouble.SLOW):
            self.docs = max(1, self.docs // 2)

    def pause_s(self, random: float, retry_after_s: float = 0.0) -> float:
        """Return how long to wait before the next try, in seconds.

        Args:
            random: From 0 up to 1.
            retry_after_s: What the receiver asks for; kept to within the longest pause.
        """
        if self.failures == 0:
            return 0.0
        return max(full_jitter(self.failures, self.BASE_S, self.CAP_S, random), min(retry_after_s, self.CAP_S))
