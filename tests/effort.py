"""How many examples a property is tried on: all in `make test`, a fifth in `make check`, which people wait for."""

from __future__ import annotations

import os

QUICK = bool(os.environ.get("TUTTI_QUICK"))


def examples(count: int) -> int:
    """Return how many of ``count`` examples to try now."""
    return max(10, count // 5) if QUICK else count
