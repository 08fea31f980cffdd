"""A flood of requests leaves those that are inside their turns."""

from __future__ import annotations

import asyncio

from app.http.gateway.turnstile import Turnstile

PER_TURN = 8
STEPS = 5
"""Turns of the loop that a request needs once it is inside."""


async def _visit(turnstile: Turnstile, number: int, entered: list[int], left: list[int]) -> None:
    await turnstile.enter()
    entered.append(number)
    for _ in range(STEPS):
        await asyncio.sleep(0)
    left.append(len(entered))


async def test_turnstile_lets_the_first_ones_get_on_while_hundreds_come_in_order() -> None:
    """The first is done when a few dozen are inside, not when all are; nobody overtakes, nobody is lost."""
    turnstile, entered, left = Turnstile(PER_TURN), list[int](), list[int]()

    await asyncio.gather(*(_visit(turnstile, number, entered, left) for number in range(500)))

    assert entered == list(range(500))
    assert left[0] <= (STEPS + 2) * PER_TURN
    assert len(left) == 500


async def test_turnstile_does_not_keep_a_turn_for_clients_that_have_gone() -> None:
    """Whoever gave up while waiting takes no place from those behind."""
    turnstile, entered, left = Turnstile(1), list[int](), list[int]()
    visits = [asyncio.create_task(_visit(turnstile, number, entered, left)) for number in range(20)]
    await asyncio.sleep(0)
    for visit in visits[1:19]:
        visit.cancel()
    await asyncio.gather(*visits, return_exceptions=True)

    assert entered == [0, 19]


async def test_turnstile_stands_still_when_nobody_comes() -> None:
    """It costs an idle replica nothing."""
    turnstile = Turnstile(PER_TURN)
    await turnstile.enter()
    for _ in range(3):
        await asyncio.sleep(0)

    assert not turnstile._is_turning
