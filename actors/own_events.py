"""What a process of ours tells, the same in all of them: the lines of its log, and what its actor tells beside.

Every actor's process has one, but for the keeper of events, which writes its own lines itself. Nobody waits for what is
told: where the keeper is away, it waits here, within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib

from actors.event_handles import emitter_of

CLOSE_S = 2.0
"""A keeper that does not answer holds up no end."""


class OwnEvents:
    """One per process; built inside a running event loop.

    Args:
        role: What this process is, for people.
        namespace: Where the keeper lives.
    """

    def __init__(self, role: str, namespace: str) -> None:
        self.emitter = emitter_of(role, namespace)
        """For what is not in the log."""
        self._handing_over = asyncio.create_task(self.emitter.run())

    async def aclose(self) -> None:
        """Hand over what is left."""
        self._handing_over.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.emitter.aclose()
