"""Requests as text: what later versions add leaves those of earlier ones as they were."""

from __future__ import annotations

from app.domain.books.budgets import Owners
from app.domain.run import RunRequest
from app.storage import codec

FIRST_VERSION = (
    '{"text":"Compare.","assume_defaults":false,"timeout_s":null,"tokens_max":null,"plan_only":false,'
    '"idempotency_key":"k"}'
)


def test_a_request_without_what_came_later_is_the_text_of_the_first_version() -> None:
    """An idempotency key used before an upgrade must name the same request after it."""
    request = RunRequest(text="Compare.", idempotency_key="k", buyers=Owners(key="ci"))

    assert codec.dump_request(request) == FIRST_VERSION
    assert codec.load(codec.REQUEST, FIRST_VERSION) == RunRequest(text="Compare.", idempotency_key="k")


def test_a_budget_makes_another_request_of_it() -> None:
    """The same key with another ceiling is a conflict, not the old run."""
    text = codec.dump_request(RunRequest(text="Compare.", budget_usd="2.5"))

    assert codec.load(codec.REQUEST, text).budget_usd == "2.5"
