"""A plan that can be played: what is refused, what code puts right, and that the result is always a DAG."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.plan import Criterion, Dependency, Plan, PlannedTask
from app.domain.planning.fallback import short_title, single_task_plan
from app.domain.planning.graph import ancestors, depths, edges_of, find_cycle, topological_order, upward_ranks
from app.domain.planning.validate import PlanLimits, Validated, validate

LIMITS = PlanLimits(tasks_max=24, depth_max=8, task_types=("general", "writing"))
MUST = Criterion(id="c1", statement="It is there.")
TOPICS = {"t1": "cups", "t2": "milk", "t3": "bread", "t4": "boxes", "t5": "staff", "t6": "guests"}


def task(name: str, *needs: str, **changes: Any) -> PlannedTask:
    """Return a valid task; a need such as ``t1!`` says what it takes."""
    made = PlannedTask(
        id=name,
        title=f"About {name}",
        instruction=f"Describe the {TOPICS.get(name, name)} of the cafe.",
        depends_on=tuple(Dependency(task_id=need.rstrip("!"), uses="it" if "!" in need else "") for need in needs),
        criteria=(MUST,),
    )
    return replace(made, **changes)


def checked(*tasks: PlannedTask, limits: PlanLimits = LIMITS) -> Validated:
    """Validate a plan of these tasks."""
    return validate(Plan(goal="g", tasks=tasks), limits)


@pytest.mark.parametrize(
    ("tasks", "path", "words"),
    [
        ([], "tasks", "no task"),
        ([task("t1"), task("t1")], "tasks[1].id", "used twice"),
        ([task("")], "tasks[0].id", "no id"),
        ([task("t1", "t9")], "tasks[0].depends_on[0]", "no task 't9'"),
        ([task("t1", "t1")], "tasks[0].depends_on[0]", "itself"),
        ([task("t1", task_type="magic")], "tasks[0].capability", "use one of general, writing"),
        ([task("t1", instruction="")], "tasks[0].instruction", "empty"),
        ([task("t1", criteria=())], "tasks[0].acceptance_criteria", "at least one"),
        ([task("t1", criteria=(replace(MUST, must=False),))], "tasks[0].acceptance_criteria", "at least one"),
        ([task("t1"), task("t2", instruction="Use t1 for it.")], "tasks[1].depends_on", "names t1"),
        (
            [task("t1", criteria=(replace(MUST, check="regex", check_arg="(a"),))],
            "tasks[0].acceptance_criteria[0]",
            "cannot be used",
        ),
        (
            [task("t1", criteria=(replace(MUST, check="max_words", check_arg="few"),))],
            "tasks[0].acceptance_criteria[0]",
            "whole number",
        ),
        ([task("t1", "t2"), task("t2", "t1")], "tasks[0].depends_on", "t1 → t2 → t1"),
    ],
)
def test_problem_is_named_with_its_place(tasks: list[PlannedTask], path: str, words: str) -> None:
    """The repair call needs to know where, and may touch nothing else."""
    problems = checked(*tasks).problems

    assert problems[-1 if "itself" not in words else 0].path.startswith("tasks")
    assert any(problem.path == path and words in problem.message for problem in problems)


def test_chain_that_is_too_deep_is_a_problem() -> None:
    """Only the planner can make it shallower."""
    chain = [task("t1"), *(task(f"t{number}", f"t{number - 1}") for number in range(2, 7))]
    found = checked(*chain, limits=replace(LIMITS, depth_max=4))

    assert [problem.path for problem in found.problems] == ["tasks[4].depends_on", "tasks[5].depends_on"]


def test_more_tasks_than_allowed_are_cut_and_nothing_needs_what_was_cut() -> None:
    """A request for 10 000 tasks ends at the limit, with a note."""
    tasks = [task("t10000", "t9999"), *(task(f"t{number}") for number in range(1, 10_000))]
    found = checked(*tasks)

    assert len(found.plan.tasks) == 24
    assert not found.problems
    assert "10000 tasks" in found.notes[0]
    names = {item.id for item in found.plan.tasks}
    assert all(set(item.dependency_ids) <= names for item in found.plan.tasks)


def test_near_duplicates_are_joined_and_their_dependants_follow() -> None:
    """The same work is not bought twice."""
    same = "Write a long and friendly description of the waste in the kitchen of the small cafe, please."
    tasks = (
        task("t1", instruction=same),
        task("t2", instruction=same.replace(", please", ""), criteria=(replace(MUST, statement="It is long."),)),
        task("t3", "t2!"),
    )
    found = checked(*tasks)

    assert [item.id for item in found.plan.tasks] == ["t1", "t3"]
    assert found.plan.tasks[1].dependency_ids == ("t1",)
    assert [item.statement for item in found.plan.tasks[0].criteria] == ["It is there.", "It is long."]
    assert [item.id for item in found.plan.tasks[0].criteria] == ["c1", "c2"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("chapter 1", "chapter 2"),
        ("the branch in Paris", "the branch in Berlin"),
        ("第一章的内容", "第二章的内容"),
    ],
)
def test_tasks_that_differ_in_a_number_or_a_name_are_no_duplicates(one: str, other: str) -> None:
    """A template filled in twice overlaps almost wholly and is different work."""
    text = (
        "Read all of {} with great care and then write down in plain words what it says about the waste of food and "
        "of milk and of paper cups in the small cafe at the corner"
    )
    found = checked(task("t1", instruction=text.format(one)), task("t2", instruction=text.format(other)))

    assert len(found.plan.tasks) == 2


def test_twins_on_both_sides_of_a_task_are_not_joined() -> None:
    """Joining them would close a circle."""
    same = "Check the whole list of the waste in the kitchen of the cafe once more."
    found = checked(task("t1", instruction=same), task("t2", "t1!"), task("t3", "t2!", instruction=same))

    assert len(found.plan.tasks) == 3
    assert not find_cycle(edges_of(found.plan.tasks))


def test_needless_edges_are_dropped_and_inputs_kept() -> None:
    """An implied edge goes unless the task takes something from it: it would lose that input."""
    found = checked(task("t1"), task("t2", "t1!"), task("t3", "t1", "t2!"), task("t4", "t1!", "t2!", "t2!"))

    assert found.plan.task("t3").dependency_ids == ("t2",)
    assert found.plan.task("t4").dependency_ids == ("t1", "t2")
    assert any("t3 waits for t1 anyway" in note for note in found.notes)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Return any directed graph of up to eight nodes."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 8)))]
    return {name: tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True))) for name in names}


@given(graphs())
def test_cycle_is_found_exactly_where_there_is_no_order(edges: dict[str, tuple[str, ...]]) -> None:
    """A graph either has an order of all its nodes, or a cycle that can be walked."""
    order, cycle = topological_order(edges), find_cycle(edges)

    assert bool(cycle) is (len(order) < len(edges))
    assert all(order.index(need) < order.index(name) for name in order for need in edges[name])
    assert all(after in edges[before] for before, after in itertools.pairwise(cycle))
    if not cycle:
        assert max(depths(edges).values()) <= len(edges)
        assert all(name not in above for name, above in ancestors(edges).items())


def test_upward_rank_is_the_longest_way_to_the_end() -> None:
    """What the most work waits for goes first."""
    edges = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    seconds = {"a": 1.0, "b": 5.0, "c": 2.0, "d": 3.0}

    assert upward_ranks(edges, seconds.__getitem__) == {"a": 9.0, "b": 8.0, "c": 5.0, "d": 3.0}


def test_fallback_plan_is_valid_and_holds_the_whole_request() -> None:
    """Whatever happened, the request itself can be played."""
    plan = single_task_plan("Write a guide. " * 50, reason="no model")

    assert validate(plan, LIMITS).problems == ()
    assert plan.produced_by == "fallback"
    assert plan.tasks[0].instruction == ("Write a guide. " * 50).strip()
    assert len(short_title("word " * 100)) <= 80
