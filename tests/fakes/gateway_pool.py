"""A simulator and a configuration for tests of the gateway: one pool of three providers, and callers with keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.fakes.simulated import Simulator, running_simulator

MODELS = {"openai": "model-o", "anthropic": "model-a", "gemini": "model-g"}
"""One model at each provider, with one account."""
SHARED = "model-two"
"""Served by two accounts, ``two-a`` and ``two-b``."""
EMBEDDER = "embedder"
DIMENSIONS = 8
GONE = "model-gone"
"""Its only account has a revoked key."""
NARROW = "model-narrow"
"""Its only account takes one call at a time."""
LOST = "model-lost"
"""Its only account has a revoked key too; ``MODELS["gemini"]`` stands in for it."""
SICK = "model-sick"
"""For faults: its only account, ``sick``, serves nothing else, so that its state disturbs nobody."""
LIMITED = "model-limited"
"""For 429s, the same way."""

FAILURES = ("http_500", "http_503", "http_429", "reset", "garbage_json", "cut_before_first")
PAIRS = {kind: f"model-{kind.replace('_', '-')}" for kind in FAILURES}
"""A model for each kind of failure, each served by two accounts of its own."""

KEY = "key-of-everybody"
KEY_ONE_MODEL = "key-of-one-model"
KEY_RPM = "key-of-few-requests"
RPM = 6
KEY_NARROW = "key-of-one-call"
KEY_POOR = "key-of-few-cents"
POOR_USD = 0.0002
"""All that it may ever spend."""

LATENCY_S = 0.01
_PATHS = {
    "openai": "/v1",
    "anthropic": "",
    "gemini": "",
    "deepseek": "",
    "qwen": "/compatible-mode/v1",
    "custom": "/v1",
}


GREETING = "Xin chào, 你好, hello!"
THOUGHT = "Tea is cheap."
LONG = " ".join(f"word{number}" for number in range(400))
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SEEN = "A single pixel."
"""Said of ``PIXEL`` only if the whole picture has arrived."""
CALLS = [("weather", {"city": "Hanoi"}), ("weather", {"city": "Huế"})]
MEASURED = "Hanoi has 21 degrees."
REPLIES: list[dict[str, Any]] = [
    {"match": {"contains": "21 degrees"}, "text": MEASURED},
    {"match": {"contains": "weather in two towns"}, "tool_calls": [{"name": n, "arguments": a} for n, a in CALLS]},
    {"match": {"contains": "weather in one town"}, "tool_calls": [{"name": "weather", "arguments": CALLS[0][1]}]},
    {"match": {"contains": "think first"}, "reasoning": THOUGHT, "text": "Tea."},
    {"match": {"contains": "write slowly"}, "text": LONG, "tokens_per_s": 20},
    {"match": {"contains": "hang on"}, "text": "late", "latency": {"kind": "constant", "mean_s": 60}},
    {"match": {"contains": "describe the picture", "body": PIXEL}, "text": SEEN},
    {"match": {"contains": "greet"}, "text": GREETING},
]
"""What the simulator answers to a prompt with these words; anything else gets words, or an instance of its schema."""


@contextlib.contextmanager
def running_pool(folder: Path) -> Iterator[Simulator]:
    """Run the simulator for as long as the context lasts."""
    path = folder / "pool.yaml"
    path.write_text(yaml.safe_dump(simulator_file(), allow_unicode=True), encoding="utf-8")
    with running_simulator(path) as running:
        yield running


def renew(simulator: Simulator, *faults: dict[str, Any]) -> None:
    """Set the simulator's counts to zero and its faults to these."""
    simulator.control({"faults": list(faults)})
    httpx.post(f"{simulator.url}/__reset", timeout=10).raise_for_status()


def simulator_file() -> dict[str, Any]:
    """Return the configuration of the simulator."""
    names = [f"sk-{name}" for name in ("o", "a", "g", "two-a", "two-b", "narrow", "sick", "limited")]
    names += [f"sk-{model}-{half}" for model in PAIRS.values() for half in "ab"]
    return {
        "host": "127.0.0.1",
        "port": 0,
        "profile": {"latency": {"kind": "constant", "mean_s": LATENCY_S}, "embedding_dimensions": DIMENSIONS},
        "keys": [
            *({"key": name} for name in names),
            *({"key": f"sk-{name}", "state": "revoked"} for name in ("gone", "lost")),
        ],
        "default_reply": "schema",
        "replies": REPLIES,
    }


def account(url: str, name: str, provider: str, *models: str, **more: Any) -> dict[str, Any]:
    """Return an account of a provider that the simulator plays."""
    return {
        "name": name,
        "provider": provider,
        "base_url": f"{url}{_PATHS[provider]}",
        "api_key": f"sk-{name}",
        "models": list(models),
        "limits": {"concurrency": 64},
        **more,
    }


def configuration(url: str) -> dict[str, Any]:
    """Return the server's configuration: prices are 1 and 4 USD a million tokens everywhere."""
    chat = [*MODELS.values(), SHARED, GONE, LOST, NARROW, SICK, LIMITED, *PAIRS.values()]
    return {
        "accounts": [
            account(url, "o", "openai", MODELS["openai"], EMBEDDER),
            account(url, "a", "anthropic", MODELS["anthropic"]),
            account(url, "g", "gemini", MODELS["gemini"]),
            account(url, "two-a", "openai", SHARED),
            account(url, "two-b", "openai", SHARED),
            account(url, "gone", "openai", GONE),
            account(url, "lost", "openai", LOST),
            account(url, "narrow", "openai", NARROW, limits={"concurrency": 1}),
            account(url, "sick", "openai", SICK),
            account(url, "limited", "openai", LIMITED),
            *(account(url, f"{model}-{half}", "openai", model) for model in PAIRS.values() for half in "ab"),
        ],
        "coordinator": {"model": MODELS["openai"]},
        "routing": {
            "general": {"primary": [MODELS["openai"]]},
            "translation": {"primary": [MODELS["anthropic"]]},
        },
        "models": {
            **{name: chat_model(name) for name in chat},
            EMBEDDER: {"kind": "embedding", "family": "one", "input_usd_per_mtok": "0.02", "output_usd_per_mtok": 0},
        },
        "auth": {
            "keys": [
                {"name": "everybody", "key": KEY},
                {"name": "one-model", "key": KEY_ONE_MODEL, "allowed_models": [SHARED]},
                {"name": "few-requests", "key": KEY_RPM, "limits": {"rpm": RPM, "tpm": 1_000_000, "burst_s": 60}},
                {"name": "one-call", "key": KEY_NARROW, "limits": {"concurrency": 1}},
                {"name": "poor", "key": KEY_POOR},
            ]
        },
        "budgets": [{"for": "key:poor", "window": "total", "usd": POOR_USD}],
        "accounts_per_actor": 32,
        "gateway": {
            "queue_timeout_s": 3,
            "idle_timeout_s": 3,
            "retry_ratio": 1.0,
            "fallbacks": {LOST: [MODELS["gemini"]]},
        },
    }


def chat_model(name: str) -> dict[str, Any]:
    """Return the properties of a model that can do everything."""
    return {
        "family": name,
        "tier": "standard",
        "reasoning": False,
        "structured": "schema",
        "images": True,
        "tools": True,
        "context_tokens": 200_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 4,
    }
