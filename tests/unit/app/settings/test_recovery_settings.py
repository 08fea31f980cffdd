"""What happens to lost calls is settled in the configuration: for everything, and for tasks of one type."""

from __future__ import annotations

import pytest

from app import settings
from app.domain.errors import ConfigurationError

BASE = {"accounts": [{"name": "one", "provider": "openai", "api_key": "sk-x", "models": ["gpt-5-mini"]}]}


def test_a_lost_call_is_bought_again_unless_the_configuration_asks_first() -> None:
    """The default keeps runs going; a route may be more careful than the rest."""
    plain = settings.load_mapping(BASE, source="test")
    careful = settings.load_mapping(
        {**BASE, "routing": {"writing": {"primary": ["gpt-5-mini"], "on_unknown": "hold"}}}, source="test"
    )
    all_careful = settings.load_mapping({**BASE, "coordinator": {"on_unknown": "hold"}}, source="test")

    assert plain.coordinator.on_unknown == "retry"
    assert {route.task_type: route.on_unknown for route in careful.routes if route.on_unknown} == {"writing": "hold"}
    assert all_careful.coordinator.on_unknown == "hold"


def test_a_policy_that_does_not_exist_is_refused() -> None:
    """A slip must not decide over paying twice."""
    with pytest.raises(ConfigurationError, match="on_unknown"):
        settings.load_mapping({**BASE, "coordinator": {"on_unknown": "ask"}}, source="test")
