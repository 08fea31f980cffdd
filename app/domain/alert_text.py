"""What people are told when a budget comes near its end: one sentence with the amounts. Pure."""

from __future__ import annotations

from app.domain.books.budgets import Ledger
from app.domain.books.entries import SoftAlert
from app.domain.books.money import usd_from_nano


def alert_text(alert: SoftAlert) -> str:
    """Return the sentence."""
    usd = alert.ledger is Ledger.USD
    spent, limit = (f"${usd_from_nano(each)}" if usd else f"{each:,} tokens" for each in (alert.spent, alert.limit))
    whose = f"the {alert.window} budget of {alert.owner_kind} {alert.owner_name!r}"
    return f"{whose} is near its end: {spent} of {limit}"
