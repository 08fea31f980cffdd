"""Finds the desk a command talks to: a named server, the one running on this data directory, or a cluster of its own.

The composition root is imported only when a cluster must be started: importing Ray takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from app import settings
from app.domain.errors import ConfigurationError, InternalError
from app.domain.ports import Desk
from app.ready_file import find_server
from app.terminal.client import HttpDesk

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a command is to go."""

    server: str | None = None
    """Address given by --server or TUTTI_SERVER."""
    config: Path | None = None
    own_cluster: bool = False
    """Whether to start a cluster where no server runs; only run and plan do."""


OpenDesk = Callable[[Target, Progress], AbstractAsyncContextManager[Desk]]


@asynccontextmanager
async def open_desk(target: Target, on_progress: Progress) -> AsyncIterator[Desk]:
    """Yield the desk and close, or end, whatever was opened for it.

    Raises:
        ConfigurationError: no server is named and none runs, or the configuration is wrong.
        InternalError: the named server does not answer.
    """
    if target.server is not None:
        async with _server(checked_address(target.server), on_progress) as desk:
            yield desk
        return
    orchestra = settings.load(target.config)
    url = find_server(Path(orchestra.data_dir))
    if url is not None:
        running = await _running(url)
        if running is not None:
            on_progress(f"using the server at {url}")
            try:
                yield running
            finally:
                await running.aclose()
            return
    if not target.own_cluster:
        raise ConfigurationError(
            f"No Tutti server runs on the data directory {orchestra.data_dir!r}.",
            param="server",
            remedy="Start one with `tutti serve`, or name one with --server URL.",
        )
    for note in orchestra.notes:
        on_progress(note)
    # Standard output belongs to the answer; whatever Ray and its workers print goes where progress goes.
    with redirect_stdout(sys.stderr):
        on_progress("loading Ray")
        from app.serve import local_desk

        async with local_desk(orchestra, on_progress) as own:
            yield own


@asynccontextmanager
async def _server(url: str, on_progress: Progress) -> AsyncIterator[Desk]:
    desk = HttpDesk(url)
    try:
        on_progress(f"using the server at {url}, version {await desk.alive()}")
        yield desk
    finally:
        await desk.aclose()


async def _running(url: str) -> HttpDesk | None:
    """Return a desk at ``url`` if a server answers there; a stale ready file is not an error."""
    desk = HttpDesk(url)
    try:
        await desk.alive()
    except InternalError:
        await desk.aclose()
        return None
    return desk


def checked_address(url: str) -> str:
    """Return a server's address as given; raises ConfigurationError where it is none."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"The server's address must begin with http:// or https://; it is {url!r}.",
            param="server",
            remedy="Write --server http://127.0.0.1:8000.",
        )
    return url
