"""The dearest that a call may become: everything that is paid for, at the price that the books reckon with."""

from __future__ import annotations

from decimal import Decimal

from app.domain.accounts import ModelInfo
from app.domain.books.prices import PriceRow, Rates
from app.domain.routed import Needs, call_cost_max

MODEL = ModelInfo(name="m", family="f", output_tokens_max=1_000)
PRICE = PriceRow(
    price_id="p", model="m", rates=Rates(input="1", output="2", reasoning="4"), tier_factors=(("priority", "2"),)
)


def test_every_choice_and_every_text_is_counted() -> None:
    """Each text must fit into the model, all of them are paid for; reasoning may be all of the output."""
    plain = Needs(input_tokens=100, output_tokens_max=100)
    choices = Needs(input_tokens=100, output_tokens_max=100, choices=3)
    texts = Needs(input_tokens=100, output_tokens_max=0, billed_input_tokens=1_000, kind="embedding")
    unbounded = Needs(input_tokens=0)

    assert call_cost_max(MODEL, plain, PRICE) == Decimal("0.0005")
    assert call_cost_max(MODEL, choices, PRICE) == Decimal("0.0013")
    assert call_cost_max(MODEL, texts, PRICE) == Decimal("0.001")
    assert call_cost_max(MODEL, unbounded, PRICE) == Decimal("0.004")


def test_tier_has_its_own_price_or_none() -> None:
    """A tier that the row does not name costs nobody knows what."""
    fast = Needs(input_tokens=100, output_tokens_max=100, tier="priority")
    other = Needs(input_tokens=100, output_tokens_max=100, tier="flex")

    assert call_cost_max(MODEL, fast, PRICE) == Decimal("0.001")
    assert call_cost_max(MODEL, other, PRICE) is None
    assert call_cost_max(MODEL, fast, None) is None
