"""The directory brings accounts up, keeps what works when a configuration is wrong, and configures a new life again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from actors import directory as directory_module
from actors.directory import Directory
from app import settings
from app.domain.accounts import AccountSpec, ModelInfo, Orchestra
from app.domain.books.budgets import BudgetSpec
from app.domain.books.prices import PriceRow
from app.domain.errors import ConfigurationError, GatewayError, InternalError
from app.domain.events.spec import EventsSpec
from app.domain.load import LoadRow
from app.domain.telemetry import TelemetrySpec
from app.domain.views import AccountView, LiveCheck


class World:
    """Account actors without Ray: which live, and what they were told."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}
        """Hosts that cannot be created before their event."""
        self.refused: set[str] = set()
        self.living: dict[str, str] = {}
        self.configured: dict[str, list[str]] = {}
        self.versions: dict[str, int] = {}
        self.drained: list[str] = []
        self.books_fail = 0
        """So many times the books cannot be told."""
        self.budgets: list[tuple[int | None, ...]] = []
        """Limits as the books were told them, each time."""
        self.prices: list[set[str]] = []
        self.webhooks: list[str | None] = []

    async def create(self, host: str) -> None:
        if host in self.held:
            await self.held[host].wait()
        if host in self.refused:
            raise InternalError(f"{host} could not be created")
        self.living.setdefault(host, "first life")

    async def sync_books(
        self, budgets: Sequence[BudgetSpec], prices: Sequence[PriceRow], webhook: str | None = None
    ) -> None:
        if self.books_fail:
            self.books_fail -= 1
            raise InternalError("the disk is full")
        self.budgets.append(tuple(budget.limit_nano for budget in budgets))
        self.prices.append({price.model for price in prices})
        self.webhooks.append(webhook)

    async def destroy(self, host: str) -> None:
        self.living.pop(host, None)

    async def configure(
        self,
        host: str,
        version: int,
        accounts: Sequence[AccountSpec],
        models: Sequence[ModelInfo],
        telemetry: TelemetrySpec,
    ) -> None:
        self._check(host)
        self.configured[host] = [account.name for account in accounts]
        self.versions[host] = version

    async def status(self, host: str) -> tuple[str, int, Sequence[LoadRow]]:
        self._check(host)
        return self.living[host], self.versions.get(host, 0), ()

    async def views(self, host: str) -> Sequence[AccountView]:
        self._check(host)
        return [
            AccountView(account=name, provider="custom", model="m", state="healthy") for name in self.configured[host]
        ]

    async def check(self, host: str, account: str) -> LiveCheck:
        self._check(host)
        return LiveCheck(account=account, provider="custom", model="m", ok=True, seconds=0.1, message="answered")

    async def drain(self, host: str, timeout_s: float) -> None:
        self.drained.append(host)

    def restart(self, host: str) -> None:
        """Do what Ray does when an actor dies: a new life that knows nothing."""
        self.living[host] = "second life"
        self.versions.pop(host)
        self.configured.pop(host)

    def _check(self, host: str) -> None:
        if host not in self.living:
            raise InternalError(f"{host} is not running")


class HeardEvents:
    """Who keeps events, without Ray: hears what is configured, and says which life of the store heard it."""

    word = "ok"

    def __init__(self) -> None:
        self.life = "first life"
        self.heard = 0
        self.watched: TelemetrySpec | None = None
        self.told: list[tuple[str, object]] = []
        """(type, actor) of events about actors."""
        self.refused: list[object] = []
        """Why configurations were refused."""

    def emit(self, event_type: str, /, *, at_ns: int | None = None, **values: object) -> None:
        if event_type.startswith("actor."):
            self.told.append((event_type, values["actor"]))
        elif event_type == "configuration.refused":
            self.refused.append(values["reason"])

    async def configure(self, spec: EventsSpec, watched: TelemetrySpec) -> str:
        self.heard += 1
        self.watched = watched
        return self.life

    async def aclose(self) -> None:
        pass


def configuration(*names: str, data_dir: str = "/nowhere", key: str = "k") -> dict[str, object]:
    return {
        "data_dir": data_dir,
        "accounts": [
            {"name": name, "provider": "custom", "api_key": key, "base_url": "http://127.0.0.1:1", "models": ["m"]}
            for name in names
        ],
    }


def orchestra(*names: str, **more: str) -> Orchestra:
    return settings.load_mapping(configuration(*names, **more), source="test", environ={})


@pytest.fixture
async def world() -> World:
    return World()


@pytest.fixture
async def directory(world: World) -> AsyncIterator[Directory]:
    built = Directory(world, world, world)
    yield built
    await built.drain(0.1)


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110  somebody else's state is waited for
            await asyncio.sleep(0.01)


async def started(directory: Directory, configuration: Orchestra) -> None:
    """Start and wait until every account serves."""
    assert await directory.start(configuration)
    async with asyncio.timeout(5):
        while (await directory.ready())["accounts"] != "ok":  # noqa: ASYNC110  as in ``eventually``
            await asyncio.sleep(0.01)


async def test_slow_account_holds_up_nobody(directory: Directory, world: World) -> None:
    """Start returns at once; who is up serves and is looked after, who is not is named, and joins by itself."""
    world.held["account-slow"] = asyncio.Event()
    async with asyncio.timeout(1):
        assert await directory.start(orchestra("slow", "a", "b"))
    assert (await directory.ready())["accounts"] == "starting"

    await eventually(lambda: set(world.configured) == {"account-a", "account-b"})
    snapshot = await directory.watch(-1, 0.0)
    while len(snapshot.hosts) < 2:
        snapshot = await directory.watch(snapshot.version, 1.0)
    assert snapshot.hosts == {"a": "account-a", "b": "account-b"}
    assert (await directory.ready())["accounts"] == "ok; starting: account-slow"
    world.restart("account-a")
    await directory.suspect("account-a")
    await eventually(lambda: world.configured.get("account-a") == ["a"])

    world.held["account-slow"].set()
    await eventually(lambda: world.configured.get("account-slow") == ["slow"])
    assert (await directory.ready())["accounts"] == "ok"


async def test_books_are_told_budgets_and_prices_once_a_configuration(directory: Directory, world: World) -> None:
    """At the start and with every change, and not with each look at the accounts."""
    plain = configuration("a")
    first = settings.load_mapping(
        {
            **plain,
            "budgets": [{"for": "tenant", "window": "day", "usd": 2}],
            "prices": [{"model": "m", "input": 1, "output": 1}],
        },
        source="test",
        environ={},
    )
    await started(directory, first)
    await directory.apply_mapping({**plain, "budgets": [{"for": "tenant", "window": "day", "usd": 3}]})
    await directory.apply_mapping({**plain, "budgets": [{"for": "tenant", "window": "day", "usd": 3}]})

    assert world.budgets == [(2_000_000_000,), (3_000_000_000,)]
    assert world.prices == [{"m"}, set()]


async def test_books_that_cannot_be_told_are_told_later(
    directory: Directory, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accounts come up all the same."""
    monkeypatch.setattr(directory_module, "BOOKS_PERIOD_S", 0.01)
    world.books_fail = 2
    await started(directory, orchestra("a"))

    await eventually(lambda: world.budgets == [()])


async def test_store_that_was_restarted_hears_again_where_alerts_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps no secrets on disk: another life of it would tell nobody that a budget comes near its end."""
    for period in ("BOOKS_PERIOD_S", "EVENTS_PERIOD_S"):
        monkeypatch.setattr(directory_module, period, 0.01)
    events = HeardEvents()
    directory = Directory(world, world, world, events)
    hook = "https://alerts.example/hook"
    given = settings.load_mapping({**configuration("a"), "alerts": {"webhook": hook}}, source="test", environ={})
    await started(directory, given)
    heard = events.heard + 20
    await eventually(lambda: events.heard > heard)
    calm = len(world.webhooks)
    events.life = "second life"
    await eventually(lambda: len(world.webhooks) > calm)
    await directory.drain(0.1)

    assert calm <= 2  # with the configuration, and when the first life was met
    assert set(world.webhooks) == {hook}
    assert [event_type for event_type, actor in events.told if actor == "store"] == [
        *("actor.started", "actor.ended", "actor.started")
    ]


async def test_who_ships_hears_what_is_to_be_reported(world: World) -> None:
    """It learns the configuration of metrics and spans from nobody else."""
    events = HeardEvents()
    directory = Directory(world, world, world, events)
    quiet = {**configuration("a"), "telemetry": {"metrics": False}}
    await started(directory, settings.load_mapping(quiet, source="test", environ={}))
    await eventually(lambda: events.heard > 0)
    await directory.drain(0.1)

    assert events.watched == TelemetrySpec(metrics=False)


async def test_lives_of_an_account_actor_are_told(world: World) -> None:
    """That it died is seen by who looks after it, once, and not by itself."""
    events = HeardEvents()
    directory = Directory(world, world, world, events)
    await started(directory, orchestra("a"))
    world.restart("account-a")
    await directory.suspect("account-a")
    await eventually(lambda: world.configured.get("account-a") == ["a"])
    await eventually(lambda: len([actor for _type, actor in events.told if actor == "account-a"]) == 3)
    await directory.drain(0.1)

    assert [event_type for event_type, actor in events.told if actor == "account-a"] == [
        *("actor.started", "actor.ended", "actor.started")
    ]


async def test_start_that_is_given_up_leaves_accounts_that_are_looked_after(directory: Directory, world: World) -> None:
    """The caller's time is over before an account is up: a second start is told that there is one, and it goes on."""
    world.held["account-a"] = asyncio.Event()
    attempt = asyncio.create_task(directory.start(orchestra("a")))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.wait({attempt})

    assert not await directory.start(orchestra("a"))
    world.held["account-a"].set()
    await eventually(lambda: world.configured.get("account-a") == ["a"])


async def test_account_that_could_not_be_created_says_why_and_is_tried_again(
    directory: Directory, world: World
) -> None:
    """A machine that was full a moment ago may have room now."""
    world.refused.add("account-a")
    await directory.start(orchestra("a"))
    async with asyncio.timeout(5):
        while "could not" not in (word := (await directory.ready())["accounts"]):  # noqa: ASYNC110  as above
            await asyncio.sleep(0.01)
    assert word == "failed: account-a (account-a could not be created)"

    world.refused.clear()
    await directory.suspect("account-a")
    await eventually(lambda: world.configured.get("account-a") == ["a"])


async def test_start_brings_every_account_up_and_a_second_start_changes_nothing(
    directory: Directory, world: World
) -> None:
    """Two ways in on one cluster share one configuration."""
    await started(directory, orchestra("a", "b"))
    assert not await directory.start(orchestra("c"))

    snapshot = await directory.watch(-1, 1.0)
    assert snapshot.hosts == {"a": "account-a", "b": "account-b"}
    assert world.configured == {"account-a": ["a"], "account-b": ["b"]}


async def test_a_new_configuration_adds_removes_and_drains(directory: Directory, world: World) -> None:
    """Removed accounts finish what they have begun."""
    await started(directory, orchestra("a", "b"))
    report = await directory.apply(orchestra("b", "c"))

    assert (report.added, report.removed, report.version) == (("c",), ("a",), 2)
    await eventually(lambda: world.drained == ["account-a"] and "account-a" not in world.living)
    assert world.configured["account-c"] == ["c"]
    assert (await directory.watch(-1, 1.0)).hosts == {"b": "account-b", "c": "account-c"}


async def test_the_same_configuration_again_changes_nothing(directory: Directory) -> None:
    """Every replica applies the same user_config; only the first may count."""
    await started(directory, orchestra("a"))

    report = await directory.apply(orchestra("a"))

    assert (report.version, report.notes) == (1, ("nothing changed",))


async def test_a_moved_data_directory_is_refused(directory: Directory) -> None:
    """The journal cannot move under a running store."""
    await started(directory, orchestra("a"))

    with pytest.raises(ConfigurationError, match="data_dir"):
        await directory.apply(orchestra("a", "b", data_dir="/elsewhere"))


async def test_a_configuration_that_lost_its_keys_is_refused(directory: Directory) -> None:
    """The door may listen on a network since the start; a section that went missing must not open it."""

    def with_keys(*names: str) -> Orchestra:
        keys = [{"name": name, "key": f"key-of-{name}"} for name in names]
        return settings.load_mapping({**configuration("a"), "auth": {"keys": keys}}, source="test", environ={})

    await started(directory, with_keys("one", "two"))
    await directory.apply(with_keys("two"))
    with pytest.raises(ConfigurationError, match=r"auth\.keys cannot be emptied") as refused:
        await directory.apply(orchestra("a"))

    kept = (await directory.watch(-1, 0.0)).orchestra
    assert kept is not None
    assert [spec.caller.name for spec in kept.callers] == ["two"]
    assert refused.value.param == "auth.keys"


async def test_the_store_cannot_move_while_tutti_runs(directory: Directory) -> None:
    """Runs under way live in one database; user_config that names none keeps the one there is."""
    url = "postgresql://tutti:p$w@db/tutti"
    with_store = replace(orchestra("a"), store_url=url)
    await started(directory, with_store)

    with pytest.raises(ConfigurationError, match=r"store\.url cannot change") as refused:
        await directory.apply(orchestra("a", "b"))
    assert "p$w" not in f"{refused.value} {refused.value.remedy}"
    await directory.apply_mapping({"accounts": configuration("a", "b")["accounts"]})
    applied = (await directory.watch(-1, 0.0)).orchestra
    assert applied is not None
    assert applied.store_url == url


async def test_plain_data_keeps_the_data_directory_where_it_names_none(directory: Directory) -> None:
    """Serve's user_config describes accounts, not where the journal lives."""
    await started(directory, orchestra("a"))
    document = configuration("a", "b")
    del document["data_dir"]

    assert (await directory.apply_mapping(document)).added == ("b",)


async def test_a_wrong_file_changes_nothing_and_says_why(tmp_path: Path, world: World) -> None:
    """The file is watched: a mistake must not take the pool down; who asked hears of it, and the audit does."""
    events = HeardEvents()
    directory = Directory(world, world, world, events)
    file = tmp_path / "tutti.yaml"
    text = settings.write_template(environ={}) + f"\ndata_dir: {tmp_path}/data\n"
    file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("data_dir: ~")) + "\n")
    await started(directory, settings.load(file, environ={}))
    before = dict(world.configured)
    file.write_text("accounts: [{name: a, provider: nobody}]\n")

    with pytest.raises(ConfigurationError, match="nobody"):
        await directory.reload()
    after = dict(world.configured)
    await directory.drain(0.1)

    assert after == before
    assert events.refused == ["ConfigurationProblems"]


async def test_a_restarted_account_actor_is_configured_again(directory: Directory, world: World) -> None:
    """Ray restarts it with nothing; whoever reports its silence gets it looked after at once."""
    await started(directory, orchestra("a"))
    world.restart("account-a")
    await directory.suspect("account-a")

    await eventually(lambda: world.configured.get("account-a") == ["a"])


async def test_an_account_that_does_not_answer_is_shown_and_not_offered(directory: Directory, world: World) -> None:
    """Callers must not send work to a dead actor, operators must see it."""
    await started(directory, orchestra("a", "b"))
    world.living.pop("account-a")
    await directory.suspect("account-a")
    for _ in range(200):
        snapshot = await directory.watch(-1, 0.0)
        if snapshot.hosts == {"b": "account-b"}:
            break
        await asyncio.sleep(0.01)

    assert snapshot.hosts == {"b": "account-b"}
    states = {view.account: (view.state, view.last_error) for view in await directory.views()}
    assert states["a"] == ("starting", "account-a is not running")
    checks = {check.account: check.ok for check in await directory.check_live()}
    assert checks == {"a": False, "b": True}


async def test_watching_wakes_with_the_next_version(directory: Directory) -> None:
    """A long poll must not wait out its time when something changes."""
    await started(directory, orchestra("a"))
    version = (await directory.watch(-1, 0.0)).version
    waiting = asyncio.create_task(directory.watch(version, 30.0))

    assert (await asyncio.wait_for(waiting, 5.0)).version > version


async def test_nothing_can_be_applied_before_the_start(directory: Directory) -> None:
    """An empty directory has nothing to compare with."""
    with pytest.raises(GatewayError):
        await directory.apply(orchestra("a"))
