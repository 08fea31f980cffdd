"""`tutti events` reads what is kept on this machine, server or not, and forgets a person in every place."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors.store import Store
from app import cli, settings
from app.domain.books.budgets import Owners
from app.domain.books.entries import Settle, UsageEntry
from app.domain.chat import Usage
from app.domain.errors import CapacityError
from app.domain.events.record import EventIds, Origin, Recorder
from app.domain.events.schema import TYPES
from app.domain.events.spec import EventsSpec, FileSpec
from app.storage.spool import Spool
from app.terminal import events_commands
from app.terminal.told import tell

CONFIG = """\
data_dir: DIRECTORY
accounts:
  - {name: openai-a, provider: openai, api_key: k, models: [gpt-5-mini]}
"""


class Machine:
    """A data directory with events in both places, and the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tutti.yaml"
        self.data_dir = folder / "data"
        self.config.write_text(CONFIG.replace("DIRECTORY", str(self.data_dir)), encoding="utf-8")
        self.now_s = time.time()

    def play(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, [*arguments, "--config", str(self.config)])

    def found(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.play("events", "--json", *arguments)
        assert result.exit_code == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    def tell(self, *told: tuple[str, float, dict[str, object]]) -> None:
        """Write events into the spool: type, seconds ago, values."""
        recorder = Recorder(Origin(node="test-1"), EventIds(int(time.time_ns())))
        spool = Spool(self.data_dir / "events.sqlite", bytes_max=10**7, wall_s=time.time)
        spool.append(
            [recorder.record(kind, int((self.now_s - ago_s) * 1e9), values) for kind, ago_s, values in told],
            ships=False,
        )
        spool.close()

    def book(self, *users: str, ago_s: float = 5.0) -> None:
        """Write a posting for each of them into the outbox."""

        async def work() -> None:
            store = Store(str(self.data_dir))
            await store.apply_books([Settle(hold_id=None, entries=self.entries(users, ago_s), at_s=0.0)])
            await store.close()

        asyncio.run(work())

    def entries(self, users: Sequence[str], ago_s: float) -> tuple[UsageEntry, ...]:
        usage = Usage(input_tokens=3, output_tokens=4)
        return tuple(
            UsageEntry(
                entry_id=f"e-{user}",
                at_s=self.now_s - ago_s,
                owners=Owners(tenant="acme", user=user),
                usage=usage,
                account="openai-a",
            )
            for user in users
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_events_of_both_places_come_in_the_order_in_which_they_happened(machine: Machine) -> None:
    """Spool and outbox are one story; what is older than asked stays away."""
    machine.book("ann")
    machine.tell(
        ("call.retried", 3.0, {"account": "openai-a"}),
        ("limit.hit", 7.0, {"user": "ann"}),
        ("limit.hit", 900.0, {"user": "ann"}),
    )

    assert [each["event.action"] for each in machine.found()] == ["limit.hit", "call.finished", "call.retried"]
    assert len(machine.found("--since", "20m")) == 4
    assert [each["event.action"] for each in machine.found("--limit", "2")] == ["call.finished", "call.retried"]


def test_conditions_name_fields_by_either_name_and_are_all_met(machine: Machine) -> None:
    """The same field twice: either value."""
    machine.book("ann", "bob")
    machine.tell(("call.retried", 3.0, {"account": "openai-a", "http_status": 429}))

    def count(*conditions: str) -> int:
        return len(machine.found(*(word for each in conditions for word in ("--where", each))))

    assert count("account=openai-a") == 3
    assert count("tutti.account.id=openai-a", "type=call.finished") == 2
    assert count("user=ann") == 1
    assert count("user=ann", "user=bob") == 2
    assert count("user=ann", "type=call.retried") == 0
    assert count("http_status=429") == 1


def test_lines_for_people_are_short_and_hold_no_control_characters(machine: Machine) -> None:
    """An escape sequence in a name must not reach the terminal."""
    machine.tell(("call.retried", 3.0, {"account": "a\x1b[31m", "http_status": 429, "reason": "failover"}))
    line = machine.play("events").stdout

    assert "call.retried" in line
    assert "http_status=429 reason=failover" in line
    assert "\x1b" not in line
    assert "service" not in line


def test_machine_without_events_has_none(machine: Machine) -> None:
    """No file, no database, no failure."""
    assert machine.found() == []


@pytest.mark.parametrize(
    "arguments",
    [("--where", "account"), ("--where", "colour=red"), ("--where", "type=call.finnished"), ("--since", "yesterday")],
)
def test_question_that_makes_no_sense_is_refused(machine: Machine, arguments: tuple[str, ...]) -> None:
    """With what to write instead."""
    result = machine.play("events", *arguments)

    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_types_are_listed_with_their_fields() -> None:
    """All of them."""
    result = CliRunner().invoke(cli.app, ["events", "types", "--json"])

    assert [row["type"] for row in json.loads(result.stdout)] == [one.name for one in TYPES]
    assert "call.finished" in CliRunner().invoke(cli.app, ["events", "types"]).stdout


def test_person_is_forgotten_in_spool_and_outbox(machine: Machine) -> None:
    """That it was done stays, without the name."""
    machine.book("ann", "bob")
    machine.tell(("request.finished", 3.0, {"user": "ann"}), ("request.finished", 3.0, {"user": "bob"}))
    result = machine.play("events", "forget", "--user", "ann", "--json")

    assert json.loads(result.stdout) == {"deleted": {"outbox": 1, "spool": 1}}
    left = machine.found()
    assert sorted(each.get("user.id", "") for each in left) == ["", "bob", "bob"]
    assert "ann" not in json.dumps(left)
    assert [each["tutti.audit.subject"] for each in left if each["event.action"] == "operator.acted"] == [
        "events of a user"
    ]


def test_damaged_spool_is_told_in_words(machine: Machine) -> None:
    """Not as a bug of ours."""
    machine.tell(("limit.hit", 1.0, {}))
    (machine.data_dir / "events.sqlite").write_bytes(b"not a database" * 100)
    result = machine.play("events")

    assert result.exit_code == 4
    assert "is damaged" in result.stderr


def test_spool_is_read_beside_its_writer(machine: Machine) -> None:
    """The server has it open."""
    machine.tell(("limit.hit", 1.0, {}))
    writer = sqlite3.connect(machine.data_dir / "events.sqlite", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    assert len(machine.found()) == 1
    writer.execute("ROLLBACK")
    writer.close()


async def test_follower_is_shown_what_comes_and_each_event_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was there before comes first; then whatever is told while somebody looks."""
    monkeypatch.setattr(events_commands, "FOLLOW_S", 0.0)
    machine.tell(("call.retried", 3.0, {"account": "a"}))
    asked = events_commands.question("1h", [], 10, time.time())
    following = asyncio.create_task(events_commands.show(machine.config, asked, follow=True, as_json=True))
    seen = ""
    async with asyncio.timeout(30):
        for number in range(3):
            while seen.count("\n") < number + 1:
                await asyncio.sleep(0)
                seen += capsys.readouterr().out
            machine.tell(("limit.hit", 0.0, {"user": f"u-{number}"}))
    following.cancel()

    found = [json.loads(line) for line in seen.splitlines()]
    assert [each.get("user.id") for each in found] == [None, "u-0", "u-1"]


def test_deed_for_whose_event_there_is_no_room_is_said(machine: Machine) -> None:
    """Audit pushes back: who acted hears that nothing tells of it, and what to do."""
    machine.tell(("access.refused", 1.0, {}))
    full = EventsSpec(spool_bytes=1, file=FileSpec(folder="elsewhere"))
    orchestra = replace(settings.load(machine.config), events=full)
    with pytest.raises(CapacityError, match="nothing tells of it"):
        tell(orchestra, "operator.acted", time.time_ns(), {"operator": "me"})

    assert [each["event.action"] for each in machine.found()] == ["access.refused"]
