"""A request goes through real actors on a real Ray cluster, over HTTP to simulated models, to a judged answer."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from app.domain.language import detect_language
from app.domain.run import RunEvent, RunRequest
from tests.fakes import pool, scripted
from tests.fakes.scripted import (
    ASSUMED,
    CHINESE,
    ENGLISH,
    OTHER,
    QUESTION,
    VAGUE,
    VIETNAMESE,
    WORK_S,
    Step,
    Story,
    judge_rule,
    merged,
    plan_of,
    planner_rules,
    prose_of,
    task_of,
    worker_rule,
)
from tests.integration.conftest import OpenDesk, Simulate, Stage, ended, until

pytestmark = pytest.mark.ray
TEN_THOUSAND = f"Write 10,000 notes on {ENGLISH.marker}, one for each of the rooms 1 to 10,000."
CLOCK_S = 0.01
"""Times of calls are measured in two processes."""


def by_id(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tasks of a document by their ids."""
    return {task["id"]: task for task in document["tasks"]}


@pytest.mark.parametrize("story", [ENGLISH, VIETNAMESE, CHINESE], ids=["en", "vi", "zh"])
async def test_run_completes_with_judged_tasks_in_the_language_of_the_request(stage: Stage, story: Story) -> None:
    """Every task is done, judged and evaluated, and everything the user reads is in the user's language."""
    document = await stage.play(story.request)

    assert document["status"] == "completed", document
    assert document["answer"] == story.answer
    assert {task["status"] for task in document["tasks"]} == {"completed"}
    assert {name: result["output"] for name, result in document["results"].items()} == {
        step.id: step.result for step in story.steps
    }
    assert [item["task_id"] for item in document["evaluation"]] == ["t1", "t2", "t3", "t4"]
    assert {item["score"] for item in document["evaluation"]} == {0.9}
    assert {stage["produced_by"] for stage in document["stages"]} == {"model"}
    assert {detect_language(task["title"] + document["answer"]) for task in document["tasks"]} == {
        detect_language(story.request)
    }
    assert stage.simulator.asked("judge") == 4


async def test_tasks_run_as_their_inputs_allow_and_the_bound_holds(stage: Stage) -> None:
    """Independent tasks overlap at the provider, dependent ones wait; no schedule beats the lower bound."""
    document = await stage.play(ENGLISH.request)
    tasks, schedule = by_id(document), document["schedule"]
    rows = [row for row in stage.simulator.stats(log=True)["log"] if "ROLE: worker v1" in row["text"]]

    assert rows[1]["at_ns"] < rows[0]["end_ns"]
    assert tasks["t3"]["started_s"] >= max(tasks["t1"]["finished_s"], tasks["t2"]["finished_s"]) - CLOCK_S
    assert tasks["t4"]["started_s"] >= tasks["t3"]["finished_s"] - CLOCK_S
    assert 0 < schedule["lower_bound_s"] <= schedule["makespan_s"]
    assert schedule["makespan_s"] >= 3 * WORK_S
    assert schedule["binding"]


async def test_failing_verdict_is_redone_with_its_feedback(stage: Stage) -> None:
    """The second attempt is told what was missing; its result replaces the first."""
    step = ENGLISH.step("t2")
    better = "Coffee costs two coins a cup and wakes people quickly."
    told = {"regex": r"\AROLE: redo v1.*TASK: Describe coffee\n.*OBJECTIONS:\n.*Name a price"}
    stage.simulator.reset({"match": told, "text": better}, judge_rule(step, "not_met", "met"))
    document = await stage.play(ENGLISH.request)
    redone = [event for event in await stage.events(document["run_id"]) if event.kind == "task.redo"]

    assert document["status"] == "completed"
    assert {name: task["attempts"] for name, task in by_id(document).items()} == {"t1": 1, "t2": 2, "t3": 1, "t4": 1}
    assert document["results"]["t2"]["output"] == better
    assert [event.task_id for event in redone] == ["t2"]
    assert "Name a price" in str(redone[0].payload["feedback"])


async def test_judge_in_prose_fails_nothing_and_says_so(stage: Stage) -> None:
    """A judge that gives no verdict leaves cannot_tell, which lowers the score and fails no task."""
    prose = "A fine piece of work, I enjoyed every word of it."
    stage.simulator.reset(
        {"match": {"regex": r"\AROLE: (judge|repair) v1"}, "text": prose},
    )
    document = await stage.play(ENGLISH.request)
    judged = [event for event in await stage.events(document["run_id"]) if event.kind == "task.judged"]
    verdicts = [(item["criterion_id"], item["verdict"]) for event in judged for item in verdicts_of(event)]

    assert document["status"] == "completed"
    assert verdicts == [("c1", "cannot_tell"), ("c2", "met")] * 4
    assert {event.payload["produced_by"] for event in judged} == {"fallback"}
    assert {item["score"] for item in document["evaluation"]} == {0.79}  # half of the criteria unknown costs an eighth


async def test_cyclic_plan_is_repaired_once_and_says_so(stage: Stage) -> None:
    """A repair call that takes the circle out makes the plan playable; the document says that it was repaired."""
    repair = {"match": {"regex": r"\AROLE: repair v1.*wait for each other"}, "json": plan_of(ENGLISH)}
    stage.simulator.reset(repair, *planner_rules(ENGLISH, cyclic(plan_of(ENGLISH))))
    document = await stage.play(ENGLISH.request)

    assert document["status"] == "completed"
    assert [stage["produced_by"] for stage in document["stages"] if stage["name"] == "plan"] == ["repaired"]
    assert any("wait for each other" in note for note in document["notes"])
    assert document["answer"] == ENGLISH.answer


async def test_cyclic_plan_that_nobody_repairs_becomes_one_task(stage: Stage) -> None:
    """Where the repair fails too, the request is one task, and the document says that code made the plan."""
    circle = cyclic(plan_of(ENGLISH))
    stage.simulator.reset(
        {"match": {"regex": r"\AROLE: repair v1"}, "json": circle},
        {"match": {"regex": r"\AROLE: worker v1.*tea and coffee"}, "text": "Take tea, it is cheap and calm."},
        *planner_rules(ENGLISH, circle),
    )
    document = await stage.play(ENGLISH.request)

    assert document["status"] == "completed"
    assert len(document["tasks"]) == 1
    assert [stage["produced_by"] for stage in document["stages"] if stage["name"] == "plan"] == ["fallback"]
    assert any("fallback" in note for note in document["notes"])
    assert document["answer"] == "Take tea, it is cheap and calm."


async def test_request_for_ten_thousand_tasks_is_cut(stage: Stage) -> None:
    """A plan far above the limit is cut to it, the rest is named as left out, and nothing else is bought."""
    answer = "All notes: " + "".join(f"[t{number}]" for number in range(1, 25))
    stage.simulator.reset(
        *planner_rules(ENGLISH, many_notes(100)),
        {"match": {"regex": r"\AROLE: worker v1.*\nTASK: Note (?P<room>\d+)\n"}, "text": "Room {room} is fine today."},
        {"match": {"regex": r"\AROLE: merger v1"}, "json": merged(answer)},
    )
    document = await stage.play(TEN_THOUSAND)

    assert document["status"] == "completed"
    assert len(document["tasks"]) == 24
    assert any("had 100 tasks; only 24 are allowed" in text for text in document["assumptions"])
    assert document["answer"] == answer
    assert stage.simulator.asked("worker") == 24


async def test_plan_that_never_ends_becomes_one_task(stage: Stage) -> None:
    """A planner that really writes ten thousand tasks is cut off, twice, and the run still answers and says so."""
    stage.simulator.reset(
        {"match": {"regex": r"\AROLE: (repair|transcriber) v1"}, "json": many_notes(10_000)},
        {"match": {"regex": r"\AROLE: worker v1.*10,000 notes"}, "text": "Every room is fine today."},
        *planner_rules(ENGLISH, many_notes(10_000)),
    )
    document = await stage.play(TEN_THOUSAND)

    assert document["status"] == "completed"
    assert [stage["produced_by"] for stage in document["stages"] if stage["name"] == "plan"] == ["fallback"]
    assert sum("cut off" in note for note in document["notes"]) == 2
    assert document["answer"] == "Every room is fine today."
    assert stage.simulator.asked("planner") == stage.simulator.asked("transcriber") == 2


async def test_failed_task_makes_a_partial_answer_that_says_what_is_missing(stage: Stage) -> None:
    """What depends on a failed task is skipped; the rest is merged, and the answer names what is not there."""
    partial = "Tea is cheap and calm [t1]."
    stage.simulator.reset({"match": {"regex": r"\AROLE: merger v1.*NOT AVAILABLE: \[t2\]"}, "json": merged(partial)})
    stage.simulator.control({"faults": [{"kind": "http_400", "match": {"contains": "TASK: Describe coffee"}}]})
    document = await stage.play(ENGLISH.request)
    tasks = by_id(document)

    assert document["status"] == "partial"
    assert {name: task["status"] for name, task in tasks.items()} == {
        "t1": "completed",
        "t2": "failed",
        "t3": "skipped",
        "t4": "skipped",
    }
    assert document["answer"].startswith(partial)
    for title in ("Describe coffee", "Compare both drinks", "Recommend one drink"):
        assert title in document["answer"]
    assert {item["task_id"]: item["score"] for item in document["evaluation"]} == {"t1": 0.9, "t2": 0, "t3": 0, "t4": 0}


@pytest.mark.parametrize("fault", ["http_500", "http_529", "reset", "cut_stream", "garbage_json", "blank_content"])
async def test_call_that_fails_at_one_account_is_made_at_another(stage: Stage, fault: str) -> None:
    """The provider's trouble costs a call, never the task: another account takes it over."""
    stage.simulator.control({"faults": [{"kind": fault, "first": 1, "match": {"contains": "TASK: Describe tea"}}]})
    document = await stage.play(ENGLISH.request)
    keys = [row["key"] for row in stage.simulator.stats(log=True)["log"] if "ROLE: worker v1" in row["text"]]

    assert document["status"] == "completed"
    assert stage.simulator.stats()["total"]["faults"] == {fault: 1}
    assert len(keys) == 5
    assert document["results"]["t1"]["output"] == ENGLISH.step("t1").result
    if fault != "blank_content":  # blank is an answer: paid, and asked elsewhere by the worker
        failed = [event for event in await stage.events(document["run_id"]) if event.kind == "call.failed"]
        assert [event.payload["next"] for event in failed] == ["elsewhere"]
        assert failed[0].payload["account"] != by_id(document)["t1"]["account"]


async def test_cancelled_run_stops_its_calls_at_the_provider(stage: Stage) -> None:
    """Cancelling reaches the provider within moments, and the run ends as cancelled."""
    slow = [worker_rule(ENGLISH.step(name), latency={"kind": "constant", "mean_s": 60}) for name in ("t1", "t2")]
    stage.simulator.reset(*slow)
    record = await stage.desk.start(RunRequest(text=ENGLISH.request))
    await until(lambda: stage.simulator.stats()["total"]["in_flight"] == 2)
    await stage.desk.cancel(record.run_id)
    document = await ended(stage.desk, record.run_id)
    await until(lambda: stage.simulator.stats()["total"]["in_flight"] == 0)

    assert document["status"] == "cancelled"
    assert stage.simulator.stats()["total"]["cancelled_by_client"] == 2
    assert {task["status"] for task in document["tasks"]} == {"cancelled"}


async def test_deadline_ends_a_run_with_what_it_has(stage: Stage) -> None:
    """What was done in time is answered; what was not is cancelled at the provider and named as missing."""
    stage.simulator.reset(
        worker_rule(ENGLISH.step("t2"), latency={"kind": "constant", "mean_s": 60}),
        {"match": {"regex": r"\AROLE: merger v1"}, "json": merged("Tea is cheap and calm [t1].")},
    )
    document = await stage.play(ENGLISH.request, timeout_s=4.0)
    await until(lambda: stage.simulator.stats()["total"]["in_flight"] == 0)

    assert document["status"] == "partial"
    assert by_id(document)["t1"]["status"] == "completed"
    assert by_id(document)["t2"]["status"] == "cancelled"
    assert "[t1]" in document["answer"]
    assert "Describe coffee" in document["answer"]
    assert "4 s" in document["error"]
    assert stage.simulator.stats()["total"]["cancelled_by_client"] == 1


async def test_token_ceiling_is_never_passed(stage: Stage) -> None:
    """A run that may not even plan buys nothing, and its error names the setting."""
    document = await stage.play(ENGLISH.request, tokens_max=500)
    billed = stage.simulator.stats()["total"]

    assert document["status"] == "failed"
    assert "500 tokens" in document["error"]
    assert billed["billed_input_tokens"] + billed["billed_output_tokens"] <= 500


async def test_usage_is_what_the_provider_billed(stage: Stage) -> None:
    """The document's sums are the simulator's, to the token, and priced from the configuration."""
    document = await stage.play(ENGLISH.request)
    billed = stage.simulator.stats()["total"]

    assert document["usage"]["input_tokens"] == billed["billed_input_tokens"]
    assert document["usage"]["output_tokens"] == billed["billed_output_tokens"]
    assert float(document["usage"]["cost_usd"]) > 0


async def test_run_that_needs_answers_goes_on_with_them(stage: Stage) -> None:
    """The run pauses with its questions, buys nothing meanwhile, and plans with the answer."""
    told = {"regex": r"\AROLE: planner v1.*KNOWN ANSWERS.*Hue in autumn"}
    plan = {**plan_of(OTHER), "goal_restated": "Journey to Hue"}
    copied = {"match": {"regex": r"\AROLE: transcriber v1.*GOAL: Journey to Hue"}, "json": plan}
    stage.simulator.reset({"match": told, "text": prose_of(plan)}, copied)
    asking = await stage.play(VAGUE)
    run_id = asking["run_id"]
    asked = stage.simulator.stats()["total"]["requests"]
    await stage.desk.answer(run_id, {"q1": "Hue in autumn"}, assume_rest=False)
    document = await ended(stage.desk, run_id)
    plans = [event for event in await stage.events(run_id) if event.kind == "plan.ready"]

    assert asking["status"] == "needs_answers"
    assert [question["question"] for question in asking["questions"]] == [QUESTION]
    assert asked == 1
    assert document["status"] == "completed"
    assert document["questions"] == []
    assert [event.payload["goal"] for event in plans] == ["Journey to Hue"]


async def test_assumed_defaults_are_recorded(stage: Stage) -> None:
    """A run that may not ask takes the default and says so."""
    document = await stage.play(VAGUE, assume_defaults=True)

    assert document["status"] == "completed"
    assert any(ASSUMED in text for text in document["assumptions"])


async def test_idempotency_key_makes_one_run_of_many_requests(stage: Stage) -> None:
    """The same key started five times at once is one run, planned once."""
    request = RunRequest(text=ENGLISH.request, idempotency_key="only-once")
    records = await asyncio.gather(*(stage.desk.start(request) for _ in range(5)))
    await ended(stage.desk, records[0].run_id)

    assert len({record.run_id for record in records}) == 1
    assert stage.simulator.asked("planner") == 1


async def test_revoked_key_parks_its_account_and_nothing_else(open_desk: OpenDesk, simulate: Simulate) -> None:
    """A dead key is asked once and never again; the others do its work."""
    keys = [{"key": "sk-alpha", "state": "revoked"}, {"key": "sk-beta"}, {"key": "sk-chief"}]
    simulator = simulate({**pool.FAST, "keys": keys, "replies": scripted.replies()})
    async with open_desk(pool.three_accounts(simulator.url)) as desk:
        first = await desk.start(RunRequest(text=ENGLISH.request))
        assert (await ended(desk, first.run_id))["status"] == "completed"
        second = await desk.start(RunRequest(text=ENGLISH.request))
        document = await ended(desk, second.run_id)
        states = {row.account: row.state for row in await desk.accounts()}

    assert document["status"] == "completed"
    assert {task["account"] for task in document["tasks"]} == {"beta"}
    assert states == {"alpha": "dead", "beta": "healthy", "chief": "healthy"}
    assert simulator.stats()["keys"]["sk-alpha"]["requests"] <= 2


def verdicts_of(event: RunEvent) -> list[dict[str, Any]]:
    """Return the verdicts of a judgement."""
    return cast("list[dict[str, Any]]", event.payload["verdicts"])


def many_notes(count: int) -> dict[str, Any]:
    """Return a plan of so many tasks that do not wait for each other."""
    steps = (
        Step(id=f"t{number}", title=f"Note {number}", instruction=f"Write the note of room {number}.", result="")
        for number in range(1, count + 1)
    )
    return {**plan_of(ENGLISH), "tasks": [task_of(step) for step in steps]}


def cyclic(plan: dict[str, Any]) -> dict[str, Any]:
    """Return the plan with its first task waiting for its last."""
    first, *others = plan["tasks"]
    waits = [{"task_id": others[-1]["id"], "uses": "its result"}]
    return {**plan, "tasks": [{**first, "depends_on": waits}, *others]}
