"""Builds the simulator's application and runs it on a socket of its own.

Called by ``tutti simulate``, ``python -m app.simulator`` and tests.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from app.simulator.config import SimulatorConfig
from app.simulator.connection import TRANSPORT
from app.simulator.control import control_routes
from app.simulator.engine import Engine
from app.simulator.routes import provider_routes

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
else:  # httptools where it is installed, else h11; both keep their state in ``app_state``.
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HttpProtocol

BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than client pools keep idle connections, so that they close first and never write into a closed one."""


def build_app(config: SimulatorConfig) -> Starlette:
    """Return the application of one simulator, with counts of its own."""
    engine = Engine(config)
    return Starlette(routes=[*provider_routes(engine), *control_routes(engine)])


def run(config: SimulatorConfig) -> None:
    """Serve until SIGTERM or Ctrl-C; print ``ready http://HOST:PORT`` once requests are accepted.

    Raises:
        SystemExit: 2, the address cannot be listened on.
    """
    try:
        listener = listen(config.host, config.port)
    except OSError as error:
        sys.stderr.write(f"cannot listen on {config.host}:{config.port}: {error.strerror}; choose another --port\n")
        raise SystemExit(2) from None
    settings = uvicorn.Config(
        build_app(config),
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    _Server(settings).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        OSError: the address is in use or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class _Protocol(HttpProtocol):
    """Puts the transport where a fault can break it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, TRANSPORT: transport}
        super().connection_made(transport)


class _Server(uvicorn.Server):
    """Says when it accepts requests, and ends at the first signal."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            sys.stdout.write(f"ready http://{f'[{host}]' if ':' in host else host}:{port}\n")
            sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = True
        super().handle_exit(sig, frame)
