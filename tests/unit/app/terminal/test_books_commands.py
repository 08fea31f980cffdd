"""The commands of the books read the real database, beside a server or without one, and say what a script needs."""

from __future__ import annotations

import asyncio
import csv
import json
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors.store import Store
from app import cli
from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Expire, Hold, Settle, UsageEntry
from app.domain.books.prices import PriceRow, Rates
from app.domain.chat import Usage
from app.http.app import build_app
from app.storage.spool import Spool
from app.terminal import client
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import FakeDesk

CONFIG = """\
data_dir: DIRECTORY
accounts:
  - name: openai-a
    provider: openai
    api_key: k
    models: [gpt-5-mini, {fast: gpt-5-2025-08-07}]
"""
TEAM = BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.DAY, limit_nano=10_000_000_000)
KEY = BudgetSpec(
    owner_kind=OwnerKind.KEY, owner_name="ci", window=Window.TOTAL, limit_tokens=200, hard=False, soft_share=0.5
)


class Books:
    """A data directory with a configuration, and the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "tutti.yaml"
        self.data_dir = folder / "data"
        self.config.write_text(CONFIG.replace("DIRECTORY", str(self.data_dir)), encoding="utf-8")
        self.noon = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        self.day = datetime.fromtimestamp(self.noon, UTC).date().isoformat()

    def play(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, [*arguments, "--config", str(self.config)])

    def entry(self, name: str, nano: int | None, model: str = "gpt-5-mini", **more: Any) -> UsageEntry:
        given: dict[str, Any] = {
            "entry_id": name,
            # The day's first second: in today's window, and in the past, at any time of the day.
            "at_s": self.noon,
            "owners": Owners(tenant="acme", team="research", user="ann", key="ci"),
            "model": model,
            "account": "openai-a",
            "provider": "openai",
            "usage": Usage(input_tokens=100, output_tokens=20),
            "cost_nano": nano,
            "price_id": None if nano is None else "p1",
        }
        return UsageEntry(**(given | more))

    def book(self, *entries: UsageEntry, held: int = 0, dead: int = 0) -> None:
        async def work() -> None:
            store = Store(str(self.data_dir))
            await store.sync_books(
                [TEAM, KEY], [PriceRow(price_id="p1", model="m", rates=Rates(input="1", output="1"))]
            )
            now_s = time.time()
            await store.apply_books([Settle(hold_id=None, entries=entries, at_s=now_s)])
            for name, nano in (("alive", held), ("dead", dead)):
                if nano:
                    owners = Owners(tenant="acme", team="research")
                    await store.apply_books(
                        [
                            Hold(
                                hold_id=name,
                                owners=owners,
                                amount_nano=nano,
                                tokens=0,
                                at_s=now_s,
                                expires_s=now_s + 3_600.0,
                                holder=name,
                            )
                        ]
                    )
            await store.apply_books([Expire(at_s=now_s, holder="dead")])
            await store.close()

        asyncio.run(work())


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path)


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUTTI_SERVER", raising=False)
    monkeypatch.delenv("TUTTI_API_KEY", raising=False)


def test_usage_sums_by_what_is_asked(books: Books) -> None:
    """A table with a total; what has no price is counted, not zero."""
    books.book(books.entry("e1", 1_500_000_000), books.entry("e2", None), books.entry("e3", None, model="fast"))
    result = books.play("usage", "--by", "model,day", "--since", "2d")
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]

    assert result.exit_code == 0, result.output
    assert lines[0] == ["day", "model", "calls", "tokens", "cached", "mean", "cost", "saved"]
    assert [books.day, "fast", "1"] in [line[:3] for line in lines]
    assert "$1.5000 + 1 unpriced" in result.stdout
    assert "cost unknown" in result.stdout
    assert lines[-1][:2] == ["total", "3"]


def test_usage_as_csv_and_json_is_for_scripts(books: Books) -> None:
    """Nothing else on standard output; the document is that of the HTTP door."""
    books.book(books.entry("e1", 1_500_000_000), books.entry("e2", 5, model="fast"))
    table = list(csv.DictReader(books.play("usage", "--csv", "--by", "model").stdout.splitlines()))
    document = json.loads(books.play("usage", "--json", "--by", "key", "--where", "model=fast").stdout)

    assert [(row["model"], row["cost_usd"]) for row in table] == [("fast", "0.000000005"), ("gpt-5-mini", "1.5")]
    assert [(row["group"], row["cost_usd"]) for row in document["data"]] == [({"key": "ci"}, "0.000000005")]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--by", "colour"), "--by"),
        (("--since", "soon"), "--since"),
        (("--until", "2026-99-99"), "--until"),
        (("--time-zone", "Mars"), "--time-zone"),
        (("--where", "model"), "--where"),
        (("--where", "colour=red"), "--where"),
    ],
)
def test_usage_refuses_with_the_options_name(books: Books, arguments: tuple[str, ...], option: str) -> None:
    """Status 2, what is wrong, and what to write."""
    books.book(books.entry("e1", 1))
    result = books.play("usage", *arguments)

    assert result.exit_code == 2
    assert "error:" in result.stderr
    assert option in result.stderr
    assert "remedy:" in result.stderr


def test_without_a_database_the_commands_say_what_to_do(books: Books) -> None:
    """And leave none behind: reading creates nothing."""
    for arguments in (("usage",), ("budgets",), ("books", "verify")):
        result = books.play(*arguments)

        assert result.exit_code == 2, result.output
        assert "There are no books" in result.stderr
        assert "tutti serve" in result.stderr
    assert not books.data_dir.exists()


def test_usage_asks_a_named_server(books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same table from the HTTP door, with what was asked passed on, and its refusals as our own."""
    books.book(books.entry("e1", 1_500_000_000), books.entry("e2", 5, model="fast"))
    store = Store(str(books.data_dir))
    app = build_app(FakeDesk, version="1", books_factory=lambda: store)
    real = client.HttpDesk

    class ToApp(real):  # type: ignore[misc, valid-type]  # the class as it is, over another transport
        def __init__(self, url: str) -> None:
            super().__init__(url, transport=StreamingAppTransport(app))

        async def aclose(self) -> None:
            await super().aclose()
            await store.close()

    monkeypatch.setattr("app.terminal.books_source.HttpDesk", ToApp)
    asked = ("--json", "--server", "http://tutti:8000")
    found = books.play("usage", "--by", "model", "--where", "model=fast", *asked)
    burnt = books.play("budgets", *asked)
    refused = books.play("usage", "--by", "colour", *asked)

    assert [row["cost_usd"] for row in json.loads(found.stdout)["data"]] == ["0.000000005"]
    assert len(json.loads(burnt.stdout)["data"]) == 2
    assert refused.exit_code == 2
    assert "colour" in refused.stderr


def test_budgets_burn_down(books: Books) -> None:
    """Spent, held, unknown and left of each; what is used up says so."""
    books.book(books.entry("e1", 2_500_000_000), books.entry("e2", 0), held=1_000_000_000, dead=500_000_000)
    result = books.play("budgets")
    rows = {row["kind"]: row for row in json.loads(books.play("budgets", "--json").stdout)["data"]}

    assert result.exit_code == 0, result.output
    team = next(line for line in result.stdout.splitlines() if "team research" in line)
    assert "30%" in team
    assert "█████▓▒▒░" in team
    assert all(amount in team for amount in ("$2.50", "$1.00", "$0.50", "$6.00", "$10.00", "a day"))
    key = next(line for line in result.stdout.splitlines() if "key ci" in line)
    assert "240" in key
    assert "120%" in key
    assert (rows["team"]["spent"], rows["team"]["unknown"], rows["team"]["left"]) == ("2.5", "0.5", "6")
    assert (rows["key"]["left"], rows["key"]["hard"]) == ("0", False)


def test_verify_says_that_the_books_add_up_or_what_does_not(books: Books) -> None:
    """Status 0 or 1; holds of dead processes are named either way."""
    books.book(books.entry("e1", 2_500_000_000), dead=500_000_000)
    good = books.play("books", "verify")
    with sqlite3.connect(books.data_dir / "journal.sqlite") as connection:
        connection.execute("UPDATE usage_hour SET cost_nano = cost_nano + 1")
    connection.close()
    bad = books.play("books", "verify")
    document = json.loads(books.play("books", "verify", "--json").stdout)

    assert good.exit_code == 0, good.output
    assert "The books add up." in good.stdout
    assert "1 hold of a dead process counts as spent, $0.5 at most" in good.stdout
    assert bad.exit_code == 1
    assert "usage_hour" in bad.stdout
    assert document["ok"] is False
    assert document["unknown_holds"][0]["holder"] == "dead"


def test_verify_is_told_in_the_spool_of_a_machine_that_has_one(books: Books) -> None:
    """The alert of books that differ hears of a look from a timer; where no server ever was, no spool is made."""
    books.book(books.entry("e1", 2_500_000_000))
    alone = books.play("books", "verify")
    file = books.data_dir / "events.sqlite"
    made = file.exists()
    Spool(file, bytes_max=10**7, wall_s=time.time).close()
    books.play("books", "verify")
    with sqlite3.connect(books.data_dir / "journal.sqlite") as connection:
        connection.execute("UPDATE usage_hour SET cost_nano = cost_nano + 1")
    connection.close()
    bad = books.play("books", "verify")
    spool = Spool(file, bytes_max=10**7, wall_s=time.time)
    told = [json.loads(event.body) for event in spool.pending(0, docs_max=10, bytes_max=10**6)]
    spool.close()

    assert (alone.exit_code, made, bad.exit_code) == (0, False, 1)
    assert [one["event.action"] for one in told] == ["ledger.verified"] * 2
    assert [one["event.outcome"] for one in told] == ["success", "failure"]
    assert told[0]["tutti.ledger.difference"] == 0
    assert told[1]["tutti.ledger.difference"] > 0


def test_verify_answers_though_it_cannot_be_told(books: Books) -> None:
    """Who may read the books need not be one who may write events."""
    books.book(books.entry("e1", 2_500_000_000))
    (books.data_dir / "events.sqlite").mkdir()
    result = books.play("books", "verify")

    assert result.exit_code == 0, result.output
    assert "The books add up." in result.stdout
    assert "not kept as an event" in result.stderr


def test_reconcile_finds_drift_by_day_and_model(books: Books, tmp_path: Path) -> None:
    """Release names are ours, rounding to cents is none, and what is missing on one side is drift."""
    books.book(
        books.entry("e1", 2_500_000_000),
        books.entry("e2", 1_004_000_000, model="fast"),
        books.entry("e3", 7_000_000_000, model="gone"),
    )
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    head = "Date,Model,Input tokens,Output tokens,Cost\n"
    same = f"{books.day},gpt-5-mini-2025-08-07,100,20,$2.50\n{books.day}T10:00:00Z,gpt-5,100,20,1.00\n"
    good.write_text(f"{head}{same}{books.day},gone,100,20,7\n", encoding="utf-8")
    bad.write_text(f"{head}{books.day},gpt-5-mini,100,21,2.52\n{books.day},gpt-5,100,20,1.00\n", encoding="utf-8")
    equal = books.play("books", "reconcile", str(good), "--account", "openai-a")
    apart = books.play("books", "reconcile", str(bad), "--account", "openai-a", "--json")
    lines = {(line["model"], line["unit"]): line for line in json.loads(apart.stdout)["lines"]}
    lenient = books.play("books", "reconcile", str(good), "--account", "openai-a", "--tolerance", "0")

    assert equal.exit_code == 0, equal.output
    assert "No line differs" in equal.stdout
    assert lenient.exit_code == 0
    assert apart.exit_code == 1
    assert {place for place, line in lines.items() if line["drifts"]} == {
        ("gpt-5-mini", "usd"),
        ("gpt-5-mini", "tokens"),
        ("gone", "usd"),
        ("gone", "tokens"),
    }
    assert lines["gpt-5-mini", "usd"]["drift_percent"] == pytest.approx(-0.7937)
    assert (lines["gone", "usd"]["theirs"], lines["gone", "usd"]["ours"]) == (None, "7")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "columns a, b"),
        ("", "(none)"),
        ("date,cost\n", "no lines"),
        ("date,cost\nyesterday,1\n", "Line 2 of the export cannot be read: yesterday, 1"),
        ("date;cost\n2026-11-21;a lot\n", "Line 2"),
        ("date,cost\n2026-11-21,NaN\n", "Line 2"),
        ("date,cost\n2026-11-21,1e999999\n", "Line 2"),
    ],
)
def test_reconcile_refuses_what_is_no_export(books: Books, tmp_path: Path, text: str, words: str) -> None:
    """The line is named, and what it should look like."""
    books.book(books.entry("e1", 1))
    file = tmp_path / "export.csv"
    file.write_text(text, encoding="utf-8")
    result = books.play("books", "reconcile", str(file), "--account", "openai-a")

    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "remedy:" in result.stderr


def test_reconcile_needs_to_know_whose_export_it_is(books: Books, tmp_path: Path) -> None:
    """Days and models alone say nothing where several accounts serve one model."""
    books.book(books.entry("e1", 1))
    file = tmp_path / "export.csv"
    file.write_text(f"day,cost\n{books.day},0\n", encoding="utf-8")
    result = books.play("books", "reconcile", str(file))

    assert result.exit_code == 2
    assert "--account" in result.stderr
    assert "openai-a" in result.stderr
