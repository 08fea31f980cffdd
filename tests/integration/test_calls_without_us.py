"""A run at accounts that make its calls without us ends as any other, over real actors; its books are the bills."""

from __future__ import annotations

import pytest

from app.domain.run import RunRequest
from tests.fakes import pool, scripted
from tests.fakes.scripted import ENGLISH
from tests.integration.conftest import OpenDesk, Simulate, ended

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(("endpoint", "price"), [("reattach", 1.0), ("batch", 0.5)])
async def test_a_run_is_answered_and_booked_where_its_calls_are_made_without_us(
    open_desk: OpenDesk, simulate: Simulate, endpoint: str, price: float
) -> None:
    """Every role's call goes that way; tokens are the simulator's, and a batch's price is that of batches."""
    simulator = simulate({**pool.FAST, "replies": scripted.replies()})
    accounts = pool.three_accounts(simulator.url)
    for account in accounts["accounts"]:
        account |= {"endpoint": endpoint, "batch_window_s": 0.1}
    if endpoint == "batch":
        accounts["prices"] = [
            {"model": name, "input": row["input_usd_per_mtok"], "output": row["output_usd_per_mtok"], "batch": 0.5}
            for name, row in accounts["models"].items()
        ]
    async with open_desk(accounts) as desk:
        run = await desk.start(RunRequest(text=ENGLISH.request))
        document = await ended(desk, run.run_id, within_s=120)
    stats = simulator.stats(log=True)

    billed, usage = stats["total"], document["usage"]
    assert document["status"] == "completed"
    assert (usage["input_tokens"], usage["output_tokens"]) == (
        billed["billed_input_tokens"],
        billed["billed_output_tokens"],
    )
    rates = {name: (row["input_usd_per_mtok"], row["output_usd_per_mtok"]) for name, row in pool.MODELS.items()}
    full = sum(
        row["input_tokens"] * rates[row["model"]][0] + row["output_tokens"] * rates[row["model"]][1]
        for row in stats["log"]
    )
    assert float(usage["cost_usd"]) == pytest.approx(full * price / 1e6)
