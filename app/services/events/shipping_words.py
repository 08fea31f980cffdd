"""Says how events fare, in a line for people: `/readyz` and `tutti doctor` show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from app.domain.events.delivery import ShippingState

LATE_S = 60.0
"""Older than this waits for something that is wrong."""


def word_of(states: Sequence[ShippingState], note: str = "") -> str:
    """Return "ok", or "ok; " and what a person should know: nothing here keeps Tutti from working.

    Args:
        states: Of every source that is shipped; none where no receiver is configured.
        note: What the spool itself says.
    """
    return "; ".join(["ok", *([note] if note else []), *(said for state in states for said in _said(state))])


def _said(state: ShippingState) -> Iterator[str]:
    backlog = state.backlog
    if backlog is None:
        yield f"the {state.source} of events does not answer"
        return
    if state.trouble or backlog.oldest_age_s > LATE_S:
        waiting = f"{backlog.count} events wait in the {state.source} ({backlog.bytes / 1e6:.1f} MB"
        yield f"{waiting}, the oldest for {backlog.oldest_age_s:.0f} s)" + (
            f": {state.trouble}" if state.trouble else ""
        )
    if backlog.note:
        yield backlog.note
    if backlog.dead:
        yield f"{backlog.dead} events were refused for good: `tutti events dead list`"
