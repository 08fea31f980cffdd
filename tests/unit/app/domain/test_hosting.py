"""Accounts that share a limiter share an actor, and a reload moves nobody."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.accounts import AccountSpec, CoordinatorSpec, Orchestra, Provider
from app.domain.hosting import assign_hosts, host_name


def an_orchestra(*accounts: tuple[str, str | None], packed: int = 1) -> Orchestra:
    return Orchestra(
        version=1,
        accounts=tuple(AccountSpec(name=name, provider=Provider.CUSTOM, quota_group=group) for name, group in accounts),
        models=(),
        routes=(),
        coordinator=CoordinatorSpec(
            model="m", requested_model="m", judge_model="m", clarify_model="m", transcribe_model="m"
        ),
        data_dir="unused",
        accounts_per_actor=packed,
    )


def names(hosts: Mapping[str, tuple[AccountSpec, ...]]) -> dict[str, list[str]]:
    return {host: [account.name for account in accounts] for host, accounts in hosts.items()}


def test_each_account_has_its_actor_and_a_quota_group_has_one() -> None:
    """Two limiters for one organisation's limit would double it."""
    orchestra = an_orchestra(("a", None), ("b", "acme"), ("c", "acme"))

    assert names(assign_hosts(orchestra, {})) == {"account-a": ["a"], "group-acme": ["b", "c"]}


def test_packed_accounts_fill_actors_and_never_split_a_group() -> None:
    """Pools of hundreds must not cost 59 MB an account."""
    orchestra = an_orchestra(("a", None), ("b", "g"), ("c", "g"), ("d", None), ("e", None), packed=2)

    hosts = names(assign_hosts(orchestra, {}))

    assert sorted(name for members in hosts.values() for name in members) == ["a", "b", "c", "d", "e"]
    assert all(len(members) <= 2 for members in hosts.values())
    assert ["b", "c"] in hosts.values()


def test_a_group_larger_than_an_actor_holds_still_has_one() -> None:
    """The limiter comes first, the packing second."""
    orchestra = an_orchestra(*((f"a{index}", "g") for index in range(5)), packed=2)

    assert [len(members) for members in assign_hosts(orchestra, {}).values()] == [5]


def test_a_reload_moves_nobody() -> None:
    """A moved account would leave its limiter behind."""
    before = assign_hosts(an_orchestra(("a", None), ("b", None), ("c", None), packed=2), {})
    after = assign_hosts(an_orchestra(("z", None), ("c", None), ("b", None), ("a", None), packed=2), before)
    home = {account.name: host for host, accounts in before.items() for account in accounts}

    for host, accounts in after.items():
        for account in accounts:
            assert home.get(account.name, host) == host


def test_names_of_actors_are_readable_and_distinct() -> None:
    """They stand in the Ray dashboard; odd names must not collide."""
    assert host_name("account:openai-a") == "account-openai-a"
    assert host_name("account:a b") != host_name("account:a/b")
    assert host_name("account:trà") != host_name("account:tra")
    assert len(host_name("account:" + "x" * 500)) <= 80
