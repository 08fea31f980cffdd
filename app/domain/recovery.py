"""What becomes of a provider call that was on its way when its conductor died (docs/durability: recovery).

Decides only; ``services/run_caller`` does it. What can be done depends on what the endpoint offers: most offer nothing,
and then nobody can know whether the call was billed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from app.domain.accounts import EndpointClass, OnUnknown, Orchestra
from app.domain.run import CallRecord, CallState

LOST_MAX = 3
"""A call that took its conductor with it so often is not sent again: perhaps it is the cause."""


TO_BE_PLACED = ""
"""The account of a call whose account is written down before it is sent: while it says this, it has not left. None: it
is not written down, and the call may be anywhere."""
Ruling = Literal["buy_again", "give_up"]
"""What that person decided."""


_NAMING = frozenset({EndpointClass.REATTACH, EndpointClass.BATCH})


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
    REATTACH = "reattach"
    """Fetch its answer by the name that it has at its provider."""
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


def is_placed(models: Sequence[str], orchestra: Orchestra) -> bool:
    """Tell whether a call of these models has its account written down before it is sent, whichever takes it.

    That is done for endpoints that can be asked again, and costs a commit.
    """
    serving = [account for model in models for account in orchestra.accounts_of(model)]
    return bool(serving) and all(account.endpoint is not EndpointClass.OPAQUE for account in serving)


def endpoint_of(call: CallRecord, orchestra: Orchestra) -> EndpointClass:
    """Return what the endpoint offers that ``call`` was sent to; nothing where that is not known."""
    found = next((account for account in orchestra.accounts if account.name == call.account), None)
    return EndpointClass.OPAQUE if found is None else found.endpoint


def recover(call: CallRecord, endpoint: EndpointClass, policy: RecoveryPolicy) -> Decision:
    """Return what to do with ``call`` in a new life of its run's conductor."""
    if call.state is CallState.INTENT or (call.state is CallState.SENT and call.account == TO_BE_PLACED):
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
    if endpoint in _NAMING and call.provider_id is not None:
        return Decision.REATTACH
    # A batch's name is ours, and on disk before it leaves. The name that a provider gives may be lost on its way to us.
    if endpoint is EndpointClass.BATCH:
        return Decision.SEND
    return Decision.ASK if policy.on_unknown == "hold" else Decision.RETRY
