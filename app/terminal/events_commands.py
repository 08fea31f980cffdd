"""`tutti events`: what happened, read where it is kept on this machine; no server needs to run.

Reads the node's spool and the journal's outbox read-only. Deletes a person's events from both, and from Elasticsearch
where they were shipped to it.
"""

from __future__ import annotations

import asyncio
import getpass
import heapq
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import orjson
import typer
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from app import settings
from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.errors import GatewayError, RequestError
from app.domain.events.fields import FIELD, FIELDS, PROFILES
from app.domain.events.schema import TYPE, TYPES
from app.domain.events.spooled import KeptEvent
from app.sinks.choice import receiver_of
from app.sinks.elasticsearch_upkeep import forget_user
from app.storage import outbox
from app.storage.database import open_for_reading
from app.storage.event_reads import newest_in_outbox, newest_in_spool
from app.storage.faults import fault, is_storage_error
from app.storage.place import Place
from app.storage.spool import FILE_NAME, Spool
from app.terminal.output import ExitStatus, emit_json, standard_output
from app.terminal.told import keep
from app.terminal.words import printable

FOLLOW_S = 0.5
FOLLOWED_MAX = 1_000_000
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SINCE = re.compile(r"(\d+)\s*([smhd])")
_LEFT_OUT = frozenset({"at", "action", "schema", "ecs_version", "service", "service_version", "host", "pid", "kind"})
_SHORT = {field.path_in(profile): field.name for profile in PROFILES for field in FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked for."""

    since_ns: int
    wanted: Mapping[str, frozenset[str]]
    """Values by path; an event has one of each."""
    limit: int

    def takes(self, event: KeptEvent) -> bool:
        """Return whether this is one of them."""
        types = self.wanted.get(FIELD["action"].path)
        if types is not None and event.type not in types:
            return False
        if len(self.wanted) == (types is not None):
            return True
        document = orjson.loads(event.body)
        return all(_words(document.get(path)) & values for path, values in self.wanted.items())


def question(since: str, where: Sequence[str], limit: int, now_s: float) -> Question:
    """Return the question; raises RequestError where it cannot be understood."""
    wanted: dict[str, set[str]] = {}
    for pair in where:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise RequestError(
                f"{pair!r} is no condition", param="--where", remedy="write for instance account=openai-a"
            )
        path = _path(name)
        if name == "type" and value not in TYPE:
            raise RequestError(
                f"there is no event type {value!r}", param="--where", remedy="`tutti events types` lists them"
            )
        wanted.setdefault(path, set()).add(value)
    return Question(
        since_ns=int(_since_s(since, now_s) * 1e9),
        wanted={path: frozenset(values) for path, values in wanted.items()},
        limit=limit,
    )


async def show(config: Path | None, asked: Question, *, follow: bool, as_json: bool) -> int:
    """Print events in the order in which they happened; with ``follow`` go on until interrupted."""
    orchestra = settings.load(config)
    with outbox_of(orchestra) as engine:
        seen = [0, 0]
        while True:
            for event in reversed(_find(orchestra, engine, asked, seen)):
                _print(event, as_json=as_json)
            if not follow:
                return int(ExitStatus.ANSWERED)
            await asyncio.sleep(FOLLOW_S)
            asked = replace(asked, limit=FOLLOWED_MAX)


def types(*, as_json: bool) -> int:
    """Print every type of event, with its class and fields."""
    if as_json:
        rows: list[Json] = [
            {
                "type": one.name,
                "class": one.event_class.value,
                "dataset": one.dataset,
                "meaning": one.meaning,
                "fields": {name: FIELD[name].path for name in one.fields},
            }
            for one in TYPES
        ]
        emit_json(rows)
        return int(ExitStatus.ANSWERED)
    table = Table("type", "class", "meaning", box=None, pad_edge=False)
    for one in TYPES:
        table.add_row(one.name, one.event_class.value, Text(one.meaning))
    standard_output().print(table)
    return int(ExitStatus.ANSWERED)


async def forget(config: Path | None, user: str, *, as_json: bool) -> int:
    """Delete every event of a user: here, in the store, and in Elasticsearch; say how many, and keep that it was done.

    Raises:
        InternalError: one of the places cannot be asked; do it again.
    """
    orchestra = settings.load(config)
    gone: dict[str, Json] = {}
    with outbox_of(orchestra) as engine:
        if engine is not None:
            with engine.begin() as connection:
                gone["outbox"] = outbox.forget(connection, user)
    gone["spool"] = await asyncio.to_thread(_forget_in_spool, orchestra, user)
    receiver = receiver_of(orchestra.events)
    if receiver is not None and receiver.http is not None and orchestra.events.elasticsearch is not None:
        try:
            gone["elasticsearch"] = await forget_user(receiver.http, orchestra.events.elasticsearch.index_prefix, user)
        finally:
            await receiver.sink.aclose()
    if as_json:
        emit_json({"deleted": gone})
    else:
        said = ", ".join(f"{count} in {place}" for place, count in gone.items())
        standard_output().print(Text(f"deleted: {said}"))
    return int(ExitStatus.ANSWERED)


def _forget_in_spool(orchestra: Orchestra, user: str) -> int:
    file = Path(orchestra.data_dir) / FILE_NAME
    if not file.exists():
        return 0
    spool = Spool(file, bytes_max=orchestra.events.spool_bytes, wall_s=time.time)
    try:
        count = spool.forget(user)
        # That it was done stays, and does not say whose events they were.
        told = {"operator": getpass.getuser(), "subject": "events of a user", "reason": "forget", "outcome": "success"}
        keep(spool, orchestra, "operator.acted", time.time_ns(), told)
    finally:
        spool.close()
    return count


@contextmanager
def outbox_of(orchestra: Orchestra) -> Iterator[Engine | None]:
    """Give the journal's database, None where there is none yet; its faults become words."""
    place = Place(Path(orchestra.data_dir), orchestra.store_url)
    if place.file is not None and not place.file.exists():
        yield None
        return
    engine = open_for_reading(place)
    try:
        yield engine
    except GatewayError:
        raise
    except Exception as error:
        if is_storage_error(error):
            raise fault(error, place) from error
        raise
    finally:
        engine.dispose()


def _find(orchestra: Orchestra, engine: Engine | None, asked: Question, seen: list[int]) -> list[KeptEvent]:
    """Return the newest events that are asked for, newest first, and note how far both places were read."""
    sources = [_noting(newest_in_spool(Path(orchestra.data_dir) / FILE_NAME, asked.since_ns, seen[0]), seen, 0)]
    if engine is None:
        return _merged(sources, asked)
    with engine.connect() as connection:
        sources.append(_noting(newest_in_outbox(connection, asked.since_ns, seen[1]), seen, 1))
        return _merged(sources, asked)


def _merged(sources: Sequence[Iterator[KeptEvent]], asked: Question) -> list[KeptEvent]:
    matching = chain.from_iterable(filter(asked.takes, source) for source in sources)
    return heapq.nlargest(asked.limit, matching, key=lambda event: event.time_ns)


def _noting(events: Iterator[KeptEvent], seen: list[int], place: int) -> Iterator[KeptEvent]:
    for event in events:
        seen[place] = max(seen[place], event.seq)
        yield event


def _print(event: KeptEvent, *, as_json: bool) -> None:
    if as_json:
        typer.echo(event.body)
        return
    at = datetime.fromtimestamp(event.time_ns / 1e9, UTC).astimezone().strftime("%H:%M:%S.%f")[:-3]
    typer.echo(printable(f"{at} {event.type:<22} {' '.join(_pairs(orjson.loads(event.body)))}"))


def _pairs(document: Mapping[str, Json]) -> Iterator[str]:
    found = TYPE.get(str(document.get("event.action")))
    declared = found.fields if found is not None else ()
    for path, value in document.items():
        name = _SHORT.get(path, path)
        if name in declared and name not in _LEFT_OUT:
            yield f"{name}={value if isinstance(value, str | int | float) else orjson.dumps(value).decode()}"


def _path(name: str) -> str:
    if name == "type":
        return FIELD["action"].path
    if name in FIELD:
        return FIELD[name].path
    if name in _SHORT:
        return name
    raise RequestError(
        f"events have no field {name!r}", param="--where", remedy="docs/events.md lists them, by both of their names"
    )


def _words(value: Json) -> frozenset[str]:
    if isinstance(value, list):
        return frozenset().union(*(_words(each) for each in value))
    return frozenset({str(value).lower() if isinstance(value, bool) else str(value)})


def _since_s(text: str, now_s: float) -> float:
    found = _SINCE.fullmatch(text.strip())
    if found is not None:
        return now_s - int(found.group(1)) * _UNITS[found.group(2)]
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise RequestError(
            f"{text!r} is no time", param="--since", remedy="write for instance 10m, 2h, 7d or 2026-11-21T12:00"
        ) from None
    return at.timestamp()
