"""An orchestra whose calls cost money, and a caller that answers them as its account would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.domain.books.prices import PriceRow, Rates
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import ChatResult, Usage
from app.domain.plan import Criterion, Dependency, Plan, PlannedTask
from tests.fakes.models import STRICT, orchestra

PRICE = PriceRow(price_id="strict@1", model=STRICT.name, rates=Rates(input="1", output="4"))
PRICED = replace(orchestra(STRICT, redo_max=1), prices=(PRICE,), tenant="acme")
USED = Usage(input_tokens=100, output_tokens=20)
CALL_NANO = 100 * 1_000 + 20 * 4_000
"""What each call costs."""

_CHECKED = (Criterion(id="c1", statement="not empty", check="not_empty"),)
PLAN = Plan(
    goal="compare",
    tasks=(
        PlannedTask(id="t1", title="tea", instruction="Describe tea.", criteria=_CHECKED, task_type="writing"),
        PlannedTask(id="t2", title="coffee", instruction="Describe coffee.", criteria=_CHECKED),
        PlannedTask(
            id="t3",
            title="verdict",
            instruction="Recommend one.",
            depends_on=(Dependency(task_id="t1"), Dependency(task_id="t2")),
            criteria=_CHECKED,
        ),
    ),
)


class Priced:
    """Every call is answered, and billed: ``calls`` is what the provider would want money for."""

    def __init__(self, before: Callable[[ModelCall], None] | None = None) -> None:
        self.calls: list[ModelCall] = []
        self._before = before

    async def call(self, call: ModelCall) -> CallAnswer:
        self.calls.append(call)
        if self._before is not None:
            self._before(call)
        text = f"Result of {call.task_id}." if call.purpose == "task" else "I would rather not."
        return CallAnswer(
            call_id=call.call_id,
            account="one",
            model=STRICT.name,
            result=ChatResult(text=text, usage=USED),
            usage=USED,
            cost_usd=None,
            queued_at_s=1.0,
            started_at_s=1.0,
            finished_at_s=2.0,
            tries=1,
        )
