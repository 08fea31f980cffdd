"""Finds out whether an address can be listened on, so that a taken port is said in words and early.

Called by the command line before a cluster is started, and by the composition root when Serve could not bind after all.
"""

from __future__ import annotations

import socket

from app.domain.errors import ConfigurationError


def check_free(host: str, port: int) -> None:
    """Make sure that ``host:port`` can be listened on now; another may take it the next moment.

    Raises:
        ConfigurationError: it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            param="--port",
            remedy="Choose another with --port, or stop what listens there.",
        ) from None
