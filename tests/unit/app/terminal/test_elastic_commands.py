"""The commands that prepare Elasticsearch and Kibana: where they go, who signs in, what they print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app import cli
from app.domain.errors import ConfigurationError
from app.domain.events.installing import Done, Installed, Step
from app.domain.kibana.alerts import RULES
from app.domain.kibana.rules import message
from app.terminal.elastic_commands import Reach, tell

ACCOUNTS = """
accounts: [{name: a, provider: openai, api_key: sk-test-a, models: [gpt-5.4-nano]}]
"""
CONFIG = f"""{ACCOUNTS}
events:
  elasticsearch: {{url: "https://elastic.test:9200", api_key: shipper, index_prefix: mine}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that ships."""
    path = tmp_path / "tutti.yaml"
    path.write_text(CONFIG)
    return path


def test_the_configuration_says_where_and_the_installer_who(config: Path) -> None:
    """The shipper's key is not the installer's: naming a user takes its place."""
    plain = Reach(config=config).spec()
    user = Reach(config=config, user="elastic", password="secret", url="http://other.test").spec()

    assert (plain.url, plain.api_key, plain.index_prefix) == ("https://elastic.test:9200", "shipper", "mine")
    assert (user.url, user.api_key, user.username, user.password) == ("http://other.test", None, "elastic", "secret")


def test_without_a_server_it_is_said_what_to_write(tmp_path: Path) -> None:
    """Nothing configured, nothing named."""
    path = tmp_path / "tutti.yaml"
    path.write_text(f"{ACCOUNTS}\nevents: {{keep_days: 3}}\n")
    with pytest.raises(ConfigurationError, match="no Elasticsearch in the configuration"):
        Reach(config=path).spec()
    assert Reach(config=path, url="http://named.test").spec().url == "http://named.test"


def test_what_was_done_is_told_with_the_key_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A mark for each step; the key on standard output alone."""
    steps = (
        Step(what="index template", name="t", done=Done.CHANGED, detail="_meta.version"),
        Step(what="role", name="r", done=Done.UNCHANGED),
    )
    tell(Installed(steps=steps, warnings=("careful",), api_key="KEY=="), dry_run=False, as_json=False)
    wet = capsys.readouterr()
    tell(Installed(steps=steps), dry_run=True, as_json=False)
    dry = capsys.readouterr()

    assert "~ index template t  changed: _meta.version" in wet.out
    assert wet.out.count("KEY==") == 1
    assert "KEY==" not in wet.err
    assert "careful" in wet.err
    assert "would be changed" in dry.out
    assert "r  unchanged" in dry.out


def test_commands_that_alerts_name_exist() -> None:
    """Nobody is sent after a command that there is not."""
    known = set(_commands(typer.main.get_command(cli.app)))
    for rule in RULES:
        for found in re.findall(r"`tutti ([a-z ]+?)(?: [A-Z][A-Z ]*)?`", message(rule)):
            assert found.strip() in known, (rule.name, found)


def _commands(command: Any, path: str = "") -> Iterator[str]:
    for name, inner in getattr(command, "commands", {}).items():
        yield path + name
        yield from _commands(inner, f"{path}{name} ")
