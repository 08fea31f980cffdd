"""Names a chat call by everything that can change its answer, so that an equal call may be given the same answer.

Pure and stable across processes and restarts. Does not decide whether caching is switched on or wished for: asked by
the gateway where it is, for its response cache and for calls that share one upstream call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import orjson

from app.domain.chat import ChatRequest

VERSION = 1
"""Part of every key; raise it when answers made under the same fields would no longer do."""

NEUTRAL_EXTRA = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "stream_options", "user_id"}
)
"""Body fields that say who asks, or how the provider should file it: like ``user``, they do not change the answer."""
LIVE_EXTRA = frozenset(
    {
        "background",
        "container",
        "context_management",
        "conversation",
        "enable_search",
        "mcp_servers",
        "plugins",
        "previous_response_id",
        "search_options",
        "search_parameters",
        "store",
        "web_search_options",
    }
)
"""Body fields that make the answer depend on more than the request (a search, a conversation kept by the provider), or
leave something with the provider that the client will ask for. ``null`` and ``false`` switch them off."""
_OFF = frozenset({"null", "false"})


def cache_key(request: ChatRequest, scope: str, models: Sequence[str] = ()) -> bytes | None:
    """Return the key of a call, or None where its answer must not be given again.

    Any temperature is allowed: the exact cache repeats an answer, and clients that want another one say so
    (``no-store``, a seed). Tools are allowed: the caller runs them, not the provider. The key depends on the order of
    properties in a schema because models write their answers in it.

    Args:
        request: What is asked. ``user``, ``stream`` and the call's own name are left out: the answer does not depend on
            them.
        scope: Who may share the answer: a caller's name, or one name for all.
        models: The models that may answer, best first, where ``request.model`` alone does not say (an alias, ``auto``).
    """
    if any(name in LIVE_EXTRA and text.strip() not in _OFF for name, text in request.extra):
        return None
    own_fields = request.anthropic_fields or {}
    if any(name in LIVE_EXTRA and value not in (None, False) for name, value in own_fields.items()):
        return None
    # What stands behind an address may change, or be gone for the next one who asks.
    if any(image.url is not None for message in request.messages for image in message.images):
        return None
    asked = replace(
        request,
        user=None,
        stream=False,
        call_key=None,
        lost_at_s=None,
        begun_as=None,
        # A client's 1 is its 1.0.
        temperature=None if request.temperature is None else float(request.temperature),
        top_p=None if request.top_p is None else float(request.top_p),
        extra=tuple(sorted(pair for pair in request.extra if pair[0] not in NEUTRAL_EXTRA)),
    )
    try:
        # Every field by its name: one that is added to the values later is part of the key by itself.
        text = orjson.dumps((VERSION, scope, tuple(models), asked))
    except TypeError:
        # A text or number that JSON cannot carry (a lone surrogate, 70 bits): no provider will be sent it either.
        return None
    return hashlib.sha256(text).digest()
