"""Describes the models a caller may use: what each can do, what it is good at, what it costs, how it fares.

Pure; the lists of ``GET /v1/models`` and ``/api/v1/models`` are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.accounts import ModelInfo, Orchestra, StructuredOutput
from app.domain.callers import may_use
from app.domain.chat import Json
from app.domain.gateway import Caller
from app.domain.load import LoadRow


def describe_models(orchestra: Orchestra, rows: Sequence[LoadRow], caller: Caller) -> list[dict[str, Json]]:
    """Return one entry for every model that ``caller`` may use, in configured order.

    Args:
        orchestra: What is configured.
        rows: Last known load; a (model, account) without a row has not been asked yet and counts as healthy.
        caller: Who asks.
    """
    states: dict[tuple[str, str], LoadRow] = {(row.model, row.account): row for row in rows}
    accounts: dict[str, list[tuple[str, str]]] = {}
    for account in orchestra.accounts:
        for public, _ in account.models:
            accounts.setdefault(public, []).append((account.name, account.provider.value))
    aliases: dict[str, list[str]] = {}
    for alias, public in orchestra.aliases:
        aliases.setdefault(public, []).append(alias)
    task_types = {
        model.name: [route.task_type for route in orchestra.routes if model.name in route.primary]
        for model in orchestra.models
    }
    return [
        {
            **_facts(model),
            "aliases": list(aliases.get(model.name, ())),
            "routed_for": list(task_types[model.name]),
            **_state(model.name, accounts.get(model.name, ()), states),
        }
        for model in orchestra.models
        if may_use(caller, model.name)
    ]


def _facts(model: ModelInfo) -> dict[str, Json]:
    return {
        "id": model.name,
        "object": "model",
        # The OpenAI shape has the field; providers' dates of release are not known here.
        "created": 0,
        "owned_by": model.family,
        "kind": model.kind,
        "tier": model.tier.value,
        "capabilities": list(_capabilities(model)),
        "strengths": list(model.strengths),
        "best_for": list(model.best_for),
        "context_tokens": model.context_tokens,
        "output_tokens_max": model.output_tokens_max,
        "prices": {
            "input_usd_per_mtok": model.input_usd_per_mtok,
            "output_usd_per_mtok": model.output_usd_per_mtok,
            "cache_read_usd_per_mtok": model.cache_read_usd_per_mtok,
            "source": model.price_source,
        },
    }


def _capabilities(model: ModelInfo) -> list[str]:
    """Return what the model is known to do; what is unknown is left out."""
    if model.kind == "embedding":
        return ["embeddings"]
    found = ["chat", "streaming"]
    if model.reasoning:
        found.append("reasoning")
    if model.tools:
        found.append("tools")
    if model.images:
        found.append("images")
    if model.structured is StructuredOutput.SCHEMA:
        found.append("json_schema")
    if model.structured is not StructuredOutput.NONE:
        found.append("json_object")
    return found


def _state(model: str, accounts: Sequence[tuple[str, str]], states: dict[tuple[str, str], LoadRow]) -> dict[str, Json]:
    """Return how many accounts serve the model and how they fare, the best of those that do deciding."""
    rows = [states.get((model, name)) for name, _ in accounts]
    found = [row.state if row is not None else "healthy" for row in rows]
    serving = [row for row in rows if row is not None and row.state == "healthy"]
    ttfts = [row.ttft_s for row in serving if row.ttft_s is not None]
    speeds = [row.tokens_per_s for row in serving if row.tokens_per_s is not None]
    healthy = found.count("healthy")
    if healthy:
        health = "healthy" if healthy == len(found) else "degraded"
    elif "half_open" in found:
        health = "degraded"
    else:
        health = "cooling" if any(state.startswith("cooling") for state in found) else "unavailable"
    return {
        "health": health,
        "accounts": len(accounts),
        "accounts_healthy": healthy,
        "providers": list(dict.fromkeys(provider for _, provider in accounts)),
        "ttft_s": round(min(ttfts), 3) if ttfts else None,
        "tokens_per_s": round(max(speeds), 1) if speeds else None,
    }
