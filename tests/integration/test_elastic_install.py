"""`tutti elastic install` against the real Elasticsearch: what it puts is taken, and put once."""

from __future__ import annotations

import itertools

import orjson
import pytest

from app import cli
from app.domain.errors import InternalError
from app.domain.events.fields import FIELDS, FieldType
from app.domain.events.installing import AdminRequests, Done
from app.domain.events.spec import ElasticsearchSpec
from app.services.events.elastic_install import ElasticInstaller, Wish
from app.sinks.admin import AdminClient
from tests.fakes.elastic_admin import FakeElastic
from tests.fixtures.elasticsearch_server import ElasticsearchServer

_numbers = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    """Templates and indices of this test alone."""
    return f"install-{next(_numbers)}"


async def installed(server: AdminRequests, prefix: str, *, dry_run: bool = False) -> dict[str, Done]:
    """Install; return what was done, by piece."""
    found = await ElasticInstaller(server, Wish(prefix=prefix, dry_run=dry_run)).install()
    return {f"{step.what} {step.name}": step.done for step in found.steps}


async def test_the_real_server_and_the_fake_agree(elasticsearch: ElasticsearchServer, prefix: str) -> None:
    """Dry, for the first time, again, and after somebody changed a setting: the same steps from both."""
    client = AdminClient(ElasticsearchSpec(url=elasticsearch.url))
    fake = FakeElastic(lifecycle=elasticsearch.full, security=False)
    said = []
    try:
        for server in (client, fake):
            steps = [await installed(server, prefix, dry_run=True), await installed(server, prefix)]
            steps.append(await installed(server, prefix))
            changed = {"template": {"settings": {"index": {"number_of_shards": 7}}}, "version": 1}
            await server.ask("PUT", f"/_component_template/{prefix}-settings", orjson.dumps(changed))
            steps.append(await installed(server, prefix))
            said.append(steps)
    finally:
        await client.aclose()

    assert said[0] == said[1]
    assert set(said[0][2].values()) == {Done.UNCHANGED, Done.SKIPPED}
    assert said[0][3][f"component template {prefix}-settings"] is Done.CHANGED


async def test_an_index_is_made_from_the_template(elasticsearch: ElasticsearchServer, prefix: str) -> None:
    """The first document of a day finds every field mapped, the alias there, and no setting refused."""
    client = AdminClient(ElasticsearchSpec(url=elasticsearch.url))
    try:
        await installed(client, prefix)
    finally:
        await client.aclose()
    elasticsearch.ask("PUT", f"/{prefix}-2026.11.21/_create/e1", {"@timestamp": "2026-11-21T12:00:00Z", "foreign": 1})
    caps = elasticsearch.ask("GET", f"/{prefix}/_field_caps?fields=*")["fields"]
    settings = elasticsearch.ask("GET", f"/{prefix}-2026.11.21/_settings")[f"{prefix}-2026.11.21"]["settings"]["index"]

    assert {field.path for field in FIELDS} <= set(caps)
    assert "foreign" not in caps
    for field in FIELDS:
        kind = "keyword" if field.type is FieldType.STORED else field.type.value
        assert set(caps[field.path]) == {kind}
    assert caps["gen_ai.system"]["keyword"]["aggregatable"]
    assert settings["codec"] == "best_compression"


async def test_indices_of_before_are_mended(elasticsearch: ElasticsearchServer, prefix: str) -> None:
    """An index of an older schema gets the new fields and the alias; one with guessed fields is only named."""
    old, guessed = f"{prefix}-2026.11.19", f"{prefix}-2026.11.18"
    elasticsearch.ask("PUT", f"/{old}", {"mappings": {"dynamic": False, "_meta": {"schema": "tutti-events/1"}}})
    elasticsearch.ask("PUT", f"/{guessed}/_create/e1", {"event": {"action": "call.finished"}})
    client = AdminClient(ElasticsearchSpec(url=elasticsearch.url))
    try:
        first = await installed(client, prefix)
        again = await installed(client, prefix)
    finally:
        await client.aclose()
    caps = elasticsearch.ask("GET", f"/{prefix}/_field_caps?fields=*")

    assert caps["indices"] == [old]
    assert "tutti.account.id" in caps["fields"]
    assert first[f"fields of index {old}"] is Done.CHANGED
    assert first[f"alias of index {old}"] is Done.CREATED
    assert not any("index 2026" in name or old in name for name in again)


def test_the_command_installs_and_says_so(
    elasticsearch: ElasticsearchServer, prefix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a user types it, with nothing configured."""
    command = ["elastic", "install", "--url", elasticsearch.url, "--prefix", prefix, "--json"]
    status = cli.main([*command, "--dry-run"])
    dry = orjson.loads(capfd.readouterr().out)
    cli.main(command)
    wet = orjson.loads(capfd.readouterr().out)

    assert status == 0
    assert dry["dry_run"]
    assert dry["steps"] == wet["steps"]
    assert {"what": "index template", "name": prefix, "done": "created", "detail": ""} in wet["steps"]


async def test_a_server_that_is_not_there_is_said() -> None:
    """No traceback, and what to check."""
    client = AdminClient(ElasticsearchSpec(url="http://127.0.0.1:9"))
    with pytest.raises(InternalError, match=r"127\.0\.0\.1:9 cannot be reached"):
        await installed(client, "nothing")
    await client.aclose()
