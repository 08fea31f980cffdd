"""`tutti doctor`: every fault it knows is found, with what to do, and nothing is said of what is well."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from actors.store import Store
from app import settings
from app.domain.accounts import Orchestra
from app.domain.books.budgets import Owners
from app.domain.books.entries import Settle, UsageEntry
from app.domain.chat import Usage
from app.domain.views import AccountView
from app.storage.place import Place
from app.storage.spool_tables import SCHEMA, State
from app.terminal import doctor_probes as probes
from app.terminal.connect import Target
from app.terminal.doctor import doctor
from app.terminal.doctor_probes import Finding

NOW_S = 1_800_000_000.0


def levels(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(finding.part, finding.level) for finding in findings]


def configured(directory: Path, **more: object) -> Orchestra:
    account = {"name": "a", "provider": "custom", "base_url": "http://127.0.0.1:1", "api_key": "k", "models": ["m"]}
    document = {"data_dir": str(directory), "accounts": [account], **more}
    return settings.load_mapping(document, source="test", environ={})


def view(state: str, **more: object) -> AccountView:
    return AccountView(account="a", provider="openai", model="m", state=state, **more)  # type: ignore[arg-type]  # any field


def test_directory_that_cannot_be_written_is_wrong(tmp_path: Path) -> None:
    """Nothing can be written down there, so nothing would be done."""
    (tmp_path / "file").write_text("x")

    assert levels(probes.look_at_directory(tmp_path / "file" / "data")) == [("data directory", "wrong")]
    assert levels(probes.look_at_directory(tmp_path / "not yet")) == [("data directory", "ok")]


def test_directory_that_others_may_read_is_noted(tmp_path: Path) -> None:
    """Runs and answers are in it."""
    tmp_path.chmod(0o755)

    assert ("data directory", "note") in levels(probes.look_at_directory(tmp_path))


@pytest.mark.parametrize(("free", "level"), [(1_000, "wrong"), (1_000_000_000, "note"), (10**12, "ok")])
def test_disk_is_judged_by_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    """A full disk stops everything; a nearly full one soon will."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))

    assert levels(probes.look_at_directory(tmp_path)) == [("data directory", level)]


def test_store_that_is_no_database_is_wrong(tmp_path: Path) -> None:
    """Something else stands in its place."""
    place = Place(tmp_path, None)
    assert levels(probes.look_at_store(place)) == [("store", "ok")]
    assert place.file is not None
    place.file.write_bytes(b"not a database, whatever its name says" * 100)

    assert levels(probes.look_at_store(place)) == [("store", "wrong")]


def test_events_that_wait_are_counted_and_refused_ones_are_noted(tmp_path: Path) -> None:
    """A dead letter waits for a person."""
    assert levels(probes.look_at_events(tmp_path, ships=True)) == []
    with sqlite3.connect(tmp_path / probes.SPOOL) as spool:
        for statement in SCHEMA:
            spool.execute(statement)
        columns = "(id, time_ns, class, type, day, size, state, body)"
        row = f"INSERT INTO event {columns} VALUES (?, 0, 'x', 'x', 'x', 1, ?, '')"
        spool.execute(row, ("1", State.WAITING))
        spool.execute(row, ("2", State.DEAD))
        spool.executemany("INSERT INTO total VALUES ('x', ?, 1, 1)", [(State.WAITING,), (State.DEAD,)])
    spool.close()
    findings = list(probes.look_at_events(tmp_path, ships=True))
    kept = list(probes.look_at_events(tmp_path, ships=False))

    assert levels(findings) == [("events, spool", "note"), ("events, spool", "note")]
    assert "1 wait" in findings[1].says
    assert levels(kept) == [("events, spool", "note"), ("events, spool", "ok")]
    (tmp_path / probes.SPOOL).write_bytes(b"no spool" * 1_000)
    assert levels(probes.look_at_events(tmp_path, ships=True)) == [("events, spool", "wrong")]


async def test_events_that_wait_in_the_database_are_counted_too(tmp_path: Path) -> None:
    """Bills wait there: an Elasticsearch that is away shows, also where no server runs."""
    place = Place(tmp_path, None)
    assert levels(probes.look_at_outbox(place, ships=True)) == []
    store = Store(str(tmp_path))
    entry = UsageEntry(entry_id="e1", at_s=NOW_S - 10**9, owners=Owners(), usage=Usage(input_tokens=1, output_tokens=1))
    await store.apply_books([Settle(hold_id=None, entries=(entry,), at_s=0.0)])
    await store.close()
    (late,), (kept,) = probes.look_at_outbox(place, ships=True), probes.look_at_outbox(place, ships=False)

    assert (late.part, late.level, kept.level) == ("events, outbox", "note", "ok")
    assert late.says.startswith("1 wait to be shipped")
    assert place.file is not None
    place.file.write_bytes(b"not a database" * 100)
    assert levels(probes.look_at_outbox(place, ships=True)) == []


@pytest.mark.parametrize(
    ("state", "level"),
    [("healthy", None), ("dead", "wrong"), ("cooling_day", "note"), ("half_open", "note"), ("starting", "note")],
)
def test_accounts_are_judged_by_their_state(state: str, level: str | None) -> None:
    """A refused key needs a person; the rest comes back by itself."""
    found = probes.judge_account(view(state, last_error="401"))

    assert (found.level if found else None) == level
    if found is not None:
        assert "401" in found.says
        assert found.remedy


def test_clock_is_judged_beyond_what_the_way_takes() -> None:
    """``Date`` has whole seconds, and the answer takes its time; more than that is a clock that is wrong."""
    well = formatdate(NOW_S + 0.9, usegmt=True)

    assert probes.judge_clock(well, NOW_S, NOW_S + 3.0).level == "ok"
    assert probes.judge_clock(formatdate(NOW_S - 60, usegmt=True), NOW_S, NOW_S + 1).level == "wrong"
    assert probes.judge_clock(formatdate(NOW_S + 60, usegmt=True), NOW_S, NOW_S + 1).level == "wrong"
    assert probes.judge_clock("", NOW_S, NOW_S).level == "note"


def test_parts_of_a_server_are_judged_by_their_words() -> None:
    """As ``/readyz`` says them."""
    parts = {"store": "ok", "accounts": "ok; failed: account-b (no key)", "coordinator": "coordinator is not running"}

    assert levels(probes.judge_parts(parts)) == [("store", "ok"), ("accounts", "note"), ("coordinator", "wrong")]


def test_receivers_that_cannot_be_reached_are_wrong(tmp_path: Path) -> None:
    """Spans would be lost, events would wait."""
    telemetry = {"traces": {"otlp_endpoint": "http://127.0.0.1:1"}}

    assert levels(probes.look_at_receivers(configured(tmp_path))) == []
    assert levels(probes.look_at_receivers(configured(tmp_path, telemetry=telemetry))) == [("traces", "wrong")]
    events = {"elasticsearch": {"url": "http://127.0.0.1:1"}}
    assert levels(probes.look_at_receivers(configured(tmp_path, events=events))) == [("elasticsearch", "wrong")]


def test_everything_wrong_has_a_remedy(tmp_path: Path) -> None:
    """A finding without one is a complaint."""
    findings = [*probes.look_at_configuration(configured(tmp_path)), probes.look_at_port(tmp_path, None)]
    for finding in findings:
        assert finding.level == "ok" or finding.remedy


@pytest.mark.parametrize(("key", "status"), [("k", 0), ("", 4)])
async def test_page_is_one_json_document_and_its_status_says_whether_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, status: int
) -> None:
    """For scripts: a wrong configuration is a finding like any other."""
    account = {"name": "a", "provider": "custom", "base_url": "http://127.0.0.1:1", "api_key": key, "models": ["m"]}
    config = tmp_path / "tutti.yaml"
    text = yaml.safe_dump({"data_dir": str(tmp_path / "data"), "accounts": [account]})
    config.write_text(text)
    got = await doctor(Target(config=config), as_json=True)
    page = json.loads(capsys.readouterr().out)

    assert got == status
    assert page["ok"] == (status == 0)
    assert {"part", "level", "says", "remedy"} == set(page["findings"][0])
