"""Says each event of a run in one plain line, for output that is not a terminal. Pure."""

from __future__ import annotations

from collections.abc import Callable

from app.domain.chat import Json
from app.domain.run import RunEvent
from app.terminal.words import float_of, list_of, money, object_of, one_line, seconds, text_of, tokens


def line_of(event: RunEvent) -> str | None:
    """Return the line for ``event``, without time; None for an event that says nothing to a person."""
    say = _SAY.get(event.kind)
    if say is None:
        return None
    said = say(event.payload)
    return f"{event.task_id} {said}" if event.task_id else said


def _on(payload: dict[str, Json]) -> str:
    account, model = text_of(payload.get("account")), text_of(payload.get("model"))
    return f" on {account} ({model})" if account else ""


def _used(payload: dict[str, Json]) -> str:
    usage = object_of(payload.get("usage"))
    if not usage:
        return ""
    said = f", {tokens(usage)} tokens"
    if "cost_usd" not in payload:
        return said
    cost = payload["cost_usd"]
    return f"{said}, {money(cost if isinstance(cost, str) else None)}"


def _stage_finished(payload: dict[str, Json]) -> str:
    by = text_of(payload.get("produced_by"), "model")
    error = text_of(payload.get("error"))
    said = f"{text_of(payload.get('stage'))} done in {seconds(float_of(payload.get('seconds')))}"
    said += f"{_on(payload)}{_used(payload)}"
    if by != "model":
        said += f", {by}"
    return f"{said}; {one_line(error, 160)}" if error else said


def _plan_ready(payload: dict[str, Json]) -> str:
    tasks = [object_of(task) for task in list_of(payload.get("tasks"))]
    said = []
    for task in tasks:
        needs = [text_of(needed) for needed in list_of(task.get("depends_on"))]
        after = f" after {' '.join(needs)}" if needs else ""
        said.append(f"{text_of(task.get('id'))} {one_line(text_of(task.get('title')), 50)}{after}")
    return f"plan with {len(tasks)} tasks: " + "; ".join(said)


def _judged(payload: dict[str, Json]) -> str:
    verdicts = [text_of(object_of(item).get("verdict")) for item in list_of(payload.get("verdicts"))]
    met = sum(verdict == "met" for verdict in verdicts)
    return f"judged: {'passed' if payload.get('passed') else 'not passed'}, {met} of {len(verdicts)} criteria met"


def _task_finished(payload: dict[str, Json]) -> str:
    error = text_of(payload.get("error"))
    said = f"{text_of(payload.get('status'), 'completed')} in {seconds(float_of(payload.get('seconds')))}"
    return said + _on(payload) + _used(payload) + (f": {one_line(error, 160)}" if error else "")


def _run_finished(payload: dict[str, Json]) -> str:
    said = f"run {text_of(payload.get('status'))} in {seconds(float_of(payload.get('seconds')))}{_used(payload)}"
    bound_s = float_of(payload.get("lower_bound_s"))
    if bound_s:
        said += f", lower bound {seconds(bound_s)}"
    error = text_of(payload.get("error"))
    return f"{said}: {one_line(error, 200)}" if error else said


def _redo(payload: dict[str, Json]) -> str:
    feedback = "; ".join(text_of(item) for item in list_of(payload.get("feedback")))
    return f"redo, attempt {int(float_of(payload.get('attempt')))}: {one_line(feedback, 160)}"


def _questions(payload: dict[str, Json]) -> str:
    asked = [text_of(object_of(item).get("question")) for item in list_of(payload.get("questions"))]
    return "needs answers: " + " ".join(one_line(question, 160) for question in asked)


def _answered(payload: dict[str, Json]) -> str:
    assumed = list_of(payload.get("assumptions"))
    return f"answers taken, {len(assumed)} assumed" if assumed else "answers taken"


def _call_failed(payload: dict[str, Json]) -> str:
    said = f"{text_of(payload.get('purpose'))} call failed{_on(payload)}: {text_of(payload.get('kind'))}, "
    return said + f"{one_line(text_of(payload.get('message')), 160)}; {text_of(payload.get('next'))}"


_SAY: dict[str, Callable[[dict[str, Json]], str]] = {
    "run.accepted": lambda payload: f"accepted: {one_line(text_of(payload.get('text')), 100)}",
    "run.note": lambda payload: f"note: {one_line(text_of(payload.get('text')), 200)}",
    "stage.started": lambda payload: f"{text_of(payload.get('stage'))} started",
    "stage.finished": _stage_finished,
    "run.questions": _questions,
    "run.answered": _answered,
    "plan.ready": _plan_ready,
    "task.started": lambda payload: f"started{_on(payload)}",
    "task.judged": _judged,
    "task.redo": _redo,
    "task.finished": _task_finished,
    "call.failed": _call_failed,
    "call.waiting": lambda payload: f"waiting: {one_line(text_of(payload.get('reason')), 160)}",
    "run.finished": _run_finished,
}
