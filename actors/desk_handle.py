"""The typed client of the whole: what a way in may ask of coordinator, store, directory and accounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from actors.handles import ActorHandle, DirectoryHandle
from actors.store_handle import StoreHandle
from app.domain.books.budgets import Owners
from app.domain.errors import GatewayError
from app.domain.run import RunEvent, RunRecord, RunRequest
from app.domain.views import AccountView, LiveCheck, ReloadReport
from app.domain.without_secrets import without_secrets


class DeskHandle:
    """The port ``Desk`` for every way in: reads go to the store, work to the coordinator, accounts to the directory."""

    def __init__(self, namespace: str) -> None:
        self._coordinator = ActorHandle("coordinator", namespace)
        self._store = StoreHandle(namespace)
        self._directory = DirectoryHandle(namespace)

    async def start(self, request: RunRequest) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("start", request))

    async def get(self, run_id: str) -> RunRecord:
        return await self._store.get_run(run_id)

    async def list_runs(self, *, limit: int, before_s: float | None = None) -> Sequence[RunRecord]:
        return await self._store.list_runs(limit=limit, before_s=before_s)

    async def events(self, run_id: str, after_seq: int, *, wait_s: float) -> Sequence[RunEvent]:
        return await self._store.events_after(run_id, after_seq, wait_s=wait_s)

    async def answer(self, run_id: str, answers: Mapping[str, str], *, assume_rest: bool) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("answer", run_id, dict(answers), assume_rest))

    async def cancel(self, run_id: str) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("cancel", run_id))

    async def retry(self, run_id: str, task_id: str) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("retry", run_id, task_id))

    async def fork(
        self, run_id: str, task_id: str, *, more: str | None = None, buyers: Owners | None = None
    ) -> RunRecord:
        return cast("RunRecord", await self._coordinator.ask("fork", run_id, task_id, more, buyers or Owners()))

    async def export(self, run_id: str) -> bytes:
        orchestra = (await self._directory.watch(-1, 0.0)).orchestra
        return await self._store.export_run(run_id, without_secrets(orchestra) if orchestra is not None else {})

    async def accounts(self) -> Sequence[AccountView]:
        return await self._directory.views()

    async def check_live(self) -> Sequence[LiveCheck]:
        return await self._directory.check_live()

    async def reload(self) -> ReloadReport:
        return await self._directory.reload()

    async def ready(self) -> Mapping[str, str]:
        """Return a word per part; parts that do not answer say so instead of raising."""
        parts = {"store": self._store.ping, "coordinator": self._ping_coordinator}
        words: dict[str, str] = {}
        for name, question in parts.items():
            try:
                words[name] = await question()
            except GatewayError as error:
                words[name] = error.message
        try:
            words.update(await self._directory.ready())
        except GatewayError as error:
            words["directory"] = error.message
        return words

    async def _ping_coordinator(self) -> str:
        return cast("str", await self._coordinator.ask("ping", timeout_s=5.0))
