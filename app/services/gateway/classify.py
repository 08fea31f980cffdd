"""Finds the task type of a call to ``auto`` that names none, by asking a small model where configuration names one.

A guess that fails or takes too long costs nothing but the wait: the call is then taken as general.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from app.domain.accounts import ModelInfo, Orchestra
from app.domain.books.budgets import Owners
from app.domain.chat import ChatRequest, Role
from app.domain.errors import GatewayError
from app.domain.estimate import estimate_tokens
from app.domain.gateway import Caller, Candidate, ServiceClass
from app.services.gateway.attempts import Attempts, Bid
from app.services.gateway.spending import Billing
from app.services.models import GENERAL, task_types
from app.services.prompts import Prompts, material

TIMEOUT_S = 10.0
OUTPUT_TOKENS_MAX = 64
"""One name; a model that thinks needs some more."""
REQUEST_CHARS_MAX = 4_000
KEPT_MAX = 2_000
CLASSIFIER = Caller(name="classifier", service_class=ServiceClass.INTERACTIVE)


class Classifier:
    """Names task types; remembers what it was asked. One per replica. Not thread-safe: one event loop."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._prompts = Prompts.load()
        self._known: OrderedDict[bytes, str] = OrderedDict()

    async def find(self, orchestra: Orchestra, model: str, request: ChatRequest) -> str:
        """Return the task type of ``request`` as ``model`` sees it; ``general`` where that is not to be had."""
        text = _last_words(request)
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return known
        try:
            found = await self._ask(orchestra, orchestra.model(model), text)
        except (GatewayError, KeyError):
            return GENERAL
        self._known[key] = found
        if len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)
        return found

    async def _ask(self, orchestra: Orchestra, model: ModelInfo, text: str) -> str:
        types = task_types(orchestra)
        prompt = self._prompts.get("classifier", model).fill(
            {"types": "\n".join(f"- {name}" for name in types), "request": material("request", text)}
        )
        chat = ChatRequest(model=model.name, messages=prompt.messages, output_tokens_max=OUTPUT_TOKENS_MAX)
        accounts = tuple(account.name for account in orchestra.accounts_of(model.name))
        bid = Bid(
            request=chat,
            candidates=(Candidate(model=model.name, accounts=accounts),),
            input_tokens=estimate_tokens(chat),
            output_tokens_max=OUTPUT_TOKENS_MAX,
            caller=CLASSIFIER,
            deadline_s=TIMEOUT_S,
            queue_s=TIMEOUT_S,
            billing=Billing(owners=Owners(tenant=orchestra.tenant), task_type="classification"),
        )
        result, _won = await self._attempts.complete(bid)
        said = result.text.casefold()
        named = [name for name in types if name.casefold() in said]
        return named[0] if len(named) == 1 else GENERAL


def _last_words(request: ChatRequest) -> str:
    """Return what the user said last, its beginning at most."""
    for message in reversed(request.messages):
        if message.role is Role.USER:
            return message.text[:REQUEST_CHARS_MAX]
    return ""
