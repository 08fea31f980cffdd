"""What a command leaves behind: one JSON document or a report on standard output, words on standard error, a status."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path

import orjson
import typer
from rich.console import Console
from rich.text import Text

from app.domain.chat import Json
from app.domain.errors import CancelledError, ConfigurationError, GatewayError, RequestError
from app.domain.run import RunStatus
from app.http.errors import body_of
from app.terminal.words import printable, text_of

PIPE_COLUMNS = 160


class ExitStatus(IntEnum):
    """What the command's exit says."""

    ANSWERED = 0
    """An answer was delivered, a partial one included; or the command did what it is for."""
    DIFFERENT = 1
    """The books do not add up, or a provider's export says otherwise."""
    BAD_INPUT = 2
    """Bad input or configuration."""
    NEEDS_ANSWERS = 3
    NO_ANSWER = 4
    INTERRUPTED = 130


def standard_error() -> Console:
    """Return the console of everything that is not the result."""
    return Console(stderr=True, highlight=False)


def standard_output() -> Console:
    """Return the console of the result; a pipe has no width, and gets one that fits every table."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)


def emit_json(document: Json) -> None:
    """Write the one JSON document of a command, as UTF-8 whatever the locale says."""
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def status_of(document: Mapping[str, Json]) -> ExitStatus:
    """Return the exit status that a result document deserves."""
    status = text_of(document.get("status"))
    if status == RunStatus.NEEDS_ANSWERS:
        return ExitStatus.NEEDS_ANSWERS
    delivered = status in (RunStatus.COMPLETED, RunStatus.PARTIAL)
    return ExitStatus.ANSWERED if delivered else ExitStatus.NO_ANSWER


def status_of_error(error: GatewayError) -> ExitStatus:
    """Return the exit status that an error deserves: what the user can change is 2, the rest is no answer."""
    if isinstance(error, CancelledError):
        return ExitStatus.INTERRUPTED
    return ExitStatus.BAD_INPUT if isinstance(error, RequestError) else ExitStatus.NO_ANSWER


def say_error(error: GatewayError) -> None:
    """Say on standard error what is wrong, where, and what to do."""
    console = standard_error()
    console.print(Text.assemble(("error: ", "bold red"), printable(error.message)), soft_wrap=True)
    line = error.line if isinstance(error, ConfigurationError) else None
    where = [word for word in (error.param and f"at {error.param}", line and f"line {line}") if word]
    if where and not all(word.removeprefix("at ") in error.message for word in where):
        console.print(Text(f"  where:  {', '.join(where)}"), soft_wrap=True)
    remedy = error.remedy
    if remedy and remedy not in error.message:
        console.print(Text(f"  remedy: {printable(remedy)}"), soft_wrap=True)


def error_json(error: GatewayError) -> dict[str, Json]:
    """Return the error in the shape of the HTTP doors, for --json."""
    return body_of(error)


def check_writable(path: Path | None, option: str) -> None:
    """Find out before any work whether the result can be written to ``path``.

    Raises:
        RequestError: its directory is missing or closed, or it is a directory itself.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise RequestError(
            f"The file {str(path)!r} cannot be written.", param=option, remedy="Name a file in a writable directory."
        )


def write_document(path: Path, document: Mapping[str, Json]) -> None:
    """Write ``document`` to ``path`` as ``write_bytes`` does."""
    write_bytes(path, orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all.

    Raises:
        RequestError: the file system refuses.
    """
    folder = path.absolute().parent
    try:
        handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except OSError as error:
        raise RequestError(f"The file {str(path)!r} cannot be written: {error.strerror}.", param="--out") from None
