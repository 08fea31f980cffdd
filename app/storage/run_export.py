"""Everything that the database knows of one run, as one zip for people: to look at, to file, to send with a question.

Reads only, on a connection of one moment. Holds what the run was asked and answered, and no key of anybody.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import Connection, Select, select

from app.domain.chat import Json
from app.storage import journal, tables
from app.storage.books_tables import hold, price_used, usage_entry

EVENTS_AT_ONCE = 1_000
README = """\
run.json             the run: what was asked, on whose behalf, its status and result document
plans.jsonl          every version of its plan
tasks.jsonl          its tasks with their results
calls.jsonl          every call to a provider, with what was answered
events.jsonl         its progress log
entries.jsonl        what the books say was used and paid, corrections included; amounts in nano-dollars
holds.jsonl          what was set aside before each call, and how that ended
prices.jsonl         the price rows that made the costs
configuration.json   accounts, models, routes, budgets as they were when this was exported; no secrets
versions.json        who wrote this, and when
"""


def export_run(
    connection: Connection, run_id: str, *, configuration: Mapping[str, Json], versions: Mapping[str, Json]
) -> bytes:
    """Return the run as the bytes of a zip; raises NotFoundError."""
    record = journal.get_run(connection, run_id)
    run = {name: value for name, value in asdict(record).items() if name not in ("plan", "tasks")}
    run["request"].pop("idempotency_key")
    plans = select(tables.plan.c.body).where(tables.plan.c.run_id == run_id).order_by(tables.plan.c.version)
    entries = select(usage_entry).where(usage_entry.c.run_id == run_id).order_by(usage_entry.c.at_s, usage_entry.c.id)
    holds = select(hold).where(hold.c.run_id == run_id).order_by(hold.c.at_s, hold.c.id)
    used = select(usage_entry.c.price_id).where(usage_entry.c.run_id == run_id)
    prices = select(price_used.c.body).where(price_used.c.id.in_(used)).order_by(price_used.c.id)
    files: dict[str, bytes] = {
        "README.txt": README.encode(),
        "run.json": _json(run),
        "plans.jsonl": b"".join(body.encode() + b"\n" for body in connection.execute(plans).scalars()),
        "tasks.jsonl": _lines(asdict(task) for task in record.tasks),
        "calls.jsonl": _lines(asdict(call) for call in journal.calls_of(connection, run_id)),
        "events.jsonl": _lines(_events(connection, run_id)),
        "entries.jsonl": _lines(_rows(connection, entries)),
        "holds.jsonl": _lines(_rows(connection, holds)),
        "prices.jsonl": b"".join(body.encode() + b"\n" for body in connection.execute(prices).scalars()),
        "configuration.json": _json(configuration),
        "versions.json": _json(versions),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"{run_id}/{name}", data)
    return packed.getvalue()


def _events(connection: Connection, run_id: str) -> Iterable[dict[str, Any]]:
    seq = 0
    while events := journal.events_after(connection, run_id, seq, limit=EVENTS_AT_ONCE):
        for event in events:
            line = asdict(event)
            del line["trace_id"], line["buyers"]  # the run's, which stand in run.json
            yield line
        seq = events[-1].seq


def _rows(connection: Connection, query: Select[Any]) -> Iterable[dict[str, Any]]:
    return ({str(name): value for name, value in row.items()} for row in connection.execute(query).mappings())


def _lines(values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(value, default=_plain) + b"\n" for value in values)


def _json(value: Mapping[str, Any]) -> bytes:
    return orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2)


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    raise TypeError(type(value).__name__)
