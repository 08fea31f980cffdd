"""Keeps something for everybody who comes by, for as long as it matters: the limiters of a key's users.

Bounded: who was not seen for a while is forgotten once nothing of them counts any more, so that forgetting gives nobody
anything; while there are too many whose use still counts, newcomers are refused. Knows nothing of limits. Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

KEPT_MAX = 10_000
REST_NS = 65_000_000_000
"""Longer than any window: who was seen since is not looked at."""
LOOKS_MAX = 8
"""Looked at for every newcomer: forgetting keeps up with coming, and costs little."""

T = TypeVar("T")


@dataclass(slots=True)
class _Kept(Generic[T]):
    value: T
    seen_ns: int


class PassingScopes(Generic[T]):
    """What is kept, by name; longest unseen first.

    Args:
        is_idle: Tells whether something is, at a time, as if it had just been made.
        kept_max: How many at most.

    Not thread-safe: the owning actor's event loop is the lock.
    """

    def __init__(self, is_idle: Callable[[T, int], bool], kept_max: int = KEPT_MAX) -> None:
        self._is_idle = is_idle
        self._kept_max = kept_max
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return iter([(name, kept.value) for name, kept in self._kept.items()])

    def find(self, name: str) -> T | None:
        """Return what is kept under that name."""
        kept = self._kept.get(name)
        return kept.value if kept is not None else None

    def open(self, name: str, make: Callable[[], T], now_ns: int) -> T | None:
        """Return what is kept under that name, made if need be; None where there are too many."""
        kept = self._kept.get(name)
        if kept is None:
            self._forget_some(now_ns)
            if len(self._kept) >= self._kept_max:
                return None
            kept = self._kept[name] = _Kept(make(), now_ns)
        kept.seen_ns = now_ns
        self._kept.move_to_end(name)
        return kept.value

    def _forget_some(self, now_ns: int) -> None:
        for name in list(islice(self._kept, LOOKS_MAX)):
            kept = self._kept[name]
            if now_ns - kept.seen_ns < REST_NS:
                return
            if self._is_idle(kept.value, now_ns):
                del self._kept[name]
            else:
                # Looked at again later: it must not hide the others.
                kept.seen_ns = now_ns
                self._kept.move_to_end(name)
