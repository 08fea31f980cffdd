"""An entry is corrected by the command line: in the database where no server runs, else through the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.store import Store
from app.http.app import build_app
from app.terminal import client
from tests.fakes.asgi import StreamingAppTransport
from tests.fakes.desk import FakeDesk
from tests.unit.app.terminal.test_books_commands import Books

A_DOLLAR = 1_000_000_000
CORRECT = ("books", "correct", "e1")


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    monkeypatch.delenv("TUTTI_SERVER", raising=False)
    monkeypatch.delenv("TUTTI_API_KEY", raising=False)
    made = Books(tmp_path)
    made.book(made.entry("e1", 2 * A_DOLLAR), made.entry("e2", None))
    return made


def total_of(books: Books) -> tuple[int, str, int, int]:
    total = json.loads(books.play("usage", "--json", "--since", "2d").stdout)["total"]
    return total["calls"], total["cost_usd"], total["input_tokens"], total["output_tokens"]


def test_an_entry_is_corrected_once_and_visibly(books: Books) -> None:
    """Usage, budgets and verify have the new figures; the same again is nothing."""
    asked = (*CORRECT, "--usd", "0.25", "--input-tokens", "90", "--reason", "invoice 11")
    first = books.play(*asked)
    again = books.play(*asked)
    team = next(row for row in json.loads(books.play("budgets", "--json").stdout)["data"] if row["kind"] == "team")

    assert first.exit_code == again.exit_code == 0, first.output
    assert "e1 is corrected: $0.25, 90 tokens in and 20 out, instead of $2, 100 tokens in and 20 out" in first.stdout
    assert ": invoice 11)" in first.stdout
    assert "e1 was corrected before: $0.25, 90 tokens in and 20 out" in again.stdout
    assert total_of(books) == (2, "0.25", 190, 40)
    assert team["spent"] == "0.25"
    assert books.play("books", "verify").exit_code == 0


def test_another_opinion_is_refused_unless_it_has_an_id_of_its_own(books: Books) -> None:
    """The refusal says what stands, and how to go on."""
    books.play(*CORRECT, "--usd", "0.25", "--reason", "first")
    refused = books.play(*CORRECT, "--usd", "0", "--reason", "second")
    named = books.play(*CORRECT, "--usd", "0", "--reason", "second", "--id", "b", "--json")
    unknown = books.play(*CORRECT, "--output-tokens", "7", "--reason", "third")

    assert refused.exit_code == unknown.exit_code == 2
    words = " ".join(refused.stderr.split())
    assert "was corrected before" in words
    assert "$0.25" in words
    assert "--id" in words
    assert named.exit_code == 0, named.output
    document = json.loads(named.stdout)
    assert (document["correction_id"], document["repeated"]) == ("e1/corrected/b", False)
    assert (document["before"]["cost_usd"], document["after"]["cost_usd"]) == ("0.25", "0")
    assert books.play("books", "verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("e1", "--reason", "r"), "says nothing"),
        (("e1", "--usd", "-1", "--reason", "r"), "no amount"),
        (("e1", "--usd", "much", "--reason", "r"), "no amount"),
        (("e1", "--input-tokens", "-1", "--reason", "r"), "--input-tokens"),
        (("e1", "--usd", "1", "--reason", " "), "needs a reason"),
        (("e1", "--usd", "1", "--reason", "r", "--id", "a/b"), "no id"),
        (("nobody", "--usd", "1", "--reason", "r"), "no entry"),
        (("e1", "--usd", "1"), "--reason"),
    ],
)
def test_a_correction_that_makes_no_sense_is_refused(books: Books, arguments: tuple[str, ...], words: str) -> None:
    """And changes nothing."""
    refused = books.play("books", "correct", *arguments)

    assert refused.exit_code == 2, refused.output
    assert words in " ".join(refused.stderr.split())
    assert total_of(books) == (2, "2", 200, 40)


def test_there_must_be_books(tmp_path: Path) -> None:
    """A wrong --config must not make a database."""
    made = Books(tmp_path)
    refused = made.play(*CORRECT, "--usd", "1", "--reason", "r")

    assert refused.exit_code == 2
    assert "no books" in refused.stderr
    assert not made.data_dir.exists()


def test_a_running_server_does_it_itself(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the database; its answers and refusals are the command's."""
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
    asked = ("--reason", "seen", "--server", "http://tutti:8000", "--json")
    done = books.play(*CORRECT, "--usd", "0.1", "--output-tokens", "3", *asked)
    refused = books.play(*CORRECT, "--usd", "0.2", *asked)

    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["reason"] == "anonymous: seen"
    assert document["after"] == {"cost_usd": "0.1", "input_tokens": 100, "output_tokens": 3}
    assert refused.exit_code == 2
    assert total_of(books) == (2, "0.1", 200, 23)
