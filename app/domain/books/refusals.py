"""What a budget's refusal reads like to whoever wanted to buy."""

from __future__ import annotations

from datetime import UTC, datetime

from app.domain.books.entries import Refusal
from app.domain.errors import QuotaError


def exhausted(refusal: Refusal) -> QuotaError:
    """Return the refusal of a budget: waiting a little is worth nothing, so it names no time to come back."""
    whose = f"the {refusal.window} budget of {refusal.owner_kind} {refusal.owner_name!r}"
    if refusal.reason == "unpriced":
        return QuotaError(
            f"{whose} limits money, and the price of this model is unknown",
            limit=refusal.budget_id,
            retry_after_s=None,
            remedy="configure its price under `prices:`, or ask for another model",
        )
    resets = (
        "" if refusal.resets_s is None else f"wait until {datetime.fromtimestamp(refusal.resets_s, UTC):%F %R} UTC, "
    )
    return QuotaError(
        f"{whose} has no room for this call",
        limit=refusal.budget_id,
        retry_after_s=None,
        remedy=f"{resets}ask for less, or have the budget raised",
    )
