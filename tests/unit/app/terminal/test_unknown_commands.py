"""What dead processes held is listed, and settled by hand once: beside no server in the database, else through it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from actors.store import Store
from app.http.app import build_app
from app.terminal import client
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import FakeDesk
from tests.unit.app.terminal.test_books_commands import Books

HALF_A_DOLLAR = 500_000_000


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    monkeypatch.delenv("TUTTI_SERVER", raising=False)
    monkeypatch.delenv("TUTTI_API_KEY", raising=False)
    made = Books(tmp_path)
    made.book(made.entry("e1", 2 * HALF_A_DOLLAR), dead=HALF_A_DOLLAR)
    return made


@pytest.fixture
def server(books: Books, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The HTTP doors over the same database."""
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
    return store


def test_unknown_holds_are_listed_with_whose_they_are(books: Books) -> None:
    """A person must find them before deciding."""
    shown = books.play("books", "unknown")
    (row,) = json.loads(books.play("books", "unknown", "--json").stdout)["data"]

    assert shown.exit_code == 0, shown.output
    line = next(line for line in shown.stdout.splitlines() if "dead" in line)
    assert "team research" in line
    assert "$0.5000" in line
    assert "tutti books settle" in shown.stdout
    assert (row["hold_id"], row["usd"], row["team"], row["calls"]) == ("dead", "0.5", "research", 1)
    assert row["age_s"] >= 0


@pytest.mark.parametrize(
    ("arguments", "cost", "spent"),
    [
        (("--usd", "0.25", "--tokens", "7"), "0.25", "1.25"),
        (("--as-spent",), "0.5", "1.5"),
        (("--void",), "0", "1"),
        (("--usd", "0.75"), "0.75", "1.75"),
    ],
)
def test_a_hold_is_settled_once_and_visibly(books: Books, arguments: tuple[str, ...], cost: str, spent: str) -> None:
    """The budget gets back what was not spent; who decided, and why, is in the books; the same again is nothing."""
    asked = ("books", "settle", "dead", *arguments, "--reason", "invoice 11", "--account", "openai-a", "--json")
    first = books.play(*asked)
    again = books.play(*asked)
    team = next(row for row in json.loads(books.play("budgets", "--json").stdout)["data"] if row["kind"] == "team")
    (settled,) = json.loads(books.play("usage", "--json", "--by", "account", "--where", "ending=settled").stdout)[
        "data"
    ]
    with sqlite3.connect(books.data_dir / "journal.sqlite") as connection:
        reasons = connection.execute("SELECT error_kind FROM usage_entry WHERE ending = 'settled'").fetchall()
    connection.close()

    assert first.exit_code == again.exit_code == 0, first.output
    assert (json.loads(first.stdout)["cost_usd"], json.loads(first.stdout)["repeated"]) == (cost, False)
    assert json.loads(again.stdout) == {**json.loads(first.stdout), "repeated": True}
    assert (team["spent"], team["unknown"]) == (spent, "0")
    assert (settled["group"], settled["calls"], settled["cost_usd"]) == ({"account": "openai-a"}, 1, cost)
    assert len(reasons) == 1
    assert reasons[0][0].endswith(": invoice 11")
    assert "Nothing is unknown." in books.play("books", "unknown").stdout
    assert books.play("books", "verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dead", "--reason", "r"), "one of them"),
        (("dead", "--void", "--usd", "1", "--reason", "r"), "one of them"),
        (("dead", "--void", "--as-spent", "--reason", "r"), "one of them"),
        (("dead", "--void", "--reason", " "), "needs a reason"),
        (("dead", "--usd", "-1", "--reason", "r"), "no amount"),
        (("dead", "--usd", "much", "--reason", "r"), "no amount"),
        (("nobody", "--void", "--reason", "r"), "no hold"),
    ],
)
def test_a_settlement_that_makes_no_sense_is_refused(books: Books, arguments: tuple[str, ...], words: str) -> None:
    """And changes nothing."""
    refused = books.play("books", "settle", *arguments)

    assert refused.exit_code == 2, refused.output
    assert words in " ".join(refused.stderr.split())
    assert "dead" in books.play("books", "unknown").stdout


def test_a_second_opinion_and_what_is_known_are_refused(books: Books) -> None:
    """What is in the books stays; a hold whose holder lives is not a person's to settle."""
    books.book(books.entry("e2", 0), held=HALF_A_DOLLAR)
    first = books.play("books", "settle", "dead", "--void", "--reason", "r")
    other = books.play("books", "settle", "dead", "--as-spent", "--reason", "r")
    alive = books.play("books", "settle", "alive", "--void", "--reason", "r")

    assert first.exit_code == 0, first.output
    assert other.exit_code == alive.exit_code == 2
    assert "is settled for $0" in " ".join(other.stderr.split())
    assert "is not unknown: it is open" in " ".join(alive.stderr.split())


def test_reconcile_points_at_what_is_unknown(books: Books, tmp_path: Path) -> None:
    """What a dead process bought is on the invoice and in no entry: that is where to look first."""
    export = tmp_path / "export.csv"
    export.write_text(f"date,model,cost\n{books.day},gpt-5-mini,1.5\n", encoding="utf-8")
    shown = books.play("books", "reconcile", str(export), "--account", "openai-a")
    document = json.loads(books.play("books", "reconcile", str(export), "--account", "openai-a", "--json").stdout)
    settled = books.play("books", "settle", "dead", "--as-spent", "--account", "openai-a", "--reason", "it is there")
    after = books.play("books", "reconcile", str(export.with_name("all.csv")), "--account", "openai-a")

    assert shown.exit_code == 1
    assert "tutti books unknown" in shown.stdout
    assert [one["hold_id"] for one in document["unknown_holds"]] == ["dead"]
    assert settled.exit_code == 0, settled.output
    assert after.exit_code == 2
    export.write_text(f"date,cost\n{books.day},1.5\n", encoding="utf-8")
    assert books.play("books", "reconcile", str(export), "--account", "openai-a").exit_code == 0


def test_a_running_server_does_it_itself(books: Books, server: Store) -> None:
    """It holds the database; whoever it serves sees the same lists and gets the same answers."""
    asked = ("--server", "http://tutti:8000", "--json")
    listed = books.play("books", "unknown", *asked)
    settled = books.play("books", "settle", "dead", "--usd", "0.1", "--reason", "seen", *asked)
    refused = books.play("books", "settle", "dead", "--usd", "0.2", "--reason", "seen", *asked)
    left = books.play("books", "unknown", *asked)

    assert [one["hold_id"] for one in json.loads(listed.stdout)["data"]] == ["dead"]
    assert settled.exit_code == 0, settled.output
    assert json.loads(settled.stdout)["reason"] == "anonymous: seen"
    assert refused.exit_code == 2
    assert json.loads(left.stdout)["data"] == []
