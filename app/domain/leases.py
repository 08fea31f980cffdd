"""Permits: an account actor's word that a call may be sent, held by whoever sends it (architecture.md, section 3).

A permit is an ordinary reservation in the account's limiter, counted as spent from the moment it is granted until its
holder reports what became of it. A holder asks for the calls it has (with their exact sizes, and starts promised a
little ahead), and where an account is far from its limits also for a bundle of spare ones, so that most calls need not
ask at all. Everything here crosses actor borders: frozen, plain, picklable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.domain.calls import Admission
from app.domain.chat import NO_USAGE, LimitObservation, Usage
from app.domain.errors import UpstreamError
from app.domain.load import LoadRow
from app.domain.values import Value

PERMIT_VALID_S = 1.0
"""A spare permit that was not used by then goes back; counted from before it was asked for."""
PERMIT_VALID_MAX_S = 3.0
"""The same where the account is so far from its limits that nobody misses what is held back: fewer messages."""
BUNDLE_MAX = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitWish(Value):
    """One call that wants to be sent."""

    call_id: str
    """Names the permit if it is granted."""
    account: str
    model: str
    input_tokens: int
    output_tokens_max: int
    horizon_s: float = 0.5
    """Grant only what may start within this; else refuse with fresh state."""
    headroom: float = 0.0
    """Share of every limit that must stay free: what batch work leaves to others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleWish(Value):
    """Spare permits of one size, granted only where the account stays far from its limits."""

    account: str
    model: str
    count: int
    input_tokens: int
    output_tokens_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PermitReport(Value):
    """What became of a permit."""

    call_id: str
    ending: Literal["answered", "failed", "cancelled", "withdrawn"]
    """``cancelled``: stopped under way, its use unknown unless ``usage`` says. ``withdrawn``: never sent."""
    usage: Usage = NO_USAGE
    observations: tuple[LimitObservation, ...] = ()
    duration_s: float = 0.0
    ttft_s: float | None = None
    error: UpstreamError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle(Value):
    """Granted spare permits, named ``prefix/0`` to ``prefix/(count - 1)``."""

    prefix: str
    account: str
    model: str
    count: int
    input_tokens: int
    output_tokens_max: int
    valid_s: float = PERMIT_VALID_S

    def call_ids(self) -> Iterator[str]:
        """Yield the names of the permits."""
        return (f"{self.prefix}/{number}" for number in range(self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange(Value):
    """Everything that a holder has to say to one host, in one message."""

    owner: str
    number: int = 0
    """Grows with every message of an owner; one that comes after a later one is void. 0 is not numbered."""
    lost: tuple[int, ...] = ()
    """Messages whose answers never came: nobody knows the permits in them, so they go back."""
    reports: tuple[PermitReport, ...] = ()
    wishes: tuple[PermitWish, ...] = ()
    bundles: tuple[BundleWish, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged(Value):
    """The host's answer."""

    incarnation: str
    """Another one than before: permits of the earlier life are known to nobody any more."""
    epoch: int
    """Grows when spare permits must not be used any more: a provider refused, a key died."""
    admissions: tuple[Admission, ...] = ()
    """One per wish, in order."""
    bundles: tuple[Bundle, ...] = ()
    rows: tuple[LoadRow, ...] = ()
    """Fresh load of what was touched."""
