"""The store's idempotency keys in memory: the real rows on SQLite behind the port, with a delay and faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, create_engine, func, select
from sqlalchemy.pool import StaticPool

from actors.repeat_rows import RepeatRows
from app.domain.errors import InternalError
from app.domain.ports import Clock
from app.domain.repeats import Claim, Claimed, KeptAnswer
from app.storage import repeats
from app.storage.repeat_table import repeat
from app.storage.tables import metadata

Value = TypeVar("Value")


class RowKeys:
    """See ``ports.RepeatKeys``; one for all replicas.

    Args:
        clock: Of the store.
        delay_s: Of every transaction.
    """

    def __init__(self, clock: Clock, *, delay_s: float = 0.002) -> None:
        self._engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        metadata.create_all(self._engine)
        self._clock = clock
        self._delay_s = delay_s
        self._rows = RepeatRows(self._write, clock.wall_s)
        self.messages: list[str] = []
        self.away = False
        """Whether nothing can be asked."""

    def restart(self) -> None:
        """Begin another life of the store: what it did not write down is gone."""
        self._rows = RepeatRows(self._write, self._clock.wall_s)

    async def claim(self, claim: Claim, *, wait_s: float) -> Claimed:
        self._ask("claim")
        return repeats.claimed(await self._rows.claim(claim, wait_s))

    async def renew(self, held: Sequence[Claim]) -> None:
        self._ask("renew")
        await self._rows.renew(held)

    async def finish(self, held: Claim, answer: KeptAnswer) -> KeptAnswer:
        self._ask("finish")
        text = repeats.encode(answer)
        return repeats.standing_answer(await self._rows.finish(held, text), text, answer)

    async def forget(self, held: Claim) -> None:
        self._ask("forget")
        await self._rows.forget(held)

    def count(self) -> int:
        """Return how many keys are kept."""
        with self._engine.begin() as connection:
            return connection.execute(select(func.count()).select_from(repeat)).scalar_one()

    def _ask(self, what: str) -> None:
        if self.away:
            raise InternalError("the store is away")
        self.messages.append(what)

    async def _write(self, command: Callable[[Connection], Value]) -> Value:
        await asyncio.sleep(self._delay_s)
        with self._engine.begin() as connection:
            return command(connection)
