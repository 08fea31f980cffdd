"""Dashboards and rules come into Kibana once, change where ours changed, and a refusal is said in words."""

from __future__ import annotations

import pytest

from app.domain.errors import ConfigurationError, InternalError
from app.domain.events.installing import Done, Installed
from app.domain.kibana.alerts import RULES
from app.domain.kibana.boards import DASHBOARDS, SEARCHES
from app.domain.kibana.rules import rule_id
from app.domain.kibana.saved_objects import Setting
from app.services.events.kibana_install import KibanaInstaller
from tests.fakes.kibana_server import FakeKibana

SETTING = Setting()


async def install(kibana: FakeKibana, *, dry_run: bool = False, space: str = "") -> Installed:
    """Install."""
    return await KibanaInstaller(kibana, SETTING, dry_run=dry_run, space=space).install()


async def test_everything_is_there_afterwards() -> None:
    """One import, a connector, every rule with its words and enabled."""
    kibana = FakeKibana()
    installed = await install(kibana)

    assert len(kibana.objects) == 1 + len(DASHBOARDS) + len(SEARCHES)
    assert len(kibana.rules) == len(RULES)
    assert all(rule["enabled"] and rule["tags"] == ["tutti"] for rule in kibana.rules.values())
    assert len(installed.steps) == len(kibana.objects) + 1 + len(RULES)


async def test_again_changes_no_rule_and_what_somebody_disabled_stays_so() -> None:
    """Whatever the server added to what it was sent."""
    kibana = FakeKibana()
    await install(kibana)
    kibana.rules[rule_id(RULES[0], SETTING)] |= {"enabled": False, "actions": []}
    kibana.asked.clear()
    again = await install(kibana)

    assert kibana.changes == ["/api/saved_objects/_import?overwrite=true"]
    assert {step.done for step in again.steps} == {Done.PUT, Done.UNCHANGED}
    assert not kibana.rules[rule_id(RULES[0], SETTING)]["enabled"]


async def test_a_rule_of_an_older_tutti_is_changed_and_the_change_is_named() -> None:
    """Thresholds are put back to ours, actions are the operator's."""
    kibana = FakeKibana()
    await install(kibana)
    kibana.connectors["mine"] = {}
    kibana.rules[rule_id(RULES[0], SETTING)]["params"]["criteria"][0]["threshold"] = [0.9]
    kibana.rules[rule_id(RULES[0], SETTING)]["actions"] = [{"group": "g", "id": "mine", "connector_type_id": ".email"}]
    changed = [step for step in (await install(kibana)).steps if step.done is Done.CHANGED]

    assert [(step.name, step.detail) for step in changed] == [(RULES[0].title, "params.criteria.0.threshold")]
    assert kibana.rules[rule_id(RULES[0], SETTING)]["params"]["criteria"][0]["threshold"] == [RULES[0].threshold]
    assert [action["id"] for action in kibana.rules[rule_id(RULES[0], SETTING)]["actions"]] == ["mine"]


async def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    """Before the first time."""
    kibana = FakeKibana()
    said = await install(kibana, dry_run=True)
    assert kibana.changes == []
    assert said == await install(kibana)


async def test_a_space_is_in_every_path() -> None:
    """What is one space's is not seen in another."""
    kibana = FakeKibana()
    await install(kibana, space="ops")
    assert all(path.startswith("/s/ops/api/") for _, path in kibana.asked)


@pytest.mark.parametrize(
    ("kibana", "error", "words"),
    [
        (FakeKibana(version="8.8.2"), ConfigurationError, "need 8.9"),
        (FakeKibana(version="?"), ConfigurationError, "not like a Kibana"),
        (FakeKibana(refuse=401), ConfigurationError, "does not know whoever signs in"),
        (FakeKibana(refuse=403), ConfigurationError, "forbids"),
        (FakeKibana(refuse=503), ConfigurationError, "not like a Kibana"),
    ],
)
async def test_refusals_are_said_in_words(kibana: FakeKibana, error: type[Exception], words: str) -> None:
    """Too old, no key, no rights, not ready."""
    with pytest.raises(error, match=words):
        await install(kibana)
    assert kibana.changes == []


async def test_an_object_that_is_refused_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import says success with status 200 and errors inside."""
    monkeypatch.setattr("tests.fakes.kibana_server.mistakes", lambda sent: ["Tutti: overview"])
    with pytest.raises(InternalError, match="Tutti: overview: unknown"):
        await install(FakeKibana())
