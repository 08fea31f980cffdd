"""How near a pool of unequal accounts comes to what its limits allow: 200 subtasks at once over 8 accounts.

The calls go through a dispatcher to real account actors on a real Ray cluster, and from them over HTTP to a simulator
that enforces the limits. Counts, durations and token demands are the simulator's. Exit status 1 if it refused anything.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors import cluster
from app.domain.calls import CallAnswer, ModelCall
from app.domain.chat import ChatRequest, Json, Message, Role
from app.domain.errors import GatewayError
from app.domain.lower_bound import Bound, BoundOption, BoundPool, BoundRate, BoundTask, lower_bound
from benchmarks import processes, report, stage

TASKS = 200
SEED = 7
SCALE_SHORT = 4.0
BURST_S = 5.0
"""What we allow ourselves at once, as seconds of the rate."""
PROVIDER_BURST_S = 6.0
"""What the provider allows: one second of requests that overtake each other on their way."""
DEADLINE_S = 300.0
TOKENS_PER_S = 200.0

LIMITS: dict[str, dict[str, int]] = {
    "alpha": {"rpm": 150, "tpm": 60_000},
    "beta": {"rpm": 120, "tpm": 120_000},
    "gamma": {"rpm": 90, "tpm": 45_000, "concurrency": 4},
    "delta": {"rpm": 60, "tpm": 90_000},
    "epsilon": {"rpm": 45, "tpm": 75_000},
    "zeta": {"rpm": 30, "tpm": 60_000},
    "eta": {"rpm": 20, "tpm": 80_000, "concurrency": 8},
    "theta": {"rpm": 15, "tpm": 45_000},
}
"""Some are short of requests, some of tokens; every request fits into every account's bucket of tokens."""
OVERSIZED = {"gamma": 20_000, "theta": 15_000}
"""With ``--oversized``: so few tokens a minute that large requests exceed the provider's bucket and need it full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run showed."""

    answered: int
    errors: tuple[str, ...]
    rejected: int
    """429s and other refusals, counted by the simulator."""
    makespan_s: float
    """From the moment all calls were handed in until the last answer."""
    bound: Bound
    """With buckets of ``BURST_S``: what we may do at best."""
    provider_bound: Bound
    """With the provider's own larger buckets: what nobody can beat without a 429."""
    by_account: Mapping[str, int]
    cpu_s: Mapping[str, float]
    others_share: float
    """Of all cores, kept busy by processes that are not ours."""

    @property
    def ratio(self) -> float:
        """Makespan over the bound."""
        return self.makespan_s / self.bound.seconds


def calls() -> list[ModelCall]:
    """Return the subtasks: a third each of small, middle and large ones, in mixed order, the same in every run."""
    chance = random.Random(SEED)
    sizes = [((200, 1_200), (100, 300)), ((1_200, 4_000), (300, 900)), ((3_000, 8_000), (700, 1_500))]
    made = []
    for number in range(TASKS):
        chars, tokens = sizes[number % len(sizes)]
        output_tokens = chance.randint(*tokens)
        text = f"subtask {number:03} of the pool: " + "word " * (chance.randint(*chars) // 5)
        made.append(
            ModelCall(
                call_id=f"bench/{number:03}",
                run_id="bench",
                purpose="task",
                task_id=f"t{number}",
                attempt=1,
                models=(stage.MODEL,),
                request=ChatRequest(
                    model=stage.MODEL,
                    messages=(Message(role=Role.USER, text=text),),
                    output_tokens_max=output_tokens,
                ),
                rank_s=output_tokens / TOKENS_PER_S,
                deadline_s=DEADLINE_S,
            )
        )
    chance.shuffle(made)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Which limits to play with."""

    scale: float = 1.0
    """Multiplies all rates."""
    oversized: bool = False

    def limits(self, burst_s: float) -> dict[str, dict[str, float]]:
        """Return the limits by account."""
        allowed: dict[str, dict[str, float]] = {}
        for name, own in LIMITS.items():
            rates = {**own, **({"tpm": OVERSIZED[name]} if self.oversized and name in OVERSIZED else {})}
            allowed[name] = {
                key: value if key == "concurrency" else int(value * self.scale) for key, value in rates.items()
            }
            allowed[name]["burst_s"] = burst_s
        return allowed


def simulated(size: Size) -> dict[str, Any]:
    """Return the simulator's configuration: a third of a second until it begins, then 200 tokens a second."""
    return {
        "seed": SEED,
        "profile": {
            "latency": {"kind": "lognormal", "mean_s": 0.3, "sigma": 0.4},
            "tokens_per_s": TOKENS_PER_S,
            "output_tokens": {"kind": "lognormal", "mean": 150, "sigma": 0.6, "min": 20},
        },
        "default_reply": "lorem",
        "keys": [{"key": f"sk-{name}", "limits": own} for name, own in size.limits(PROVIDER_BURST_S).items()],
    }


async def measure(size: Size) -> Found:
    """Play the subtasks once; needs a connected Ray cluster."""
    with tempfile.TemporaryDirectory(prefix="tutti-bench-") as folder, stage.simulator(simulated(size)) as upstream:
        accounts = [stage.account(name, f"{upstream.url}/v1", limits=own) for name, own in size.limits(BURST_S).items()]
        async with stage.opened(stage.configuration(*accounts, data_dir=f"{folder}/data")) as opened:
            before, busy_s = processes.cpu_seconds(processes.tree()), processes.machine_cpu_seconds()
            began = time.monotonic()
            answers = await asyncio.gather(*(opened.dispatcher.call(call) for call in calls()), return_exceptions=True)
            makespan_s = time.monotonic() - began
            cpu_s = processes.cpu_between(before, processes.cpu_seconds(processes.tree()))
            busy_s = processes.machine_cpu_seconds() - busy_s
        stats = upstream.stats()
    for answer in answers:
        if not isinstance(answer, CallAnswer | GatewayError):
            raise answer
    served = [row for row in stats["log"] if row["rejected"] is None]
    return Found(
        answered=sum(isinstance(answer, CallAnswer) for answer in answers),
        errors=tuple(str(answer) for answer in answers if isinstance(answer, GatewayError)),
        rejected=stats["total"]["rejected_total"],
        makespan_s=makespan_s,
        bound=bound(served, size.limits(BURST_S)),
        provider_bound=bound(served, size.limits(PROVIDER_BURST_S)),
        by_account={name: sum(row["key"] == f"sk-{name}" for row in served) for name in LIMITS},
        cpu_s=cpu_s,
        others_share=processes.others_share(busy_s, cpu_s, makespan_s),
    )


def bound(served: Sequence[Mapping[str, Any]], allowed: Mapping[str, Mapping[str, float]]) -> Bound:
    """Return what no schedule of these requests can beat, from the simulator's log: its durations, its demands."""
    tasks = [
        BoundTask(
            id=f"{number}",
            options=tuple(
                BoundOption(
                    pool=name,
                    duration_s=(row["end_ns"] - row["at_ns"]) / 1e9,
                    charges=(("tokens", float(row["demand_tokens"])),),
                )
                for name in allowed
            ),
        )
        for number, row in enumerate(served)
    ]
    pools = [
        BoundPool(
            id=name,
            rates=(_rate("requests", own["rpm"], own["burst_s"]), _rate("tokens", own["tpm"], own["burst_s"])),
            concurrency=int(own["concurrency"]) if "concurrency" in own else None,
        )
        for name, own in allowed.items()
    ]
    return lower_bound(tasks, pools)


def _rate(limit: str, per_minute: float, burst_s: float) -> BoundRate:
    capacity = max(1.0, per_minute / 60 * burst_s)
    return BoundRate(limit=limit, rate_per_s=per_minute / 60, capacity=capacity, level=capacity)


def rows(found: Found) -> list[list[str]]:
    """Return the table."""
    beaten = found.makespan_s / found.provider_bound.seconds
    return [
        ["figure", "value", "makespan is"],
        ["answered", f"{found.answered} of {TASKS}", ""],
        ["refused by the simulator (429)", str(found.rejected), ""],
        ["makespan", f"{found.makespan_s:.2f} s", "1.00 x"],
        [f"lower bound, buckets of {BURST_S:g} s (ours)", f"{found.bound.seconds:.2f} s", f"{found.ratio:.3f} x"],
        [
            f"lower bound, buckets of {PROVIDER_BURST_S:g} s (provider)",
            f"{found.provider_bound.seconds:.2f} s",
            f"{beaten:.3f} x",
        ],
        ["CPU seconds, all processes", f"{sum(found.cpu_s.values()):.1f} s", ""],
        ["others on the machine, of all cores", f"{found.others_share:.0%}", ""],
    ]


def document(found: Found, size: Size) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    return {
        "tasks": TASKS,
        "scale": size.scale,
        "oversized": size.oversized,
        "answered": found.answered,
        "errors": list(found.errors[:10]),
        "rejected": found.rejected,
        "makespan_s": round(found.makespan_s, 3),
        "lower_bound_s": round(found.bound.seconds, 3),
        "ratio": round(found.ratio, 4),
        "binding": found.bound.binding,
        "provider_lower_bound_s": round(found.provider_bound.seconds, 3),
        "provider_ratio": round(found.makespan_s / found.provider_bound.seconds, 4),
        "calls_by_account": dict(found.by_account),
        "cpu_s": dict(found.cpu_s),
        "others_share": found.others_share,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where the simulator refused a call or one was not answered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool", description=__doc__)
    parser.add_argument("--scale", type=float, help="multiplies all rates (default 1)")
    parser.add_argument("--short", action="store_true", help=f"scale {SCALE_SHORT:g}")
    parser.add_argument("--oversized", action="store_true", help="some requests exceed some providers' buckets")
    chosen = parser.parse_args(arguments)
    size = Size(scale=chosen.scale or (SCALE_SHORT if chosen.short else 1.0), oversized=chosen.oversized)
    on = report.machine()
    cluster.start_local(namespace="benchmarks")
    try:
        found = asyncio.run(measure(size))
    finally:
        cluster.stop()
    name = "pool-oversized" if size.oversized else "pool"
    report.publish(name, short=size.scale != 1.0, on=on, rows=rows(found), found=document(found, size))
    print(f"\nbinding: {found.bound.binding}")
    print(f"calls: {', '.join(f'{account} {count}' for account, count in found.by_account.items())}")
    print(f"CPU seconds: {report.said(found.cpu_s)}", flush=True)
    for error in found.errors[:10]:
        print(f"error: {error}", file=sys.stderr)
    return 0 if found.rejected == 0 and found.answered == TASKS else 1


if __name__ == "__main__":
    sys.exit(main())
