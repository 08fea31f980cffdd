"""The torture of events: tellers, keeper and shipper killed with -9 at random, every request may be spoiled, and
Elasticsearch is stopped, made read-only, killed and started again; at the end every acknowledged event is there exactly
once.

python -m tests.torture.events [--seconds N] [--seed N]; exits with 1 where one is missing or twice.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.errors import GatewayError
from tests.fakes.elastic_faults import faulty_elastic
from tests.fakes.event_socket import SocketSpool
from tests.fixtures.elasticsearch_server import ElasticsearchServer, running_elasticsearch
from tests.torture.events_life import PREFIX, SOCKET, STOP

CAST = {"keeper": "keeper", "teller 1": "teller", "teller 2": "teller", "shipper": "shipper"}
DRAIN_WITHIN_S = 150.0
FAULTY_EVERY = 3
KILLS_MIN = 2
"""Of each role, and spoiled requests, however long that takes on a busy machine, within ``PATIENCE_S`` more."""
PATIENCE_S = 150.0
Say = Callable[[str], None]


@dataclass
class Torture:
    """What was done, and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: set[str] = field(default_factory=set)
    stored: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    """Events in all bulk requests that reached the proxy."""
    drained_s: float = 0.0

    @property
    def missing(self) -> set[str]:
        """Acknowledged, and not there."""
        return self.acknowledged - set(self.stored)

    @property
    def twice(self) -> list[str]:
        """In more than one document."""
        return [name for name, count in self.stored.items() if count > 1]

    def lines(self) -> list[str]:
        """Return the figures for people."""
        told = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        faults = ", ".join(f"{name}: {count}" for name, count in self.faults.most_common())
        return [
            f"{sum(self.kills.values())} disturbances ({told})",
            f"{sum(self.faults.values())} spoiled requests ({faults})",
            f"{len(self.acknowledged)} events acknowledged, {len(self.stored)} in Elasticsearch, "
            f"{self.sent} sent; drained in {self.drained_s:.1f} s",
            f"missing: {len(self.missing)}; twice: {len(self.twice)}",
        ]


class _Stage:
    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._processes = {name: self._start(role) for name, role in CAST.items()}

    def kill(self, name: str) -> None:
        """Kill it with -9 and start it again."""
        self._processes[name].kill()
        self._processes[name].wait()
        self._processes[name] = self._start(CAST[name])

    def alive(self) -> list[str]:
        """Return who is about its work; nobody may have ended by itself."""
        for name, one in self._processes.items():
            log = (self._folder / f"{CAST[name]}.log").read_text()
            assert one.poll() is None, f"the {name} ended by itself:\n{log[-3000:]}"
        return [name for name, one in self._processes.items() if (self._folder / f"alive-{one.pid}").exists()]

    def end_tellers(self) -> None:
        """Let them end after what they are about to tell."""
        (self._folder / STOP).touch()
        for name, role in CAST.items():
            if role == "teller":
                self._processes[name].wait(60)

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.torture.events_life", role, str(self._folder), self._url]
        with (self._folder / f"{role}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)


def torture(server: ElasticsearchServer, *, seconds: float, seed: int, restarts: int, say: Say = print) -> Torture:
    """Play it.

    Args:
        server: The real one; it is stopped, and ``restarts`` times ended and started again.
        seconds: How long it is disturbed; longer where the machine is too busy for anything to happen.
        seed: Of the disturbances.
        restarts: Of Elasticsearch; each takes as long as its start.
        say: Told what is done.
    """
    result = Torture()
    with tempfile.TemporaryDirectory(prefix="tutti-torture-") as name, faulty_elastic(server.url) as proxy:
        folder = Path(name)
        proxy.in_turn(seed, FAULTY_EVERY)
        result.faults = proxy.played
        stage = _Stage(folder, proxy.url)
        try:
            _disturb(server, stage, random.Random(seed), seconds, restarts, result, say)
            stage.end_tellers()
            proxy.chooser = lambda: None
            began_s = time.monotonic()
            asyncio.run(_drained(SocketSpool(str(folder / SOCKET))))
            result.drained_s = time.monotonic() - began_s
        finally:
            stage.end()
        for file in folder.glob("acknowledged-*"):
            result.acknowledged.update(file.read_text().split())
        result.sent = proxy.events
    result.stored.update(server.ids(f"{PREFIX}-*"))
    return result


def _disturb(
    server: ElasticsearchServer,
    stage: _Stage,
    chance: random.Random,
    seconds: float,
    restarts: int,
    result: Torture,
    say: Say,
) -> None:
    until_s = time.monotonic() + seconds
    ends = sorted(chance.uniform(0.2, 0.8) * seconds for _ in range(restarts))
    began_s = time.monotonic()
    while time.monotonic() < until_s or (_too_few(result) and time.monotonic() < until_s + PATIENCE_S):
        time.sleep(chance.uniform(0.15, 0.7))
        if ends and time.monotonic() - began_s > ends[0]:
            ends.pop(0)
            say("Elasticsearch is killed and started again")
            before_s = time.monotonic()
            server.stop(chance.choice([signal.SIGKILL, signal.SIGTERM]))
            stage.kill("shipper")
            server.start()
            until_s += time.monotonic() - before_s
            result.kills["Elasticsearch ended"] += 1
        elif chance.random() < 0.08:
            server.pause()
            time.sleep(chance.uniform(0.5, 3.0))
            server.resume()
            result.kills["Elasticsearch SIGSTOP"] += 1
        elif chance.random() < 0.08 and _read_only(server, True):
            time.sleep(chance.uniform(0.5, 3.0))
            assert _read_only(server, False), "the indices stay read-only"
            result.kills["Elasticsearch read-only"] += 1
        else:
            able = stage.alive()
            victim = chance.choice(list(CAST))
            if victim in able:
                stage.kill(victim)
                result.kills[CAST[victim]] += 1


def _read_only(server: ElasticsearchServer, blocked: bool) -> bool:
    """Do to all indices what a server does where its disk fills, or undo it; return whether there was any."""
    body = {"index.blocks.read_only_allow_delete": blocked or None}
    query = {"allow_no_indices": "false", "expand_wildcards": "open"}
    return server.http.put(f"/{PREFIX}-*/_settings", json=body, params=query).status_code == 200


def _too_few(result: Torture) -> bool:
    """Tell whether a busy machine has let too little happen so far."""
    return min(sum(result.faults.values()), *(result.kills[role] for role in CAST.values())) < KILLS_MIN


async def _drained(spool: SocketSpool) -> None:
    async with asyncio.timeout(DRAIN_WITHIN_S):
        while True:
            with contextlib.suppress(GatewayError):  # the keeper may be about to come up
                if not (await spool.backlog()).count:
                    return
            await asyncio.sleep(0.2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.events", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of disturbances (default 60)")
    parser.add_argument("--seed", type=int, help="decides them (default: a new one each time)")
    chosen = parser.parse_args(arguments)
    seed = chosen.seed if chosen.seed is not None else random.randrange(1_000_000)
    print(f"torture of events: {chosen.seconds:g} s, seed {seed}", flush=True)
    with running_elasticsearch() as server:
        result = torture(server, seconds=chosen.seconds, seed=seed, restarts=max(1, int(chosen.seconds // 30)))
    print("\n".join(result.lines()), flush=True)
    return 0 if result.acknowledged and not result.missing and not result.twice else 1


if __name__ == "__main__":
    sys.exit(main())
