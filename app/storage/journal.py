"""SQL of the run journal: every method is one command on an open connection, inside the caller's transaction.

Does not commit and does not know threads: the store actor's writer groups commands into transactions; readers bring a
connection of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, cast

from sqlalchemy import BindParameter, Connection, Row, and_, bindparam, func, insert, or_, select, update

from app.domain.books.budgets import Owners
from app.domain.errors import ConflictError, NotFoundError, RunTakenError
from app.domain.events.facts import run_events_told
from app.domain.run import CallRecord, CallState, RunEvent, RunRecord, RunStatus, TaskRecord, TaskState
from app.storage import codec, outbox, run_budgets, tables
from app.storage.upsert import ignoring, replacing

if TYPE_CHECKING:
    from app.domain.plan import Plan, ProducedBy

Value = TypeVar("Value")


_PUT_TASK = replacing(tables.task)
_PUT_CALL = replacing(tables.call)
_PUT_LIMITER = replacing(tables.limiter_state)
_PUT_PLAN = ignoring(tables.plan)
_PUT_BLOB = ignoring(tables.blob)
_PUT_EVENTS = insert(tables.event)
_RUNS: BindParameter[list[str]] = bindparam("runs", expanding=True)
_EPOCHS = (
    select(tables.run.c.id, tables.run.c.owner_epoch)
    .where(tables.run.c.id.in_(_RUNS))
    .order_by(tables.run.c.id)
    .with_for_update()
)
_LAST_SEQ = select(func.max(tables.event.c.seq)).where(tables.event.c.run_id == bindparam("of_run"))

REMEDY_NO_RUN = "list the runs with `tutti projects list` or GET /v1/projects"


def create_run(connection: Connection, record: RunRecord) -> RunRecord:
    """Insert the run with the plan and tasks that it has; with a known idempotency key return the run that has it.

    Safe to repeat: the same run again is returned as it is by now.

    Raises:
        ConflictError: the key was used with another request.
    """
    request = codec.dump_request(record.request)
    sha = codec.sha256(request.encode())
    key = record.request.idempotency_key
    if key is not None:
        row = connection.execute(
            select(tables.run.c.id, tables.run.c.request_sha).where(tables.run.c.idempotency_key == key)
        ).first()
        if row is not None:
            if row.request_sha != sha:
                raise ConflictError(
                    f"the idempotency key {key!r} was used with another request",
                    param="Idempotency-Key",
                    remedy="send the same request with this key, or use a new key",
                )
            return get_run(connection, row.id)
    said = connection.execute(select(tables.run.c.request_sha).where(tables.run.c.id == record.run_id)).scalar()
    if said == sha:
        # Said before by somebody who did not hear the answer.
        return get_run(connection, record.run_id)
    connection.execute(
        insert(tables.run).values(
            id=record.run_id,
            status=record.status.value,
            request=codec.with_trace(request, record.request),
            request_sha=sha,
            idempotency_key=key,
            created_s=record.created_s,
            updated_s=record.updated_s,
            questions=codec.dump(codec.QUESTIONS, record.questions),
            answers=codec.dump(codec.ANSWERS, record.answers),
            assumptions=codec.dump(codec.STRINGS, record.assumptions),
            owner_epoch=record.epoch,
            buyers=codec.dump(codec.BUYERS, record.request.buyers),
            clock_s=record.clock_s,
            forked_from=record.forked_from,
        )
    )
    if record.plan is not None:
        record_plan(connection, record.run_id, record.plan)
    for task in record.tasks:
        record_task(connection, record.run_id, task)
    run_budgets.begin_run(connection, record.run_id, record.request.budget_usd)
    return record


def take_run(connection: Connection, run_id: str, epoch: int, owner: str) -> RunRecord:
    """Make ``owner`` the run's conductor in place of that of ``epoch``; said again by the same, it is a no-op.

    Raises:
        NotFoundError: there is no such run.
        RunTakenError: somebody else took it meanwhile.
    """
    run = tables.run.c
    taken = connection.execute(
        update(tables.run)
        .where(
            run.id == run_id,
            or_(run.owner_epoch == epoch, and_(run.owner_epoch == epoch + 1, run.owner == owner)),
        )
        .values(owner_epoch=epoch + 1, owner=owner)
    )
    if taken.rowcount == 0:
        require_run(connection, run_id)
        raise _taken(run_id)
    return get_run(connection, run_id)


def require_epoch(connection: Connection, run_ids: Iterable[str], epoch: int) -> None:
    """Refuse to go on where one of these runs has another conductor by now; raises RunTakenError, NotFoundError."""
    wanted = set(run_ids)
    epochs = find_epochs(connection, wanted)
    for run_id in sorted(wanted):
        error = lost(run_id, epoch, epochs)
        if error is not None:
            raise error


def find_epochs(connection: Connection, run_ids: Iterable[str]) -> dict[str, int]:
    """Return the epochs of these runs, which nobody can take until this transaction ends."""
    wanted = set(run_ids)
    rows = connection.execute(_EPOCHS, {"runs": sorted(wanted)}) if wanted else ()
    return {row.id: row.owner_epoch for row in rows}


def lost(run_id: str, epoch: int, epochs: Mapping[str, int]) -> RunTakenError | NotFoundError | None:
    """Return why the conductor of ``epoch`` may not write of the run any more; None where it may."""
    if run_id not in epochs:
        return _no_run(run_id)
    return None if epochs[run_id] == epoch else _taken(run_id)


def update_run(connection: Connection, record: RunRecord) -> None:
    """Replace the run's own row; its tasks and plans stay.

    Raises:
        NotFoundError: there is no such run.
        RunTakenError: somebody else conducts it by now.
    """
    document_sha = None
    if record.document is not None:
        document_sha = put_blob(connection, codec.dump_json(record.document).encode())
    done = connection.execute(
        update(tables.run)
        .where(tables.run.c.id == record.run_id, tables.run.c.owner_epoch == record.epoch)
        .values(
            status=record.status.value,
            updated_s=record.updated_s,
            questions=codec.dump(codec.QUESTIONS, record.questions),
            answers=codec.dump(codec.ANSWERS, record.answers),
            assumptions=codec.dump(codec.STRINGS, record.assumptions),
            document_sha=document_sha,
            clock_s=record.clock_s,
        )
    )
    if done.rowcount == 0:
        require_run(connection, record.run_id)
        raise _taken(record.run_id)
    if record.status.ended:
        run_budgets.end_run(connection, record.run_id)
    elif record.status is RunStatus.ACCEPTED:
        run_budgets.reopen_run(connection, record.run_id, record.request.budget_usd, record.updated_s)


def get_run(connection: Connection, run_id: str) -> RunRecord:
    """Return the run with its newest plan and its tasks; raises NotFoundError."""
    row = connection.execute(select(tables.run).where(tables.run.c.id == run_id)).first()
    if row is None:
        raise _no_run(run_id)
    plan = connection.execute(
        select(tables.plan.c.body).where(tables.plan.c.run_id == run_id).order_by(tables.plan.c.version.desc()).limit(1)
    ).scalar()
    tasks = connection.execute(
        select(tables.task, tables.blob.c.bytes.label("output"))
        .select_from(tables.task.outerjoin(tables.blob, tables.blob.c.sha256 == tables.task.c.result_sha))
        .where(tables.task.c.run_id == run_id)
    ).all()
    document = get_blob(connection, row.document_sha) if row.document_sha else None
    return _run(
        row,
        plan=codec.load(codec.PLAN, plan) if plan else None,
        # Sorted here: engines differ in how they sort text.
        tasks=tuple(sorted(map(_task, tasks), key=lambda task: task.task_id)),
        document=document,
    )


def list_runs(connection: Connection, *, limit: int, before_s: float | None = None) -> list[RunRecord]:
    """Return the newest runs first, without plan, tasks and document."""
    query = select(tables.run).order_by(tables.run.c.created_s.desc(), tables.run.c.id.desc()).limit(limit)
    if before_s is not None:
        query = query.where(tables.run.c.created_s < before_s)
    return [_run(row, plan=None, tasks=(), document=None) for row in connection.execute(query)]


def unfinished_runs(connection: Connection) -> list[str]:
    """Return ids of runs that somebody should be conducting, oldest first."""
    ended = [status.value for status in RunStatus if status.ended or status is RunStatus.NEEDS_ANSWERS]
    query = select(tables.run.c.id).where(tables.run.c.status.not_in(ended)).order_by(tables.run.c.created_s)
    return list(connection.execute(query).scalars())


def record_plan(connection: Connection, run_id: str, plan: Plan) -> None:
    """Append an immutable plan version; the same version again is a no-op."""
    body = codec.dump(codec.PLAN, plan)
    values = {"run_id": run_id, "version": plan.version, "sha": codec.sha256(body.encode()), "body": body}
    connection.execute(_PUT_PLAN.on(connection), values)


def record_task(connection: Connection, run_id: str, task: TaskRecord) -> None:
    """Insert or replace one task's row; its output becomes a blob first."""
    values = {
        "run_id": run_id,
        "id": task.task_id,
        "state": task.state.value,
        "attempts": task.attempts,
        "account": task.account,
        "model": task.model,
        "result_sha": None if task.output is None else put_blob(connection, task.output.encode()),
        "usage": codec.dump(codec.USAGE, task.usage),
        "cost_usd": task.cost_usd,
        "started_s": task.started_s,
        "finished_s": task.finished_s,
        "produced_by": task.produced_by,
        "error": task.error,
    }
    connection.execute(_PUT_TASK.on(connection), values)


def record_calls(connection: Connection, calls: Sequence[CallRecord]) -> None:
    """Insert or replace the rows of provider calls; what was answered becomes blobs first."""
    answers = [call.answer.encode() for call in calls if call.answer is not None]
    if answers:
        connection.execute(_PUT_BLOB.on(connection), [{"sha256": codec.sha256(one), "bytes": one} for one in answers])
    if calls:
        connection.execute(_PUT_CALL.on(connection), [_call_values(call) for call in calls])


def calls_of(connection: Connection, run_id: str) -> list[CallRecord]:
    """Return every recorded call of the run, oldest first."""
    rows = connection.execute(
        select(tables.call, tables.blob.c.bytes.label("answer"))
        .select_from(tables.call.outerjoin(tables.blob, tables.blob.c.sha256 == tables.call.c.answer_sha))
        .where(tables.call.c.run_id == run_id)
        .order_by(tables.call.c.created_s, tables.call.c.key)
    )
    return [_call(row) for row in rows]


def append_events(connection: Connection, events: Sequence[RunEvent]) -> list[RunEvent]:
    """Append events, numbering them within their run from 1 without gaps; return them as numbered."""
    last: dict[str, int] = {}
    numbered: list[RunEvent] = []
    rows: list[dict[str, object]] = []
    for item in events:
        if item.run_id not in last:
            last[item.run_id] = connection.execute(_LAST_SEQ, {"of_run": item.run_id}).scalar() or 0
        last[item.run_id] += 1
        event = replace(item, seq=last[item.run_id])
        numbered.append(event)
        rows.append(
            {
                "run_id": event.run_id,
                "seq": event.seq,
                "kind": event.kind,
                "at_s": event.at_s,
                "task_id": event.task_id,
                "attempt": event.attempt,
                "payload": codec.dump_json(event.payload),
            }
        )
    if rows:
        connection.execute(_PUT_EVENTS, rows)
        outbox.tell(connection, run_events_told(numbered))
    return numbered


def events_after(connection: Connection, run_id: str, seq: int, *, limit: int = 1_000) -> list[RunEvent]:
    """Return up to ``limit`` events of the run with a larger ``seq``, in order."""
    rows = connection.execute(
        select(tables.event)
        .where(and_(tables.event.c.run_id == run_id, tables.event.c.seq > seq))
        .order_by(tables.event.c.seq)
        .limit(limit)
    )
    return [
        RunEvent(
            run_id=row.run_id,
            seq=row.seq,
            kind=row.kind,
            at_s=row.at_s,
            task_id=row.task_id,
            attempt=row.attempt,
            payload=codec.load_json(row.payload),
        )
        for row in rows
    ]


def require_run(connection: Connection, run_id: str) -> None:
    """Raise NotFoundError where there is no such run."""
    if connection.execute(select(tables.run.c.id).where(tables.run.c.id == run_id)).first() is None:
        raise _no_run(run_id)


def put_blob(connection: Connection, data: bytes) -> str:
    """Store ``data`` under its hash and return the hash; storing it again is a no-op."""
    sha = codec.sha256(data)
    connection.execute(_PUT_BLOB.on(connection), {"sha256": sha, "bytes": data})
    return sha


def get_blob(connection: Connection, sha: str) -> bytes:
    """Return the blob of that hash; raises NotFoundError."""
    data = connection.execute(select(tables.blob.c.bytes).where(tables.blob.c.sha256 == sha)).scalar()
    if data is None:
        raise NotFoundError(f"no blob {sha!r} in the journal")
    return cast("bytes", data)


def save_limiter_state(
    connection: Connection, scope: str, model: str, *, state: str, clean: bool, wall_s: float
) -> None:
    """Insert or replace the saved state of one limiter."""
    values = {"scope": scope, "model": model, "state": state, "clean": int(clean), "saved_s": wall_s}
    connection.execute(_PUT_LIMITER.on(connection), values)


def find_limiter_state(connection: Connection, scope: str, model: str) -> tuple[str, bool] | None:
    """Return (state, clean) of one limiter, or None where it was never saved."""
    row = connection.execute(
        select(tables.limiter_state).where(
            and_(tables.limiter_state.c.scope == scope, tables.limiter_state.c.model == model)
        )
    ).first()
    return None if row is None else (row.state, bool(row.clean))


def _call_values(call: CallRecord) -> dict[str, object]:
    return {
        "key": call.key,
        "run_id": call.run_id,
        "task_id": call.task_id,
        "purpose": call.purpose,
        "attempt": call.attempt,
        "state": call.state.value,
        "models": codec.dump(codec.STRINGS, call.models),
        "account": call.account,
        "model": call.model,
        "request_sha": call.request_sha,
        "provider_id": call.provider_id,
        "usage": None if call.usage is None else codec.dump(codec.USAGE, call.usage),
        "cost_usd": call.cost_usd,
        "answer_sha": None if call.answer is None else codec.sha256(call.answer.encode()),
        "created_s": call.created_s,
        "sent_s": call.sent_s,
        "settled_s": call.settled_s,
        "tries": call.tries,
        "error": call.error,
    }


def _no_run(run_id: str) -> NotFoundError:
    return NotFoundError(f"there is no run {run_id!r}", param="run_id", remedy=REMEDY_NO_RUN)


def _taken(run_id: str) -> RunTakenError:
    return RunTakenError(
        f"the run {run_id!r} has another conductor by now", param="run_id", remedy="nothing: it is looked after"
    )


def _run(
    row: Row[tuple[object, ...]], *, plan: Plan | None, tasks: tuple[TaskRecord, ...], document: bytes | None
) -> RunRecord:
    return RunRecord(
        run_id=row.id,
        status=RunStatus(row.status),
        request=replace(
            codec.load(codec.REQUEST, row.request),
            buyers=codec.load(codec.BUYERS, row.buyers) if row.buyers else Owners(),
        ),
        created_s=row.created_s,
        updated_s=row.updated_s,
        plan=plan,
        questions=codec.load(codec.QUESTIONS, row.questions),
        answers=codec.load(codec.ANSWERS, row.answers),
        assumptions=codec.load(codec.STRINGS, row.assumptions),
        tasks=tasks,
        document=None if document is None else codec.load_json(document),
        clock_s=row.clock_s,
        forked_from=row.forked_from,
        epoch=row.owner_epoch,
    )


def _task(row: Row[tuple[object, ...]]) -> TaskRecord:
    return TaskRecord(
        task_id=row.id,
        state=TaskState(row.state),
        attempts=row.attempts,
        account=row.account,
        model=row.model,
        output=None if row.output is None else row.output.decode(),
        usage=codec.load(codec.USAGE, row.usage),
        cost_usd=row.cost_usd,
        started_s=row.started_s,
        finished_s=row.finished_s,
        produced_by=cast("ProducedBy", row.produced_by),
        error=row.error,
    )


def _call(row: Row[tuple[object, ...]]) -> CallRecord:
    return CallRecord(
        key=row.key,
        run_id=row.run_id,
        task_id=row.task_id,
        purpose=row.purpose,
        attempt=row.attempt,
        state=CallState(row.state),
        models=codec.load(codec.STRINGS, row.models),
        account=row.account,
        model=row.model,
        request_sha=row.request_sha,
        provider_id=row.provider_id,
        usage=None if row.usage is None else codec.load(codec.USAGE, row.usage),
        cost_usd=row.cost_usd,
        answer=None if row.answer is None else row.answer.decode(),
        created_s=row.created_s,
        sent_s=row.sent_s,
        settled_s=row.settled_s,
        tries=row.tries,
        error=row.error,
    )
