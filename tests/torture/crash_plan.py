"""Which crash combinations there are: every point alone, every pair, triples drawn by a seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from app.domain.crash_points import CrashPoint

RECOVERY = (CrashPoint.RECOVERING, CrashPoint.RECOVERED)
CALL = tuple(point for point in CrashPoint if point not in RECOVERY)
LATER = tuple(CrashPoint)
"""A first life has nothing to recover; each later one may die there too."""


def singles() -> list[tuple[str, ...]]:
    """Return every point of a first life."""
    return [(point.value,) for point in CALL]


def pairs() -> list[tuple[str, ...]]:
    """Return every way in which a first and a second life may die."""
    return [(first.value, second.value) for first, second in itertools.product(CALL, LATER)]


def triples(count: int, seed: int) -> list[tuple[str, ...]]:
    """Return ``count`` different ways in which three lives may die; at most all there are."""
    every: Sequence[tuple[CrashPoint, ...]] = list(itertools.product(CALL, LATER, LATER))
    drawn = random.Random(seed).sample(every, min(count, len(every)))
    return [tuple(point.value for point in points) for points in drawn]
