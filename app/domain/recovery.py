"""What becomes of a provider call that was on its way when its conductor died (docs/durability: recovery).

Decides only; ``services/run_caller`` does it. What can be done depends on what the endpoint offers: most offer nothing,
and then nobody can know whether the call was billed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from app.domain.accounts import OnUnknown
from app.domain.run import CallRecord, CallState

LOST_MAX = 3
"""A call that took its conductor with it so often is not sent again: perhaps it is the cause."""


class EndpointClass(StrEnum):
    """What an endpoint offers to somebody who lost an answer."""

    OPAQUE = "opaque"
    """Nothing: whether the call was billed stays unknown."""
    LOOKUP = "lookup"
    """Calls can be found again under our key, some time after they were made."""
    IDEMPOTENT = "idempotent"
    """The same key again is the same call, billed once."""


Ruling = Literal["buy_again", "give_up"]
"""What that person decided."""


class Decision(StrEnum):
    """What to do with a call."""

    KEEP = "keep"
    """It ended: nothing."""
    SEND = "send"
    """It certainly never left: send it under its own key."""
    RESEND = "resend"
    """Send it again under the same key; it is billed once."""
    LOOK_UP = "look_up"
    """Find it under its key; adopt what is there, and resend once it is certain that nothing will be."""
    RETRY = "retry"
    """Count it as unknown and buy it again under a key of its own."""
    ASK = "ask"
    """Count it as unknown and let a person decide."""
    GIVE_UP = "give_up"
    """Count it as unknown and never send it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """How far recovery may go for one call."""

    on_unknown: OnUnknown = "retry"
    lost_before: int = 0
    """How often this work was lost with its conductor before."""
    ruling: Ruling | None = None
    """What a person decided on it, if one did."""


def recover(call: CallRecord, endpoint: EndpointClass, policy: RecoveryPolicy) -> Decision:
    """Return what to do with ``call`` in a new life of its run's conductor."""
    if call.state is CallState.INTENT:
        return Decision.SEND
    if call.state is CallState.HELD:
        if policy.ruling is None:
            return Decision.ASK
        return Decision.RETRY if policy.ruling == "buy_again" else Decision.GIVE_UP
    if call.state is not CallState.SENT:
        return Decision.KEEP
    if policy.lost_before >= LOST_MAX:
        return Decision.GIVE_UP
    if endpoint is EndpointClass.IDEMPOTENT:
        return Decision.RESEND
    if endpoint is EndpointClass.LOOKUP:
        return Decision.LOOK_UP
    return Decision.ASK if policy.on_unknown == "hold" else Decision.RETRY
