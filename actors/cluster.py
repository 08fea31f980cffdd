"""Starts and ends a private Ray cluster on this machine, or joins the one we were started in.

Called by ``app.serve`` and ``app.batch``; nothing else starts Ray. A cluster started here dies with its starter, even
after SIGKILL: Ray's reaper ends most of it, our watchdog the rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import ray

from actors import watchdog

ENVIRONMENT = {
    # No telemetry about users leaves their machine; quieter and faster start.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
SERVE_ENVIRONMENT = {
    # One HAProxy in front, replicas answer it directly: a twentieth of the CPU of Serve's own Python proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Handlers on the replica's own event loop, logs buffered.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Longer than the longest stream: a reload must not cut one.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
}
OBJECT_STORE_BYTES = 150 * 1024 * 1024
"""Our messages are small; Ray's default would claim 30 % of the machine's memory."""


_guard: subprocess.Popen[bytes] | None = None
_folder: tempfile.TemporaryDirectory[str] | None = None
"""Of HAProxy's configuration and socket."""


def _separate_serve(folder: Path) -> dict[str, str]:
    """Return settings that keep this cluster's HAProxy apart from that of another cluster on this machine."""
    fallback, stats, metrics = _free_ports(3)
    return {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def start_local(*, namespace: str) -> None:
    """Start a private cluster on loopback; blocks 3 to 8 s."""
    global _guard, _folder
    _folder = tempfile.TemporaryDirectory(prefix="tutti-haproxy-", ignore_cleanup_errors=True)
    for name, value in {**ENVIRONMENT, **SERVE_ENVIRONMENT, **_separate_serve(Path(_folder.name))}.items():
        os.environ.setdefault(name, value)
    # Ray listens on every interface of the machine: only who has this token may talk to it. ``ray.init`` demands it by
    # itself, unless RAY_AUTH_MODE says otherwise.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
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
    global _guard, _folder
    ray.shutdown()
    if _folder is not None:
        _folder.cleanup()
        _folder = None
    if _guard is not None:
        watchdog.close(_guard)
        _guard = None
