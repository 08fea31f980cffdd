"""`tutti serve` with several replicas that a test redeploys while it runs: the same composition, options changed.

python -m tests.acceptance.gateway_cluster --replicas 2 --config FILE --port PORT

Takes commands on standard input, a JSON object a line, and answers each with a line of JSON: ``{"deploy": {…}}``
deploys the door again with other options, ``{"deploy": {}, "version": "2"}`` as another version, so that every replica
is replaced; ``{"pid_of": NAME}`` tells an actor's process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import ray
from ray import serve

from actors import bootstrap
from app import serve as composition
from app import settings

_application = composition.application
_options: dict[str, Any] = {}
_versions = ["1"]


def main() -> int:
    """Entry point; serves until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    _options["num_replicas"] = arguments.replicas
    composition.application = with_options
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    threading.Thread(target=obey, daemon=True).start()
    composition.serve_forever(settings.load(arguments.config), "127.0.0.1", arguments.port, tell)
    return 0


def with_options(namespace: str) -> serve.Application:
    """Return the product's application with the options of this cluster."""
    bound = _application(namespace)
    deployment = bound._bound_deployment.options(**_options)
    # `serve deploy` finds the version by itself from the configuration; without one ``serve.run`` replaces everything.
    deployment._version = _versions[-1]
    bound._bound_deployment = deployment
    return bound


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
    match command:
        case {"deploy": options}:
            _options.update(options)
            _versions.append(command.get("version", _versions[-1]))
            serve.run(with_options(bootstrap.NAMESPACE), name=composition.APPLICATION, route_prefix="/")
            return {"deployed": options}
        case {"pid_of": name}:
            actor = ray.get_actor(name, bootstrap.NAMESPACE)
            return {"pid": ray.get(actor.__ray_call__.remote(lambda _self: os.getpid()), timeout=30)}
    return {"error": "no such command"}


def tell(line: str) -> None:
    """Show progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
