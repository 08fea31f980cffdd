"""The HTTP adapter of an account whose provider makes calls without us and keeps their answers (``reattach``).

Adds to ``http_adapter`` what ``base.BackgroundAdapter`` says; calls outside runs stay ordinary ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable

from app.domain.accounts import AccountSpec
from app.domain.chat import ChatRequest, ChatResult, Json
from app.domain.errors import ConflictError, GatewayError, NoAnswerError, UpstreamError, UpstreamKind
from app.providers.base import LOOK_AGAIN
from app.providers.classify import classify_event, garbage, has_error
from app.providers.embeddings import EmbeddingWire
from app.providers.http_adapter import HttpAdapter
from app.providers.payload import as_object, find_text
from app.providers.wire import BackgroundWire, ModelTable, check_request

LOOK_FIRST_S, LOOK_MAX_S = 0.25, 5.0
"""Pauses between two looks at a call that is under way: they grow by half each time."""
LOOK_TIMEOUT_S = 30.0
ABANDON_TIMEOUT_S = 5.0

_log = logging.getLogger(__name__)


class BackgroundHttpAdapter(HttpAdapter):
    """Serves one account; implements ``base.BackgroundAdapter`` as well.

    Args:
        account: Whose calls these are.
        models: The models it serves.
        wire: How the provider speaks, of calls in its background too.
        embeddings: As in ``HttpAdapter``.
    """

    def __init__(
        self, account: AccountSpec, models: ModelTable, wire: BackgroundWire, embeddings: EmbeddingWire | None = None
    ) -> None:
        super().__init__(account, models, wire, embeddings)
        self._background = wire

    async def begin(self, request: ChatRequest, *, note: Callable[[str], Awaitable[None]], timeout_s: float) -> str:
        """See ``base.BackgroundAdapter``."""
        check_request(request)
        body = self._json(await self._fetch(self._background.begin(request), timeout_s))
        name = find_text(as_object(body).get("id"))
        if name is None:
            raise garbage(self._background.provider, "began a call without naming it", billed=None)
        try:
            await note(name)
        except ConflictError:
            await self.abandon(name)
            raise
        except GatewayError as error:
            # It is bought already; only a crash of ours could lose its answer now.
            _log.warning("the name of a call was not written down: %s", error.message)
        return name

    async def attend(self, request: ChatRequest, name: str, *, timeout_s: float) -> ChatResult:
        """See ``base.BackgroundAdapter``."""
        until_s, pause_s = time.monotonic() + timeout_s, LOOK_FIRST_S
        self._depart()
        try:
            while (left_s := until_s - time.monotonic()) > 0:
                ended = await self._looked(name, min(left_s, LOOK_TIMEOUT_S))
                if ended is not None:
                    return self._answer(ended, request)
                await asyncio.sleep(min(pause_s, max(0.0, until_s - time.monotonic())))
                pause_s = min(LOOK_MAX_S, pause_s * 1.5)
        finally:
            self._arrive()
        raise UpstreamError(
            f"{self._background.provider} gave no answer within {timeout_s:g} s", kind=UpstreamKind.TIMEOUT, billed=None
        )

    async def abandon(self, name: str) -> None:
        """See ``base.BackgroundAdapter``."""
        with contextlib.suppress(UpstreamError):
            await self._fetch(self._background.stop(name), ABANDON_TIMEOUT_S)

    async def _looked(self, name: str, timeout_s: float) -> Json:
        """Return what the provider says of a call that has ended; None while that is not known."""
        try:
            # Not _fetch: a call that is attended goes on while the adapter closes.
            body = self._success(await self._exchange.fetch(self._background.look(name), timeout_s=timeout_s))
        except UpstreamError as error:
            if error.status == 404:
                raise self._no_answer("knows nothing of the call any more") from None
            if error.kind in LOOK_AGAIN:
                return None
            error.billed = None
            raise
        return body if self._background.has_ended(body) else None

    def _answer(self, ended: Json, request: ChatRequest) -> ChatResult:
        answer = self._background.decode_ended(ended)
        if answer is not None:
            return self._wire.decode(answer, request)
        kind = UpstreamKind.OVERLOADED
        if has_error(ended):
            kind = classify_event(ended, provider=self._background.provider, began=False).kind
        raise self._no_answer("ended the call without an answer", kind)

    def _no_answer(self, what: str, kind: UpstreamKind = UpstreamKind.OVERLOADED) -> NoAnswerError:
        return NoAnswerError(f"{self._background.provider} {what}", kind=kind, billed=None)
