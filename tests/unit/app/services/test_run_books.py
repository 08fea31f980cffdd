"""What a run's call costs is said by the price row in force, at the rate of the way it was bought."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.accounts import EndpointClass
from app.domain.books.budgets import Owners
from app.domain.books.entries import Settle
from app.domain.books.prices import PriceRow, Rates
from app.domain.calls import CallAnswer
from app.domain.chat import ChatResult, Usage
from app.domain.run import CallRecord, CallState
from app.services.run_books import RunBooks
from tests.fakes.clock import RunningClock
from tests.fakes.models import STRICT, orchestra
from tests.unit.app.services.test_run_caller import a_call

PRICE = PriceRow(price_id="m@1", model="m", rates=Rates(input="0", output="10", cache_read="0"), batch_factor="0.5")
USED = Usage(input_tokens=0, output_tokens=1_000)


@pytest.mark.parametrize(
    ("endpoint", "cost_nano"), [(EndpointClass.OPAQUE, 10_000_000), (EndpointClass.BATCH, 5_000_000)]
)
def test_a_call_in_a_batch_is_priced_at_the_batch_rate_and_held_at_the_full_one(
    endpoint: EndpointClass, cost_nano: int
) -> None:
    """Whether it will go through a batch is not known when it is held; the entry says that it did."""
    known = replace(orchestra(replace(STRICT, name="m")), prices=(PRICE,))
    account = replace(known.accounts[0], endpoint=endpoint)
    books = RunBooks(lambda: replace(known, accounts=(account,)), RunningClock(), Owners(tenant="acme", run="r"))
    record = CallRecord(key="k", run_id="r", task_id="t1", purpose="task", attempt=1, state=CallState.SENT)
    answer = CallAnswer(
        call_id="k",
        account=account.name,
        model="m",
        result=ChatResult(text="ok", usage=USED),
        usage=USED,
        queued_at_s=0.0,
        started_at_s=0.0,
        finished_at_s=0.0,
        tries=1,
    )

    hold, ended = books.hold(a_call()), books.answered(record, a_call(), answer)

    (settled,) = ended.commands
    assert isinstance(settled, Settle)
    (entry,) = settled.entries
    assert (entry.cost_nano, entry.batch) == (cost_nano, endpoint is EndpointClass.BATCH)
    assert hold.amount_nano == 100 * 10_000
