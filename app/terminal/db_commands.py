"""The commands of the database: what it is, its schema, its copies. They work on it directly, without a server.

Whoever changes it takes the writer's lock first, so a running server refuses them, and they it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.text import Text
from sqlalchemy import Connection

from app import settings
from app.domain.errors import ConflictError, RequestError
from app.storage import backup as copies
from app.storage import migrating
from app.storage.data_dir import hold_directory, require_free
from app.storage.database import bring_to, open_for_reading, open_for_writing
from app.storage.faults import fault, is_storage_error
from app.storage.place import Place
from app.terminal.execute import Doors
from app.terminal.output import ExitStatus, emit_json, standard_error, standard_output


def status(config: Path | None, *, as_json: bool) -> int:
    """Say where the database is, which schema it has, and who writes to it.

    Raises:
        GatewayError: it cannot be read.
    """
    place = _place(config)
    revision = _find_revision(place)
    waiting = [name for name in migrating.revisions() if revision is not None and name > revision]
    size_bytes = place.file.stat().st_size if place.file is not None and place.file.exists() else None
    writer = _writer(place)
    if as_json:
        emit_json(
            {
                "engine": "sqlite" if place.file is not None else "postgresql",
                "place": str(place).strip("'"),
                "revision": revision,
                "newest": migrating.head(),
                "waiting": [*waiting],
                "size_bytes": size_bytes,
                "writer": writer,
            }
        )
        return int(ExitStatus.ANSWERED)
    console = standard_output()
    console.print(Text(f"database: {place}"), soft_wrap=True)
    if size_bytes is not None:
        console.print(Text(f"  size: {size_bytes:,} bytes"))
    words = f"{len(waiting)} newer: {', '.join(waiting)}" if waiting else "the newest"
    console.print(
        Text(f"  schema: {revision} ({words})" if revision else "  schema: none yet; made at the first start")
    )
    console.print(Text(f"  in use: {writer or 'no'}"), soft_wrap=True)
    return int(ExitStatus.ANSWERED)


def migrate(doors: Doors, config: Path | None, to: str | None, *, dry_run: bool, yes: bool) -> int:
    """Bring the schema to a revision, or print the SQL that would.

    Raises:
        RequestError: there is no such revision, or going back was not confirmed.
        ConflictError: a server is running on it.
    """
    place = _place(config)
    target = migrating.require_revision(to)
    if target == migrating.BASE:
        raise RequestError("below the first revision there is no journal", param="--to", remedy="delete the database")
    before = _find_revision(place)
    if dry_run:
        engine = "sqlite" if place.file is not None else "postgresql"
        typer.echo(migrating.render_sql(engine, before=before, to=target) or "-- nothing to do\n", nl=False)
        return int(ExitStatus.ANSWERED)
    if before is not None and target < before:
        _confirm(doors, yes, f"Going back from {before} to {target} drops what newer versions keep there.")
    with _only_writer(place):
        engine_ = open_for_writing(place)
        try:
            _, after, kept = bring_to(engine_, place, target)
        finally:
            engine_.dispose()
    console = standard_error()
    console.print(Text(f"{place}: schema {after}" + ("" if before == after else f", was {before or 'none'}")))
    if kept is not None:
        console.print(Text(f"  the file as it was: {kept}"), soft_wrap=True)
    if after != migrating.head():
        console.print(Text("  this Tutti brings it up again at its next start; use the version that knows this schema"))
    return int(ExitStatus.ANSWERED)


def backup(config: Path | None, target: Path) -> int:
    """Copy the database to a file while it is in use, and check every page of the copy.

    Raises:
        RequestError: the file exists, or the database is PostgreSQL's.
        NotFoundError: there is no database yet.
    """
    place = _place(config)
    file = _file_of(place, f"pg_dump --format=custom --file={target} --dbname=…")
    if target.exists():
        raise RequestError(f"The file {str(target)!r} exists.", param="FILE", remedy="Name another one.")
    copies.require_file(file)
    copies.copy_file(file, target.absolute())
    revision = copies.check_file(target)
    console = standard_error()
    console.print(Text(f"wrote {target}: {target.stat().st_size:,} bytes, schema {revision}, checked"), soft_wrap=True)
    return int(ExitStatus.ANSWERED)


def restore(doors: Doors, config: Path | None, source: Path, *, yes: bool) -> int:
    """Put a copy in the place of the database; what was there is kept beside it.

    Raises:
        RequestError: not confirmed, or the database is PostgreSQL's.
        ConfigurationError: the copy is damaged, or a newer Tutti wrote it.
        ConflictError: a server is running on it.
    """
    place = _place(config)
    file = _file_of(place, f"pg_restore --clean --if-exists --dbname=… {source}")
    revision = copies.check_file(source)
    if file.exists() and source.samefile(file):
        raise RequestError("That file is the database itself.", param="FILE", remedy="Name a copy.")
    with _only_writer(place):
        if file.exists():
            _confirm(doors, yes, f"{str(source)!r} (schema {revision}) takes the place of {str(file)!r}.")
        aside = file.with_name(f"journal.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite")
        kept = copies.restore_file(source, file, aside=aside)
    console = standard_error()
    console.print(Text(f"restored {source} to {file}"), soft_wrap=True)
    if kept:
        console.print(Text(f"  what was there: {aside}"), soft_wrap=True)
    return int(ExitStatus.ANSWERED)


def _place(config: Path | None) -> Place:
    orchestra = settings.load(config)
    return Place(Path(orchestra.data_dir), orchestra.store_url)


def _file_of(place: Place, instead: str) -> Path:
    if place.file is None:
        raise RequestError(
            f"The database is PostgreSQL's ({place}), which brings its own tools for this.",
            param="store.url",
            remedy=f"Use `{instead}`, or your server's continuous archiving.",
        )
    return place.file


def _find_revision(place: Place) -> str | None:
    if place.file is not None and not place.file.exists():
        return None
    return _ask(place, lambda connection: migrating.find_revision(connection, str(place)))


def _ask(place: Place, question: Callable[[Connection], str | None]) -> str | None:
    engine = open_for_reading(place)
    try:
        with engine.connect() as connection:
            return question(connection)
    except Exception as error:
        if is_storage_error(error):
            raise fault(error, place) from error
        raise
    finally:
        engine.dispose()


def _writer(place: Place) -> str | None:
    """Return who holds the writer's lock, None where nobody does."""
    try:
        require_free(place.data_dir)
    except ConflictError as error:
        return error.message
    if place.file is not None:
        return None
    # Its driver is loaded where there is a server only.
    from app.storage.server_sessions import find_holder

    return _ask(place, find_holder)


@contextmanager
def _only_writer(place: Place) -> Iterator[None]:
    lock = hold_directory(place.data_dir)
    try:
        yield
    finally:
        os.close(lock)


def _confirm(doors: Doors, yes: bool, what: str) -> None:
    if yes:
        return
    if doors.interactive():
        standard_error().print(Text(f"{what} Go on? [y/N] "), end="")
        if doors.read_line().strip().lower() in ("y", "yes"):
            return
    raise RequestError(f"{what} Nothing was changed.", param="--yes", remedy="Confirm it with --yes.")
