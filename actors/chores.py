"""Keeps doing an actor's chore: again after its period, whatever came of it the last time.

For tasks on an actor's event loop; what sends metrics and spans waits in threads of its own. Called by the actors that
look after something: the store, the keeper of events, the log shipper.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.domain.errors import GatewayError

_log = logging.getLogger(__name__)


async def keep_doing(
    work: Callable[[], Awaitable[object]],
    *,
    failing: str,
    period_s: float,
    first_s: float = 0.0,
    retry_s: float | None = None,
) -> None:
    """Do ``work`` until this task is cancelled; what it raises is in the log, and ends nothing.

    Args:
        work: One round.
        failing: What the log says of a round that failed; a GatewayError's message follows it, anything else is a bug
            of ours and brings its traceback.
        period_s: From a round's end to the next one.
        first_s: From now to the first round; 0 begins without giving way.
        retry_s: From the end of a round that failed to the next one; as ``period_s`` where None.
    """
    if first_s:
        await asyncio.sleep(first_s)
    while True:
        pause_s = period_s if retry_s is None else retry_s
        try:
            await work()
            pause_s = period_s
        except GatewayError as error:
            _log.warning("%s: %s", failing, error.message)
        except Exception:  # noqa: BLE001  outermost edge of the task: the next round may succeed
            _log.exception("%s", failing)
        await asyncio.sleep(pause_s)
