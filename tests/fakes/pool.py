"""Configurations of accounts that are all played by one simulator."""

from __future__ import annotations

from typing import Any

MODELS: dict[str, Any] = {
    "chief": {
        "family": "one",
        "tier": "strong",
        "reasoning": True,
        "structured": "none",
        "context_tokens": 200_000,
        "output_tokens_max": 32_000,
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 4,
    },
    "hand": {
        "family": "one",
        "tier": "standard",
        "reasoning": False,
        "structured": "schema",
        "context_tokens": 200_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 0.2,
        "output_usd_per_mtok": 0.8,
    },
    "critic": {
        "family": "two",
        "tier": "standard",
        "reasoning": False,
        "structured": "schema",
        "context_tokens": 200_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 0.2,
        "output_usd_per_mtok": 0.8,
    },
}
"""A reasoning model that plans in prose, a worker, and a judge of another family."""


def account(url: str, name: str, *models: str, **more: Any) -> dict[str, Any]:
    """Return an OpenAI account at the simulator."""
    return {
        "name": name,
        "provider": "openai",
        "base_url": f"{url}/v1",
        "api_key": f"sk-{name}",
        "models": list(models),
        "limits": {"concurrency": 16},
        **more,
    }


def orchestra(*accounts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a configuration of these accounts, which together serve the three models."""
    served = {model for entry in accounts for model in entry["models"]}
    coordinator = {"model": "chief", "clarify_model": "hand", "transcribe_model": "hand"}
    if "critic" in served:
        coordinator["judge_model"] = "critic"
    return {
        "accounts": list(accounts),
        "coordinator": {**coordinator, **more.pop("coordinator", {})},
        "routing": {"general": {"primary": ["hand"]}},
        "models": {name: properties for name, properties in MODELS.items() if name in served},
        **more,
    }


def three_accounts(url: str) -> dict[str, Any]:
    """Return two accounts for the work and one that conducts and judges."""
    return orchestra(
        account(url, "alpha", "hand"), account(url, "beta", "hand"), account(url, "chief", "chief", "critic")
    )


FAST: dict[str, Any] = {"profile": {"latency": {"kind": "constant", "mean_s": 0.02}}}
"""A simulator that answers at once where a reply says nothing else."""
