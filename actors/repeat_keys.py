"""Idempotency keys of all replicas: the client of the store's side (``repeat_rows``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from actors.handles import CONTROL_TIMEOUT_S, STORE_PATIENCE_S, ActorHandle
from app.domain.repeats import Claim, Claimed, KeptAnswer
from app.storage import repeats
from app.storage.repeats import Found


class RepeatHandle:
    """The client: the services' port ``RepeatKeys``. Waits for a store that is being restarted."""

    def __init__(self, namespace: str) -> None:
        self._store = ActorHandle("store", namespace, patience_s=STORE_PATIENCE_S)

    async def claim(self, claim: Claim, *, wait_s: float) -> Claimed:
        """See ``ports.RepeatKeys``."""
        found = await self._store.ask("claim_repeat", claim, wait_s, timeout_s=wait_s + CONTROL_TIMEOUT_S)
        return repeats.claimed(cast("Found", found))

    async def renew(self, held: Sequence[Claim]) -> None:
        """See ``ports.RepeatKeys``."""
        await self._store.ask("renew_repeats", list(held))

    async def finish(self, held: Claim, answer: KeptAnswer) -> KeptAnswer:
        """See ``ports.RepeatKeys``."""
        text = repeats.encode(answer)
        found = cast("Found", await self._store.ask("finish_repeat", held, text))
        return repeats.standing_answer(found, text, answer)

    async def forget(self, held: Claim) -> None:
        """See ``ports.RepeatKeys``."""
        await self._store.ask("forget_repeat", held)
