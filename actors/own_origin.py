"""Who a process is, as its events say it."""

from __future__ import annotations

import os
import socket
from importlib.metadata import version

from app.domain.events.record import Origin


def own_origin(role: str) -> Origin:
    """Return who this process is."""
    return Origin(node=f"{role}-{os.getpid()}", host=socket.gethostname(), pid=os.getpid(), version=version("tutti"))
