"""``python -m app.simulator --config sim.yaml``: the simulator without the rest of the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from app.simulator.config import load_config
from app.simulator.server import run


def main() -> int:
    """Run the simulator until it is interrupted; 2 means that the configuration is wrong."""
    parser = argparse.ArgumentParser(prog="python -m app.simulator", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="what to simulate; see examples/sim.yaml")
    parser.add_argument("--host", help="overrides the configuration's host")
    parser.add_argument("--port", type=int, help="overrides the configuration's port; 0 takes a free one")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    changes = {name: getattr(arguments, name) for name in ("host", "port") if getattr(arguments, name) is not None}
    try:
        run(config.model_copy(update=changes))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
