"""Looks for a client's call that a replica took with it when it died, before it is bought a second time.

Only calls with a client's Idempotency-Key have a name that outlives their replica; only ``lookup`` endpoints tell by it
whether they have the call. Where it went is not known, so all that might have served it are asked. An endpoint that
cannot be asked, or does not answer now, is taken to have nothing: the client waits for an answer. What the dead replica
held for the call stays unknown: its hold covered other calls too.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from app.domain.chat import ChatRequest
from app.domain.errors import DeadlineError, GatewayError
from app.domain.gateway import Candidate
from app.domain.ports import Upstreams

if TYPE_CHECKING:
    from app.services.gateway.attempts import Bid

_log = logging.getLogger(__name__)


@runtime_checkable
class Finder(Protocol):
    """An upstream that may tell of a call that was made before."""

    async def has_lost(self, request: ChatRequest, *, timeout_s: float) -> bool:
        """Tell whether the answer to an earlier sending of this very call is there.

        Args:
            request: With the call's key, the upstream's name of the model, and when it was lost.
            timeout_s: Seconds for every look. Positive.

        Raises:
            UpstreamError: it cannot be asked.
        """


async def found_again(bid: Bid[ChatRequest], upstreams: Upstreams) -> Bid[ChatRequest]:
    """Return the call as one for the account that has its answer; as it is where none has.

    Raises:
        DeadlineError: the call's time is over before that is known.
    """
    places = [(candidate.model, account) for candidate in bid.candidates for account in candidate.accounts]
    looking = [asyncio.create_task(_look(bid, upstreams, *place)) for place in places]
    try:
        async with asyncio.timeout(bid.deadline_s):
            for next_one in asyncio.as_completed(looking):
                place = await next_one
                if place is not None:
                    request = replace(bid.request, lost_at_s=bid.lost_at_s)
                    return replace(bid, request=request, candidates=(Candidate(model=place[0], accounts=(place[1],)),))
    except TimeoutError:
        raise DeadlineError(f"nobody could say within {bid.deadline_s:.0f} s what became of the call") from None
    finally:
        for task in looking:
            task.cancel()
    return bid


async def _look(bid: Bid[ChatRequest], upstreams: Upstreams, model: str, account: str) -> tuple[str, str] | None:
    try:
        upstream = upstreams.of(account)
    except KeyError:  # removed from the configuration meanwhile
        return None
    if not isinstance(upstream, Finder):
        return None
    name = upstreams.name(account, model)
    request = replace(bid.request, model=name, call_key=bid.key, lost_at_s=bid.lost_at_s)
    try:
        return (model, account) if await upstream.has_lost(request, timeout_s=bid.deadline_s) else None
    except GatewayError as error:
        _log.warning("%s cannot say whether it has a lost call: %s", account, error.message)
        return None
