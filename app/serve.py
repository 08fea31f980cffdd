"""Composition root: settings -> actors -> HTTP application -> Ray Serve.

Three ways in: ``local_desk`` (a private cluster for one command), ``serve_forever`` (`tutti serve`), and ``build``
(Ray's own ``serve run`` and ``serve deploy`` with serve_config.yaml). Decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import LoggingConfig

from actors import bootstrap, cluster
from actors.desk_handle import DeskHandle
from actors.handles import DirectoryHandle
from actors.lease import OneLease
from actors.store_handle import StoreHandle
from app import settings
from app.domain.accounts import Orchestra
from app.domain.errors import GatewayError
from app.domain.ports import Desk
from app.http.app import build_door
from app.http.gateway.mount import FrontDoor
from app.http.gateway.reading import DEADLINE_MAX_S
from app.listen_address import check_free
from app.ready_file import ReadyFile
from app.storage.data_dir import require_free

APPLICATION = "tutti"
DRAIN_TIMEOUT_S = 20.0
"""From the signal to the end: open requests first, then calls under way at the providers."""
DOOR_SHARE_S = 9.0
CALLS_SHARE_S = 8.0
PROXY_SHARE_S = 3.0
REPLICA_DRAIN_S = DEADLINE_MAX_S + 30.0
"""A replica that is replaced or not needed any more keeps its open requests for so long, but ends with the last of
them: no call takes longer. ``graceful_shutdown_timeout_s`` in serve_config.yaml says otherwise."""
DRAIN_LOOK_S = 0.2
HEALTH_LOOK_S = 2.0
"""A replica that was killed is missed after so long, instead of Serve's ten seconds."""
REQUESTS_AT_ONCE = 1_000
"""Open requests per replica; long event streams count."""

Progress = Callable[[str], None]


def door(namespace: str) -> type[Any]:
    """Return the Serve deployment class whose replicas answer HTTP for the actors in ``namespace``."""

    # A builder, not an application: a FastAPI application does not survive pickling.
    def build_asgi() -> FrontDoor:
        lease = OneLease(namespace)
        return build_door(
            lambda: DeskHandle(namespace),
            version=version("tutti"),
            gateway=lease.gateway,
            books_factory=lambda: StoreHandle(namespace),
            on_start=lease.begin,
            on_end=lease.aclose,
        )

    @serve.ingress(build_asgi)
    class Door:
        """One HTTP replica; keeps nothing that is not elsewhere, so any number may run and any may die."""

        async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
            """Apply a configuration given as ``user_config``; a wrong one fails the deployment, not the pool."""
            if user_config:
                await DirectoryHandle(namespace).apply_mapping(user_config)

    return Door


def application(namespace: str) -> Application:
    """Return the Serve application of the actors in ``namespace``."""
    deployment = serve.deployment(
        name="Door",
        num_replicas=1,
        max_ongoing_requests=REQUESTS_AT_ONCE,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=REPLICA_DRAIN_S,
        graceful_shutdown_wait_loop_s=DRAIN_LOOK_S,
        health_check_period_s=HEALTH_LOOK_S,
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )(door(namespace))
    return deployment.bind()


def build(arguments: Mapping[str, Any]) -> Application:
    """Build the application for serve_config.yaml.

    Args:
        arguments: ``config``: a path or an inline configuration; without it ``TUTTI_CONFIG`` or the usual places.
            ``namespace``: where the actors live, for several Tuttis on one cluster.
    """
    config = arguments.get("config")
    if isinstance(config, Mapping):
        orchestra = settings.load_mapping(config, source="serve_config.yaml")
    else:
        orchestra = settings.load(Path(str(config)) if config else None)
    namespace = str(arguments.get("namespace", bootstrap.NAMESPACE))
    asyncio.run(bootstrap.ensure(orchestra, namespace=namespace))
    return application(namespace)


@contextlib.asynccontextmanager
async def local_desk(
    orchestra: Orchestra, on_progress: Progress, also: Callable[[], Awaitable[None]] | None = None
) -> AsyncIterator[Desk]:
    """Start a private cluster with our actors, yield the desk, and end everything that was started.

    Args:
        orchestra: The configuration.
        on_progress: Told what is being started.
        also: Started on the cluster at the same time as the actors.

    Raises:
        ConflictError: another Tutti holds the data directory.
    """
    require_free(Path(orchestra.data_dir))
    on_progress("starting Ray on this machine")
    await asyncio.to_thread(
        cluster.start_local, namespace=bootstrap.NAMESPACE, metrics_port=orchestra.telemetry.metrics_port
    )
    try:
        on_progress(f"starting {len(orchestra.accounts)} account(s), store and conductor")
        beside = asyncio.ensure_future(also()) if also is not None else None
        desk = await bootstrap.ensure(orchestra, fresh=True, on_progress=on_progress)
        if beside is not None:
            await beside
        on_progress("ready")
        yield desk
    finally:
        on_progress("ending what was started")
        with contextlib.suppress(GatewayError):
            await bootstrap.end(timeout_s=CALLS_SHARE_S)
        await asyncio.to_thread(cluster.stop)


async def serve_until_signal(orchestra: Orchestra, *, host: str, port: int, on_progress: Progress) -> None:
    """Serve HTTP until SIGINT or SIGTERM, then drain and end what was started.

    Prints ``ready http://HOST:PORT`` on standard output when requests are accepted, and writes the ready file.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with local_desk(orchestra, on_progress, also=lambda: asyncio.to_thread(_start_http, host, port)):
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        url = f"http://{host}:{port}"
        metrics = [f"http://{address}:{port}/metrics" for address, port in cluster.metrics_ports()]
        with ReadyFile(Path(orchestra.data_dir), url, metrics):
            print(f"ready {url}", flush=True)  # noqa: T201  the promised line for scripts
            await stop.wait()
        on_progress(f"draining (at most {DRAIN_TIMEOUT_S:g} s); a second signal ends at once")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        await _end_http()


def serve_forever(orchestra: Orchestra, host: str, port: int, on_progress: Progress) -> None:
    """Run ``serve_until_signal`` to its end."""
    asyncio.run(serve_until_signal(orchestra, host=host, port=port, on_progress=on_progress))


def _start_http(host: str, port: int) -> None:
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    try:
        serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=HTTPOptions(host=host, port=port))
        serve.run(application(bootstrap.NAMESPACE), name=APPLICATION, route_prefix="/")
    except (RayError, RuntimeError, TimeoutError):
        # Between the first look and Serve's own bind lie seconds: somebody may have taken the port meanwhile.
        check_free(host, port)
        raise


async def _end_http() -> None:
    """Let open requests end, then end Serve: its own shutdown would end HAProxy first, and cut them all."""
    until_s = time.monotonic() + DOOR_SHARE_S
    with contextlib.suppress(RayError):
        await asyncio.to_thread(serve.delete, APPLICATION, _blocking=False)
        while time.monotonic() < until_s:
            if APPLICATION not in (await asyncio.to_thread(serve.status)).applications:
                break
            await asyncio.sleep(DRAIN_LOOK_S)
    await _within(serve.shutdown_async(), PROXY_SHARE_S)


async def _within(work: Awaitable[object], seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(work, seconds)
