"""Which crash combinations there are: every point alone, every pair, triples drawn by a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from app.domain.crash_points import CrashPoint

RECOVERY = (CrashPoint.RECOVERING, CrashPoint.RECOVERED)
CALL = tuple(point.value for point in CrashPoint if point not in RECOVERY)
LATER = tuple(point.value for point in CrashPoint)
"""A first life has nothing to recover; each later one may die there too."""


LATER_SENDS = ("before-send:2", "accepted:2", "received:2")
"""The same points at a process's second request: of interest where one call is several of them."""


def singles(more: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return every point of a first life; ``more`` points than those of a single request, where there are."""
    return [(point,) for point in (*CALL, *more)]


def pairs(more: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return every way in which a first and a second life may die."""
    return list(itertools.product((*CALL, *more), (*LATER, *more)))


def triples(count: int, seed: int, more: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """Return ``count`` different ways in which three lives may die; at most all there are."""
    every = list(itertools.product((*CALL, *more), (*LATER, *more), (*LATER, *more)))
    return random.Random(seed).sample(every, min(count, len(every)))
