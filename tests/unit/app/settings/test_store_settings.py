"""The store's address is checked when the configuration is read, and its password is never shown."""

from __future__ import annotations

import pytest

from app import settings
from app.domain.accounts import Orchestra
from app.settings.problems import ConfigurationProblems

ACCOUNT = "accounts: [{name: a, provider: openai, api_key: '${KEY}', models: [gpt-5]}]\ndata_dir: /data\n"
ENVIRON = {"HOME": "/h", "KEY": "k", "PASSWORD": "hunter2"}


def loaded(store: str) -> Orchestra:
    return settings.load_text(f"{ACCOUNT}store: {store}\n", environ=ENVIRON)


def test_the_address_reaches_the_orchestra_and_is_not_shown() -> None:
    """Whatever prints a configuration must not print the password."""
    orchestra = loaded("{url: 'postgresql://tutti:${PASSWORD}@db.example.com:5433/tutti?sslmode=require'}")

    assert orchestra.store_url == "postgresql://tutti:hunter2@db.example.com:5433/tutti?sslmode=require"
    assert "hunter2" not in repr(orchestra)
    assert orchestra.fingerprint != settings.load_text(ACCOUNT, environ=ENVIRON).fingerprint


@pytest.mark.parametrize("store", ["", "{}", "{url: null}"])
def test_without_an_address_the_file_in_the_data_directory_is_taken(store: str) -> None:
    """The default needs no server."""
    assert loaded(store).store_url is None


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("{url: 'mysql://u:hunter2@h/d'}", "must begin with postgresql://"),
        ("{url: 'postgresql://u:hunter2@h'}", "must name a database"),
        ("{url: 'postgresql://u:hunter2@h:99999/d'}", "is not an address"),
        ("{url: 'postgresql://u:hun ter2@h/d'}", "is not an address"),
        ("{url: 'postgresql://u:hunter2#@h/d'}", "is not an address"),
        ("{url: 5}", "must be text"),
        ("{url: ''}", "must begin with postgresql://"),
        ("{url: [postgresql://u:hunter2@h/d]}", "must be text"),
        ("postgresql://u:hunter2@h/d", "store"),
        ("{uri: 'postgresql://u:hunter2@h/d'}", "did you mean 'url'?"),
    ],
)
def test_a_wrong_address_is_refused_without_showing_it(store: str, message: str) -> None:
    """The reader learns what is wrong and what to write; the log learns no password."""
    with pytest.raises(ConfigurationProblems, match="store") as refused:
        loaded(store)

    assert message in refused.value.message
    assert refused.value.line == 3
    assert "hunter2" not in refused.value.message
    assert "hun ter2" not in refused.value.message
