"""Which actor hosts which accounts, and the picture of it that everybody else holds. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app.domain.accounts import AccountSpec, Orchestra, Provider
from app.domain.gateway import Caller
from app.domain.load import LoadRow

CALLERS_HOST = "callers"
"""The actor of the callers' own limits: an account host whose "accounts" are the callers."""
CALLERS_MODEL = "*"
"""A caller's limits hold over all models."""
USERS_PREFIX = "users:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What everybody else knows of the accounts; a new version with every change of membership or load."""

    version: int
    orchestra: Orchestra | None
    hosts: dict[str, str] = field(default_factory=dict)
    """Account name to the actor that serves it; an account that is still starting is missing."""
    load: tuple[LoadRow, ...] = ()


def assign_hosts(
    orchestra: Orchestra, current: Mapping[str, tuple[AccountSpec, ...]]
) -> dict[str, tuple[AccountSpec, ...]]:
    """Return which actor hosts which accounts.

    Accounts of one limiter scope always share an actor; at most ``accounts_per_actor`` accounts (or one scope) share
    one. An account that already has a host keeps it, so that a reload moves nobody. Callers with limits have one host.
    """
    return {**_account_hosts(orchestra, current), **_callers_host(orchestra)}


def caller_account(name: str) -> str:
    """Return the name under which a caller's limits are kept; no account has a colon in its name."""
    return f"caller:{name}"


def users_account(caller: str) -> str:
    """Return the name of what every user of a caller gets: the pattern that their own limiters are made by."""
    return f"{USERS_PREFIX}{caller}"


def user_account(caller: str, user: str) -> str:
    """Return the name under which one user's limits are kept; of bounded length, whatever users are called."""
    digest = hashlib.blake2b(user.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return f"{USERS_PREFIX}{caller}:{digest}"


def find_pattern(account: str) -> str | None:
    """Return the ``users_account`` of a ``user_account``; None for any other name."""
    pattern, colon, _digest = account.rpartition(":")
    return pattern if colon and pattern.startswith(USERS_PREFIX) else None


def is_user(account: str) -> bool:
    """Tell whether that is the name of one user's limits."""
    return account.startswith(USERS_PREFIX)


def caller_specs(callers: Collection[Caller]) -> tuple[AccountSpec, ...]:
    """Return the "accounts" that hold the callers' limits, and what their users get."""
    named = [(caller_account(caller.name), caller.limits) for caller in callers]
    named += [
        (users_account(caller.name), caller.user_limits) for caller in callers if not caller.user_limits.unlimited
    ]
    return tuple(
        AccountSpec(
            name=name,
            provider=Provider.CUSTOM,
            models=((CALLERS_MODEL, CALLERS_MODEL),),
            limits=((CALLERS_MODEL, limits),),
        )
        for name, limits in named
    )


def _callers_host(orchestra: Orchestra) -> dict[str, tuple[AccountSpec, ...]]:
    accounts = caller_specs([spec.caller for spec in orchestra.callers])
    return {CALLERS_HOST: accounts} if accounts else {}


def _account_hosts(
    orchestra: Orchestra, current: Mapping[str, tuple[AccountSpec, ...]]
) -> dict[str, tuple[AccountSpec, ...]]:
    scopes: dict[str, list[AccountSpec]] = {}
    for account in orchestra.accounts:
        scopes.setdefault(account.scope, []).append(account)
    if orchestra.accounts_per_actor <= 1:
        return {host_name(scope): tuple(accounts) for scope, accounts in scopes.items()}
    home = {account.scope: host for host, accounts in current.items() for account in accounts}
    hosts: dict[str, list[AccountSpec]] = {}
    homeless: list[str] = []
    for scope, accounts in scopes.items():
        if scope in home:
            hosts.setdefault(home[scope], []).extend(accounts)
        else:
            homeless.append(scope)
    index = 0
    for scope in homeless:
        while len(hosts.get(f"accounts-{index}", [])) + len(scopes[scope]) > max(
            orchestra.accounts_per_actor, len(scopes[scope])
        ):
            index += 1
        hosts.setdefault(f"accounts-{index}", []).extend(scopes[scope])
    return {host: tuple(accounts) for host, accounts in hosts.items()}


def host_name(scope: str) -> str:
    """Return the readable actor name of a limiter scope; long or odd ones get a hash so that names stay distinct."""
    readable = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in scope.replace(":", "-", 1))
    if readable == scope.replace(":", "-", 1) and len(readable) <= 80:
        return readable
    return f"{readable[:60]}-{hashlib.sha256(scope.encode()).hexdigest()[:8]}"
