"""`tutti events dead`: events that their receiver refused for good; look why, send them again, or let them go.

Works where they are kept on this machine, in the spool and in the journal's outbox; no server needs to run. The shipper
finds what waits again by itself.
"""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import orjson
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from app import settings
from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.errors import NotFoundError, RequestError
from app.domain.events.spooled import DeadLetter
from app.storage import outbox
from app.storage.spool import FILE_NAME, Spool
from app.terminal.events_commands import outbox_of
from app.terminal.output import ExitStatus, emit_json, standard_output
from app.terminal.told import keep

Deed: TypeAlias = Literal["replay", "drop"]
_DONE = {"replay": "sent again", "drop": "dropped"}
_OUTBOX: dict[Deed, Callable[[Connection, Sequence[str] | None], int]] = {"replay": outbox.replay, "drop": outbox.drop}


async def show(config: Path | None, *, limit: int, as_json: bool) -> int:
    """Print dead letters, oldest first."""
    orchestra = settings.load(config)
    found = await asyncio.to_thread(_find, orchestra, limit)
    if as_json:
        emit_json([_row(place, letter) for place, letter in found])
        return int(ExitStatus.ANSWERED)
    if not found:
        standard_output().print(Text("no dead letters"))
        return int(ExitStatus.ANSWERED)
    table = Table("event", "type", "in", "refused", "status", "why", box=None, pad_edge=False)
    for place, letter in found:
        at = datetime.fromtimestamp(letter.at_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(letter.event_id, letter.type, place, at, str(letter.status), Text(letter.reason))
    standard_output().print(table)
    return int(ExitStatus.ANSWERED)


async def settle(config: Path | None, deed: Deed, event_ids: Sequence[str], *, every: bool, as_json: bool) -> int:
    """Let dead letters wait for the shipper again, or forget them; keep that it was done.

    Raises:
        RequestError: neither ids nor all of them are named, or both.
        NotFoundError: none of them is there.
    """
    if every == bool(event_ids):
        raise RequestError("name the events, or write --all", param="ID", remedy="`tutti events dead list` lists them")
    orchestra = settings.load(config)
    count = await asyncio.to_thread(_do, orchestra, deed, None if every else list(event_ids))
    if not count and not every:
        raise NotFoundError("there is no dead letter of that id", remedy="`tutti events dead list` lists them")
    if as_json:
        emit_json({deed: count})
    else:
        standard_output().print(Text(f"{count} {_DONE[deed]}"))
    return int(ExitStatus.ANSWERED)


def _find(orchestra: Orchestra, limit: int) -> list[tuple[str, DeadLetter]]:
    found: list[tuple[str, DeadLetter]] = []
    with _spool(orchestra) as spool:
        found.extend(("spool", letter) for letter in (spool.dead_letters(limit=limit) if spool else ()))
    with outbox_of(orchestra) as engine:
        if engine is not None:
            with engine.connect() as connection:
                found.extend(("outbox", letter) for letter in outbox.dead_letters(connection, limit=limit))
    return sorted(found, key=lambda pair: pair[1].at_s)[:limit]


def _do(orchestra: Orchestra, deed: Deed, event_ids: Sequence[str] | None) -> int:
    count = 0
    with outbox_of(orchestra) as engine:
        if engine is not None:
            with engine.begin() as connection:
                count += _OUTBOX[deed](connection, event_ids)
    with _spool(orchestra) as spool:
        if spool is not None:
            count += spool.replay(event_ids) if deed == "replay" else spool.drop(event_ids)
            if count:
                _tell(spool, orchestra, deed, count)
    return count


def _tell(spool: Spool, orchestra: Orchestra, deed: Deed, count: int) -> None:
    told = {"operator": getpass.getuser(), "subject": f"{count} dead letters", "reason": deed, "outcome": "success"}
    keep(spool, orchestra, "operator.acted", time.time_ns(), told)


@contextmanager
def _spool(orchestra: Orchestra) -> Iterator[Spool | None]:
    file = Path(orchestra.data_dir) / FILE_NAME
    if not file.exists():
        yield None
        return
    spool = Spool(file, bytes_max=orchestra.events.spool_bytes, wall_s=time.time)
    try:
        yield spool
    finally:
        spool.close()


def _row(place: str, letter: DeadLetter) -> Json:
    return {
        "event_id": letter.event_id,
        "type": letter.type,
        "in": place,
        "status": letter.status,
        "reason": letter.reason,
        "at": datetime.fromtimestamp(letter.at_s, UTC).isoformat(),
        "document": orjson.loads(letter.body),
    }
