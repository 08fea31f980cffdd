"""Names, namespace and options of our actors; the only place that calls ``ray.remote``.

All ways in on one Ray cluster call ``ensure`` and share the same detached actors, so two of them can never double a
limit. No CPUs are claimed: our actors wait for networks, and a cluster sized for other work must still hold them.

``max_task_retries`` stays 0 everywhere: Ray would re-submit paid calls; what is safe to repeat is repeated by us.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import time
from collections.abc import Callable
from typing import Any

import ray

from actors.desk_handle import DeskHandle
from actors.directory import Directory
from actors.event_handles import SpoolHandle
from actors.event_hub import EventHub
from actors.handles import DirectoryHandle, HostHandles
from actors.store_handle import StoreHandle
from app.domain.accounts import Orchestra
from app.domain.errors import GatewayError, InternalError
from app.domain.hosting import assign_hosts

NAMESPACE = "tutti"
STORE = "store"
DIRECTORY = "directory"
COORDINATOR = "coordinator"
EVENTS = "events"
LOG_SHIPPER = "log_shipper"

# By address: a process that only names an actor must not pay for importing what it needs (half a second of CPU each).
STORE_CLASS = "actors.store_actor:StoreActor"
DIRECTORY_CLASS = "actors.bootstrap:DirectoryActor"
COORDINATOR_CLASS = "actors.coordinator:Coordinator"
EVENTS_CLASS = "actors.event_log:EventLogActor"
LOG_SHIPPER_CLASS = "actors.log_shipper:LogShipperActor"
ACCOUNT_CLASS = "actors.account_actor:AccountActor"

CALLS_AT_ONCE = 1_000
"""Concurrent calls per actor: long polls of every way in, far below what one event loop bears."""
START_TIMEOUT_S = 60.0
"""An actor's process takes a second or two to start, on a busy machine many."""
END_TIMEOUT_S = 20.0
ALL_PATIENCE_S = 20.0
"""How long the first account that serves waits for the others: runs that begin with all of them are planned better."""
LOOK_S = 1.0

Progress = Callable[[str], None]


class RayHostFactory:
    """Creates and ends account actors on Ray."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    async def create(self, host: str) -> None:
        """Create the actor of that name, or find the living one."""
        await asyncio.to_thread(_create, ACCOUNT_CLASS, host, self._namespace, host, self._namespace)

    async def destroy(self, host: str) -> None:
        """End the actor for good; it was drained before."""
        await asyncio.to_thread(_kill, host, self._namespace)


class DirectoryActor(Directory):
    """The directory with its Ray clients; built inside the actor because clients do not travel."""

    def __init__(self, namespace: str) -> None:
        super().__init__(
            HostHandles(namespace),
            RayHostFactory(namespace),
            StoreHandle(namespace),
            EventHub(namespace, lambda: _create(LOG_SHIPPER_CLASS, LOG_SHIPPER, namespace, namespace)),
        )

    def __repr__(self) -> str:
        return "tutti directory"  # as Ray's dashboard and logs show it


async def ensure(
    orchestra: Orchestra, *, namespace: str = NAMESPACE, fresh: bool = False, on_progress: Progress | None = None
) -> DeskHandle:
    """Start our actors on the connected cluster, or find them; return the desk once accounts serve (``_serving``).

    A cluster that is already configured keeps its configuration: change it with a reload.

    Args:
        orchestra: The configuration.
        namespace: Where the actors live.
        fresh: Nothing of ours is on the cluster yet, so the account actors need not wait for the directory.
        on_progress: Told which accounts are still waited for.

    Raises:
        ConflictError: the data directory, or the store's database, is in use by another cluster.
        InternalError: an actor did not come up.
    """
    wanted = [
        (STORE_CLASS, STORE, (orchestra.data_dir, orchestra.store_url, namespace)),
        (DIRECTORY_CLASS, DIRECTORY, (namespace,)),
        (COORDINATOR_CLASS, COORDINATOR, (namespace,)),
        (EVENTS_CLASS, EVENTS, (orchestra.data_dir, orchestra.events)),
    ]
    factory = RayHostFactory(namespace)
    hosts = assign_hosts(orchestra, {}) if fresh else {}
    await asyncio.gather(
        *(asyncio.to_thread(_create, address, name, namespace, *arguments) for address, name, arguments in wanted),
        *(factory.create(host) for host in hosts),
    )
    store, directory = StoreHandle(namespace), DirectoryHandle(namespace)
    await asyncio.gather(store.ping(timeout_s=START_TIMEOUT_S), directory.start(orchestra))
    await _serving(directory, on_progress or (lambda _text: None))
    return DeskHandle(namespace)


async def _serving(directory: DirectoryHandle, on_progress: Progress) -> None:
    """Wait for the accounts: for all a moment, for the first one longer, for those that failed not at all.

    Whoever is missing then joins by itself as soon as it is up.
    """
    began_s, version, said = time.monotonic(), -1, ""
    while True:
        version = (await directory.watch(version, LOOK_S)).version
        word = (await directory.ready())["accounts"]
        waited_s = time.monotonic() - began_s
        some = word.startswith("ok")
        if word == "ok" or "starting" not in word or waited_s > (ALL_PATIENCE_S if some else START_TIMEOUT_S):
            if word != "ok":
                on_progress(f"accounts: {word}")
            return
        if word != said and waited_s > LOOK_S:
            on_progress(f"accounts: {word}")
            said = word


async def end(*, namespace: str = NAMESPACE, timeout_s: float = END_TIMEOUT_S) -> None:
    """Drain and end our actors: accounts finish what they have begun and save their limiter states."""
    directory, store = DirectoryHandle(namespace), StoreHandle(namespace)
    hosts: list[str] = []
    try:
        snapshot = await directory.watch(-1, 0.0)
        starting = assign_hosts(snapshot.orchestra, {}) if snapshot.orchestra is not None else {}
        hosts = sorted({*snapshot.hosts.values(), *starting})
        await directory.drain(timeout_s)
    except GatewayError:
        pass  # what cannot be drained any more is ended below
    for name in (COORDINATOR, *hosts, DIRECTORY, LOG_SHIPPER):
        await asyncio.to_thread(_kill, name, namespace)
    for name, closing in ((STORE, store.close), (EVENTS, SpoolHandle(namespace).close)):
        with contextlib.suppress(GatewayError):
            await closing()
        await asyncio.to_thread(_kill, name, namespace)


def _create(address: str, name: str, namespace: str, *arguments: object) -> None:
    module, _, class_name = address.partition(":")
    actor: type[Any] = getattr(importlib.import_module(module), class_name)
    try:
        ray.remote(actor).options(
            name=name,
            namespace=namespace,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=CALLS_AT_ONCE,
            num_cpus=0,
        ).remote(*arguments)
    except ray.exceptions.RayError as error:
        raise InternalError(f"the actor {name} could not be created ({type(error).__name__})") from None


def _kill(name: str, namespace: str) -> None:
    try:
        ray.kill(ray.get_actor(name, namespace), no_restart=True)
    except ValueError:
        return  # not there: nothing to end
