"""Tells people that a budget comes near its end: a line in the log, and a POST to the configured webhook.

Part of the store actor, which alone sees every booking. A webhook that does not answer is tried a few times within two
minutes and then left: the alert is in the log, and `tutti budgets` shows what it said.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict

import aiohttp

from app.domain.alert_text import alert_text
from app.domain.books.budgets import Ledger
from app.domain.books.entries import SoftAlert
from app.domain.books.money import usd_from_nano
from app.domain.chat import Json
from app.services.events.log_lines import UNTOLD

TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0, 25.0, 60.0)
"""Before each further try."""
POSTS_MAX = 100
"""Under way at once; what comes on top is in the log only."""

_log = logging.getLogger(__name__)


class Alerts:
    """Not thread-safe: the actor's event loop is the lock.

    Args:
        pauses_s: Before each further try of a post.
    """

    def __init__(self, *, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self.webhook: str | None = None
        """Where alerts go beside the log; None: nowhere. May carry a secret: never logged."""
        self._pauses_s = pauses_s
        self._posts: set[asyncio.Task[None]] = set()

    def tell(self, alert: SoftAlert) -> None:
        """Say it now, and post it behind the caller's back."""
        # Untold: `budget.alert` says it, and goes when its user is to be forgotten; lines of a log do not.
        _log.warning("%s", alert_text(alert), extra=UNTOLD)
        if self.webhook is None:
            return
        if len(self._posts) >= POSTS_MAX:
            _log.warning("the webhook of alerts does not keep up: this one is only here")
            return
        post = asyncio.create_task(self._post(self.webhook, body_of(alert)))
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    async def aclose(self) -> None:
        """Stop what is under way."""
        posts = list(self._posts)
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)

    async def _post(self, url: str, body: dict[str, Json]) -> None:
        problem = ""
        for pause_s in (0.0, *self._pauses_s):
            await asyncio.sleep(pause_s)
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT_S)) as session,
                    session.post(url, json=body, allow_redirects=False) as answer,
                ):
                    if answer.status < 300:
                        return
                    problem = f"it answered {answer.status}"
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                problem = type(error).__name__
        _log.warning("the webhook of alerts was not told: %s", problem)


def body_of(alert: SoftAlert) -> dict[str, Json]:
    """Return what the webhook gets; ``text`` alone is what chat systems show."""
    usd = alert.ledger is Ledger.USD
    body: dict[str, Json] = {key: str(value) for key, value in asdict(alert).items() if key not in ("limit", "spent")}
    body["limit"] = usd_from_nano(alert.limit) if usd else alert.limit
    body["spent"] = usd_from_nano(alert.spent) if usd else alert.spent
    return {"type": "budget.soft", "text": alert_text(alert), **body}
