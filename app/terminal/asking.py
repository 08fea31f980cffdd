"""Declares commands that ask a server: their common options, and how their coroutine is run, in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, get_type_hints

import typer

from app.terminal.connect import Target
from app.terminal.execute import Doors, execute
from app.terminal.options import Config, Json, Server

Own = ParamSpec("Own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every such command is given."""

    doors: Doors
    target: Target
    as_json: bool


def asking(
    *, server: object = Server, json: bool = True
) -> Callable[[Callable[Concatenate[Asked, Own], Coroutine[Any, Any, int]]], Callable[..., None]]:
    """Make a coroutine that returns an exit status a command with ``--config``, ``--json`` and ``--server``.

    Args:
        server: The option that names the server.
        json: Whether there is something to print as JSON.
    """

    def declare(command: Callable[Concatenate[Asked, Own], Coroutine[Any, Any, int]]) -> Callable[..., None]:
        def declared(context: typer.Context, **given: Any) -> None:
            config: Path | None = given.pop("config")
            target = Target(server=given.pop("server"), config=config)
            asked = Asked(doors=context.obj, target=target, as_json=given.pop("as_json", False))
            execute(asked.doors, lambda: work(asked, **given), as_json=asked.as_json)

        work: Callable[..., Coroutine[Any, Any, int]] = command
        # typer reads options off the signature: the command's own come first, as people read them.
        own = list(inspect.signature(command).parameters.values())[1:]
        hints = get_type_hints(command, include_extras=True)
        common = {"config": (Config, None)} | ({"as_json": (Json, False)} if json else {}) | {"server": (server, None)}
        parameters = [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(one.replace(annotation=hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)
                for name, (option, default) in common.items()
            ),
        ]
        described: Any = declared
        described.__signature__ = inspect.Signature(parameters)
        described.__annotations__ = {one.name: one.annotation for one in parameters}
        described.__name__, described.__doc__ = command.__name__, command.__doc__
        return declared

    return declare
