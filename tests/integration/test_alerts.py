"""Soft alerts reach a real webhook once, also one that fails at first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from actors.alerts import Alerts
from actors.store import Store
from app.domain.books.budgets import BudgetSpec, OwnerKind, Owners, Window
from app.domain.books.entries import Settle, UsageEntry
from app.domain.chat import Usage


class Hook:
    """A server that fails its first ``failures`` requests."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.told: list[dict[str, Any]] = []
        self.tries = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.tries += 1
        if self.tries <= self.failures:
            return web.Response(status=503)
        self.told.append(await request.json())
        return web.Response(status=204)

    async def serve(self) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/hook", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        return runner, f"http://127.0.0.1:{port}/hook"


@pytest.mark.parametrize("failures", [0, 2])
async def test_a_budget_near_its_end_is_told_to_the_webhook_once(tmp_path: Path, failures: int) -> None:
    """Once a window, whatever is spent after it; a webhook that is away for a moment is tried again."""
    hook = Hook(failures)
    runner, url = await hook.serve()
    store = Store(str(tmp_path))
    store._alerts = Alerts(pauses_s=(0.01, 0.01, 0.01))
    budget = BudgetSpec(owner_kind=OwnerKind.TEAM, owner_name="research", window=Window.TOTAL, limit_nano=1_000)
    try:
        await store.sync_books([budget], [], url)
        for number, cost in enumerate((700, 150, 50)):
            entry = UsageEntry(
                entry_id=f"e{number}",
                at_s=1_800_000_000.0,
                owners=Owners(tenant="t", team="research"),
                usage=Usage(input_tokens=1, output_tokens=1),
                cost_nano=cost,
            )
            await store.apply_books([Settle(hold_id=None, entries=(entry,), at_s=1_800_000_000.0)])
        async with asyncio.timeout(20):
            while not hook.told:  # noqa: ASYNC110  another server is waited for
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
    finally:
        await store.close()
        await runner.cleanup()

    assert [(told["type"], told["owner_name"], told["spent"]) for told in hook.told] == [
        ("budget.soft", "research", "0.00000085")
    ]
    assert hook.tries == failures + 1
