"""What is known of a run from its events: its stages, its tasks, what it has used. Pure state, no output.

Fed in order by ``display``; rendered by ``tree`` (a live tree) and ``lines`` (one line an event).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.domain.chat import Json
from app.domain.run import RunEvent
from app.terminal.words import float_of, list_of, money, object_of, text_of

STAGES = ("clarify", "plan", "merge", "evaluate")


@dataclass(slots=True, kw_only=True)
class Row:
    """One stage or task as it stands."""

    id: str
    title: str
    state: str = "pending"
    """pending, queued, running, judging, completed, failed, skipped or cancelled."""
    depends_on: tuple[str, ...] = ()
    account: str = ""
    model: str = ""
    attempt: int = 1
    started_at_s: float | None = None
    finished_at_s: float | None = None
    usage: dict[str, Json] = field(default_factory=dict)
    cost: str = ""
    """As it is shown; empty where an event says nothing of it."""
    produced_by: str = "model"
    note: str = ""

    def seconds(self, now_s: float) -> float | None:
        """Return how long it took, or has been taking; None before it starts."""
        if self.started_at_s is None:
            return None
        return max(0.0, (self.finished_at_s or now_s) - self.started_at_s)


class RunBoard:
    """The state of one run, reduced from its events. Not thread-safe: ``display`` holds a lock around it."""

    def __init__(self) -> None:
        self.run_id = ""
        self.goal = ""
        self.status = ""
        self.notes: list[str] = []
        self.stages: dict[str, Row] = {}
        self.tasks: dict[str, Row] = {}
        self.started_at_s: float | None = None
        self.finished_at_s: float | None = None
        self.binding = ""
        self.plan: dict[str, Json] = {}
        """Payload of plan.ready."""

    def apply(self, event: RunEvent) -> None:
        """Take one event; kinds we do not know are ignored, a newer server may have more."""
        self.run_id = event.run_id
        if self.started_at_s is None:
            self.started_at_s = event.at_s
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(self, event)

    def task(self, event: RunEvent) -> Row:
        """Return the row of the event's task; made up where the plan was not seen."""
        task_id = event.task_id or "?"
        return self.tasks.setdefault(task_id, Row(id=task_id, title=task_id))

    def summary(self, now_s: float) -> str:
        """Say in one line what is going on; what a heartbeat prints."""
        active = [row for row in (*self.stages.values(), *self.tasks.values()) if row.state in ("running", "judging")]
        said = [f"{row.id} {row.state} {row.seconds(now_s) or 0:.0f} s" for row in active[:4]]
        if len(active) > 4:
            said.append(f"{len(active) - 4} more running")
        waiting = sum(row.state == "queued" for row in self.tasks.values())
        if waiting:
            said.append(f"{waiting} waiting for an account")
        if self.tasks:
            ended = sum(row.state in ("completed", "failed", "skipped", "cancelled") for row in self.tasks.values())
            said.append(f"{ended} of {len(self.tasks)} tasks done")
        return ", ".join(said) or "working"


def _accepted(board: RunBoard, event: RunEvent) -> None:
    board.status = "accepted"
    board.goal = text_of(event.payload.get("text"))


def _note(board: RunBoard, event: RunEvent) -> None:
    board.notes.append(text_of(event.payload.get("text")))


def _stage_started(board: RunBoard, event: RunEvent) -> None:
    name = text_of(event.payload.get("stage"), "stage")
    board.status = name
    board.stages[name] = Row(id=name, title=name, state="running", started_at_s=event.at_s)


def _stage_finished(board: RunBoard, event: RunEvent) -> None:
    payload = event.payload
    name = text_of(payload.get("stage"), "stage")
    row = board.stages.setdefault(name, Row(id=name, title=name))
    error = text_of(payload.get("error"))
    row.state = "failed" if error else "completed"
    row.note = error
    row.finished_at_s = event.at_s
    if row.started_at_s is None:
        row.started_at_s = event.at_s - float_of(payload.get("seconds"))
    _served(row, payload)


def _questions(board: RunBoard, event: RunEvent) -> None:
    board.status = "needs_answers"


def _answered(board: RunBoard, event: RunEvent) -> None:
    board.status = "accepted"


def _plan_ready(board: RunBoard, event: RunEvent) -> None:
    board.plan = event.payload
    board.goal = text_of(event.payload.get("goal")) or board.goal
    for task in map(object_of, list_of(event.payload.get("tasks"))):
        task_id = text_of(task.get("id"), "?")
        board.tasks[task_id] = Row(
            id=task_id,
            title=text_of(task.get("title"), task_id),
            depends_on=tuple(text_of(needed) for needed in list_of(task.get("depends_on"))),
        )


def _task_queued(board: RunBoard, event: RunEvent) -> None:
    row = board.task(event)
    row.state = "queued"
    row.attempt = event.attempt or row.attempt


def _task_started(board: RunBoard, event: RunEvent) -> None:
    row = board.task(event)
    row.state = "running"
    row.note = ""
    row.attempt = event.attempt or row.attempt
    if row.started_at_s is None:
        row.started_at_s = event.at_s
    row.account = text_of(event.payload.get("account"), row.account)
    row.model = text_of(event.payload.get("model"), row.model)


def _task_output(board: RunBoard, event: RunEvent) -> None:
    _served(board.task(event), event.payload)


def _task_judging(board: RunBoard, event: RunEvent) -> None:
    board.task(event).state = "judging"


def _task_judged(board: RunBoard, event: RunEvent) -> None:
    verdicts = [text_of(object_of(item).get("verdict")) for item in list_of(event.payload.get("verdicts"))]
    met = sum(verdict == "met" for verdict in verdicts)
    row = board.task(event)
    row.note = f"judged {'good' if event.payload.get('passed') else 'not good enough'}: {met} of {len(verdicts)} met"


def _task_redo(board: RunBoard, event: RunEvent) -> None:
    row = board.task(event)
    row.state = "queued"
    row.attempt = int(float_of(event.payload.get("attempt"), row.attempt + 1))
    feedback = list_of(event.payload.get("feedback"))
    row.note = "redone: " + (text_of(feedback[0]) if feedback else "the judge asked for it")


def _task_finished(board: RunBoard, event: RunEvent) -> None:
    row = board.task(event)
    row.state = text_of(event.payload.get("status"), "completed")
    row.finished_at_s = event.at_s
    row.attempt = int(float_of(event.payload.get("attempts"), row.attempt))
    row.note = text_of(event.payload.get("error")) or row.note
    _served(row, event.payload)


def _call_failed(board: RunBoard, event: RunEvent) -> None:
    row = board.tasks.get(event.task_id or "") or board.stages.get(text_of(event.payload.get("purpose")))
    if row is not None:
        row.note = f"{text_of(event.payload.get('account'))} failed: {text_of(event.payload.get('message'))}"


def _call_waiting(board: RunBoard, event: RunEvent) -> None:
    row = board.tasks.get(event.task_id or "") or board.stages.get(text_of(event.payload.get("purpose")))
    if row is not None:
        row.note = f"waiting: {text_of(event.payload.get('reason'))}"


def _finished(board: RunBoard, event: RunEvent) -> None:
    board.status = text_of(event.payload.get("status"), "completed")
    board.finished_at_s = event.at_s
    board.binding = text_of(event.payload.get("binding"))


def _served(row: Row, payload: dict[str, Json]) -> None:
    """Take who served it and what it used; a payload without usage leaves what is known."""
    row.account = text_of(payload.get("account"), row.account)
    row.model = text_of(payload.get("model"), row.model)
    row.produced_by = text_of(payload.get("produced_by"), row.produced_by)
    usage = object_of(payload.get("usage"))
    if usage:
        row.usage = usage
    if usage and "cost_usd" in payload:
        cost = payload["cost_usd"]
        row.cost = money(cost if isinstance(cost, str) else None)


_HANDLERS = {
    "run.accepted": _accepted,
    "run.note": _note,
    "stage.started": _stage_started,
    "stage.finished": _stage_finished,
    "run.questions": _questions,
    "run.answered": _answered,
    "plan.ready": _plan_ready,
    "task.queued": _task_queued,
    "task.started": _task_started,
    "task.output": _task_output,
    "task.judging": _task_judging,
    "task.judged": _task_judged,
    "task.redo": _task_redo,
    "task.finished": _task_finished,
    "call.failed": _call_failed,
    "call.waiting": _call_waiting,
    "run.finished": _finished,
}
