"""What one soak plays: for how long, with which faults and kills, and the two configurations. A seed decides it all."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

CHAT = "torture-chat"
"""Answers at once; three accounts of two providers serve it."""
PACED = "torture-paced"
"""Generates at a human pace, so that clients can leave in the middle."""
LONG = "torture-long"
"""Answers far more than a socket holds, for slow readers."""
EMBEDDER = "torture-embedder"

KEY = "key-of-everybody"
KEY_NARROW = "key-of-a-narrow-caller"
NARROW_RPM, NARROW_BURST_S = 120, 5

BURST_S = 5.0
"""What we allow ourselves at once, as seconds of the rate."""
PROVIDER_BURST_S = 6.0
"""What the provider allows: one second of requests that overtake each other on their way."""
RATES: dict[str, dict[str, int]] = {
    "alpha": {"rpm": 480, "tpm": 300_000, "concurrency": 12},
    "beta": {"rpm": 360, "tpm": 200_000, "concurrency": 8},
    "gamma": {"rpm": 480, "tpm": 400_000},
    "delta": {"rpm": 600, "concurrency": 16},
}
"""Limits of each account, per model; what all clients together ask for comes near to them."""
SERVED = {"alpha": (CHAT, PACED), "beta": (CHAT, PACED), "gamma": (CHAT, PACED), "delta": (LONG, EMBEDDER)}
PROVIDERS = {"alpha": "openai", "beta": "openai", "gamma": "anthropic", "delta": "openai"}
_PATHS = {"openai": "/v1", "anthropic": ""}

FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "http_500"},
    {"kind": "http_503"},
    {"kind": "http_529"},
    {"kind": "http_429", "retry_after": "1"},
    {"kind": "reset"},
    {"kind": "cut_before_first"},
    {"kind": "cut_stream"},
    {"kind": "error_event"},
    {"kind": "garbage_json"},
    {"kind": "bill_then_500"},
    {"kind": "accept_then_drop"},
    {"kind": "stall", "seconds": 0.7},
    {"kind": "slow_drip", "seconds": 0.02, "match": {"model": CHAT}},
)
FAULTS_AT_ONCE = 5
FAULT_SHARES = (0.002, 0.008)
"""Bounds of each chosen fault's probability."""

FIRST_KILL_S = 3.0
SILENCE_S = 36.0
"""A dead replica's permits come back after 30 s of silence; the last kill lies that long before the end, and some."""
KILLED_SHARE = 2 / 3
"""Of the soak; after it every process has time to show whether it grows."""

Victim = Literal["replica", "account", "callers"]
VICTIMS: tuple[Victim, ...] = ("replica", "account", "replica", "account", "callers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A kill: when, as seconds since the load began, and whom."""

    at_s: float
    victim: Victim


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One soak."""

    seconds: float
    """Of load."""
    seed: int
    kills: int
    replicas: int = 2

    @property
    def sample_s(self) -> float:
        """How often memory is read."""
        return 1.0 if self.seconds < 120 else 5.0

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults of this seed, as the simulator takes them."""
        chance = random.Random(f"faults {self.seed}")
        chosen = chance.sample(FAULTS, FAULTS_AT_ONCE)
        return [{**fault, "probability": round(chance.uniform(*FAULT_SHARES), 4)} for fault in chosen]

    def planned(self) -> list[Planned]:
        """Return the kills of this seed, in order of time; every kind of victim before any comes again."""
        chance = random.Random(f"kills {self.seed}")
        last_s = max(FIRST_KILL_S, min(self.seconds * KILLED_SHARE, self.seconds - SILENCE_S))
        victims: list[Victim] = []
        while len(victims) < self.kills:
            victims += chance.sample(VICTIMS, len(VICTIMS))
        step_s = (last_s - FIRST_KILL_S) / max(1, self.kills)
        return [
            Planned(at_s=FIRST_KILL_S + step_s * (number + chance.random()), victim=victim)
            for number, victim in enumerate(victims[: self.kills])
        ]

    def chance(self, what: str) -> random.Random:
        """Return randomness of this seed for one purpose."""
        return random.Random(f"{what} {self.seed}")


def simulator_document(setting: Setting) -> dict[str, Any]:
    """Return the configuration of the simulator."""
    keys: list[dict[str, Any]] = [
        {"key": f"sk-{name}", "limits": {**limits, "burst_s": PROVIDER_BURST_S}} for name, limits in RATES.items()
    ]
    return {
        "seed": setting.seed,
        "profile": {
            "latency": {"kind": "lognormal", "mean_s": 0.04, "sigma": 0.6, "max_s": 1.0},
            "output_tokens": {"kind": "lognormal", "mean": 50, "sigma": 0.6, "max": 400},
            "embedding_dimensions": 64,
        },
        "models": {
            CHAT: {},
            PACED: {"tokens_per_s": 80},
            LONG: {"output_tokens": {"kind": "constant", "mean": 6_000}, "chunk_tokens": 4},
            EMBEDDER: {},
        },
        "default_reply": "lorem",
        "faults": setting.faults(),
        "keys": keys,
        "log_rows_max": 5_000_000,
    }


def tutti_document(upstream: str) -> dict[str, Any]:
    """Return Tutti's configuration: the same limits, smaller bursts."""
    accounts = [
        {
            "name": name,
            "provider": PROVIDERS[name],
            "base_url": f"{upstream}{_PATHS[PROVIDERS[name]]}",
            "api_key": f"sk-{name}",
            "models": list(SERVED[name]),
            "limits": {**limits, "burst_s": BURST_S},
        }
        for name, limits in RATES.items()
    ]
    return {
        "accounts": accounts,
        "coordinator": {"model": CHAT},
        "routing": {"general": {"primary": [CHAT]}},
        "models": {
            **{name: _chat_model(name) for name in (CHAT, PACED, LONG)},
            EMBEDDER: {"kind": "embedding", "family": "one", "input_usd_per_mtok": "0.02", "output_usd_per_mtok": 0},
        },
        "auth": {
            "keys": [
                {"name": "everybody", "key": KEY, "limits": {"rpm": 60_000, "tpm": 100_000_000, "burst_s": 10}},
                {"name": "narrow", "key": KEY_NARROW, "limits": {"rpm": NARROW_RPM, "burst_s": NARROW_BURST_S}},
            ]
        },
        "gateway": {
            "queue_timeout_s": 20,
            "idle_timeout_s": 10,
            "retry_ratio": 0.2,
            "cache": {"enabled": True, "size_mb": 1, "ttl_s": 600},
        },
    }


def _chat_model(name: str) -> dict[str, Any]:
    return {
        "family": name,
        "tier": "standard",
        "reasoning": False,
        "structured": "schema",
        "context_tokens": 200_000,
        "output_tokens_max": 16_000,
        "input_usd_per_mtok": 1,
        "output_usd_per_mtok": 4,
    }


def said(setting: Setting) -> Sequence[str]:
    """Return the lines that let anybody play this soak again."""
    faults = ", ".join(f"{fault['kind']} {fault['probability']:.2%}" for fault in setting.faults())
    kills = ", ".join(f"{each.victim} at {each.at_s:.0f} s" for each in setting.planned())
    return (f"seed {setting.seed}, {setting.seconds:.0f} s of load", f"faults: {faults}", f"kill -9: {kills or 'none'}")
