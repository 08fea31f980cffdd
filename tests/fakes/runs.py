"""One recorded run, as events and as its result document: four tasks, one of them waiting for the others."""

from __future__ import annotations

from app.domain.chat import Json, Usage
from app.domain.plan import Dependency as Needs
from app.domain.plan import Plan, PlannedTask, Question, TaskEvaluation
from app.domain.run import ResultDocument, RunEvent, RunStatus, ScheduleReport, StageReport, TaskReport, TaskResult

ACCOUNT, MODEL = "embedded", "smollm2-135m"
TITLES = {"t1": "Sources of waste", "t2": "Food waste", "t3": "Packaging waste", "t4": "Action plan"}
NEEDS = {"t1": (), "t2": (), "t3": (), "t4": ("t1", "t2", "t3")}
SPANS = {"t1": (2.0, 5.0), "t2": (2.0, 6.0), "t3": (5.0, 8.0), "t4": (8.0, 12.0)}
BEGAN_S = 1_790_000_000.0
USAGE = Usage(input_tokens=120, output_tokens=80)

QUESTION = Question(
    id="q1",
    question="Which city is it for?",
    why="Rules for packaging differ.",
    options=("Hanoi", "Lisbon"),
    default="Lisbon",
)

Batch = tuple[RunEvent, ...]


def sample_plan() -> Plan:
    """Return the plan of the recorded run."""
    return Plan(
        goal="A guide for a cafe that wants to reduce waste",
        tasks=tuple(
            PlannedTask(
                id=task_id,
                title=title,
                instruction=f"Write about {title}.",
                task_type="writing",
                depends_on=tuple(Needs(task_id=needed) for needed in NEEDS[task_id]),
            )
            for task_id, title in TITLES.items()
        ),
        assumptions=("The cafe has no kitchen.",),
    )


def sample_document(run_id: str, status: RunStatus = RunStatus.COMPLETED) -> ResultDocument:
    """Return the result document of the recorded run."""
    return ResultDocument(
        run_id=run_id,
        status=status,
        answer="Waste less: weigh what you throw away, every day. [t1] [t4]",
        tasks=tuple(
            TaskReport(
                id=task_id,
                title=title,
                task_type="writing",
                depends_on=NEEDS[task_id],
                status="completed",
                account=ACCOUNT,
                model=MODEL,
                attempts=1,
                started_s=SPANS[task_id][0],
                finished_s=SPANS[task_id][1],
                produced_by="model",
            )
            for task_id, title in TITLES.items()
        ),
        results={
            task_id: TaskResult(output=f"About {title}.", usage=USAGE, cost_usd="0")
            for task_id, title in TITLES.items()
        },
        evaluation=tuple(
            TaskEvaluation(task_id=task_id, score=0.8, verdict="good", evidence=f"About {title}.")
            for task_id, title in TITLES.items()
        ),
        assumptions=("The cafe has no kitchen.",),
        usage=Usage(input_tokens=900, output_tokens=600),
        cost_usd="0",
        schedule=ScheduleReport(makespan_s=10.0, lower_bound_s=8.0, binding="critical path"),
        stages=tuple(
            StageReport(name=name, started_s=start_s, finished_s=finish_s, account=ACCOUNT, model=MODEL, usage=USAGE)
            for name, start_s, finish_s in (
                ("clarify", 0.0, 0.5),
                ("plan", 0.5, 2.0),
                ("merge", 12.0, 14.0),
                ("evaluate", 14.0, 15.5),
            )
        ),
        notes=("small model, real machinery: add a key for quality",),
    )


def event(run_id: str, kind: str, at_s: float, task_id: str | None = None, **payload: Json) -> RunEvent:
    """Return an event ``at_s`` seconds after the run began; the desk numbers it."""
    attempt = 1 if task_id else None
    return RunEvent(
        run_id=run_id, seq=0, kind=kind, at_s=BEGAN_S + at_s, task_id=task_id, attempt=attempt, payload=payload
    )


def stage_events(run_id: str, name: str, start_s: float, finish_s: float) -> Batch:
    """Return the two events of a stage."""
    return (
        event(run_id, "stage.started", start_s, stage=name),
        event(
            run_id,
            "stage.finished",
            finish_s,
            stage=name,
            seconds=finish_s - start_s,
            account=ACCOUNT,
            model=MODEL,
            produced_by="model",
            usage={"input_tokens": 120, "output_tokens": 80},
            error=None,
        ),
    )


def asking_batch(run_id: str) -> Batch:
    """Return what a run says that cannot go on without an answer."""
    asked: dict[str, Json] = {
        "id": QUESTION.id,
        "question": QUESTION.question,
        "why": QUESTION.why,
        "options": list(QUESTION.options),
        "default": QUESTION.default,
    }
    return (*stage_events(run_id, "clarify", 0.0, 0.5), event(run_id, "run.questions", 0.5, questions=[asked]))


def plan_batch(run_id: str) -> Batch:
    """Return the planning of the recorded run."""
    tasks: list[Json] = [
        {"id": task_id, "title": title, "task_type": "writing", "depends_on": list(NEEDS[task_id]), "models": [MODEL]}
        for task_id, title in TITLES.items()
    ]
    estimate: dict[str, Json] = {
        "input_tokens": 2000,
        "output_tokens": 900,
        "cost_usd": "0",
        "lower_bound_s": 7.5,
        "binding": "critical path",
    }
    ready = event(
        run_id,
        "plan.ready",
        2.0,
        goal=sample_plan().goal,
        produced_by="model",
        assumptions=[],
        tasks=tasks,
        estimate=estimate,
    )
    return (*stage_events(run_id, "plan", 0.5, 2.0), ready)


def task_batch(run_id: str, task_id: str) -> Batch:
    """Return the life of one task."""
    start_s, finish_s = SPANS[task_id]
    served: dict[str, Json] = {"account": ACCOUNT, "model": MODEL}
    used: dict[str, Json] = {"usage": {"input_tokens": 120, "output_tokens": 80}, "cost_usd": "0"}
    verdicts: list[Json] = [{"criterion_id": "c1", "verdict": "met", "evidence": "About"}]
    return (
        event(run_id, "task.queued", start_s, task_id),
        event(run_id, "task.started", start_s, task_id, queued_s=0.0, **served),
        event(
            run_id,
            "task.output",
            finish_s - 1,
            task_id,
            seconds=finish_s - start_s - 1,
            produced_by="model",
            **served,
            **used,
        ),
        event(run_id, "task.judging", finish_s - 1, task_id),
        event(run_id, "task.judged", finish_s, task_id, passed=True, produced_by="model", verdicts=verdicts),
        event(
            run_id,
            "task.finished",
            finish_s,
            task_id,
            status="completed",
            attempts=1,
            seconds=finish_s - start_s,
            error=None,
            **served,
            **used,
        ),
    )


def finished_batch(run_id: str, status: RunStatus = RunStatus.COMPLETED) -> Batch:
    """Return the end of a run."""
    usage: dict[str, Json] = {"input_tokens": 900, "output_tokens": 600}
    return (
        event(
            run_id,
            "run.finished",
            15.5,
            status=status.value,
            seconds=15.5,
            usage=usage,
            cost_usd="0",
            makespan_s=10.0,
            lower_bound_s=8.0,
            binding="critical path",
            error=None,
        ),
    )


def work_batches(run_id: str) -> list[Batch]:
    """Return everything between the clarifier and the end, as a follower receives it."""
    return [
        plan_batch(run_id),
        *(task_batch(run_id, task_id) for task_id in TITLES),
        stage_events(run_id, "merge", 12.0, 14.0),
        stage_events(run_id, "evaluate", 14.0, 15.5),
    ]
