"""Commands of the books that are issued while one message is under way travel together in the next, each answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors import store_handle
from actors.packing import pack, unpack
from actors.store_handle import StoreHandle
from app.domain.books.entries import Answer, Command, Void
from app.domain.errors import InternalError


class FakeActor:
    """The store's actor: answers when it is let, and remembers its messages."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.asked = asyncio.Event()
        self.messages: list[list[str]] = []
        self.failures = 0

    async def ask(self, method: str, *arguments: Any, **_more: Any) -> bytes:
        assert (method, arguments[0]) == ("packed", "apply_books")
        commands: Sequence[Command] = unpack(arguments[1])[0]
        names = [command.hold_id for command in commands if isinstance(command, Void)]
        self.messages.append(names)
        self.asked.set()
        await self.free.wait()
        if self.failures:
            self.failures -= 1
            raise InternalError("the disk is full")
        return pack([Answer(outcome="missing", count=int(name)) for name in names])


@pytest.fixture
def actor() -> FakeActor:
    return FakeActor()


@pytest.fixture
def store(actor: FakeActor, monkeypatch: pytest.MonkeyPatch) -> StoreHandle:
    handle = StoreHandle("nowhere")
    monkeypatch.setattr(handle, "_actor", actor)
    return handle


async def say(store: StoreHandle, *numbers: int) -> list[int]:
    answers = await store.apply_books([Void(hold_id=str(number), at_s=0.0) for number in numbers])
    return [answer.count for answer in answers]


async def test_commands_travel_together_and_everybody_gets_their_own_answers(
    store: StoreHandle, actor: FakeActor
) -> None:
    """One message is under way at a time; whoever gives up takes nobody's answer away."""
    first = asyncio.create_task(say(store, 1))
    await actor.asked.wait()
    second, gone, third = (asyncio.create_task(say(store, *numbers)) for numbers in ((2, 3), (4,), (5,)))
    await asyncio.sleep(0)
    gone.cancel()
    actor.free.set()

    assert [await first, await second, await third] == [[1], [2, 3], [5]]
    assert actor.messages == [["1"], ["2", "3", "4", "5"]]


async def test_a_message_that_fails_fails_its_callers_only(store: StoreHandle, actor: FakeActor) -> None:
    """The next one is sent all the same."""
    actor.failures = 1
    first = asyncio.create_task(say(store, 1))
    await actor.asked.wait()
    second = asyncio.create_task(say(store, 2))
    await asyncio.sleep(0)
    actor.free.set()

    with pytest.raises(InternalError, match="disk is full"):
        await first
    assert await second == [2]


async def test_a_message_is_bounded_but_a_call_is_never_split(
    store: StoreHandle, actor: FakeActor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is one transaction, however large."""
    monkeypatch.setattr(store_handle, "BOOKS_COMMANDS_AT_ONCE", 3)
    first = asyncio.create_task(say(store, 1))
    await actor.asked.wait()
    rest = [asyncio.create_task(say(store, *numbers)) for numbers in ((2, 3), (4, 5), (6, 7, 8, 9), (10,))]
    await asyncio.sleep(0)
    actor.free.set()
    await asyncio.gather(first, *rest)

    assert actor.messages == [["1"], ["2", "3"], ["4", "5"], ["6", "7", "8", "9"], ["10"]]
