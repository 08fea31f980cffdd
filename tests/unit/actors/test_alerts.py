"""What a webhook is told of a budget; posting itself is shown in tests/integration/test_alerts.py."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from actors.alerts import Alerts, body_of
from app.domain.books.budgets import Ledger, OwnerKind, Window
from app.domain.books.entries import SoftAlert
from app.services.events.log_lines import LogLines

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


def test_line_of_a_persons_budget_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """As an event it would name them for ever; `budget.alert`, which goes with their events, says the same."""
    told: list[str] = []

    class Told:
        def emit(self, event_type: str, /, **values: object) -> None:
            told.append(f"{event_type} {values}")

    lines = LogLines(Told())
    logger = logging.getLogger("actors")
    logger.addHandler(lines)
    try:
        Alerts().tell(replace(ALERT, owner_kind=OwnerKind.USER, owner_name="ada"))
        logger.warning("another line")
    finally:
        logger.removeHandler(lines)

    assert "'ada'" in caplog.text
    assert len(told) == 1
    assert "another line" in told[0]
