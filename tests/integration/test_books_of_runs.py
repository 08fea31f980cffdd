"""What a run buys is in the books: before it is sent, after it ended, and when its conductor died in between."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, create_engine, select

from actors.store import Store
from app.domain.accounts import OnUnknown, Orchestra
from app.domain.books.budgets import BudgetSpec, Ledger, OwnerKind, Owners, Window
from app.domain.books.money import nano_from_usd
from app.domain.books.usage import Dimension, UsageQuery, UsageRow
from app.domain.calls import CallAnswer, ModelCall
from app.domain.errors import CallLostError, ConflictError, UpstreamKind
from app.domain.ports import ModelCaller
from app.domain.run import CallRecord, CallState, RunRecord, RunRequest, RunStatus, TaskRecord, TaskState
from app.domain.without_secrets import without_secrets
from app.services.conduct import Conductor, Tools
from app.services.prompts import Prompts
from app.storage import tables
from app.storage.books_tables import hold, usage_entry
from app.storage.place import FILE_NAME, Place
from tests.fakes.clock import RunningClock
from tests.fakes.journal import InProcessJournal
from tests.fakes.journal_socket import serving
from tests.fakes.priced import CALL_NANO, PLAN, PRICED, Priced

CLOCK = RunningClock()
ANN = Owners(tenant="acme", team="research", user="ann", key="ci")
WAIT_S = 60.0
RICH = BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.TOTAL, limit_nano=10**15)
"""Of the team that starts the runs: enough for all of them."""


@dataclass
class Desk:
    """A store with what is needed to conduct runs against it."""

    store: Store

    @property
    def journal(self) -> InProcessJournal:
        return InProcessJournal(self.store)

    async def accept(
        self, *, budget_usd: str | None = None, run_id: str = "run-1", planned: bool = True, **request: object
    ) -> RunRecord:
        """Record a run that is planned already, unless told otherwise."""
        now_s = CLOCK.wall_s()
        asked = RunRequest(text="Compare tea and coffee.", budget_usd=budget_usd, buyers=ANN)
        record = RunRecord(
            run_id=run_id,
            status=RunStatus.ACCEPTED,
            request=replace(asked, **request),  # type: ignore[arg-type]  # fields of a request
            created_s=now_s,
            updated_s=now_s,
            epoch=1,
        )
        await self.store.create_run(record)
        if planned:
            await self.store.record_plan(run_id, PLAN, [], 1)
        return await self.store.get_run(run_id)

    def conductor(self, record: RunRecord, caller: ModelCaller, orchestra: Orchestra = PRICED) -> Conductor:
        tools = Tools(caller=caller, journal=self.journal, clock=CLOCK, orchestra=orchestra, prompts=Prompts.load())
        return Conductor(record, tools)

    async def taken(self, run_id: str = "run-1") -> RunRecord:
        """Take the run over, as the next life of the coordinator does."""
        record = await self.store.get_run(run_id)
        return await self.store.take_run(run_id, record.epoch, f"life {record.epoch + 1}")

    async def usage(self, *by: Dimension) -> list[UsageRow]:
        now_s = CLOCK.wall_s()
        return await self.store.usage(UsageQuery(from_s=now_s - 86_400, to_s=now_s + 86_400, group_by=by))

    async def budget(self) -> tuple[int, int, int]:
        """Return (spent, held, unknown) nano-dollars of the team's budget: a run's own ends with the run."""
        figures = await self.store.budget_figures()
        (money,) = (one for one in figures if (one.owner_name, one.ledger) == (RICH.owner_name, Ledger.USD))
        return money.spent, money.held, money.unknown


@pytest.fixture
async def desk(place: Place) -> AsyncIterator[Desk]:
    store = Store(str(place.data_dir), place.url)
    await store.sync_books([RICH], PRICED.prices)
    yield Desk(store)
    await store.close()


class Stuck(Priced):
    """Answers the first task and keeps the rest waiting for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = asyncio.Event()

    async def call(self, call: ModelCall) -> CallAnswer:
        if call.task_id == "t2":
            self.calls.append(call)
            self.waiting.set()
            await asyncio.Event().wait()
        return await super().call(call)


async def test_a_run_costs_what_its_entries_say(desk: Desk) -> None:
    """The document, the calls' rows and the books are the same figures, and every cent has its owners."""
    record = await desk.accept()
    caller = Priced()

    ended = await desk.conductor(record, caller).conduct()

    assert ended.status is RunStatus.COMPLETED
    assert ended.document is not None
    (row,) = await desk.usage()
    usage = ended.document["usage"]
    assert isinstance(usage, dict)
    assert (row.calls, row.cost_nano) == (len(caller.calls), len(caller.calls) * CALL_NANO)
    assert nano_from_usd(str(usage["cost_usd"])) == row.cost_nano
    assert (usage["input_tokens"], usage["output_tokens"]) == (row.input_tokens, row.output_tokens)
    calls = await desk.store.calls_of("run-1")
    assert sum(nano_from_usd(call.cost_usd or "0") for call in calls) == row.cost_nano
    assert {call.state for call in calls} == {CallState.DONE}
    assert await desk.store.verify_books() == []


async def test_entries_carry_who_started_the_run_and_what_the_work_was(desk: Desk) -> None:
    """Whose money it is, and what for."""
    await desk.conductor(await desk.accept(), Priced()).conduct()

    by_owner = await desk.usage(Dimension.TEAM, Dimension.USER, Dimension.KEY, Dimension.RUN)
    by_type = await desk.usage(Dimension.TASK_TYPE)
    assert [tuple(row.group) for row in by_owner] == [("research", "ann", "ci", "run-1")]
    assert {row.group[0] for row in by_type} >= {"writing", "general", "merge", "evaluate"}


async def test_a_budget_ends_a_run_before_it_is_overspent(desk: Desk) -> None:
    """What might not fit is not sent, whoever set the ceiling; the run says why it stopped."""
    caller = Priced()
    record = await desk.accept(budget_usd="0.000001")

    ended = await desk.conductor(record, caller).conduct()

    assert ended.status is RunStatus.FAILED
    assert caller.calls == []
    assert await desk.store.calls_of("run-1") == []
    assert ended.document is not None
    assert "budget of run 'run-1'" in str(ended.document)
    assert ended.document["budget_usd"] == "0.000001"


async def test_a_run_ends_in_part_when_its_budget_is_used_up(desk: Desk) -> None:
    """What was bought is kept and shown; the sum never exceeds the ceiling."""
    whole = Priced()
    await desk.conductor(await desk.accept(), whole).conduct()
    limit_nano = await held_for(desk, "run-1/t1/task/1")
    before_nano, _held, _unknown = await desk.budget()
    record = await desk.accept(run_id="run-2", budget_usd=f"{limit_nano / 1e9:.9f}")
    caller = Priced()

    ended = await desk.conductor(record, caller).conduct()

    assert 0 < len(caller.calls) < len(whole.calls)
    assert len(caller.calls) * CALL_NANO <= limit_nano
    assert ended.status is RunStatus.PARTIAL
    assert await desk.budget() == (before_nano + len(caller.calls) * CALL_NANO, 0, 0)
    assert await desk.store.verify_books() == []


async def test_a_teams_budget_stops_its_runs_too(desk: Desk) -> None:
    """A run is no way around a ceiling that was set for its owners."""
    spec = BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.MONTH, limit_nano=1)
    await desk.store.sync_books([spec], PRICED.prices)
    caller = Priced()

    ended = await desk.conductor(await desk.accept(), caller).conduct()

    assert (ended.status, caller.calls) == (RunStatus.FAILED, [])
    assert "budget of team 'research'" in str(ended.document)


async def test_a_run_cannot_raise_the_budget_of_every_run(desk: Desk) -> None:
    """The operator's ceiling holds beside the user's."""
    spec = BudgetSpec(owner_kind=OwnerKind.RUN, owner_name="*", window=Window.TOTAL, limit_nano=1)
    await desk.store.sync_books([spec], PRICED.prices)
    caller = Priced()

    await desk.conductor(await desk.accept(budget_usd="1000"), caller).conduct()

    assert caller.calls == []


async def test_a_call_is_in_the_books_before_the_provider_hears_of_it(desk: Desk) -> None:
    """Whatever dies from here on: spent, held and unknown together cover the bill."""
    record = await desk.accept(budget_usd="1")
    caller = Stuck()
    life = asyncio.create_task(desk.conductor(record, caller).conduct())
    await asyncio.wait_for(caller.waiting.wait(), WAIT_S)

    spent, held, unknown = await desk.budget()
    sent = [call for call in await desk.store.calls_of("run-1") if call.state is CallState.SENT]
    life.cancel()
    await life

    assert len(sent) >= 1
    assert held > CALL_NANO
    assert spent + held + unknown >= len(caller.calls) * CALL_NANO
    spent, held, unknown = await desk.budget()
    assert (held, unknown) == (0, 0)
    assert spent >= len(caller.calls) * CALL_NANO, "what was stopped on its way is booked as all that it may have cost"
    assert await desk.store.verify_books() == []


async def test_the_next_conductor_counts_what_was_on_its_way_as_unknown(desk: Desk) -> None:
    """The bill of a lost answer is covered, the work is bought anew, and the figures agree."""
    record = await desk.accept(budget_usd="1")
    dead = Stuck()
    abandoned = asyncio.create_task(desk.conductor(record, dead).conduct())
    await asyncio.wait_for(dead.waiting.wait(), WAIT_S)
    caller = Priced()

    ended = await desk.conductor(await desk.taken(), caller).conduct()

    spent, held, unknown = await desk.budget()
    bills = (len(dead.calls) + len(caller.calls)) * CALL_NANO
    states = [call.state for call in await desk.store.calls_of("run-1")]
    assert ended.status is RunStatus.COMPLETED
    assert (held, states.count(CallState.UNKNOWN)) == (0, 1)
    assert spent + unknown >= bills
    assert unknown > CALL_NANO
    assert [call.call_id for call in caller.calls if call.task_id == "t2" and call.purpose == "task"] == [
        f"{dead.calls[-1].call_id}/life2"
    ]
    assert await desk.store.verify_books() == []
    abandoned.cancel()
    await abandoned


async def test_a_route_that_asks_pauses_the_run_until_a_person_decides(desk: Desk) -> None:
    """At most one bill without a decision; the decision is carried out."""
    careful = replace(PRICED, coordinator=replace(PRICED.coordinator, on_unknown="hold"))
    dead = Stuck()
    abandoned = asyncio.create_task(desk.conductor(await desk.accept(), dead, careful).conduct())
    await asyncio.wait_for(dead.waiting.wait(), WAIT_S)
    caller = Priced()

    paused = await desk.conductor(await desk.taken(), caller, careful).conduct()

    (question,) = paused.questions
    assert (paused.status, caller.calls) == (RunStatus.NEEDS_ANSWERS, [])
    assert "t2" in question.question
    answered = replace(
        await desk.taken(), status=RunStatus.ACCEPTED, answers=((question.id, "buy again"),), document=None
    )
    await desk.store.update_run(answered, [])
    ended = await desk.conductor(answered, caller, careful).conduct()
    assert ended.status is RunStatus.COMPLETED
    assert sum(call.task_id == "t2" and call.purpose == "task" for call in caller.calls) == 1
    abandoned.cancel()
    await abandoned


class ActorLost(Priced):
    """Loses the account's actor with the first call of a stage, or of the second task."""

    def __init__(self, purpose: str = "task", task_id: str | None = "t2") -> None:
        super().__init__()
        self._lost = (purpose, task_id)

    async def call(self, call: ModelCall) -> CallAnswer:
        if self._lost == (call.purpose, call.task_id) and self._lost not in self._made():
            self.calls.append(call)
            raise CallLostError("its actor went away", kind=UpstreamKind.CONNECTION, account="a", billed=None)
        return await super().call(call)

    def _made(self) -> set[tuple[str, str | None]]:
        return {(call.purpose, call.task_id) for call in self.calls}


async def test_a_call_lost_with_its_accounts_actor_pauses_the_run_as_well(desk: Desk) -> None:
    """The conductor lives, and nobody knows any more than if it had died: what others did is kept, a person decides."""
    careful = replace(PRICED, coordinator=replace(PRICED.coordinator, on_unknown="hold"))
    caller = ActorLost()

    paused = await desk.conductor(await desk.accept(), caller, careful).conduct()
    tried = sum(call.task_id == "t2" for call in caller.calls)
    (question,) = paused.questions
    answered = replace(
        await desk.taken(), status=RunStatus.ACCEPTED, answers=((question.id, "buy again"),), document=None
    )
    await desk.store.update_run(answered, [])
    ended = await desk.conductor(answered, caller, careful).conduct()

    assert (paused.status, tried, "t2" in question.question) == (RunStatus.NEEDS_ANSWERS, 1, True)
    assert ended.status is RunStatus.COMPLETED
    assert sum(call.task_id == "t2" and call.purpose == "task" for call in caller.calls) == 2
    assert sum(call.task_id == "t1" and call.purpose == "task" for call in caller.calls) == 1
    assert await desk.store.verify_books() == []


@pytest.mark.parametrize(
    ("of_all", "of_route", "status", "bought"),
    [("retry", "hold", RunStatus.NEEDS_ANSWERS, 1), ("hold", "retry", RunStatus.COMPLETED, 2)],
)
async def test_a_route_decides_for_its_tasks_against_the_rule_for_all(
    desk: Desk, of_all: OnUnknown, of_route: OnUnknown, status: RunStatus, bought: int
) -> None:
    """Work that may be done twice, and work that must not, stand in one configuration."""
    routes = tuple(
        replace(route, on_unknown=of_route) if route.task_type == PLAN.task("t2").task_type else route
        for route in PRICED.routes
    )
    mixed = replace(PRICED, coordinator=replace(PRICED.coordinator, on_unknown=of_all), routes=routes)
    caller = ActorLost()

    ended = await desk.conductor(await desk.accept(), caller, mixed).conduct()

    assert ended.status is status
    assert sum(call.task_id == "t2" and call.purpose == "task" for call in caller.calls) == bought
    assert await desk.store.verify_books() == []


async def test_a_stage_whose_call_was_lost_with_its_actor_asks_too(desk: Desk) -> None:
    """There is no task to fail: without the question the run would end, or pay twice."""
    careful = replace(PRICED, coordinator=replace(PRICED.coordinator, on_unknown="hold"))
    caller = ActorLost("plan", None)

    paused = await desk.conductor(await desk.accept(planned=False), caller, careful).conduct()

    (question,) = paused.questions
    assert paused.status is RunStatus.NEEDS_ANSWERS
    assert [call.purpose for call in caller.calls].count("plan") == 1
    assert question.question.startswith("plan:")


async def test_giving_a_call_up_costs_its_task_and_nothing_else(desk: Desk) -> None:
    """A run whose user is not to be asked takes the careful answer."""
    careful = replace(PRICED, coordinator=replace(PRICED.coordinator, on_unknown="hold"))
    dead = Stuck()
    record = await desk.accept(assume_defaults=True)
    abandoned = asyncio.create_task(desk.conductor(record, dead, careful).conduct())
    await asyncio.wait_for(dead.waiting.wait(), WAIT_S)
    caller = Priced()

    ended = await desk.conductor(await desk.taken(), caller, careful).conduct()

    assert ended.status is RunStatus.PARTIAL
    assert not any(call.task_id == "t2" for call in caller.calls)
    assert any("give it up" in text for text in ended.assumptions)
    abandoned.cancel()
    await abandoned


async def test_an_export_has_the_whole_run_and_nothing_else(desk: Desk) -> None:
    """Every row of the run, none of another's, and no key in it anywhere."""
    secret = "sk-do-not-show"
    account = replace(PRICED.accounts[0], api_key=secret, base_url=f"https://u:{secret}@proxy.example/{secret}")
    configuration = without_secrets(replace(PRICED, accounts=(account,), store_url=f"postgresql://u:{secret}@h/d"))
    await desk.conductor(await desk.accept(run_id="run-2"), Priced()).conduct()
    caller = Priced()
    await desk.conductor(await desk.accept(idempotency_key=secret), caller).conduct()

    packed = zipfile.ZipFile(io.BytesIO(await desk.store.export_run("run-1", configuration)))

    files = {name.removeprefix("run-1/"): packed.read(name) for name in packed.namelist()}
    lines = {
        name: [orjson.loads(line) for line in data.splitlines()] for name, data in files.items() if "jsonl" in name
    }
    costs = sum(entry["cost_nano"] for entry in lines["entries.jsonl"])
    assert {name: len(found) for name, found in lines.items() if name != "events.jsonl"} == {
        "plans.jsonl": 1,
        "tasks.jsonl": len(PLAN.tasks),
        "calls.jsonl": len(caller.calls),
        "entries.jsonl": len(caller.calls),
        "holds.jsonl": len(caller.calls),
        "prices.jsonl": 1,
    }
    assert costs == len(caller.calls) * CALL_NANO
    assert [event["seq"] for event in lines["events.jsonl"]] == list(range(1, len(lines["events.jsonl"]) + 1))
    assert orjson.loads(files["run.json"])["status"] == "completed"
    (shown,) = orjson.loads(files["configuration.json"])["accounts"]
    assert (shown["host"], shown["endpoint"]) == ("proxy.example", "opaque")
    assert not any(secret.encode() in data or b"run-2" in data for data in files.values())


async def test_every_write_of_a_replaced_conductor_is_refused(desk: Desk) -> None:
    """Whatever it wants to say, the run is somebody else's; taking it twice in one name is taking it once."""
    stale = await desk.accept()
    taken = await desk.store.take_run("run-1", stale.epoch, "second")
    assert await desk.store.take_run("run-1", stale.epoch, "second") == taken
    task = TaskRecord(task_id="t1", state=TaskState.COMPLETED)
    call = CallRecord(
        key="run-1/t1/task/1", run_id="run-1", task_id="t1", purpose="task", attempt=1, state=CallState.SENT
    )
    before = await desk.store.get_run("run-1")

    for write in (
        lambda: desk.store.take_run("run-1", stale.epoch, "third"),
        lambda: desk.store.update_run(replace(stale, status=RunStatus.CANCELLED), []),
        lambda: desk.store.record_task("run-1", task, [], stale.epoch),
        lambda: desk.store.record_plan("run-1", replace(PLAN, version=2), [], stale.epoch),
        lambda: desk.store.record_calls([call], [], stale.epoch),
    ):
        with pytest.raises(ConflictError, match="another conductor"):
            await write()

    assert await desk.store.get_run("run-1") == before
    assert await desk.store.calls_of("run-1") == []


async def test_a_paused_process_commits_nothing_after_it_was_replaced(tmp_path: Path) -> None:
    """A machine that was asleep wakes up in the middle of a call whose run somebody else has finished."""
    store = Store(str(tmp_path / "data"))
    await store.sync_books([], PRICED.prices)
    desk = Desk(store)
    await desk.accept()
    socket = tmp_path / "journal"
    async with serving(desk.journal, socket):
        first = a_process(socket, "first", 3.0)
        second = None
        try:
            await until_sent(desk, "t2")
            first.send_signal(signal.SIGSTOP)
            second = a_process(socket, "second", 0.0)
            assert await output_of(second) == ["taken 3", "completed lost=False"]
            before = rows_in(tmp_path / "data")
            first.send_signal(signal.SIGCONT)
            said = await output_of(first)
        finally:
            for process in filter(None, (first, second)):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                process.wait()

    assert said[0] == "taken 2"
    assert said[1].endswith("lost=True")
    assert rows_in(tmp_path / "data") == before
    assert await store.verify_books() == []
    await store.close()


def a_process(socket: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    arguments = ["-m", "tests.fixtures.conductor_process", str(socket), "run-1", name, str(seconds)]
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)


async def output_of(process: subprocess.Popen[str]) -> list[str]:
    """Return what a process said until it ended."""
    said, _errors = await asyncio.to_thread(process.communicate, timeout=WAIT_S)
    return said.splitlines()


async def until_sent(desk: Desk, task_id: str) -> None:
    """Wait until a call for the task is on its way."""
    async with asyncio.timeout(WAIT_S):
        while not any(call.task_id == task_id for call in await desk.store.calls_of("run-1")):  # noqa: ASYNC110  another process is watched
            await asyncio.sleep(0.05)


def rows_in(data_dir: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return everything that the journal and the books hold."""
    engine: Engine = create_engine(f"sqlite:///{data_dir / FILE_NAME}")
    try:
        with engine.connect() as connection:
            return {
                table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
                for table in (tables.run, tables.task, tables.call, tables.event, tables.plan, hold, usage_entry)
            }
    finally:
        engine.dispose()


async def held_for(desk: Desk, call_id: str) -> int:
    """Return the nano-dollars that a call might have cost at most."""
    wanted = select(hold.c.nano).where(hold.c.id == call_id)
    return await desk.store._read(lambda connection: int(connection.execute(wanted).scalar_one()))
