"""A desk of ours in memory: it plays recorded runs and obeys the port's contract (``desk_contract``).

Time stands still here. A run moves on by one batch whenever somebody waits for its next events, so tests need no sleep.
"""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import orjson

from app.domain.books.budgets import Owners
from app.domain.errors import ConflictError, GatewayError, NotFoundError, RequestError
from app.domain.rework import forked, to_redo
from app.domain.run import RunEvent, RunRecord, RunRequest, RunStatus
from app.domain.views import AccountView, LimitView, LiveCheck, ReloadReport
from tests.fakes.runs import (
    BEGAN_S,
    QUESTION,
    Batch,
    asking_batch,
    event,
    finished_batch,
    plan_batch,
    sample_document,
    sample_plan,
    stage_events,
    task_batch,
    work_batches,
)

ASK_WORD = "somewhere"
"""A request that holds it cannot be planned without an answer."""
FAIL_WORD = "impossible"
"""A request that holds it ends without an answer."""


class FakeDesk:
    """Plays the recorded run for every request; see ``ASK_WORD`` and ``FAIL_WORD`` for the others."""

    def __init__(self) -> None:
        self.runs: dict[str, RunRecord] = {}
        self.log: dict[str, list[RunEvent]] = {}
        self.to_come: dict[str, list[Batch]] = {}
        self.failing: dict[str, GatewayError] = {}
        """Error to raise by method name."""
        self.parts = {"store": "ok", "directory": "ok", "coordinator": "ok", "accounts": "ok"}
        self.checks = [
            LiveCheck(
                account="embedded", provider="local", model="smollm2-135m", ok=True, seconds=0.2, message="answers"
            )
        ]
        self.requests: list[RunRequest] = []
        self._news: dict[str, asyncio.Event] = {}

    async def start(self, request: RunRequest) -> RunRecord:
        """See ``Desk.start``."""
        self._maybe_fail("start")
        if not request.text.strip():
            raise RequestError("The request is empty.", param="request_text")
        for record in self.runs.values():
            if request.idempotency_key and record.request.idempotency_key == request.idempotency_key:
                if record.request != request:
                    raise ConflictError("The idempotency key belongs to another request.", param="idempotency-key")
                return record
        self.requests.append(request)
        run_id = f"run-{len(self.runs) + 1}"
        at_s = BEGAN_S + len(self.runs)
        record = RunRecord(run_id=run_id, status=RunStatus.ACCEPTED, request=request, created_s=at_s, updated_s=at_s)
        self.runs[run_id] = record
        self.log[run_id] = []
        self._append(
            run_id, (event(run_id, "run.accepted", 0.0, text=request.text, assume_defaults=request.assume_defaults),)
        )
        asks = ASK_WORD in request.text and not request.assume_defaults
        self.to_come[run_id] = [asking_batch(run_id)] if asks else self._rest(request, run_id)
        return record

    async def get(self, run_id: str) -> RunRecord:
        """See ``Desk.get``."""
        self._maybe_fail("get")
        return self._known(run_id)

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        """See ``Desk.list_runs``."""
        self._maybe_fail("list_runs")
        rows = [record for record in self.runs.values() if before_s is None or record.created_s < before_s]
        return sorted(rows, key=lambda record: -record.created_s)[:limit]

    async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        """See ``Desk.events``."""
        self._maybe_fail("events")
        self._known(run_id)
        await asyncio.sleep(0)
        if len(self.log[run_id]) <= after_seq and wait_s > 0:
            self.advance(run_id)
        if len(self.log[run_id]) <= after_seq and wait_s > 0 and not self.runs[run_id].status.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.setdefault(run_id, asyncio.Event()).wait()
        return tuple(self.log[run_id][after_seq:])

    async def answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        """See ``Desk.answer``."""
        self._maybe_fail("answer")
        record = self._known(run_id)
        if record.status is not RunStatus.NEEDS_ANSWERS:
            raise ConflictError(f"The run {run_id!r} is not waiting for answers.")
        known = {question.id: question for question in record.questions}
        for question_id in answers:
            if question_id not in known:
                raise RequestError(f"There is no question {question_id!r}.", param="answers")
        given = {**dict(record.answers), **answers}
        open_ids = [question_id for question_id in known if question_id not in given]
        if open_ids and not assume_rest:
            self.runs[run_id] = replace(record, answers=tuple(given.items()))
            return self.runs[run_id]
        assumed = tuple(f"{known[question_id].question} {known[question_id].default}" for question_id in open_ids)
        self.runs[run_id] = replace(
            record, status=RunStatus.PLANNING, answers=tuple(given.items()), assumptions=assumed
        )
        said = {question_id: text for question_id, text in given.items()}
        self._append(run_id, (event(run_id, "run.answered", 1.0, answers={**said}, assumptions=list(assumed)),))
        self.to_come[run_id] = self._rest(record.request, run_id)
        return self.runs[run_id]

    async def cancel(self, run_id: str) -> RunRecord:
        """See ``Desk.cancel``."""
        self._maybe_fail("cancel")
        record = self._known(run_id)
        if not record.status.ended:
            self.to_come[run_id] = []
            self._append(run_id, finished_batch(run_id, RunStatus.CANCELLED))
        return self.runs[run_id]

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        """See ``Desk.retry``."""
        self._maybe_fail("retry")
        record = self._known(run_id)
        again = to_redo(record, task_id)
        self.runs[run_id] = replace(record, status=RunStatus.RUNNING, document=None)
        names = [task.task_id for task in again]
        self._append(run_id, (event(run_id, "run.retried", 20.0, task_id, tasks=[*names]),))
        self.to_come[run_id] = [*(task_batch(run_id, name) for name in sorted(names)), finished_batch(run_id)]
        return self.runs[run_id]

    async def fork(
        self, run_id: str, task_id: str, *, more: str | None = None, buyers: Owners | None = None
    ) -> RunRecord:
        """See ``Desk.fork``."""
        self._maybe_fail("fork")
        source = self._known(run_id)
        fork = forked(source, task_id, more)
        request = replace(source.request, idempotency_key=None, buyers=buyers or Owners())
        record = await self.start(request)
        self.runs[record.run_id] = replace(record, plan=fork.plan, tasks=fork.tasks, forked_from=run_id)
        return self.runs[record.run_id]

    async def export(self, run_id: str) -> bytes:
        """See ``Desk.export``."""
        self._maybe_fail("export")
        record = self._known(run_id)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(f"{run_id}/run.json", orjson.dumps({"run_id": record.run_id}))
        return packed.getvalue()

    async def accounts(self) -> Sequence[AccountView]:
        """See ``Desk.accounts``."""
        self._maybe_fail("accounts")
        return ACCOUNTS

    async def check_live(self) -> Sequence[LiveCheck]:
        """See ``Desk.check_live``."""
        self._maybe_fail("check_live")
        return tuple(self.checks)

    async def reload(self) -> ReloadReport:
        """See ``Desk.reload``."""
        self._maybe_fail("reload")
        return ReloadReport(version=2, source="tutti.yaml", added=("openai-b",), notes=("judge: gpt-5-mini",))

    async def ready(self) -> Mapping[str, str]:
        """See ``Desk.ready``."""
        self._maybe_fail("ready")
        return self.parts

    def advance(self, run_id: str) -> None:
        """Let the run say its next batch; nothing happens where none is left."""
        if self.to_come[run_id]:
            self._append(run_id, self.to_come[run_id].pop(0))

    def _rest(self, request: RunRequest, run_id: str) -> list[Batch]:
        if FAIL_WORD in request.text:
            return [finished_batch(run_id, RunStatus.FAILED)]
        if request.plan_only:
            return [plan_batch(run_id), finished_batch(run_id)]
        return [stage_events(run_id, "clarify", 0.0, 0.5), *work_batches(run_id), finished_batch(run_id)]

    def _append(self, run_id: str, events: Batch) -> None:
        for item in events:
            self.log[run_id].append(replace(item, seq=len(self.log[run_id]) + 1))
            self._change(run_id, item)
        self._news.pop(run_id, asyncio.Event()).set()

    def _change(self, run_id: str, item: RunEvent) -> None:
        record = self.runs[run_id]
        match item.kind:
            case "run.questions":
                self.runs[run_id] = replace(record, status=RunStatus.NEEDS_ANSWERS, questions=(QUESTION,))
            case "plan.ready":
                self.runs[run_id] = replace(record, status=RunStatus.RUNNING, plan=sample_plan())
            case "run.finished":
                status = RunStatus(str(item.payload["status"]))
                document = sample_document(run_id, status)
                if status is not RunStatus.COMPLETED:
                    document = replace(
                        document, answer="", error="every account failed", tasks=(), evaluation=(), results={}
                    )
                # As a journal returns it: through JSON.
                self.runs[run_id] = replace(
                    record, status=status, document=orjson.loads(orjson.dumps(document.to_json()))
                )

    def _known(self, run_id: str) -> RunRecord:
        if run_id not in self.runs:
            raise NotFoundError(f"There is no run {run_id!r}.", param="run_id")
        return self.runs[run_id]

    def _maybe_fail(self, method: str) -> None:
        if method in self.failing:
            raise self.failing[method]


ACCOUNTS = (
    AccountView(
        account="openai-a",
        provider="openai",
        model="gpt-5-mini",
        state="healthy",
        identity="ops@acme.example",
        quota_group="acme",
        limits=(LimitView(name="rpm", limit=500, used=12), LimitView(name="tpm", limit=200_000, used=4_096)),
        in_flight=3,
        calls=40,
        input_tokens=12_000,
        output_tokens=3_000,
    ),
    AccountView(
        account="gemini-b",
        provider="gemini",
        model="gemini-flash",
        state="cooling_minute",
        identity="lab@acme.example",
        cooldown_s=21.5,
        last_error="429: minute limit",
        calls=7,
    ),
    AccountView(account="embedded", provider="local", model="smollm2-135m", state="healthy"),
)
