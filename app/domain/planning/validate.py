"""Decides whether a plan can be played, and puts right what needs no judgement (prompts.md 7.1).

What only the planner can put right (a cycle, a missing task, no criterion) becomes numbered problems with their place,
for the repair call. What code may put right without changing what is asked for is done, with a note: near-duplicate
tasks, needless edges, ids of criteria, more tasks than allowed. Every artifact goes to the merge, so every sink
reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.domain.language import words_of
from app.domain.plan import Criterion, Dependency, Plan, PlannedTask
from app.domain.planning.graph import ancestors, depths, edges_of, find_cycle, topological_order
from app.domain.safe_regex import compile_safe
from app.domain.schema_check import Problem

SHINGLE_WORDS = 3
DUPLICATE_OVERLAP = 0.8
COMPARED_TASKS_MAX = 400
"""Above this many tasks only literal duplicates are looked for; comparing pairs is quadratic."""
TASK_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanLimits:
    """How large a plan may be, and what its tasks may be of."""

    tasks_max: int
    depth_max: int
    task_types: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """A plan that can be played, or what stands against it."""

    plan: Plan
    """As put right; playable only where there are no problems."""
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def validate(plan: Plan, limits: PlanLimits) -> Validated:
    """Check ``plan`` and put right what code may."""
    problems = _problems(plan.tasks, limits)
    if problems:
        return Validated(plan=plan, problems=tuple(problems), notes=())
    notes: list[str] = []
    tasks = _without_duplicates(plan.tasks, notes)
    tasks = _cut(tasks, limits.tasks_max, notes)
    tasks = _without_needless_edges(tasks, notes)
    tasks = tuple(_with_good_criteria(task) for task in tasks)
    deep = [task_id for task_id, depth in depths(edges_of(tasks)).items() if depth > limits.depth_max]
    if deep:
        index = {task.id: number for number, task in enumerate(plan.tasks)}
        message = (
            f"{deep[0]} is task {depths(edges_of(tasks))[deep[0]]} of a chain; at most {limits.depth_max} may "
            "follow each other. Drop dependencies that are not needed, or join tasks"
        )
        problems = [Problem(path=f"tasks[{index[task_id]}].depends_on", message=message) for task_id in deep]
    return Validated(plan=replace(plan, tasks=tasks), problems=tuple(problems), notes=tuple(notes))


def _problems(tasks: Sequence[PlannedTask], limits: PlanLimits) -> list[Problem]:
    if not tasks:
        return [Problem(path="tasks", message="there is no task")]
    problems: list[Problem] = []
    seen: set[str] = set()
    known = {task.id for task in tasks}
    for index, task in enumerate(tasks):
        path = f"tasks[{index}]"
        if not TASK_ID.fullmatch(task.id):
            problems.append(Problem(path=f"{path}.id", message=f"{task.id!r} is no id; use t1, t2 and so on"))
        elif task.id in seen:
            problems.append(Problem(path=f"{path}.id", message=f"{task.id!r} is used twice"))
        seen.add(task.id)
        problems.extend(_task_problems(task, path, known, limits))
    if len(known) == len(tasks):  # with an id used twice nobody can say what waits for what
        problems.extend(_cycle_problems(tasks))
    return problems


def _task_problems(task: PlannedTask, path: str, known: set[str], limits: PlanLimits) -> list[Problem]:
    problems: list[Problem] = []
    if not task.instruction:
        problems.append(Problem(path=f"{path}.instruction", message="is empty"))
    if not task.title:
        problems.append(Problem(path=f"{path}.title", message="is empty"))
    if task.task_type not in limits.task_types:
        message = f"{task.task_type!r} is unknown; use one of {', '.join(limits.task_types)}"
        problems.append(Problem(path=f"{path}.capability", message=message))
    for number, name in enumerate(task.dependency_ids):
        place = f"{path}.depends_on[{number}]"
        if name not in known:
            problems.append(Problem(path=place, message=f"there is no task {name!r}"))
        elif name == task.id:
            problems.append(Problem(path=place, message=f"{name!r} cannot depend on itself"))
    mentioned = _mentioned(task.instruction, known) - {task.id, *task.dependency_ids}
    for name in sorted(mentioned):
        message = f"the instruction names {name}, but depends_on does not: a worker sees only the inputs it depends on"
        problems.append(Problem(path=f"{path}.depends_on", message=message))
        problems.append(Problem(path=f"{path}.instruction", message=f"or drop the mention of {name}"))
    if not any(criterion.must for criterion in task.criteria):
        problems.append(
            Problem(path=f"{path}.acceptance_criteria", message="at least one criterion with must = true is needed")
        )
    for number, criterion in enumerate(task.criteria):
        problem = _criterion_problem(criterion)
        if problem:
            problems.append(Problem(path=f"{path}.acceptance_criteria[{number}]", message=problem))
    return problems


def _criterion_problem(criterion: Criterion) -> str | None:
    if not criterion.statement and criterion.check == "judge":
        return "the statement is empty"
    argument = criterion.check_arg
    if criterion.check in ("contains", "regex") and not argument:
        return f"the check {criterion.check!r} needs check_arg"
    if criterion.check in ("min_items", "max_words") and not (argument and re.fullmatch(r"\s*\d{1,6}\s*", argument)):
        return f"the check {criterion.check!r} needs a whole number as check_arg"
    if criterion.check == "regex" and argument:
        try:
            compile_safe(argument)
        except ValueError as error:
            return f"the pattern cannot be used: {error}"
    return None


def _cycle_problems(tasks: Sequence[PlannedTask]) -> list[Problem]:
    cycle = find_cycle(edges_of(tasks))
    message = f"these tasks wait for each other: {' → '.join(cycle)}; drop one of these dependencies"
    index = {task.id: number for number, task in enumerate(tasks)}
    return [Problem(path=f"tasks[{index[task_id]}].depends_on", message=message) for task_id in cycle[:-1]]


def _mentioned(text: str, known: set[str]) -> set[str]:
    # Only ids of the usual form: a task called "summary" would be found in every other sentence.
    return {name for name in re.findall(r"(?<![\w-])t\d{1,3}(?![\w-])", text) if name in known}


def _without_duplicates(tasks: Sequence[PlannedTask], notes: list[str]) -> tuple[PlannedTask, ...]:
    kept: list[PlannedTask] = []
    twin_of: dict[str, str] = {}
    pairwise = len(tasks) <= COMPARED_TASKS_MAX
    literal: dict[tuple[str, ...], str] = {}
    works: list[_Work] = []
    for task in tasks:
        work = _work_of(task)
        twin = literal.get(work.words)
        if twin is None and pairwise:
            twin = next((other.task_id for other in works if _same_work(work, other)), None)
        if twin is None:
            literal[work.words] = task.id
            kept.append(task)
            works.append(work)
        else:
            twin_of[task.id] = twin
            notes.append(f"{task.id} asks for the same as {twin} and was joined with it")
    if not twin_of:
        return tuple(tasks)
    joined = tuple(_joined(task, [other for other in tasks if twin_of.get(other.id) == task.id]) for task in kept)
    remapped = tuple(_remapped(task, twin_of) for task in joined)
    # Joining may close a circle where the twins stood before and behind something; then they are no twins.
    return tuple(tasks) if find_cycle(edges_of(remapped)) else remapped


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What a task asks for, taken apart once: every pair of tasks is compared."""

    task_id: str
    words: tuple[str, ...]
    shingles: frozenset[tuple[str, ...]]
    named: frozenset[str]
    """Words with a capital letter inside a sentence: names, mostly."""


def _work_of(task: PlannedTask) -> _Work:
    words = tuple(words_of(task.instruction))
    named = re.findall(r"(?<=\S\s)[A-ZÀ-Ỹ]\w+", task.instruction)
    return _Work(
        task_id=task.id,
        words=words,
        shingles=_shingles(words),
        named=frozenset(word.casefold() for word in named),
    )


def _same_work(one: _Work, other: _Work) -> bool:
    if _jaccard(one.shingles, other.shingles) <= DUPLICATE_OVERLAP:
        return False
    # "Summarise chapter 1" and "… chapter 2" overlap almost wholly; so do two names. Those are different work.
    differing = set(one.words) ^ set(other.words)
    named = one.named | other.named
    return not any(re.search(r"\d|[\u3400-\u9fff]", word) or word in named for word in differing)


def _jaccard(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> float:
    """Return how much two texts share of the word shingles that either has, 0 to 1."""
    common = len(one & other)
    return common / (len(one) + len(other) - common) if one or other else 0.0


def _shingles(words: Sequence[str]) -> frozenset[tuple[str, ...]]:
    size = min(SHINGLE_WORDS, len(words)) or 1
    return frozenset(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _joined(task: PlannedTask, twins: Sequence[PlannedTask]) -> PlannedTask:
    known = {criterion.statement for criterion in task.criteria}
    more = [criterion for twin in twins for criterion in twin.criteria if criterion.statement not in known]
    needed = task.depends_on + tuple(dependency for twin in twins for dependency in twin.depends_on)
    return replace(task, criteria=task.criteria + tuple(more), depends_on=needed) if twins else task


def _remapped(task: PlannedTask, twin_of: dict[str, str]) -> PlannedTask:
    needed: dict[str, Dependency] = {}
    for dependency in task.depends_on:
        name = twin_of.get(dependency.task_id, dependency.task_id)
        if name != task.id and name not in needed:
            needed[name] = replace(dependency, task_id=name)
    return replace(task, depends_on=tuple(needed.values()))


def _cut(tasks: tuple[PlannedTask, ...], tasks_max: int, notes: list[str]) -> tuple[PlannedTask, ...]:
    """Keep the first ``tasks_max`` tasks in an order in which nothing kept needs what is cut."""
    if len(tasks) <= tasks_max:
        return tasks
    kept = set(topological_order(edges_of(tasks))[:tasks_max])
    notes.append(f"the plan had {len(tasks)} tasks; only {tasks_max} are allowed, the others are left out")
    return tuple(task for task in tasks if task.id in kept)


def _without_needless_edges(tasks: tuple[PlannedTask, ...], notes: list[str]) -> tuple[PlannedTask, ...]:
    """Drop repeated edges, and those implied by others from which nothing is taken.

    An implied edge that says what it takes stays: without it the worker would not be given that input.
    """
    above = ancestors(edges_of(tasks))
    slim: list[PlannedTask] = []
    for task in tasks:
        needed = tuple({dependency.task_id: dependency for dependency in reversed(task.depends_on)}.values())[::-1]
        implied = frozenset().union(*(above[dependency.task_id] for dependency in needed)) if needed else frozenset()
        kept = tuple(dependency for dependency in needed if dependency.uses or dependency.task_id not in implied)
        if len(kept) < len(needed):
            dropped = sorted({item.task_id for item in needed} - {item.task_id for item in kept})
            notes.append(f"{task.id} waits for {', '.join(dropped)} anyway; that dependency was dropped")
        slim.append(replace(task, depends_on=kept))
    return tuple(slim)


def _with_good_criteria(task: PlannedTask) -> PlannedTask:
    """Give criteria the ids c1, c2 and so on where theirs are empty or not unique."""
    names = [criterion.id for criterion in task.criteria]
    if all(names) and len(set(names)) == len(names):
        return task
    return replace(task, criteria=tuple(replace(item, id=f"c{number}") for number, item in enumerate(task.criteria, 1)))
