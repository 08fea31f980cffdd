"""How near the gateway brings a pool of unequal keys to what their limits allow: 1 500 requests at once over 8 keys.

All requests are submitted at once through the HTTP door; behind it a simulator enforces every key's requests and tokens
a minute. Counts, sizes and times of arrival are the simulator's, never ours; the makespan is the client's. Exits with 1
if the simulator refused anything for its limits, or a request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.domain.chat import Json
from benchmarks import processes, report, stage
from benchmarks.fluid_bound import Supply, fluid_bound_s
from benchmarks.gateway_peers import served
from benchmarks.gateway_upstream import MODEL, fast_loop

TASKS = 1_500
SEED = 7
BURST_S = 5.0
"""What we allow ourselves at once, as seconds of the rate."""
PROVIDER_BURST_S = 6.0
"""What the provider allows: one second of requests that overtake each other on their way."""
LATENCY_S = 0.3
SCALE_SHORT = 10.0
TYPICAL_TOKENS = 1_350
CHANGE_AT = 0.4
"""When a key dies or limits are lowered, as a share of what the tokens alone take."""
DYING = "delta"
LOWERED = {"beta": 0.5, "epsilon": 0.5}
PATIENCE_S = 400.0
WINDOWS = 10

LIMITS: dict[str, tuple[int, int]] = {
    "alpha": (400, 160_000),
    "beta": (320, 320_000),
    "gamma": (240, 120_000),
    "delta": (160, 240_000),
    "epsilon": (120, 200_000),
    "zeta": (80, 160_000),
    "eta": (54, 214_000),
    "theta": (40, 120_000),
}
"""Requests and tokens a minute: some keys are short of the one, some of the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Which case is played."""

    scale: float = 1.0
    """Multiplies all rates."""
    replicas: int = 1
    callers: int = 1
    dying: bool = False
    lowered: bool = False
    unknown: bool = False
    """Output lengths: requests name no ceiling, and limits count what was generated."""

    @property
    def name(self) -> str:
        """Name of the case, for the results."""
        parts = [
            f"-{self.replicas}-replicas-{self.callers}-callers" if self.replicas + self.callers > 2 else "",
            "-dying" if self.dying else "",
            "-lowered" if self.lowered else "",
            "-unknown" if self.unknown else "",
        ]
        return "gateway_pool" + "".join(parts)

    def limits(self, burst_s: float, shares: Mapping[str, float] | None = None) -> dict[str, dict[str, Any]]:
        """Return the limits by key, some of them lowered to a share."""
        charge = "used" if self.unknown else "max_tokens"
        scales = {name: self.scale * (shares or {}).get(name, 1.0) for name in LIMITS}
        return {
            name: {
                "rpm": int(rpm * scales[name]),
                "tpm": int(tpm * scales[name]),
                "burst_s": burst_s,
                "charge": charge,
            }
            for name, (rpm, tpm) in LIMITS.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client saw of its request."""

    status: int
    at_s: float
    """Since the requests were submitted."""
    said: str = ""


@dataclass(slots=True, kw_only=True)
class Found:
    """What one run showed."""

    answers: Sequence[Answer]
    refused: Mapping[str, int]
    """By the simulator, by kind: limits, and others such as a dead key."""
    refused_429: int
    makespan_s: float
    bound_s: float
    """With buckets of ``BURST_S``, one upstream latency included."""
    provider_bound_s: float
    blind_bound_s: float | None
    """With the provider's buckets, if every answer had the mean length: what those who cannot know lengths can expect
    at best. They choose by the input alone, so in the mean over lengths their work divides as if all were alike."""
    by_key: dict[str, list[str]]
    over_time: dict[str, list[str]]
    first_s: float
    """From submission until the first request reached the simulator: accepting, reading and queueing 1 500 of them."""
    last_s: float
    """From submission until the last one did."""
    change_s: float | None
    cpu_s: Mapping[str, float]
    others_share: float
    failed: int = field(init=False)

    def __post_init__(self) -> None:
        self.failed = sum(answer.status != 200 for answer in self.answers)


def bodies(setting: Setting) -> list[bytes]:
    """Return the requests: a third each of small, middle and large ones, in mixed order, the same in every run."""
    chance = random.Random(SEED)
    sizes = [((200, 1_200), (100, 300)), ((1_200, 4_000), (300, 900)), ((3_000, 8_000), (700, 1_500))]
    made = []
    for number in range(TASKS):
        chars, tokens = sizes[number % len(sizes)]
        text = f"request {number:04} of the pool: " + "word " * (chance.randint(*chars) // 5)
        document: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        output_tokens = chance.randint(*tokens)
        if not setting.unknown:
            document["max_completion_tokens"] = output_tokens
        made.append(json.dumps(document).encode())
    chance.shuffle(made)
    return made


def simulated(setting: Setting) -> dict[str, Any]:
    """Return the simulator's configuration."""
    return {
        "seed": SEED,
        "profile": {
            "latency": {"kind": "constant", "mean_s": LATENCY_S},
            "tokens_per_s": None,
            "output_tokens": {"kind": "lognormal", "mean": 600 if setting.unknown else 100, "sigma": 0.6, "min": 20},
        },
        "default_reply": "lorem",
        "keys": [{"key": f"sk-{name}", "limits": own} for name, own in setting.limits(PROVIDER_BURST_S).items()],
    }


def configuration(setting: Setting, upstream: str) -> dict[str, object]:
    """Return Tutti's configuration: the same limits, smaller bursts, and callers with limits that do not bind."""
    accounts = [
        {
            "name": name,
            "provider": "openai",
            "base_url": f"{upstream}/v1",
            "api_key": f"sk-{name}",
            "models": [MODEL],
            "limits": own,
        }
        for name, own in setting.limits(BURST_S).items()
    ]
    keys = [
        {"name": f"caller-{number}", "key": _caller_key(number), "limits": {"rpm": 10**6, "tpm": 10**9}}
        for number in range(setting.callers)
    ]
    return {"accounts": accounts, "auth": {"keys": keys}, "gateway": {"queue_timeout_s": 600}}


def _caller_key(number: int) -> str:
    return f"bench-key-{number:04}"


async def submit(url: str, setting: Setting, made: Sequence[bytes]) -> list[Answer]:
    """Send all requests at once, each on a connection of its own; return all answers."""
    began_s = time.monotonic()
    return await asyncio.gather(
        *(_ask(url, body, _caller_key(number % setting.callers), began_s) for number, body in enumerate(made))
    )


async def _ask(url: str, body: bytes, key: str, began_s: float) -> Answer:
    parts = urlsplit(url)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head.encode() + body)
            answer = await reader.read(-1)
            writer.close()
    except (OSError, TimeoutError) as error:
        return Answer(status=0, at_s=time.monotonic() - began_s, said=f"{type(error).__name__} {error}")
    status = int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0
    said = "" if status == 200 else answer[-400:].decode("utf-8", "replace")
    return Answer(status=status, at_s=time.monotonic() - began_s, said=said)


async def _reset(upstream: str) -> None:
    """Let the simulator's clock and buckets begin now."""
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{upstream}/__reset")
        answer.raise_for_status()


async def _change(upstream: str, setting: Setting, after_s: float) -> float:
    """Let a key die or lower limits at the provider; return when, in seconds."""
    began_s = time.monotonic()
    await asyncio.sleep(after_s)
    keys: dict[str, Any] = {f"sk-{DYING}": {"state": "revoked"}} if setting.dying else {}
    if setting.lowered:
        lowered = setting.limits(PROVIDER_BURST_S, LOWERED)
        keys.update({f"sk-{name}": {"limits": lowered[name]} for name in LOWERED})
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{upstream}/__control", json={"keys": keys})
        answer.raise_for_status()
    return time.monotonic() - began_s


async def measure(setting: Setting) -> Found:
    """Play the requests once."""
    tokens_per_s = setting.scale * sum(tpm for _rpm, tpm in LIMITS.values()) / 60
    change_after_s = CHANGE_AT * TASKS * TYPICAL_TOKENS / tokens_per_s
    with stage.simulator(simulated(setting)) as upstream:
        with served(configuration(setting, upstream.url), replicas=setting.replicas) as (url, pid):
            made = bodies(setting)
            await asyncio.sleep(1.0)
            watched = [*processes.tree(), *processes.tree(pid)]
            before, busy_s, began_s = processes.cpu_seconds(watched), processes.machine_cpu_seconds(), time.monotonic()
            await _reset(upstream.url)
            changing = setting.dying or setting.lowered
            change = asyncio.create_task(_change(upstream.url, setting, change_after_s)) if changing else None
            answers = await submit(url, setting, made)
            makespan_s = max(answer.at_s for answer in answers)
            change_s = await change if change is not None else None
            cpu_s = processes.cpu_between(before, processes.cpu_seconds(watched))
            wall_s, busy_s = time.monotonic() - began_s, processes.machine_cpu_seconds() - busy_s
        stats = upstream.stats()
    rows = [row for row in stats["log"] if row["rejected"] is None]
    return Found(
        answers=answers,
        refused=stats["total"]["rejected"],
        refused_429=sum(row["status"] == 429 for row in stats["log"]),
        makespan_s=makespan_s,
        bound_s=bound_s(setting, rows, BURST_S, change_s),
        provider_bound_s=bound_s(setting, rows, PROVIDER_BURST_S, change_s),
        blind_bound_s=bound_s(setting, _alike(rows), PROVIDER_BURST_S, change_s) if setting.unknown else None,
        by_key=_by_key(setting, rows, makespan_s),
        over_time=_over_time(setting, rows, makespan_s),
        first_s=min(row["at_ns"] for row in rows) / 1e9,
        last_s=max(row["at_ns"] for row in rows) / 1e9,
        change_s=change_s,
        cpu_s=cpu_s,
        others_share=processes.others_share(busy_s, cpu_s, wall_s),
    )


def demand(setting: Setting, row: Mapping[str, Any]) -> float:
    """Return the tokens that the provider's limit counted for a request, by its log."""
    if setting.unknown:
        return float(row["input_tokens"] + row["output_tokens"])
    return float(row["demand_tokens"])


def _alike(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the answered rows with their mean output."""
    answered = [row for row in rows if row["status"] == 200]
    mean = sum(row["output_tokens"] for row in answered) / len(answered)
    return [{**row, "output_tokens": mean} for row in answered]


def bound_s(setting: Setting, rows: Sequence[Mapping[str, Any]], burst_s: float, change_s: float | None) -> float:
    """Return what no schedule of the requests that the simulator answered can beat, one latency included.

    A key that dies admits nothing more from then on; a lowered limit refills slower from then on. Where the provider
    counts output as it is generated, whoever overdraws on purpose at the end could be faster by what is then in flight;
    we reserve before we send and never do.
    """
    after = {name: 1.0 for name in LIMITS}
    if setting.dying:
        after[DYING] = 0.0
    if setting.lowered:
        after.update(LOWERED)

    def supply(moment_s: float) -> list[Supply]:
        early_s = moment_s if change_s is None else min(moment_s, change_s)
        late_s = moment_s - early_s
        spans = {name: setting.scale * (burst_s + early_s + share * late_s) / 60 for name, share in after.items()}
        return [Supply(requests=rpm * spans[name], tokens=tpm * spans[name]) for name, (rpm, tpm) in LIMITS.items()]

    return fluid_bound_s([demand(setting, row) for row in rows if row["status"] == 200], supply) + LATENCY_S


def _by_key(setting: Setting, rows: Sequence[Mapping[str, Any]], makespan_s: float) -> dict[str, list[str]]:
    """Return how much of each key's requests and tokens was used, and when it admitted its last request."""
    first_ns = min(row["at_ns"] for row in rows)
    told = {}
    for name, (rpm, tpm) in LIMITS.items():
        own = [row for row in rows if row["key"] == f"sk-{name}"]
        seconds = setting.scale * (makespan_s - LATENCY_S + BURST_S) / 60
        told[name] = [
            str(len(own)),
            f"{len(own) / (rpm * seconds):.0%}",
            f"{sum(demand(setting, row) for row in own) / (tpm * seconds):.0%}",
            f"{(max((row['at_ns'] for row in own), default=first_ns) - first_ns) / 1e9:.1f} s",
        ]
    return told


def _over_time(setting: Setting, rows: Sequence[Mapping[str, Any]], makespan_s: float) -> dict[str, list[str]]:
    """Return the use of each key's scarcer limit in each tenth of the run; the first one also has the full bucket."""
    first_ns, window_s = min(row["at_ns"] for row in rows), makespan_s / WINDOWS
    told: dict[str, list[str]] = {}
    for name, (rpm, tpm) in LIMITS.items():
        requests, tokens = Counter[int](), Counter[int]()
        for row in rows:
            if row["key"] == f"sk-{name}":
                window = min(WINDOWS - 1, int((row["at_ns"] - first_ns) / 1e9 / window_s))
                requests[window] += 1
                tokens[window] += int(demand(setting, row))
        told[name] = []
        for window in range(WINDOWS):
            seconds = setting.scale * (window_s + (BURST_S if window == 0 else 0.0)) / 60
            told[name].append(f"{max(requests[window] / (rpm * seconds), tokens[window] / (tpm * seconds)):.0%}")
    return told


def rows_of(found: Found) -> list[list[str]]:
    """Return the table."""
    return [
        ["figure", "value", "makespan is"],
        ["answered", f"{len(found.answers) - found.failed} of {TASKS}", ""],
        ["429s at the simulator", str(found.refused_429), ""],
        ["other refusals there", str(sum(found.refused.values()) - found.refused_429), ""],
        ["makespan", f"{found.makespan_s:.2f} s", "1.000 x"],
        [f"bound, buckets of {BURST_S:g} s (ours)", f"{found.bound_s:.2f} s", _ratio(found, found.bound_s)],
        [
            f"bound, buckets of {PROVIDER_BURST_S:g} s (provider)",
            f"{found.provider_bound_s:.2f} s",
            _ratio(found, found.provider_bound_s),
        ],
        *(
            [["the same, lengths unknown", f"{found.blind_bound_s:.2f} s", _ratio(found, found.blind_bound_s)]]
            if found.blind_bound_s is not None
            else []
        ),
        ["first request at the simulator after", f"{found.first_s:.2f} s", ""],
        ["last request at the simulator after", f"{found.last_s:.2f} s", ""],
        ["CPU seconds, all processes", f"{sum(found.cpu_s.values()):.1f} s", ""],
        ["others on the machine, of all cores", f"{found.others_share:.0%}", ""],
    ]


def _ratio(found: Found, seconds: float) -> str:
    return f"{found.makespan_s / seconds:.3f} x"


def document(found: Found, setting: Setting) -> dict[str, Json]:
    """Return everything measured, as JSON."""
    return {
        "tasks": TASKS,
        "scale": setting.scale,
        "replicas": setting.replicas,
        "callers": setting.callers,
        "answered": len(found.answers) - found.failed,
        "refused_429": found.refused_429,
        "refused": dict(found.refused),
        "makespan_s": round(found.makespan_s, 3),
        "bound_s": round(found.bound_s, 3),
        "ratio": round(found.makespan_s / found.bound_s, 4),
        "provider_bound_s": round(found.provider_bound_s, 3),
        "provider_ratio": round(found.makespan_s / found.provider_bound_s, 4),
        "blind_bound_s": round(found.blind_bound_s, 3) if found.blind_bound_s is not None else None,
        "first_s": round(found.first_s, 3),
        "last_s": round(found.last_s, 3),
        "change_s": found.change_s,
        "by_key": {name: list(told) for name, told in found.by_key.items()},
        "over_time": {name: list(told) for name, told in found.over_time.items()},
        "cpu_s": dict(found.cpu_s),
        "others_share": found.others_share,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where the simulator said 429 or a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway_pool", description=__doc__)
    parser.add_argument("--scale", type=float, help="multiplies all rates (default 1)")
    parser.add_argument("--short", action="store_true", help=f"scale {SCALE_SHORT:g}")
    parser.add_argument("--replicas", type=int, default=1, help="HTTP replicas (default 1)")
    parser.add_argument("--callers", type=int, default=1, help="callers that share the requests (default 1)")
    parser.add_argument("--dying", action="store_true", help=f"the key of {DYING} is revoked on the way")
    parser.add_argument(
        "--lowered", action="store_true", help="limits of some keys are halved on the way; headers tell"
    )
    parser.add_argument("--unknown", action="store_true", help="output lengths are not known in advance")
    chosen = parser.parse_args(arguments)
    setting = Setting(
        scale=chosen.scale or (SCALE_SHORT if chosen.short else 1.0),
        replicas=chosen.replicas,
        callers=chosen.callers,
        dying=chosen.dying,
        lowered=chosen.lowered,
        unknown=chosen.unknown,
    )
    on = report.machine()
    fast_loop()
    found = asyncio.run(measure(setting))
    report.publish(setting.name, short=setting.scale != 1.0, on=on, rows=rows_of(found), found=document(found, setting))
    head = ["key", "requests", "of its requests", "of its tokens", "last admitted"]
    print("\n" + report.table([head, *([name, *told] for name, told in found.by_key.items())]))
    tenths = [f"{number + 1}" for number in range(WINDOWS)]
    print("\nuse of the scarcer limit in each tenth of the run:")
    print(report.table([["key", *tenths], *([name, *told] for name, told in found.over_time.items())]))
    print(f"\nCPU seconds: {report.said(found.cpu_s)}", flush=True)
    if found.change_s is not None:
        print(f"changed after {found.change_s:.1f} s; refused by the simulator: {dict(found.refused)}")
    for answer in [answer for answer in found.answers if answer.status != 200][:5]:
        print(f"failed: {answer.status} after {answer.at_s:.1f} s: {answer.said}", file=sys.stderr)
    return 0 if found.refused_429 == 0 and found.failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
