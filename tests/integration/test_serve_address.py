"""An address that cannot be listened on is refused before a cluster is started for it."""

from __future__ import annotations

import socket

import pytest

from app.domain.errors import ConfigurationError
from app.terminal.serve_command import check_free


def test_taken_port_and_foreign_host_are_refused_by_name() -> None:
    """The message names the address, the remedy the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: Address already in use") as refused:
            check_free("127.0.0.1", port)
        with pytest.raises(ConfigurationError, match="Cannot listen on"):
            check_free("203.0.113.1", port)

    assert refused.value.param == "--port"
    check_free("127.0.0.1", port)
