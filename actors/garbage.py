"""How often an actor's process looks for garbage in cycles.

A request through the gateway leaves hundreds of short-lived objects and no cycle; with Python's own threshold of 700
the collector walks them several times a request. benchmarks/gateway.py shows the difference: a tenth of a replica's
CPU.
"""

from __future__ import annotations

import gc

YOUNG_MAX = 20_000
"""Objects made and not freed before the young ones are looked at: a few milliseconds a look."""
LOOKS_MIDDLE = 20
LOOKS_OLD = 50


def collect_rarely() -> None:
    """Leave out of every look what a process that has started keeps for good, and look less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, LOOKS_MIDDLE, LOOKS_OLD)
