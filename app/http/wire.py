"""Writes domain values as the JSON of ``schemas`` and reads them back; used by the routes and by the CLI's client.

Reading validates, so that a client and a server of different versions fail with a clear error instead of later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from app.domain.books.budgets import Owners
from app.domain.chat import Json
from app.domain.errors import InternalError
from app.domain.plan import Plan, Question
from app.domain.run import RunEvent, RunRecord, RunRequest, RunStatus, TaskRecord
from app.domain.views import AccountView, LiveCheck, ReloadReport

Value = TypeVar("Value")

SUMMARY_CHARS = 200
BUYERS = ("tenant", "team", "user", "key")

_PLAN = TypeAdapter(Plan)
_QUESTIONS = TypeAdapter(tuple[Question, ...])
_TASKS = TypeAdapter(tuple[TaskRecord, ...])
_ACCOUNTS = TypeAdapter(tuple[AccountView, ...])
_CHECKS = TypeAdapter(tuple[LiveCheck, ...])
_RELOAD = TypeAdapter(ReloadReport)


def plain(value: object) -> dict[str, Json]:
    """Return a domain value's fields as a JSON object."""
    return cast("dict[str, Json]", listed(asdict(value)))  # type: ignore[call-overload]


def listed(value: object) -> Json:
    """Return ``value`` with lists in place of tuples: ``asdict`` keeps tuples, JSON has none."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [listed(item) for item in value]
    return cast("Json", value)


def project_json(record: RunRecord) -> dict[str, Json]:
    """Return a run as ``ProjectOut``. The idempotency key stays with whoever sent it."""
    request = record.request
    return {
        "run_id": record.run_id,
        "status": record.status.value,
        "created_s": record.created_s,
        "updated_s": record.updated_s,
        "forked_from": record.forked_from,
        "trace_id": request.trace.trace_id if request.trace else None,
        "request": {
            "text": request.text,
            "assume_defaults": request.assume_defaults,
            "timeout_s": request.timeout_s,
            "max_tokens_total": request.tokens_max,
            "budget_usd": request.budget_usd,
            "plan_only": request.plan_only,
            "started_by": {name: getattr(request.buyers, name) for name in BUYERS},
        },
        "plan": plain(record.plan) if record.plan else None,
        "questions": [plain(question) for question in record.questions],
        "answers": dict(record.answers),
        "assumptions": list(record.assumptions),
        "tasks": [plain(task) for task in record.tasks],
        "document": record.document,
    }


def project_of(body: Mapping[str, Json]) -> RunRecord:
    """Return the run that ``project_json`` wrote.

    Raises:
        InternalError: it does not fit.
    """
    try:
        request = cast("dict[str, Json]", body["request"])
        return RunRecord(
            run_id=str(body["run_id"]),
            status=RunStatus(str(body["status"])),
            request=RunRequest(
                text=str(request["text"]),
                assume_defaults=bool(request["assume_defaults"]),
                timeout_s=cast("float | None", request["timeout_s"]),
                tokens_max=cast("int | None", request["max_tokens_total"]),
                plan_only=bool(request["plan_only"]),
                budget_usd=cast("str | None", request.get("budget_usd")),
                buyers=_buyers_of(cast("dict[str, str]", request.get("started_by", {}))),
            ),
            created_s=cast("float", body["created_s"]),
            updated_s=cast("float", body["updated_s"]),
            forked_from=cast("str | None", body.get("forked_from")),
            plan=_PLAN.validate_python(body["plan"]) if body["plan"] is not None else None,
            questions=_QUESTIONS.validate_python(body["questions"]),
            answers=tuple(cast("dict[str, str]", body["answers"]).items()),
            assumptions=tuple(cast("list[str]", body["assumptions"])),
            tasks=_TASKS.validate_python(body["tasks"]),
            document=cast("dict[str, Json] | None", body["document"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit("a project", error) from None


def _buyers_of(body: Mapping[str, str]) -> Owners:
    return Owners(**{name: str(body.get(name, "")) for name in BUYERS})


def summary_json(record: RunRecord) -> dict[str, Json]:
    """Return a run as ``ProjectSummaryOut``."""
    return {
        "run_id": record.run_id,
        "status": record.status.value,
        "text": record.request.text[:SUMMARY_CHARS],
        "created_s": record.created_s,
        "updated_s": record.updated_s,
    }


def summary_of(body: Mapping[str, Json]) -> RunRecord:
    """Return what a summary says of a run; everything else is left at its default."""
    try:
        return RunRecord(
            run_id=str(body["run_id"]),
            status=RunStatus(str(body["status"])),
            request=RunRequest(text=str(body["text"])),
            created_s=cast("float", body["created_s"]),
            updated_s=cast("float", body["updated_s"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit("a list of projects", error) from None


def event_json(event: RunEvent) -> dict[str, Json]:
    """Return an event as it stands in the data of an SSE message; trace and buyers are the run's."""
    return {name: value for name, value in plain(event).items() if name not in ("trace_id", "buyers")}


def event_of(body: Mapping[str, Json]) -> RunEvent:
    """Return the event that ``event_json`` wrote; raises InternalError where it does not fit."""
    try:
        return RunEvent(
            run_id=str(body["run_id"]),
            seq=int(cast("int", body["seq"])),
            kind=str(body["kind"]),
            at_s=float(cast("float", body["at_s"])),
            task_id=cast("str | None", body.get("task_id")),
            attempt=cast("int | None", body.get("attempt")),
            payload=cast("dict[str, Json]", body.get("payload") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _misfit("an event", error) from None


def accounts_of(rows: Json) -> Sequence[AccountView]:
    """Return the account rows of ``AccountListOut.data``."""
    return _read(_ACCOUNTS, rows, "the accounts")


def checks_of(rows: Json) -> Sequence[LiveCheck]:
    """Return the rows of ``LiveCheckListOut.data``."""
    return _read(_CHECKS, rows, "the live checks")


def reload_of(body: Json) -> ReloadReport:
    """Return the report of ``ReloadOut``."""
    return _read(_RELOAD, body, "the reload report")


def _read(adapter: TypeAdapter[Value], body: Json, what: str) -> Value:
    try:
        return adapter.validate_python(body)
    except ValidationError as error:
        raise _misfit(what, error) from None


def _misfit(what: str, error: Exception) -> InternalError:
    detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return InternalError(
        f"The server sent {what} that this client does not understand: {detail}.",
        remedy="Use the same version of tutti on both sides; `tutti --version` and /healthz say which they are.",
    )
