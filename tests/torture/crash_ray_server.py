"""`tutti serve` whose processes can be told to kill each other at a named point, for crashes on a real Ray cluster.

python -m tests.torture.crash_ray_server CONFIG PORT

Takes commands on standard input, a JSON object a line, and answers each with a line of JSON. ``{"pids": true}`` tells
the processes of the actors by name; ``{"arm": NAME, "point": POINT, "passing": 1, "victim": NAME}`` has the actor NAME
kill the victim's process when it passes the point so manyth. Points are armed from outside and not by
``TUTTI_CRASH_AT``: one cluster can then play many deaths, and what is started anew lives.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray._private import state

from actors.bootstrap import NAMESPACE
from app import serve as composition
from app import settings

ANSWER_S = 60.0
REPLICA = "SERVE_REPLICA"
SERVE_PREFIX = "SERVE_"
SERVE_NAMESPACE = "serve"


def main() -> int:
    """Entry point; serves until a signal."""
    config, port = Path(sys.argv[1]), int(sys.argv[2])
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    threading.Thread(target=obey, daemon=True).start()
    composition.serve_forever(settings.load(config), "127.0.0.1", port, lambda line: print(line, file=sys.stderr))
    return 0


def obey() -> None:
    """Carry out commands until standard input ends."""
    # Unbuffered: a thread that waits in the buffered reader cannot be left at the interpreter's end.
    with open(0, "rb", buffering=0, closefd=False) as commands:
        while line := commands.readline():
            try:
                answer = carry_out(json.loads(line))
            except Exception as error:  # noqa: BLE001  whatever it was, the test is told
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


def carry_out(command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command."""
    pids = living()
    match command:
        case {"pids": True}:
            return {"pids": pids}
        case {"arm": name, "point": point, "passing": passing, "victim": victim}:
            return {"armed": _in_actor(name, arm_at, point, passing, pids[victim])}
        case {"disarm": name}:
            # Ray's own actors beside ours have no such points, and need not be asked.
            ours = name.startswith(REPLICA) or not name.startswith(SERVE_PREFIX)
            return {"disarmed": _in_actor(name, arm_at, "", 1, 0) if ours else 0}
    return {"error": "no such command"}


def _in_actor(name: str, function: Callable[..., int], *arguments: object) -> int:
    """Run a function in the process of an actor."""
    actor = ray.get_actor(name, SERVE_NAMESPACE if name.startswith(REPLICA) else NAMESPACE)
    return int(ray.get(actor.__ray_call__.remote(function, *arguments), timeout=ANSWER_S))


def living() -> dict[str, int]:
    """Return the processes of all actors that live, by name."""
    return {
        str(found["Name"]): int(found["Pid"])
        for found in state.actors().values()
        if found["State"] == "ALIVE" and found["Name"]
    }


def arm_at(_actor: object, point: str, passing: int, victim: int) -> int:
    """Runs in the actor: kill process ``victim`` at the given passing of ``point``; return the actor's process."""
    import os
    import signal

    from app.domain import crash_points

    left = passing

    def kill(passed: crash_points.CrashPoint) -> None:
        nonlocal left
        if passed.value == point:
            left -= 1
            if not left:
                os.kill(victim, signal.SIGKILL)

    crash_points.arm(kill)
    return os.getpid()


if __name__ == "__main__":
    sys.exit(main())
