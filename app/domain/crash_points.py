"""Named points between which a process may die while it spends money: for tests that kill it exactly there.

Compiled in and free when off: one look at one attribute. ``settings/crash_points`` puts a deed in force, and only where
the environment names a point. The order is that of a call, then that of a restart.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class CrashPoint(StrEnum):
    """Where a process can be made to die."""

    BEFORE_HOLD = "before-hold"
    """A call is about to be made; the books know nothing of it."""
    HELD = "held"
    """Its ceiling is held, durably."""
    BEFORE_SEND = "before-send"
    """The request is made up; no byte of it has left."""
    ACCEPTED = "accepted"
    """The provider's first byte is there: from here on the call is billed."""
    RECEIVED = "received"
    """The whole answer is in memory."""
    BEFORE_SETTLE = "before-settle"
    """How it ended is about to be told to the books."""
    SETTLED = "settled"
    """The books have it, durably."""
    RECOVERING = "recovering"
    """What an earlier life left open was found; nothing was done about it yet."""
    RECOVERED = "recovered"
    """The books know what became of it, durably."""


class _Armed:
    """Holds the deed; a class, so that looking costs no call."""

    deed: Callable[[CrashPoint], None] | None = None


def passes(point: CrashPoint) -> None:
    """Say that this process is at ``point``."""
    if _Armed.deed is not None:
        _Armed.deed(point)


def arm(deed: Callable[[CrashPoint], None] | None) -> None:
    """Have ``deed`` called at every point from now on; None switches the points off."""
    _Armed.deed = deed
