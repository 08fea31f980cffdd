"""Every alert says what fired, why, how it is computed, what to look at and what to do; ids never change."""

from __future__ import annotations

from app.domain.kibana.alerts import RULES
from app.domain.kibana.rules import connector_id, message, new_rule_body, rule_body, rule_id
from app.domain.kibana.saved_objects import Setting

NEEDED = {
    "headroom", "rate limited", "errors", "latency", "first part", "budget", "burn", "stuck run", "ledger imbalance",
    "spool age", "dead letters", "no events",
}  # fmt: skip


def test_every_alert_that_is_needed_is_there_once() -> None:
    """Names make ids: two of one name would be one rule."""
    names = [rule.name for rule in RULES]
    assert set(names) >= NEEDED
    assert len(names) == len(set(names))
    assert len({rule_id(rule, Setting()) for rule in RULES}) == len(RULES)


def test_every_alert_has_words_for_whoever_is_woken() -> None:
    """Whole sentences of all four kinds, and the formula."""
    for rule in RULES:
        words = rule.words
        for text in (words.fired, words.why, words.triage, words.remediation):
            assert text.endswith((".", "?")), (rule.name, text)
            assert len(text) > 20, (rule.name, text)
        assert rule.window in message(rule)
        assert f"{rule.comparator} {rule.threshold:g}" in message(rule)


def test_an_update_says_nothing_that_is_said_once() -> None:
    """The API refuses them; a rule's kind and state are its own."""
    for rule in RULES:
        new, update = new_rule_body(rule, Setting()), rule_body(rule, Setting())
        assert set(new) - set(update) == {"rule_type_id", "consumer", "enabled"}
        actions = update["actions"]
        assert isinstance(actions, list)
        assert isinstance(actions[0], dict)
        assert actions[0]["id"] == connector_id(Setting())
