"""What `tutti doctor` looks at: configuration, directory, database, ports, events, clock. Changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sqlalchemy import inspect

from app.domain.accounts import Orchestra
from app.domain.errors import ConfigurationError, GatewayError
from app.domain.events.spooled import Backlog
from app.domain.views import AccountView
from app.listen_address import check_free
from app.ready_file import find_server
from app.storage import migrating, outbox
from app.storage.database import open_for_reading
from app.storage.faults import fault, is_storage_error
from app.storage.outbox_table import outbox as outbox_table
from app.storage.place import Place
from app.storage.spool_tables import State

Level = Literal["ok", "note", "wrong"]

FREE_BYTES_MIN = 200_000_000
FREE_BYTES_SOON = 2_000_000_000
SKEW_S_MAX = 5.0
BACKLOG_S_MAX = 300.0
CONNECT_S = 3.0
PORT = 8000
SPOOL = "events.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the page."""

    part: str
    level: Level
    says: str
    remedy: str = ""


def ok(part: str, says: str) -> Finding:
    """Return that nothing is wrong there."""
    return Finding(part=part, level="ok", says=says)


def note(part: str, says: str, remedy: str) -> Finding:
    """Return what works, but not for long, or not as one may think."""
    return Finding(part=part, level="note", says=says, remedy=remedy)


def wrong(part: str, says: str, remedy: str) -> Finding:
    """Return what keeps Tutti from working."""
    return Finding(part=part, level="wrong", says=says, remedy=remedy)


def of_error(part: str, error: GatewayError) -> Finding:
    """Return an error as a finding."""
    return wrong(part, error.message, error.remedy or "the message says what is wrong")


def look_at_configuration(orchestra: Orchestra) -> Iterator[Finding]:
    """Look at what is configured, as far as it shows without calling anybody."""
    yield ok("configuration", f"{orchestra.source}: {len(orchestra.accounts)} account(s), no mistakes")
    for text in orchestra.notes:
        yield note("configuration", text, "docs/configuration.md explains every key")
    if not orchestra.callers:
        yield note(
            "keys",
            "no key is configured: whoever reaches the port may call, so it stays on this machine",
            "add `auth: {keys: [...]}` before you listen on another address",
        )
    else:
        yield ok("keys", f"{len(orchestra.callers)} key(s) of the gateway")


def look_at_directory(directory: Path) -> Iterator[Finding]:
    """Look whether the data directory can be written, and for how long."""
    part = "data directory"
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield wrong(part, f"{existing} cannot be written", "give this user the right to, or name another `data_dir`")
        return
    if directory.exists() and stat.S_IMODE(directory.stat().st_mode) & stat.S_IRWXO:
        yield note(part, f"{directory} is open to every user of this machine", f"chmod 700 {directory}")
    free = shutil.disk_usage(existing).free
    words = f"{free / 1e9:.1f} GB free at {directory}"
    if free < FREE_BYTES_MIN:
        yield wrong(part, words, "free space there: without it no call can be written down, and none is made")
    elif free < FREE_BYTES_SOON:
        yield note(part, words, "free space there soon")
    else:
        yield ok(part, words)


def look_at_store(place: Place) -> Iterator[Finding]:
    """Look whether the database answers and which schema it has."""
    if place.file is not None and not place.file.exists():
        yield ok("store", f"{place}: made at the first start")
        return
    engine = open_for_reading(place)
    try:
        with engine.connect() as connection:
            revision = migrating.find_revision(connection, str(place))
    except GatewayError as error:
        yield of_error("store", error)
        return
    except Exception as error:
        if not is_storage_error(error):
            raise
        yield of_error("store", fault(error, place))
        return
    finally:
        engine.dispose()
    newer = [name for name in migrating.revisions() if revision is not None and name > revision]
    if newer:
        remedy = "start Tutti, which does it, or `tutti db migrate`; `tutti db backup` first"
        yield note("store", f"{place}: schema {revision}, {len(newer)} newer to come", remedy)
    else:
        yield ok("store", f"{place}: schema {revision or 'none yet'}")


def look_at_port(data_dir: Path, url: str | None) -> Finding:
    """Look whether a server runs on the directory, or could listen."""
    if url is not None:
        return ok("server", f"named: {url}")
    running = find_server(data_dir)
    if running is not None:
        return ok("server", f"runs at {running}")
    try:
        check_free("127.0.0.1", PORT)
    except ConfigurationError as error:
        return note("server", f"none runs here, and {error.message}", f"`tutti serve --port` with another than {PORT}")
    return note("server", "none runs on this data directory", "start one with `tutti serve`")


def look_at_events(directory: Path, *, ships: bool) -> Iterator[Finding]:
    """Look how many events of the spool wait to be shipped, and since when; where nobody takes them, they are kept."""
    file = directory / SPOOL
    if not file.exists():
        return
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=2.0)) as spool:
            counts = dict(spool.execute("SELECT state, SUM(count) FROM total GROUP BY state").fetchall())
            oldest = spool.execute("SELECT MIN(time_ns) FROM event WHERE state = ?", (State.WAITING,)).fetchone()[0]
    except sqlite3.Error as error:
        yield wrong(
            "events, spool", f"{file} cannot be read: {error}", "Tutti puts a damaged file aside at its next start"
        )
        return
    age_s = 0.0 if oldest is None else max(0.0, time.time() - oldest / 1e9)
    waiting, dead = counts.get(State.WAITING) or 0, counts.get(State.DEAD) or 0
    yield from _judge_backlog(Backlog(count=waiting, bytes=0, oldest_age_s=age_s, dead=dead), "spool", ships=ships)


def look_at_outbox(place: Place, *, ships: bool) -> Iterator[Finding]:
    """Look at what waits in the database: events of calls and runs. What is wrong with it, ``look_at_store`` says."""
    if place.file is not None and not place.file.exists():
        return
    engine = open_for_reading(place)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(outbox_table.name):
                return
            backlog = outbox.backlog(connection, time.time())
    except GatewayError:
        return
    except Exception as error:
        if not is_storage_error(error):
            raise
        return
    finally:
        engine.dispose()
    yield from _judge_backlog(backlog, "outbox", ships=ships)


def _judge_backlog(backlog: Backlog, source: str, *, ships: bool) -> Iterator[Finding]:
    part, waiting, age_s = f"events, {source}", backlog.count, backlog.oldest_age_s
    if backlog.dead:
        yield note(
            part, f"{backlog.dead} event(s) were refused for good", "`tutti events dead list` shows them and why"
        )
    if not ships:
        yield ok(part, f"{waiting} are kept here; nobody is configured who takes them")
    elif age_s > BACKLOG_S_MAX:
        remedy = "see whether their receiver runs and takes our key; they are kept while there is room"
        yield note(part, f"{waiting} wait to be shipped, the oldest for {age_s:.0f} s", remedy)
    else:
        yield ok(part, f"{waiting} wait to be shipped, the oldest for {age_s:.0f} s")


def look_at_receivers(orchestra: Orchestra) -> Iterator[Finding]:
    """Look whether those who get spans and events can be reached."""
    events = orchestra.events
    endpoints = (
        ("traces", orchestra.telemetry.traces.otlp_endpoint),
        ("elasticsearch", events.elasticsearch.url if events.elasticsearch else None),
        ("logs", events.otlp.url if events.otlp else None),
    )
    for part, address in endpoints:
        if address:
            yield _reach(part, address)


def _reach(part: str, address: str) -> Finding:
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S):
            return ok(part, f"{parts.hostname}:{port} can be reached")
    except OSError as error:
        words = error.strerror or str(error)
        return wrong(part, f"{parts.hostname}:{port} cannot be reached: {words}", "start it, or correct its address")


def judge_parts(parts: dict[str, str]) -> Iterator[Finding]:
    """Judge the words that a server has for its parts."""
    for part, word in parts.items():
        first, _, rest = word.partition(";")
        if first != "ok":
            yield wrong(part, word, "wait half a minute; if it stays so, the server's log says why")
        elif rest:
            yield note(part, rest.strip(), "`tutti check --live` calls every account once")
        else:
            yield ok(part, "answers")


def judge_account(row: AccountView) -> Finding | None:
    """Judge one account's model; None where nothing is to be said."""
    part, about = "accounts", f"{row.account}, {row.model}"
    said = f": {row.last_error}" if row.last_error else ""
    if row.state == "dead":
        remedy = f"give {row.account} a valid key (`api_key`), then `tutti reload` or `tutti check --live`"
        return wrong(part, f"{about}: its key is refused{said}", remedy)
    if row.state in ("cooling_minute", "cooling_day", "half_open"):
        words = f"{about} cools down for {row.cooldown_s:.0f} s more{said}"
        return note(part, words, "it comes back by itself; lower its `limits` if it happens often")
    if row.state in ("starting", "draining"):
        return note(
            part, f"{about} is {row.state}{said}", "wait a few seconds; the server's log says why it takes long"
        )
    return None


def judge_clock(date_header: str, sent_s: float, received_s: float) -> Finding:
    """Judge our clock against a server's ``Date``, which has whole seconds."""
    try:
        theirs_s = parsedate_to_datetime(date_header).timestamp()
    except ValueError:
        return note("clock", "the server does not tell the time", "compare the clocks by hand")
    off_s = max(theirs_s - received_s, sent_s - (theirs_s + 1.0), 0.0)
    if off_s > SKEW_S_MAX:
        remedy = "let both machines follow a time server (NTP): budgets begin and permits end by the clock"
        return wrong("clock", f"this machine and the server are {off_s:.0f} s apart", remedy)
    return ok("clock", "this machine and the server agree")
