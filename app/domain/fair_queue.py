"""Orders the waiting calls of many callers: by class in bounded shares, within a class by weighted virtual time.

Two levels of start-time fair queueing, both counted in tokens. Classes share the pool 16 : 4 : 1 while all of them have
calls waiting, so an interactive call goes ahead of a backlog of batch work, yet batch always gets its twenty-first.
Within a class each caller's calls stay in their order, and callers take turns by what they were served, divided by
their weight: a burst delays its own caller. Does not wait, time out or look at accounts: its owner takes out what
placement could bind, in any order, and withdraws what gave up.

Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", 1996; the tags are computed when a call is looked at, not when it
comes, so that a withdrawn call costs its caller nothing.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from app.domain.gateway import ServiceClass

SHARES = {ServiceClass.INTERACTIVE: 16, ServiceClass.STANDARD: 4, ServiceClass.BATCH: 1}
"""Tokens that each class is served while all have calls waiting; most urgent first, which also decides ties."""
STALE_MIN = 64
"""Left-over entries that are kept before anything is tidied up."""

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """Waiting calls in fair order.

    Iterating yields every call, first to be served first; the queue must not change meanwhile. It is exactly the order
    in which repeatedly taking the first would serve them, if nothing else came.

    A class or caller that comes back after idling starts where the others are: it has neither credit nor, once nobody
    was waiting, debt. One that was passed over because no account could take its calls keeps its first place for one
    call, not the sum of what it missed; else its blocked calls would hide everybody else's from ``peek``.

    Args:
        calls_max: Calls that may wait. Positive. What happens when it is ``full`` is the owner's decision.

    Not thread-safe: the owner's event loop is the lock.
    """

    def __init__(self, calls_max: int) -> None:
        if calls_max < 1:
            raise ValueError(f"calls_max must be positive, not {calls_max!r}")
        self._calls_max = calls_max
        self._lanes: dict[ServiceClass, _Lane[T]] = {
            service_class: _Lane(share, rank) for rank, (service_class, share) in enumerate(SHARES.items())
        }
        self._where: dict[T, tuple[_Lane[T], _Line[T]]] = {}
        self._counts: dict[str, int] = {}
        self._virtual = 0.0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, item: object) -> bool:
        return item in self._where

    def __iter__(self) -> Iterator[T]:
        lanes = [lane for lane in self._lanes.values() if lane.waiting]
        if len(lanes) == 1:
            return (item for item, _cost in lanes[0].in_order())
        return self._merged(lanes)

    @property
    def full(self) -> bool:
        """Whether no further call may wait."""
        return len(self._where) >= self._calls_max

    def push(self, item: T, caller: str, *, weight: float, service_class: ServiceClass, cost_tokens: int) -> None:
        """Let a call wait. O(log callers).

        Args:
            item: The call, unique among those that wait.
            caller: Whose it is; callers are configured keys, hence few.
            weight: The caller's share relative to others of the class. Positive; the latest one counts.
            service_class: How urgent it is.
            cost_tokens: What it may use, input and largest output. Positive.

        Raises:
            ValueError: the queue is full, ``item`` waits already, or a number is not positive.
        """
        if self.full:
            raise ValueError("the queue is full")
        lane, line = self._enter(item, caller, weight, service_class, cost_tokens)
        lane.push(item, line, cost_tokens, self._arrivals)

    def restore(self, item: T, caller: str, *, weight: float, service_class: ServiceClass, cost_tokens: int) -> None:
        """Let a call wait again that was taken and not served after all. O(log callers).

        It goes to the front of its caller's line, and what it was charged is returned; with the same arguments as in
        ``push``. The bound does not apply, since the call was within it before: what is under way may come on top.

        Raises:
            ValueError: as in ``push``, but for the bound.
        """
        lane, line = self._enter(item, caller, weight, service_class, cost_tokens)
        lane.restore(item, line, cost_tokens, self._arrivals)
        lane.start = max(0.0, lane.start - cost_tokens / lane.share)

    def peek(self, limit: int) -> list[T]:
        """Return the first ``limit`` calls in fair order, without removing them. O(limit log callers)."""
        return list(islice(self, limit))

    def take(self, item: T) -> None:
        """Remove a call that is being served, and charge its caller and class for it. O(log callers).

        Raises:
            KeyError: it does not wait.
        """
        lane, line = self._remove(item)
        cost_tokens = lane.take(item, line)
        self._virtual = max(self._virtual, lane.start)
        lane.start = self._virtual + cost_tokens / lane.share
        self._tidy(lane)

    def withdraw(self, item: T) -> bool:
        """Remove a call that gave up, at no charge; return whether it was waiting. O(log callers).

        Calls of other callers keep their order; later calls of this caller move up.
        """
        if item not in self._where:
            return False
        lane, line = self._remove(item)
        lane.drop(item, line)
        self._tidy(lane)
        return True

    def count(self, caller: str) -> int:
        """Return how many calls of ``caller`` wait, over all classes."""
        return self._counts.get(caller, 0)

    def counts(self) -> dict[ServiceClass, int]:
        """Return how many calls wait in each class."""
        return {service_class: lane.waiting for service_class, lane in self._lanes.items()}

    def find_displaced(self, caller: str) -> T | None:
        """Return the call to refuse so that one of ``caller`` may wait in a full queue; None: refuse the new one.

        It is the newest and least urgent call of whoever has most waiting, provided that is at least two more than
        ``caller`` has: a burst that fills the queue may not shut others out of it. O(callers).
        """
        heaviest = max(self._counts, key=self._counts.__getitem__, default=caller)
        if self.count(heaviest) < self.count(caller) + 2:
            return None
        for lane in reversed(self._lanes.values()):
            item = lane.newest(heaviest)
            if item is not None:
                return item
        raise AssertionError("a caller with calls waiting has a newest one")

    def _enter(
        self, item: T, caller: str, weight: float, service_class: ServiceClass, cost_tokens: int
    ) -> tuple[_Lane[T], _Line[T]]:
        if item in self._where:
            raise ValueError(f"{item!r} waits already")
        if not (weight > 0 and cost_tokens > 0):
            raise ValueError(f"weight {weight!r} and cost {cost_tokens!r} must be positive")
        lane = self._lanes[service_class]
        if not lane.waiting:
            lane.start = max(lane.start, self._virtual)
        line = lane.line_of(caller)
        line.weight = weight
        self._arrivals += 1
        self._where[item] = (lane, line)
        self._counts[caller] = self._counts.get(caller, 0) + 1
        return lane, line

    def _remove(self, item: T) -> tuple[_Lane[T], _Line[T]]:
        lane, line = self._where.pop(item)
        left = self._counts[line.caller] - 1
        if left:
            self._counts[line.caller] = left
        else:
            del self._counts[line.caller]
        return lane, line

    def _tidy(self, lane: _Lane[T]) -> None:
        if not lane.waiting:
            lane.clear()
        if not self._where:
            # Nobody waits, so nobody is behind: what was served before is forgotten, and numbers stay small.
            self._virtual = 0.0
            for each in self._lanes.values():
                each.start = 0.0

    def _merged(self, lanes: list[_Lane[T]]) -> Iterator[T]:
        virtual = self._virtual
        heads = []
        for lane in lanes:
            calls = lane.in_order()
            item, cost_tokens = next(calls)
            heads.append((lane.start, lane.rank, item, cost_tokens, calls, lane.share))
        heapq.heapify(heads)
        while heads:
            start, rank, item, cost_tokens, calls, share = heads[0]
            virtual = max(virtual, start)
            yield item
            following = next(calls, None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (virtual + cost_tokens / share, rank, *following, calls, share))


class _Line(Generic[T]):
    """One caller's waiting calls in one class."""

    __slots__ = ("arrival", "caller", "calls", "entry", "start", "weight")

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.weight = 1.0
        self.calls: OrderedDict[T, tuple[int, int]] = OrderedDict()
        """Item: (cost in tokens, arrival), oldest first. Ordered by links: the first of a plain dict is not found in
        constant time after many removals at its front."""
        self.start = 0.0
        """Virtual start of the next call, in weighted tokens."""
        self.arrival = 0
        """Of the next call; decides ties."""
        self.entry: _Entry[T] | None = None
        """The line's valid entry in the heap."""


class _Lane(Generic[T]):
    """The calls of one class: a heap of lines by (virtual start, arrival), with entries that are out of date."""

    def __init__(self, share: int, rank: int) -> None:
        self.share = share
        self.rank = rank
        self.start = 0.0
        """Virtual start of this class's next call among the classes."""
        self.waiting = 0
        self._virtual = 0.0
        self._lines: dict[str, _Line[T]] = {}
        self._heap: list[_Entry[T]] = []
        self._tidy_above = STALE_MIN

    def line_of(self, caller: str) -> _Line[T]:
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = _Line(caller)
        return line

    def push(self, item: T, line: _Line[T], cost_tokens: int, arrival: int) -> None:
        line.calls[item] = (cost_tokens, arrival)
        self.waiting += 1
        if len(line.calls) == 1:
            line.start, line.arrival = max(line.start, self._virtual), arrival
            self._enter(line)

    def restore(self, item: T, line: _Line[T], cost_tokens: int, arrival: int) -> None:
        start = line.start if line.calls else max(line.start, self._virtual)
        line.calls[item] = (cost_tokens, arrival)
        line.calls.move_to_end(item, last=False)
        self.waiting += 1
        line.start, line.arrival = max(0.0, start - cost_tokens / line.weight), arrival
        self._enter(line)
        self._clean_root()

    def take(self, item: T, line: _Line[T]) -> int:
        first = self._heap[0][2] is line
        cost_tokens, _arrival = line.calls.pop(item)
        self.waiting -= 1
        self._virtual = max(self._virtual, line.start)
        line.start = self._virtual + cost_tokens / line.weight
        if line.calls:
            line.arrival = next(iter(line.calls.values()))[1]
            if first:
                line.entry = (line.start, line.arrival, line)
                heapq.heapreplace(self._heap, line.entry)
            else:
                self._enter(line)
        self._clean_root()
        return cost_tokens

    def drop(self, item: T, line: _Line[T]) -> None:
        del line.calls[item]
        self.waiting -= 1
        self._clean_root()

    def newest(self, caller: str) -> T | None:
        line = self._lines.get(caller)
        return next(reversed(line.calls)) if line is not None and line.calls else None

    def clear(self) -> None:
        """Forget what was served: nobody of this class waits, so nobody is behind."""
        self._lines.clear()
        self._heap.clear()
        self._virtual = 0.0
        self._tidy_above = STALE_MIN

    def in_order(self) -> Iterator[tuple[T, int]]:
        """Yield (item, cost in tokens) in fair order.

        Walks the heap without changing it: ``front`` holds the nodes whose parents were seen, by their index, and the
        next call of every line that was seen, at index -1.
        """
        heap, virtual = self._heap, self._virtual
        front: list[_Front[T]] = [(*heap[0][:2], 0, heap[0][2], None, None)] if heap else []
        while front:
            start, arrival, index, line, calls, call = front[0]
            if index >= 0:
                heapq.heappop(front)
                for child in (2 * index + 1, 2 * index + 2):
                    if child < len(heap):
                        heapq.heappush(front, (*heap[child][:2], child, heap[child][2], None, None))
                if _is_valid(heap[index]):
                    calls = iter(line.calls.items())
                    heapq.heappush(front, (start, arrival, -1, line, calls, next(calls)))
                continue
            assert calls is not None, "only a line that was seen stands at index -1"
            assert call is not None
            item, (cost_tokens, _arrival) = call
            virtual = max(virtual, start)
            yield item, cost_tokens
            following = next(calls, None)
            if following is None:
                heapq.heappop(front)
            else:
                start = virtual + cost_tokens / line.weight
                heapq.heapreplace(front, (start, following[1][1], -1, line, calls, following))

    def _clean_root(self) -> None:
        """Keep the root valid: every look at the queue begins there, and ``take`` relies on it."""
        while self._heap and not _is_valid(self._heap[0]):
            heapq.heappop(self._heap)

    def _enter(self, line: _Line[T]) -> None:
        if len(self._heap) + len(self._lines) >= self._tidy_above:
            self._lines = {
                caller: line for caller, line in self._lines.items() if line.calls or line.start > self._virtual
            }
            self._heap = [entry for entry in self._heap if _is_valid(entry)]
            heapq.heapify(self._heap)
            self._tidy_above = STALE_MIN + 2 * (len(self._heap) + len(self._lines))
        line.entry = (line.start, line.arrival, line)
        heapq.heappush(self._heap, line.entry)


_Entry = tuple[float, int, _Line[T]]
_Call = tuple[T, tuple[int, int]]
_Front = tuple[float, int, int, _Line[T], Iterator[_Call[T]] | None, _Call[T] | None]


def _is_valid(entry: _Entry[T]) -> bool:
    line = entry[2]
    return line.entry is entry and bool(line.calls)
