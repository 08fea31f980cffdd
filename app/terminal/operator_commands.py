"""The commands for operators: accounts, check, reload, init."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from rich.live import Live
from rich.text import Text

from app import settings
from app.domain.accounts import Orchestra
from app.domain.chat import Json
from app.domain.errors import RequestError
from app.http.wire import plain
from app.terminal.accounts_table import render_accounts, render_checks
from app.terminal.connect import Target
from app.terminal.display import display_on
from app.terminal.execute import Doors
from app.terminal.output import ExitStatus, emit_json, standard_error, standard_output
from app.terminal.words import printable

REFRESH_S = 1.0


async def accounts(doors: Doors, target: Target, *, by_identity: bool, as_json: bool) -> int:
    """Show every account: live on a terminal until Ctrl-C, once elsewhere."""
    console = standard_output()
    async with doors.open_desk(target, _quiet) as desk:
        rows = await desk.accounts()
        if as_json:
            emit_json(cast("list[Json]", [plain(row) for row in rows]))
        elif not console.is_terminal:
            console.print(render_accounts(rows, by_identity=by_identity))
        else:
            with Live(render_accounts(rows, by_identity=by_identity), console=console, auto_refresh=False) as live:
                while True:
                    await asyncio.sleep(REFRESH_S)
                    live.update(render_accounts(await desk.accounts(), by_identity=by_identity), refresh=True)
    return int(ExitStatus.ANSWERED)


async def check(doors: Doors, target: Target, *, live: bool, as_json: bool) -> int:
    """Validate the configuration and, with ``live``, call every account once through the running server.

    Raises:
        ConfigurationError: the configuration is wrong; it names every mistake with its line.
    """
    orchestra = settings.load(target.config)
    document = _described(orchestra)
    if not as_json:
        _print_configuration(orchestra)
    failed = False
    if live:
        with display_on(standard_error()) as display:
            async with doors.open_desk(target, display.note) as desk:
                display.note("calling every account once")
                rows = await desk.check_live()
        failed = not all(row.ok for row in rows)
        document["live"] = cast("list[Json]", [plain(row) for row in rows])
        if not as_json:
            standard_output().print(render_checks(rows))
    document["ok"] = not failed
    if as_json:
        emit_json(document)
    return int(ExitStatus.BAD_INPUT if failed else ExitStatus.ANSWERED)


async def reload(doors: Doors, target: Target, *, as_json: bool) -> int:
    """Make the running server read its configuration again."""
    async with doors.open_desk(target, _quiet) as desk:
        report = await desk.reload()
    if as_json:
        emit_json(plain(report))
        return int(ExitStatus.ANSWERED)
    console = standard_output()
    console.print(Text(f"version {report.version} of {report.source} is in force"))
    for word, names in (("added", report.added), ("changed", report.changed), ("removed", report.removed)):
        if names:
            console.print(Text(f"  {word}: {', '.join(names)}"))
    for note in report.notes:
        console.print(Text(f"  note: {printable(note)}"))
    return int(ExitStatus.ANSWERED)


def init(path: Path, *, force: bool) -> int:
    """Write a commented configuration.

    Raises:
        RequestError: the file exists, or cannot be written.
    """
    if path.exists() and not force:
        raise RequestError(
            f"The file {str(path)!r} exists.", param="PATH", remedy="Name another one, or overwrite it with --force."
        )
    try:
        path.write_text(settings.write_template(), encoding="utf-8")
    except OSError as error:
        raise RequestError(f"The file {str(path)!r} cannot be written: {error.strerror}.", param="PATH") from None
    console = standard_error()
    console.print(Text(f"wrote {path}; put your keys into the environment, then `tutti check --config {path}`"))
    return int(ExitStatus.ANSWERED)


def _described(orchestra: Orchestra) -> dict[str, Json]:
    coordinator = orchestra.coordinator
    return {
        "ok": True,
        "source": orchestra.source,
        "data_dir": orchestra.data_dir,
        "accounts": [
            {
                "name": account.name,
                "identity": account.identity,
                "provider": account.provider.value,
                "models": [name for name, _ in account.models],
                "quota_group": account.quota_group,
            }
            for account in orchestra.accounts
        ],
        "coordinator": {
            "model": coordinator.model,
            "requested_model": coordinator.requested_model,
            "judge_model": coordinator.judge_model,
        },
        "notes": list(orchestra.notes),
    }


def _print_configuration(orchestra: Orchestra) -> None:
    console = standard_output()
    coordinator = orchestra.coordinator
    console.print(Text(f"{orchestra.source}: no mistakes"))
    console.print(Text(f"  data directory: {orchestra.data_dir}"), soft_wrap=True)
    for account in orchestra.accounts:
        models = ", ".join(name for name, _ in account.models)
        console.print(Text(f"  account {account.name}: {account.provider.value}, {models}"), soft_wrap=True)
    asked = f" (asked for: {coordinator.requested_model})" if coordinator.requested_model != coordinator.model else ""
    console.print(Text(f"  coordinator: {coordinator.model}{asked}, judge: {coordinator.judge_model}"))
    for note in orchestra.notes:
        console.print(Text(f"  note: {printable(note)}"), soft_wrap=True)


def _quiet(text: str) -> None:
    """Say nothing of connecting: these commands answer at once."""
