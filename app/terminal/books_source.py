"""Where the commands of the books get their figures: from the database itself, read-only, or from a named server.

Reading beside a running server is safe on both engines, and needs no key: whoever may read the data directory may see
all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from sqlalchemy import Connection

from app import settings
from app.domain.accounts import Orchestra
from app.domain.books.corrections import HandCorrection
from app.domain.books.figures import Difference, ExportRow, ReconcileLine
from app.domain.books.unknown import Settlement, UnknownHold
from app.domain.chat import Json
from app.domain.errors import NotFoundError, RequestError
from app.http.books_wire import correct_json, corrected_json, settle_json, settled_json, unknown_list_json
from app.http.errors import HttpProblem
from app.http.usage_parameters import UsageParameters, read_query
from app.http.usage_wire import budgets_json, usage_json
from app.ready_file import find_server
from app.storage import books_checks, budgets, entry_corrections, migrating, unknown_holds, usage_queries
from app.storage.books_reads import as_of_one_moment_at_length
from app.storage.database import open_for_reading
from app.storage.faults import fault, is_storage_error
from app.storage.opened import open_store
from app.storage.place import Place
from app.terminal.client import HttpDesk
from app.terminal.connect import Target, checked_address

Value = TypeVar("Value")

BOOKS_REVISION = "0002"
"""The schema that brought the books."""
_OPTIONS = {"from": "--since", "to": "--until", "group_by": "--by", "time_zone": "--time-zone"}


async def get_usage(target: Target, parameters: UsageParameters) -> dict[str, Json]:
    """Return the sums as ``GET /api/v1/usage/stats`` has them.

    Raises:
        RequestError: an option cannot be understood.
    """
    if target.server is not None:
        given = [
            *([("from", parameters.since)] if parameters.since is not None else []),
            *([("to", parameters.until)] if parameters.until is not None else []),
            ("time_zone", parameters.time_zone),
            *(("group_by", word) for word in parameters.group_by),
            *((dimension.value, value) for dimension, values in parameters.filters.items() for value in values),
        ]
        return await _fetch(target.server, f"/api/v1/usage/stats?{urlencode(given)}")
    try:
        query = read_query(parameters, time.time())
    except HttpProblem as problem:
        option = _OPTIONS.get(problem.param or "", "--where")
        raise RequestError(problem.message, param=option, remedy=problem.remedy) from None
    return usage_json(query, _read(target, lambda connection: usage_queries.usage(connection, query)), "stats")


async def get_budgets(target: Target) -> dict[str, Json]:
    """Return the budgets as ``GET /api/v1/budgets`` has them."""
    if target.server is not None:
        return await _fetch(target.server, "/api/v1/budgets")
    return budgets_json(_read(target, lambda connection: budgets.budgets(connection, time.time())))


def verify(target: Target) -> tuple[Sequence[Difference], Sequence[UnknownHold]]:
    """Return what does not add up, and the holds of which nobody knows what was bought."""
    return _read(target, lambda connection: (books_checks.verify(connection), unknown_holds.list_unknown(connection)))


def reconcile(target: Target, export: Sequence[ExportRow]) -> tuple[Sequence[ReconcileLine], Sequence[UnknownHold]]:
    """Return a provider's export beside the books, and the holds of which nobody knows what was bought."""
    return _read(
        target,
        lambda connection: (books_checks.reconcile(connection, export), unknown_holds.list_unknown(connection)),
    )


async def get_unknown(target: Target) -> dict[str, Json]:
    """Return the holds of which nobody knows what was bought as ``GET /api/v1/books/unknown`` has them."""
    if target.server is not None:
        return await _fetch(target.server, "/api/v1/books/unknown")
    return unknown_list_json(_read(target, unknown_holds.list_unknown), time.time())


async def settle(target: Target, settlement: Settlement) -> dict[str, Json]:
    """Settle one as ``POST /api/v1/books/settle`` does: through the server, or in the database where none runs."""
    return await _say(
        target,
        ("settle", settle_json(settlement)),
        lambda connection: settled_json(unknown_holds.settle(connection, settlement, time.time())[0]),
    )


async def correct(target: Target, correction: HandCorrection) -> dict[str, Json]:
    """Correct an entry as ``POST /api/v1/books/correct`` does; through the server or in the database, as ``settle``."""
    return await _say(
        target,
        ("correct", correct_json(correction)),
        lambda connection: corrected_json(entry_corrections.correct(connection, correction, time.time())[0]),
    )


def configuration(target: Target) -> Orchestra:
    """Return the configuration that names the database and the accounts."""
    return settings.load(target.config)


async def _say(
    target: Target, said: tuple[str, dict[str, Json]], write: Callable[[Connection], dict[str, Json]]
) -> dict[str, Json]:
    """Send what is said, by the route's name, to the server; write it into the database where none runs."""
    route, body = said
    orchestra = configuration(target)
    server = target.server if target.server is not None else find_server(Path(orchestra.data_dir))
    if server is not None:
        desk = HttpDesk(checked_address(server))
        try:
            return await desk.post_document(f"/api/v1/books/{route}", body)
        finally:
            await desk.aclose()
    place = Place(Path(orchestra.data_dir), orchestra.store_url)
    if place.file is not None and not place.file.exists():
        raise _no_books(place)
    store = await asyncio.to_thread(open_store, place)
    try:
        return await asyncio.wrap_future(store.writer.submit(write))
    finally:
        await asyncio.to_thread(store.close)


async def _fetch(server: str, path: str) -> dict[str, Json]:
    desk = HttpDesk(checked_address(server))
    try:
        return await desk.get_document(path)
    finally:
        await desk.aclose()


def _read(target: Target, question: Callable[[Connection], Value]) -> Value:
    orchestra = configuration(target)
    place = Place(Path(orchestra.data_dir), orchestra.store_url)
    if place.file is not None and not place.file.exists():
        raise _no_books(place)
    with _reading(place) as connection:
        revision = migrating.find_revision(connection, str(place))
        if revision is None or revision < BOOKS_REVISION:
            raise _no_books(place)
        return question(connection)


@contextmanager
def _reading(place: Place) -> Iterator[Connection]:
    engine = open_for_reading(place)
    try:
        with engine.connect() as connection:
            yield as_of_one_moment_at_length(connection)
    except Exception as error:
        if is_storage_error(error):
            raise fault(error, place) from error
        raise
    finally:
        engine.dispose()


def _no_books(place: Place) -> NotFoundError:
    return NotFoundError(
        f"There are no books in {place} yet.",
        remedy="Start a server with `tutti serve`, or name one with --server URL, or another --config.",
    )
