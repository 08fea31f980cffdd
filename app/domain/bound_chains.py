"""Longest chains through a graph of tasks: how long before each, and from its start to the end.

Pure graph arithmetic; used by the lower bound and, as upward rank, for priorities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Seconds by task id."""

    head: dict[str, float]
    """Longest chain of tasks that must end before this one starts."""
    tail: dict[str, float]
    """Longest chain from this one's start to the end, itself included: its upward rank."""


def chains_of(tasks: Mapping[str, tuple[tuple[str, ...], float]]) -> Chains:
    """Return the chains of tasks given as id -> (ids it depends on, duration in seconds).

    Raises:
        ValueError: a dependency is unknown, or the dependencies form a cycle.
    """
    for task_id, (depends_on, _duration_s) in tasks.items():
        for other in depends_on:
            if other not in tasks:
                raise ValueError(f"task {task_id!r} depends on {other!r}, which does not exist")
    try:
        order = list(TopologicalSorter({task_id: needs for task_id, (needs, _s) in tasks.items()}).static_order())
    except CycleError as error:
        raise ValueError(f"the dependencies form a cycle: {' -> '.join(error.args[1])}") from error
    head: dict[str, float] = {}
    for task_id in order:
        head[task_id] = max((head[other] + tasks[other][1] for other in tasks[task_id][0]), default=0.0)
    after = dict.fromkeys(tasks, 0.0)
    tail: dict[str, float] = {}
    for task_id in reversed(order):
        needs, duration_s = tasks[task_id]
        tail[task_id] = duration_s + after[task_id]
        for other in needs:
            after[other] = max(after[other], tail[task_id])
    return Chains(head=head, tail=tail)
