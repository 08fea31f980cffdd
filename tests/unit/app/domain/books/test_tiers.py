"""A request's service tier is read in every provider's words, and what is not understood is never the standard one."""

from __future__ import annotations

import pytest

from app.domain.books.tiers import asked_tier


@pytest.mark.parametrize(
    ("extra", "tier"),
    [
        ((), ""),
        ((("verbosity", '"low"'),), ""),
        ((("service_tier", "null"),), ""),
        ((("service_tier", '"auto"'),), ""),
        ((("service_tier", '"default"'),), ""),
        ((("service_tier", '"standard_only"'),), ""),
        ((("inference_geo", "null"),), ""),
        ((("inference_geo", '"global"'),), ""),
        ((("inference_geo", '"us"'),), "us"),
        ((("inference_geo", "1"),), "1"),
        ((("service_tier", '"priority"'),), "priority"),
        ((("serviceTier", '"flex"'),), "flex"),
        ((("service_tier", '"auto"'), ("speed", '"fast"')), "fast"),
        ((("speed", '"standard"'),), ""),
        ((("speed", "1.5"),), ""),
        # Spelt as no provider spells it: none may take it for the standard tier.
        ((("service_tier", '"Priority"'),), "Priority"),
        ((("service_tier", '"\\u0070riority"'),), "priority"),
        ((("service_tier", '""'),), '""'),
        ((("service_tier", "2"),), "2"),
        ((("service_tier", "{"),), "{"),
    ],
)
def test_asked_tier_reads_the_fields_of_every_provider(extra: tuple[tuple[str, str], ...], tier: str) -> None:
    """The standard tier has no name, whatever a request calls it."""
    assert asked_tier(extra) == tier


def test_asked_tier_of_two_is_neither() -> None:
    """What both together cost is for a row to say."""
    assert asked_tier((("speed", '"fast"'), ("inference_geo", '"us"'), ("service_tier", '"auto"'))) == "fast+us"
    assert asked_tier((("speed", '"fast"'), ("service_tier", '"priority"'))) == "fast+priority"
