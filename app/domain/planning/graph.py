"""Questions about the DAG of a plan: order, cycles, depth, reachability, upward ranks. Pure, linear in edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from app.domain.plan import PlannedTask

Edges = Mapping[str, Sequence[str]]
"""Task id to the ids it depends on; every id named is a key."""


def edges_of(tasks: Iterable[PlannedTask]) -> dict[str, tuple[str, ...]]:
    """Return the dependencies by task id, without those on tasks that do not exist."""
    listed = list(tasks)
    known = {task.id for task in listed}
    return {task.id: tuple(name for name in task.dependency_ids if name in known) for task in listed}


def topological_order(edges: Edges) -> list[str]:
    """Return the ids so that dependencies come first; ids on a cycle, and those behind one, are left out."""
    waiting = {task_id: len(set(needed)) for task_id, needed in edges.items()}
    dependants: dict[str, list[str]] = {task_id: [] for task_id in edges}
    for task_id, needed in edges.items():
        for name in set(needed):
            dependants[name].append(task_id)
    ready = [task_id for task_id, count in waiting.items() if count == 0]
    order: list[str] = []
    for task_id in ready:  # grows while it is walked
        order.append(task_id)
        for dependant in dependants[task_id]:
            waiting[dependant] -= 1
            if waiting[dependant] == 0:
                ready.append(dependant)
    return order


def find_cycle(edges: Edges) -> list[str]:
    """Return the ids along one cycle, the first repeated at the end; empty where there is none."""
    placed = set(topological_order(edges))
    left = {task_id: [name for name in needed if name not in placed] for task_id, needed in edges.items()}
    at = next((task_id for task_id in edges if task_id not in placed), None)
    seen: list[str] = []
    while at is not None and at not in seen:
        seen.append(at)
        at = left[at][0]
    return [] if at is None else [*seen[seen.index(at) :], at]


def depths(edges: Edges) -> dict[str, int]:
    """Return the number of tasks on the longest chain that ends with each task; the graph is acyclic."""
    found: dict[str, int] = {}
    for task_id in topological_order(edges):
        found[task_id] = 1 + max((found[name] for name in edges[task_id]), default=0)
    return found


def ancestors(edges: Edges) -> dict[str, frozenset[str]]:
    """Return everything each task waits for, directly or not; the graph is acyclic."""
    found: dict[str, frozenset[str]] = {}
    for task_id in topological_order(edges):
        direct = edges[task_id]
        found[task_id] = frozenset(direct).union(*(found[name] for name in direct))
    return found


def upward_ranks(edges: Edges, seconds: Callable[[str], float]) -> dict[str, float]:
    """Return seconds from the start of each task to the end of the longest chain that begins with it."""
    ranks: dict[str, float] = {}
    after: dict[str, float] = dict.fromkeys(edges, 0.0)
    for task_id in reversed(topological_order(edges)):
        ranks[task_id] = seconds(task_id) + after[task_id]
        for name in edges[task_id]:
            after[name] = max(after[name], ranks[task_id])
    return ranks
