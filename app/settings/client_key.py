"""The key with which the command line calls a server that asks for one."""

from __future__ import annotations

import os

KEY_VARIABLE = "TUTTI_API_KEY"


def find_client_key() -> str | None:
    """Return the key of ``TUTTI_API_KEY``, if one is set."""
    return os.environ.get(KEY_VARIABLE) or None
