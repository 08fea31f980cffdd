"""Idempotency keys: one key, one call, one answer."""

from __future__ import annotations

import asyncio

import pytest

from app.domain.errors import ConflictError, InternalError
from app.services.gateway.repeats import KEPT_MAX, KEPT_S, Repeats
from tests.fakes.clock import ManualClock


class Calls:
    """Counts what was really called."""

    def __init__(self) -> None:
        self.made = 0
        self.fails = False

    async def __call__(self) -> str:
        self.made += 1
        await asyncio.sleep(0)
        if self.fails:
            raise InternalError("it failed")
        return f"answer {self.made}"


async def test_a_repeated_key_is_answered_by_the_first_call_at_once_and_later() -> None:
    """Two at the same moment, and one after: bought once."""
    repeats, calls = Repeats[str](ManualClock()), Calls()
    both = await asyncio.gather(*(repeats.run("team", "k", b"body", calls) for _ in range(2)))
    after = await repeats.run("team", "k", b"body", calls)

    assert [*both, after] == ["answer 1"] * 3
    assert calls.made == 1


async def test_keys_are_the_callers_own_and_belong_to_one_request() -> None:
    """Another caller's key is another key; the same key with another body is a mistake that is told."""
    repeats, calls = Repeats[str](ManualClock()), Calls()
    await repeats.run("a", "k", b"body", calls)
    await repeats.run("b", "k", b"body", calls)

    assert calls.made == 2
    with pytest.raises(ConflictError):
        await repeats.run("a", "k", b"another", calls)


async def test_a_failed_call_may_be_made_again() -> None:
    """The key is for repeating what failed."""
    repeats, calls = Repeats[str](ManualClock()), Calls()
    calls.fails = True
    with pytest.raises(InternalError):
        await repeats.run("a", "k", b"body", calls)
    calls.fails = False

    assert await repeats.run("a", "k", b"body", calls) == "answer 2"


async def test_answers_are_forgotten_by_age_and_number() -> None:
    """Memory is bounded."""
    clock, calls = ManualClock(), Calls()
    repeats = Repeats[str](clock)
    await repeats.run("a", "old", b"", calls)
    clock.advance(KEPT_S + 1)
    await repeats.run("a", "old", b"", calls)
    for number in range(KEPT_MAX + 10):
        await repeats.run("a", str(number), b"", calls)

    assert calls.made == KEPT_MAX + 12
    assert len(repeats._kept) <= KEPT_MAX + 1
