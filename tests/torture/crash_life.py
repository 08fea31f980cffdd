"""One life of a process that buys, until it is done or kills itself at a named point: what the crash matrix starts.

Everything is the product's own: store and books on a file, limiters, permits, adapters, HTTP. Only Ray is not here: the
actors' classes stand in this one process. What a client has received is a file each in ``answers``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from actors.account import AccountHost
from actors.clock import SystemClock
from actors.store import Store
from app import settings
from app.domain.accounts import AccountSpec, EndpointClass, OnUnknown, Orchestra
from app.domain.books.budgets import Owners
from app.domain.calls import Admission, CallOrder, Collected, ModelCall
from app.domain.chat import ChatRequest, Message, Role
from app.domain.errors import GatewayError
from app.domain.gateway import ANONYMOUS, Candidate
from app.domain.leases import Exchange, Exchanged
from app.domain.ports import Journal, Upstream
from app.domain.retries import RetryBudget
from app.domain.run import RunRecord, RunRequest, RunStatus
from app.providers.http_client import _tls_context
from app.providers.registry import create
from app.services.dispatch import Dispatcher
from app.services.gateway.attempts import Attempts, Bid
from app.services.gateway.bookkeeper import Bookkeeper
from app.services.gateway.permits import PermitDesk
from app.services.gateway.spending import Billing, Spending
from app.services.roster import SnapshotRoster
from app.services.run_books import RunBooks
from app.services.run_caller import RunCaller, RunLimits
from app.services.run_journal import RunJournal
from app.settings.crash_points import CRASH_VARIABLE, arm_crash_points

Way = Literal["gateway", "run"]
HOST = "host"
ACCOUNT = "provider"
MODEL = "m"
OUTPUT_TOKENS_MAX = 64
LIFE_S = 120.0
"""How much later each life looks at the clock: by then the holds of the one before are overdue."""
DEADLINE_S = 30.0
STORE_LAG_S, LOOKUP_LAG_S = 0.2, 0.3
"""What the provider takes to list a stored completion, and what we are told that it takes at most."""
WRONG_BOOKS = 3
"""Exit status of a life that found its books not adding up."""
_tls_context()  # read once, for all lives that are forked from here: it takes longer than most of them


_RUN = RunRecord(
    run_id="run-1",
    status=RunStatus.RUNNING,
    request=RunRequest(text="count bills", idempotency_key="crash"),
    created_s=0.0,
    updated_s=0.0,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """What a process is to do."""

    way: Way
    endpoint: EndpointClass
    on_unknown: OnUnknown
    folder: str
    url: str
    number: int
    """0 is the first; each later one finds what the one before left."""
    crash_at: str
    """As ``TUTTI_CRASH_AT``; empty: it lives."""
    calls: int
    """Made at once."""

    @property
    def data_dir(self) -> Path:
        """Where the books are."""
        return Path(self.folder) / "data"


def configuration(life: Life) -> dict[str, Any]:
    """Return the configuration: one account, input at 1 and output at 4 USD a million tokens."""
    return {
        "accounts": [
            {
                "name": ACCOUNT,
                "provider": "custom",
                "base_url": f"{life.url}/v1",
                "api_key": "sk-crash",
                "models": [MODEL],
                "limits": {"concurrency": 16},
                "timeout_s": DEADLINE_S,
                "endpoint": life.endpoint.value,
                "lookup_lag_s": LOOKUP_LAG_S,
                "batch_window_s": 0.05,
            }
        ],
        "coordinator": {"model": MODEL},
        "models": {
            MODEL: {
                "family": "f",
                "context_tokens": 100_000,
                "output_tokens_max": 1_000,
                "input_usd_per_mtok": 1,
                "output_usd_per_mtok": 4,
            }
        },
        "data_dir": str(life.data_dir),
    }


def live(life: Life) -> None:
    """Run one life; returns when everything is done and booked."""
    os.environ[CRASH_VARIABLE] = life.crash_at
    arm_crash_points()
    asyncio.run(_live(life))


async def _live(life: Life) -> None:
    store = Store(str(life.data_dir), wall_s=lambda: time.time() + LIFE_S * life.number)
    orchestra = settings.load_mapping(configuration(life), source="crash matrix")
    await store.sync_books(orchestra.budgets, orchestra.prices)
    await store.expire_holds()
    async with _scene(store, orchestra) as scene:
        await (_as_client(life, scene) if life.way == "gateway" else _as_run(life, scene))
    wrong = await store.verify_books()
    await store.close()
    if wrong:
        sys.stderr.write(f"{life}: {wrong}\n")
        sys.exit(WRONG_BOOKS)


@dataclass(slots=True)
class _Hosts:
    """The account actors' ports, where there is one host in this process."""

    host: AccountHost

    async def exchange(self, host: str, message: Exchange) -> Exchanged:
        """See ``ports.PermitHosts``."""
        return await self.host.exchange(message)

    async def watch(self, host: str, epoch: int, wait_s: float) -> Exchanged:
        """See ``ports.PermitHosts``."""
        return await self.host.watch(epoch, wait_s)

    async def submit(self, host: str, orders: Sequence[CallOrder]) -> Sequence[Admission]:
        """See ``ports.AccountHosts``."""
        return await self.host.submit(orders)

    async def collect(self, host: str, owner: str, incarnation: str) -> Collected:
        """See ``ports.AccountHosts``."""
        return await self.host.collect(owner, 1.0, incarnation)

    async def cancel(self, host: str, owner: str, call_ids: Sequence[str]) -> None:
        """See ``ports.AccountHosts``."""
        await self.host.cancel(owner, call_ids)


@dataclass(slots=True)
class _Upstreams:
    """The port ``Upstreams`` over one account."""

    account: AccountSpec
    adapter: Upstream

    def of(self, account: str) -> Upstream:
        """See ``ports.Upstreams``."""
        return self.adapter

    def name(self, account: str, model: str) -> str:
        """See ``ports.Upstreams``."""
        return self.account.upstream_model(model) or model

    def provider(self, account: str) -> str:
        """See ``ports.Upstreams``."""
        return self.account.provider.value

    def goes_on(self, account: str, *, stream: bool) -> bool:
        """See ``ports.Upstreams``."""
        return False


@dataclass(slots=True)
class _Scene:
    store: Store
    orchestra: Orchestra
    hosts: _Hosts
    roster: SnapshotRoster


@asynccontextmanager
async def _scene(store: Store, orchestra: Orchestra) -> AsyncIterator[_Scene]:
    host = AccountHost(HOST, store, create)
    await host.configure(1, orchestra.accounts, orchestra.models)
    _incarnation, _version, rows = await host.status()
    roster = SnapshotRoster()
    roster.update(orchestra, {ACCOUNT: HOST}, rows)
    try:
        yield _Scene(store, orchestra, _Hosts(host), roster)
    finally:
        await host.drain(1.0)


async def _suspect(_host: str) -> None:
    return


def the_request(number: int) -> ChatRequest:
    """Return the question of a call: always the same for the same number."""
    text = f"Question {number}: how many bills does a crash make?"
    return ChatRequest(model=MODEL, messages=(Message(role=Role.USER, text=text),), output_tokens_max=OUTPUT_TOKENS_MAX)


async def _as_client(life: Life, scene: _Scene) -> None:
    """Ask as clients of a replica do, who ask again after a failure until they have their answer."""
    clock, owner = SystemClock(), f"replica-{life.number}"
    (account,) = scene.orchestra.accounts
    adapter = create(account, scene.orchestra.models)
    desk = PermitDesk(scene.hosts, scene.roster, clock, owner=owner, on_silence=_suspect)
    keeper = Bookkeeper(scene.store, clock, holder=owner)
    spending = Spending(keeper, scene.roster, clock)
    attempts = Attempts(
        desk, _Upstreams(account, adapter), clock, spending=spending, retries=RetryBudget(0.1, 10), attempts_max=4
    )
    background = [asyncio.create_task(desk.run()), asyncio.create_task(keeper.run())]
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(life.calls):
                if not _answer_of(life, number).exists():
                    group.create_task(_ask(life, attempts, number))
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await desk.aclose()
        await keeper.aclose()
        await adapter.aclose()


async def _as_run(life: Life, scene: _Scene) -> None:
    """Do what a run's conductor does: take the run over, decide on what is open, make the calls that are not there."""
    clock = SystemClock()
    # The handle adds Ray alone; a conductor's writes are named and shaped the same here.
    journal = cast("Journal", scene.store)
    await scene.store.create_run(_RUN)
    taken = await scene.store.get_run(_RUN.run_id)
    taken = await scene.store.take_run(_RUN.run_id, taken.epoch, f"conductor-{life.number}")
    dispatcher = Dispatcher(
        scene.hosts,
        scene.roster,
        clock,
        owner=f"conductor-{life.number}",
        on_progress=lambda _progress: None,
        on_silence=_suspect,
    )
    caller = RunCaller(
        dispatcher,
        RunJournal(journal, taken.run_id, taken.epoch, on_lost=lambda: None),
        clock,
        books=RunBooks(lambda: scene.orchestra, clock, Owners(tenant=scene.orchestra.tenant, run=taken.run_id)),
        limits=RunLimits(tokens_max=None, retry_share=0.2),
        on_failure=lambda _call, _error, _again: None,
    )
    caller.remember(await scene.store.calls_of(taken.run_id))
    if await caller.recover(lambda _call: life.on_unknown, lambda _call: None):
        return  # it waits for a person
    placing = asyncio.create_task(dispatcher.run())
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(life.calls):
                group.create_task(_work(life, caller, number))
    finally:
        placing.cancel()
        await asyncio.gather(placing, return_exceptions=True)


async def _work(life: Life, caller: RunCaller, number: int) -> None:
    task_id = f"task-{number}"
    answer = await caller.call(
        ModelCall(
            call_id=f"{_RUN.run_id}/{task_id}/task/1",
            run_id=_RUN.run_id,
            purpose="task",
            task_id=task_id,
            attempt=1,
            models=(MODEL,),
            request=the_request(number),
            deadline_s=DEADLINE_S,
        )
    )
    _answer_of(life, number).write_text(answer.result.text, encoding="utf-8")


async def _ask(life: Life, attempts: Attempts, number: int) -> None:
    bid = Bid(
        request=the_request(number),
        candidates=(Candidate(model=MODEL, accounts=(ACCOUNT,)),),
        input_tokens=20,
        output_tokens_max=OUTPUT_TOKENS_MAX,
        caller=ANONYMOUS,
        deadline_s=DEADLINE_S,
        queue_s=DEADLINE_S,
        billing=Billing(request_id=f"ask-{number}"),
        # The gateway makes it of the caller's name and Idempotency-Key: a client that asks again sends the same.
        key="" if life.endpoint is EndpointClass.OPAQUE else f"client/ask-{number}",
        # Told by the key's row, which says that its holder died.
        lost_at_s=time.time() if life.number else None,
    )
    try:
        result, _won = await attempts.complete(bid)
    except GatewayError as error:
        sys.stderr.write(f"{life}: {error!r}\n")
        raise
    _answer_of(life, number).write_text(result.text, encoding="utf-8")


def _answer_of(life: Life, number: int) -> Path:
    return Path(life.folder) / "answers" / str(number)
