"""The installer prepares what is missing or older, changes nothing twice, and says clearly why it cannot."""

from __future__ import annotations

import pytest

from app.domain.errors import ConfigurationError, ConflictError, InternalError
from app.domain.events.elastic_templates import VERSION, mapped
from app.domain.events.installing import Done, Installed
from app.services.events.elastic_install import ElasticInstaller, Wish
from tests.fakes.elastic_admin import FakeElastic

PREFIX = "tutti-events"


async def install(server: FakeElastic, **wish: bool | int | None) -> Installed:
    """Install with that wish."""
    return await ElasticInstaller(server, Wish(prefix=PREFIX, **wish)).install()  # type: ignore[arg-type]  # by name


def done(installed: Installed) -> dict[str, Done]:
    """Return what was done, by piece."""
    return {f"{step.what} {step.name}": step.done for step in installed.steps}


async def test_a_full_server_gets_every_piece_and_a_key_that_is_told_once() -> None:
    """Lifecycle before the template that names it, components before what is composed of them."""
    server = FakeElastic()
    installed = await install(server)
    puts = [path for method, path in server.changes if method == "PUT"]

    assert puts == [
        f"/_ilm/policy/{PREFIX}",
        f"/_component_template/{PREFIX}-settings",
        f"/_component_template/{PREFIX}-mappings",
        f"/_component_template/{PREFIX}-lifecycle",
        f"/_index_template/{PREFIX}",
        f"/_security/role/{PREFIX}-writer",
        f"/_security/role/{PREFIX}-reader",
    ]
    assert set(done(installed).values()) == {Done.CREATED}
    assert installed.api_key == "ENCODED=="
    assert "ENCODED" not in repr(installed)


async def test_installing_again_changes_nothing() -> None:
    """Whatever the server made of our spelling."""
    server = FakeElastic()
    await install(server)
    server.asked.clear()
    again = await install(server)

    assert server.changes == []
    assert set(done(again).values()) == {Done.UNCHANGED}
    assert again.api_key is None


async def test_a_dry_run_says_the_same_and_changes_nothing() -> None:
    """Also of what would be changed in place."""
    server = FakeElastic()
    server.indices[f"{PREFIX}-2026.11.20"] = {"mappings": {"_meta": {"schema": "tutti-events/1"}, "properties": {}}}
    said = await install(server, dry_run=True)

    assert server.changes == []
    assert done(said) == done(await install(server))
    assert said.api_key is None


async def test_what_is_older_is_changed_and_the_changes_are_named() -> None:
    """A field more, a version more."""
    server = FakeElastic()
    await install(server)
    held = server.kept[f"/_component_template/{PREFIX}-mappings"]
    held["_meta"]["version"] = VERSION - 1
    del held["template"]["mappings"]["properties"]["tutti"]["properties"]["account"]
    changed = await install(server)
    (step,) = [step for step in changed.steps if step.done is Done.CHANGED]

    assert step.name == f"{PREFIX}-mappings"
    assert "tutti.account.id.type" in step.detail
    assert "_meta.version" in step.detail


async def test_what_a_newer_tutti_installed_is_not_undone() -> None:
    """Refused before anything of that piece is written."""
    server = FakeElastic()
    await install(server)
    server.kept[f"/_ilm/policy/{PREFIX}"]["policy"]["_meta"]["version"] = VERSION + 1
    server.asked.clear()
    with pytest.raises(ConflictError, match="newer Tutti"):
        await install(server)
    assert server.changes == []


@pytest.mark.parametrize(
    ("keep_days", "phases"), [(1, {"hot", "delete"}), (30, {"hot", "warm", "delete"}), (None, {"hot", "warm"})]
)
async def test_the_lifecycle_keeps_as_long_as_the_configuration_says(keep_days: int | None, phases: set[str]) -> None:
    """An index is not merged on the day it is deleted; null keeps for ever."""
    server = FakeElastic()
    await install(server, keep_days=keep_days)
    assert set(server.kept[f"/_ilm/policy/{PREFIX}"]["policy"]["phases"]) == phases


async def test_without_lifecycle_and_security_these_pieces_are_left_out_and_said() -> None:
    """No template may name what the server does not know: it would refuse every index."""
    server = FakeElastic(lifecycle=False, security=False)
    skipped = {name for name, what in done(await install(server)).items() if what is Done.SKIPPED}

    assert skipped == {f"lifecycle policy {PREFIX}", f"role {PREFIX}-writer"}
    assert not any("lifecycle" in path or "_security" in path for _, path in server.changes)


async def test_the_shippers_rights_are_the_least_unless_deleting_is_asked_for() -> None:
    """A stolen key must not erase the audit trail."""
    server = FakeElastic()
    await install(server)
    least = server.kept[f"/_security/role/{PREFIX}-writer"]["indices"][0]["privileges"]
    key = server.keys[0]["role_descriptors"][f"{PREFIX}-writer"]["indices"][0]["privileges"]
    widened = await install(server, may_forget=True)
    more = server.kept[f"/_security/role/{PREFIX}-writer"]["indices"][0]["privileges"]

    assert least == key == ["auto_configure", "create_doc", "view_index_metadata"]
    assert more == [*least, "read", "delete", "maintenance"]
    assert server.kept[f"/_security/role/{PREFIX}-writer"]["cluster"] == ["monitor", "read_ilm"]
    assert "--new-key" in widened.warnings[0]
    assert (await install(server, may_forget=True, new_key=True)).api_key == "ENCODED=="


async def test_indices_from_before_get_fields_and_alias_and_guessed_ones_are_named() -> None:
    """Ours are mended; those that were made without our template cannot be."""
    server = FakeElastic()
    old, guessed = f"{PREFIX}-2026.11.19", f"{PREFIX}-2026.11.18"
    server.indices[old] = {"mappings": {"_meta": {"schema": "tutti-events/1"}, "properties": {}}}
    server.indices[guessed] = {"mappings": {"properties": {"event": {"properties": {"id": {"type": "text"}}}}}}
    installed = await install(server)

    assert server.indices[old]["mappings"]["properties"] == mapped()["properties"]
    assert PREFIX in server.indices[old]["aliases"]
    assert "aliases" not in server.indices[guessed]
    assert [guessed in warning for warning in installed.warnings] == [True]


async def test_no_right_is_named_that_the_server_does_not_know() -> None:
    """Without lifecycle management there is no right to read it, and a role that names one is refused."""
    server = FakeElastic(lifecycle=False)
    await install(server)
    assert server.kept[f"/_security/role/{PREFIX}-writer"]["cluster"] == ["monitor"]


@pytest.mark.parametrize(
    ("path", "status", "error", "words"),
    [
        ("/_cluster", 401, ConfigurationError, "does not know whoever signs in"),
        ("/_cluster", 403, ConfigurationError, "may not look at the cluster's health"),
        ("/_cluster", 404, ConfigurationError, "not like an Elasticsearch"),
        ("/_ilm/status", 403, ConfigurationError, "manage_ilm"),
        ("/_index_template", 403, ConfigurationError, "may not read the index template"),
        ("/_component_template", 503, InternalError, "refuses to read the component template"),
        ("/_security/api_key", 403, ConfigurationError, "manage_api_key"),
    ],
)
async def test_refusals_are_said_in_words(path: str, status: int, error: type[Exception], words: str) -> None:
    """Who must do what, for every way of being refused."""
    with pytest.raises(error, match=words):
        await install(FakeElastic(refuse={path: status}))
