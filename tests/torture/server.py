"""`tutti serve` with several replicas that also answers, on its standard streams, what no HTTP route tells.

python -m tests.torture.server CONFIG PORT REPLICAS

Every line on standard input is answered by one line ``looked {…}``: the actors with their processes, and the views of
every account host, that of the callers' limits included.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import asdict
from typing import Any

import orjson
from ray._private import state

from actors.bootstrap import NAMESPACE
from actors.handles import DirectoryHandle, HostHandles
from app.domain.errors import GatewayError
from app.domain.hosting import CALLERS_HOST
from benchmarks import gateway_replicas


async def look() -> dict[str, Any]:
    """Return actors, hosts and views; what does not answer is named in ``silent``."""
    snapshot = await DirectoryHandle(NAMESPACE).watch(-1, 0.0)
    clients = HostHandles(NAMESPACE)
    hosts = sorted({*snapshot.hosts.values(), CALLERS_HOST})
    answers = await asyncio.gather(*(clients.views(host) for host in hosts), return_exceptions=True)
    views, silent = [], []
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, BaseException):
            silent.append(host)
        else:
            views += [asdict(view) for view in answer]
    return {"actors": await asyncio.to_thread(_actors), "hosts": dict(snapshot.hosts), "views": views, "silent": silent}


def _actors() -> list[dict[str, Any]]:
    return [
        {"name": found["Name"], "class": found["ActorClassName"], "pid": found["Pid"]}
        for found in state.actors().values()
        if found["State"] == "ALIVE"
    ]


def _answer() -> None:
    """Answer lines until the starter closes the pipe."""
    # Unbuffered: a thread that waits in the buffered reader cannot be left at the interpreter's end.
    with open(0, "rb", buffering=0, closefd=False) as questions:
        while questions.readline():
            try:
                seen = asyncio.run(look())
            except GatewayError as error:
                seen = {"error": error.message}
            print(f"looked {orjson.dumps(seen).decode()}", flush=True)


if __name__ == "__main__":
    threading.Thread(target=_answer, daemon=True).start()
    sys.exit(gateway_replicas.main())
