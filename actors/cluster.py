"""Starts and ends a private Ray cluster on this machine, or joins the one we were started in.

Called by ``app.serve`` and ``app.batch``; nothing else starts Ray. A cluster started here dies with its starter, even
after SIGKILL: Ray's reaper ends most of it, our watchdog the rest.
"""

from __future__ import annotations

import logging
import os
import subprocess
import uuid

import ray

from actors import watchdog

ENVIRONMENT = {
    # No telemetry about users leaves their machine; quieter and faster start.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A cluster of our own on loopback, reachable by this machine only, needs no token.
    "RAY_AUTH_MODE": "disabled",
}
OBJECT_STORE_BYTES = 150 * 1024 * 1024
"""Our messages are small; Ray's default would claim 30 % of the machine's memory."""


_guard: subprocess.Popen[bytes] | None = None


def start_local(*, namespace: str) -> None:
    """Start a private cluster on loopback; blocks 3 to 8 s."""
    global _guard
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray warns when it is started outside the main thread; the starter handles its signals itself.
    logging.getLogger("ray").setLevel(logging.ERROR)
    marker = uuid.uuid4().hex
    _guard = watchdog.start(marker)
    os.environ[watchdog.MARKER_NAME] = marker
    ray.init(
        address="local",
        namespace=namespace,
        num_cpus=max(2, os.cpu_count() or 2),
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    # This process must not carry its own cluster's marker on to what it starts later.
    del os.environ[watchdog.MARKER_NAME]
    watchdog.note_started(_guard)


def join(*, namespace: str) -> bool:
    """Join the cluster that this process runs in (a job, ``serve run``); False where there is none."""
    if ray.is_initialized():
        return True
    try:
        ray.init(address="auto", namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        return False
    return True


def stop() -> None:
    """Leave the cluster; ends it where this process started it."""
    global _guard
    ray.shutdown()
    if _guard is not None:
        watchdog.close(_guard)
        _guard = None
