"""Idempotency keys in the store on both engines: what two ask at once is decided once, and survives the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from actors.store import Store
from app.domain.chat import ChatRequest, ChatResult, Message, Role, ToolCall
from app.domain.gateway import Served
from app.domain.repeats import KEPT_S, LEASE_S, Claim, KeptAnswer, Standing, a_claim
from app.storage import repeats
from app.storage.place import Place

ANSWER = KeptAnswer(
    result=ChatResult(
        text="trà xanh 绿茶 \x00",
        tool_calls=(ToolCall(id="1", name="f", arguments='{"a": 1}'),),
        other_choices=(ChatResult(text="b"),),
    ),
    served=Served(request_id="r", created_s=1, account="a", provider="p", model="m"),
    cost_usd="0.01",
)
TEXT = repeats.encode(ANSWER)


class Clock:
    """The store's time."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def claim_of(holder: str, key: str = "k", text: str = "hello") -> Claim:
    request = ChatRequest(model="m", messages=(Message(role=Role.USER, text=text),))
    return a_claim(caller="team", key=key, request=request, holder=holder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(place: Place, clock: Clock) -> AsyncIterator[Store]:
    opened = Store(str(place.data_dir), place.url, wall_s=clock)
    clock.now_s += 2 * LEASE_S
    yield opened
    await opened.close()


async def test_of_many_claims_one_is_new_and_the_others_hear_of_its_end(store: Store) -> None:
    """However many replicas ask in the same moment."""
    first = await asyncio.gather(*(store.claim_repeat(claim_of(f"h{number}"), 0.0) for number in range(20)))
    (winner,) = [number for number, found in enumerate(first) if found.standing is Standing.NEW]
    assert {found.standing for found in first} == {Standing.NEW, Standing.RUNNING}
    waiting = [asyncio.create_task(store.claim_repeat(claim_of(f"w{number}"), 15.0)) for number in range(5)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in waiting)
    finished = await store.finish_repeat(claim_of(f"h{winner}"), TEXT)
    found = await asyncio.gather(*waiting)

    assert TEXT is not None
    assert repeats.decode(TEXT) == ANSWER
    assert [finished, *found] == [repeats.Found(standing=Standing.DONE, answer=TEXT)] * 6
    assert (await store.claim_repeat(claim_of("x", text="bye"), 0.0)).standing is Standing.CONFLICT


async def test_every_command_may_be_repeated(store: Store) -> None:
    """Its answer may have been lost with a dying store."""
    mine, other = claim_of("mine"), claim_of("other")
    assert [(await store.claim_repeat(mine, 0.0)).standing for _ in range(2)] == [Standing.NEW] * 2
    await store.forget_repeat(other)
    assert (await store.claim_repeat(other, 0.0)).standing is Standing.RUNNING
    for _ in range(2):
        await store.forget_repeat(mine)
    assert (await store.claim_repeat(other, 0.0)).standing is Standing.NEW
    assert [await store.finish_repeat(other, TEXT) for _ in range(2)] == [
        repeats.Found(standing=Standing.DONE, answer=TEXT)
    ] * 2
    await store.forget_repeat(other)

    late = await store.finish_repeat(mine, repeats.encode(replace(ANSWER, cost_usd="9")))
    assert late.answer == TEXT, "the first answer stands"


async def test_a_lease_ends_unless_it_is_renewed(store: Store, clock: Clock) -> None:
    """A dead holder's key is the next one's, and only one's."""
    dead, alive = claim_of("dead", "a"), claim_of("alive", "b")
    for each in (dead, alive):
        await store.claim_repeat(each, 0.0)
    clock.now_s += LEASE_S - 1
    await store.renew_repeats([alive, claim_of("nobody", "c")])
    clock.now_s += 2
    standings = [(await store.claim_repeat(claim_of(holder, "a"), 0.0)).standing for holder in ("x", "y", "dead")]

    assert standings == [Standing.NEW, Standing.RUNNING, Standing.RUNNING]
    assert (await store.claim_repeat(claim_of("x", "b"), 0.0)).standing is Standing.RUNNING


async def test_answers_and_claims_survive_the_store(store: Store, place: Place, clock: Clock) -> None:
    """A new life gives holders the time to say that they live."""
    await store.claim_repeat(claim_of("h", "done"), 0.0)
    await store.finish_repeat(claim_of("h", "done"), TEXT)
    await store.claim_repeat(claim_of("h", "large"), 0.0)
    await store.finish_repeat(claim_of("h", "large"), None)
    await store.claim_repeat(claim_of("h", "running"), 0.0)
    await store.close()
    clock.now_s += 10 * LEASE_S
    again = Store(str(place.data_dir), place.url, wall_s=clock)
    try:
        assert (await again.claim_repeat(claim_of("x", "done"), 0.0)).answer == TEXT
        assert await again.claim_repeat(claim_of("x", "large"), 0.0) == repeats.Found(standing=Standing.DONE)
        assert (await again.claim_repeat(claim_of("x", "running"), 0.0)).standing is Standing.RUNNING
        clock.now_s += LEASE_S + 1
        taken_over = await again.claim_repeat(claim_of("x", "running"), 0.0)
        assert taken_over == repeats.Found(standing=Standing.NEW, lost=True)
        assert await again.claim_repeat(claim_of("x", "fresh"), 0.0) == repeats.Found(standing=Standing.NEW)
    finally:
        await again.close()


async def test_answers_are_gone_after_a_day(store: Store, clock: Clock) -> None:
    """From the disk as well."""
    await store.claim_repeat(claim_of("h"), 0.0)
    await store.finish_repeat(claim_of("h"), TEXT)
    clock.now_s += KEPT_S - 1
    assert (await store.claim_repeat(claim_of("x"), 0.0)).standing is Standing.DONE
    assert await store.expire_repeats() == 0
    clock.now_s += 2

    assert await store.expire_repeats() == 1
    assert (await store.claim_repeat(claim_of("x", text="bye"), 0.0)).standing is Standing.NEW
