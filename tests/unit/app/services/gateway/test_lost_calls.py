"""A client's call that a dead replica may have bought is looked for wherever it may have gone, and adopted there."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from app.domain.chat import ChatRequest, Message, Role
from app.domain.errors import DeadlineError, UpstreamError, UpstreamKind
from app.domain.gateway import ANONYMOUS, Candidate
from app.domain.ports import Upstream
from app.services.gateway.attempts import Bid
from app.services.gateway.lost_calls import found_again
from tests.fakes.virtual_time import VirtualClock, run

LOST_AT_S = 1_000.0
BOTH = (Candidate(model="m", accounts=("a", "b")), Candidate(model="n", accounts=("b",)))


@dataclass
class Account:
    """Says after so many seconds whether it has a call; with ``error`` it cannot."""

    has: str | None = None
    """The model that it answered the call with."""
    after_s: float = 1.0
    error: UpstreamError | None = None
    asked: list[ChatRequest] = field(default_factory=list)

    async def has_lost(self, request: ChatRequest, *, timeout_s: float) -> bool:
        self.asked.append(request)
        await asyncio.sleep(self.after_s)
        if self.error is not None:
            raise self.error
        return request.model == f"{self.has}-upstream"


class Silent:
    """An account that cannot be asked at all."""


@dataclass
class Upstreams:
    """The port ``Upstreams`` over these."""

    accounts: dict[str, object]

    def of(self, account: str) -> Upstream:
        return self.accounts[account]  # type: ignore[return-value]  # only what is asked for here

    def name(self, account: str, model: str) -> str:
        return f"{model}-upstream"

    def provider(self, account: str) -> str:
        return "openai"

    def goes_on(self, account: str, *, stream: bool) -> bool:
        return False


def a_bid(deadline_s: float = 60.0) -> Bid[ChatRequest]:
    return Bid(
        request=ChatRequest(model="m", messages=(Message(role=Role.USER, text="hi"),)),
        candidates=BOTH,
        input_tokens=1,
        output_tokens_max=1,
        caller=ANONYMOUS,
        deadline_s=deadline_s,
        queue_s=1.0,
        key="client/key",
        lost_at_s=LOST_AT_S,
    )


def looked_for(bid: Bid[ChatRequest], **accounts: object) -> Bid[ChatRequest]:
    return run(found_again(bid, Upstreams(accounts)), VirtualClock())


def test_a_call_that_somebody_has_is_one_for_that_account_alone() -> None:
    """Sent anywhere else it would be bought again; there it is found under the same key, and nothing is sent."""
    other, has = Account(after_s=30.0), Account(has="n")
    found = looked_for(a_bid(), a=other, b=has)

    assert found.candidates == (Candidate(model="n", accounts=("b",)),)
    assert found.request.lost_at_s == LOST_AT_S
    assert {(request.model, request.call_key, request.lost_at_s) for request in has.asked} == {
        ("m-upstream", "client/key", LOST_AT_S),
        ("n-upstream", "client/key", LOST_AT_S),
    }


@pytest.mark.parametrize(
    "accounts",
    [
        {"a": Account(), "b": Account()},
        {"a": Silent(), "b": Account()},
        {"a": Account(error=UpstreamError("down", kind=UpstreamKind.OVERLOADED)), "b": Account()},
        {"b": Account()},
    ],
    ids=["nobody-has-it", "one-cannot-be-asked", "one-is-down", "one-is-gone"],
)
def test_a_call_that_nobody_has_is_made_as_it_is(accounts: dict[str, object]) -> None:
    """The client waits for an answer, whatever became of the first."""
    assert looked_for(a_bid(), **accounts) == a_bid()


def test_a_call_whose_time_ends_before_anybody_can_say_is_not_made() -> None:
    """It might be bought twice for nobody."""
    with pytest.raises(DeadlineError):
        looked_for(replace(a_bid(), deadline_s=5.0), a=Account(after_s=30.0), b=Account(after_s=30.0))
