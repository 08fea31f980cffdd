"""A configuration as it may leave the house: what decides how runs are served, and no key, password or person."""

from __future__ import annotations

from dataclasses import asdict
from urllib.parse import urlsplit

from app.domain.accounts import AccountSpec, Orchestra
from app.domain.chat import Json

SHOWN = ("version", "models", "routes", "coordinator", "aliases", "tenant", "prices", "budgets", "notes")
"""Of the configuration; of accounts see ``ACCOUNT_SHOWN``. What is not named here is left out."""
ACCOUNT_SHOWN = ("name", "provider", "models", "limits", "quota_group", "timeout_s", "endpoint", "lookup_lag_s")


def without_secrets(orchestra: Orchestra) -> dict[str, Json]:
    """Return the configuration as plain data."""
    fields = asdict(orchestra)
    shown = {name: _plain(fields[name]) for name in SHOWN}
    return {**shown, "accounts": [_account(account) for account in orchestra.accounts]}


def _account(account: AccountSpec) -> dict[str, Json]:
    fields = asdict(account)
    host = urlsplit(account.base_url).hostname if account.base_url else None
    return {**{name: _plain(fields[name]) for name in ACCOUNT_SHOWN}, "host": host}


def _plain(value: object) -> Json:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
