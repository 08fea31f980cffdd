"""Runs a command's coroutine: interrupts become status 130, errors become words and a status, never a traceback."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import typer

from app.domain.errors import GatewayError, InternalError
from app.terminal.ask import ReadLine
from app.terminal.connect import OpenDesk, open_desk
from app.terminal.output import ExitStatus, emit_json, error_json, say_error, standard_error, status_of_error


def _stdin_is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What commands reach the world through; tests put their own in its place."""

    open_desk: OpenDesk = open_desk
    interactive: Callable[[], bool] = _stdin_is_terminal
    """Whether there is a person to ask."""
    read_line: ReadLine = input
    debug: bool = False
    """Whether a bug of ours shows its traceback."""


def execute(doors: Doors, work: Callable[[], Coroutine[Any, Any, int]], *, as_json: bool = False) -> None:
    """Run the coroutine that ``work`` makes and leave the command with its status.

    Raises:
        typer.Exit: always.
    """
    leave(doors, lambda: asyncio.run(_until_signal(work)), as_json=as_json)


def leave(doors: Doors, work: Callable[[], int], *, as_json: bool = False) -> None:
    """Do ``work`` and leave the command with its status.

    Raises:
        typer.Exit: always.
    """
    try:
        status = work()
    except GatewayError as error:
        say_error(error)
        if as_json:
            emit_json(error_json(error))
        status = status_of_error(error)
    except (KeyboardInterrupt, asyncio.CancelledError):
        standard_error().print("interrupted")
        status = ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; typer ends quietly.
        raise
    except Exception as error:
        # The outermost edge: a bug of ours must not look like the user's fault, nor show what it was holding.
        if doors.debug:
            raise
        bug = InternalError(
            f"{type(error).__name__} inside Tutti; this is a bug of ours.", remedy="TUTTI_DEBUG=1 shows where."
        )
        say_error(bug)
        if as_json:
            emit_json(error_json(bug))
        status = ExitStatus.NO_ANSWER
    raise typer.Exit(int(status))


async def _until_signal(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    task = asyncio.current_task()
    assert task is not None, "asyncio.run makes one"
    # SIGTERM ends a command as Ctrl-C does, so that what it started ends too.
    with suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work()
