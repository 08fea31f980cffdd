"""One call that its provider makes without us: begun, its name written down, attended until its answer is there.

Used by the account actor for the calls of runs at ``reattach`` and ``batch`` endpoints. Keeps no journal: it is handed
the deed that writes the name down. What is begun is billed whether somebody listens or not, so what nobody wants any
more is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from app.domain.chat import ChatRequest, ChatResult
from app.domain.errors import GatewayError, UpstreamError, UpstreamKind
from app.providers.base import BackgroundAdapter


class BackgroundCall:
    """One call, in one life.

    Args:
        adapter: The account's.
        request: What to ask; ``begun_as`` where an earlier life began it.
        note: Writes the call's name at the provider down; raises ConflictError where the call is not wanted any more.
        is_wanted: Whether somebody else fetches the answer, now or later; asked when this life leaves without it.

    Not thread-safe: one event loop.
    """

    def __init__(
        self,
        adapter: BackgroundAdapter,
        request: ChatRequest,
        *,
        note: Callable[[str], Awaitable[None]],
        is_wanted: Callable[[], bool],
    ) -> None:
        self._adapter = adapter
        self._request = request
        self._note = note
        self._is_wanted = is_wanted

    async def answer(self, timeout_s: float) -> ChatResult:
        """Return the answer within ``timeout_s`` seconds; errors as ``base.BackgroundAdapter``."""
        until_s = time.monotonic() + timeout_s
        name = self._request.begun_as
        found = None if name is None else await self._attended(name, until_s)
        if found is None:
            found = await self._attended(await self._begun(timeout_s), until_s)
        assert found is not None, "what this life has begun is there"
        return found

    async def _attended(self, name: str, until_s: float) -> ChatResult | None:
        try:
            return await self._adapter.attend(self._request, name, timeout_s=max(0.001, until_s - time.monotonic()))
        except UpstreamError as error:
            if error.kind is UpstreamKind.TIMEOUT:
                await self._leave(name)
            raise
        except asyncio.CancelledError:
            await self._leave(name)
            raise

    async def _begun(self, timeout_s: float) -> str:
        """Begin the call and write its name down, to the end: one that is begun and has no name cannot be stopped."""
        beginning = asyncio.ensure_future(self._adapter.begin(self._request, note=self._note, timeout_s=timeout_s))
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            with contextlib.suppress(GatewayError):
                await self._leave(await beginning)
            raise

    async def _leave(self, name: str) -> None:
        if not self._is_wanted():
            await self._adapter.abandon(name)
