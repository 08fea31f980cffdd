"""What a webhook is told of a budget; posting itself is shown in tests/integration/test_alerts.py."""

from __future__ import annotations

from actors.alerts import body_of
from app.domain.books.budgets import Ledger, OwnerKind, Window
from app.domain.books.entries import SoftAlert

ALERT = SoftAlert(
    budget_id="team:research:month:UTC",
    owner_kind=OwnerKind.TEAM,
    owner_name="research",
    window=Window.MONTH,
    window_key="2026-11",
    ledger=Ledger.USD,
    limit=50_000_000_000,
    spent=40_500_000_000,
)


def test_webhook_is_told_amounts_in_the_units_people_use() -> None:
    """Dollars as decimal text, tokens as numbers, and one sentence for chat systems."""
    body = body_of(ALERT)

    assert body["text"] == "the month budget of team 'research' is near its end: $40.5 of $50"
    assert (body["spent"], body["limit"], body["owner_name"]) == ("40.5", "50", "research")
