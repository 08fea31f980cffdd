"""`tutti serve` with several HTTP replicas, for benchmarks: the same composition, one number changed.

python -m benchmarks.gateway_replicas CONFIG PORT REPLICAS
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from ray import serve

from app import serve as composition
from app import settings


def main() -> int:
    """Entry point; serves until a signal."""
    config, port, replicas = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    one = composition.application

    def several(namespace: str) -> serve.Application:
        bound = one(namespace)
        bound._bound_deployment = bound._bound_deployment.options(num_replicas=replicas)
        return bound

    composition.application = several
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    composition.serve_forever(settings.load(config), "127.0.0.1", port, lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
