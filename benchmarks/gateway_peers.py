"""What is measured beside each other: Tutti, LiteLLM's proxy, Portkey's gateway, or nothing in between.

Peers are installed from their package registries into a folder outside the project, once, and found there again. Each
runs as its own process tree with one account at the benchmark's upstream, for as long as its context lasts.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import yaml

from benchmarks import processes
from benchmarks.gateway_upstream import MODEL
from benchmarks.stage import ROOT

KEY = "bench-key-1234"
LITELLM = "litellm[proxy]==1.106.*"
PORTKEY = {
    "private": True,
    "dependencies": {"@portkey-ai/gateway": "1.15"},
    "overrides": {"@hono/node-server": "1.3.3"},
}
"""With the oldest server library that it allows: with the newest, 1.19, it answers every stream with 500."""
INSTALL_S = 600.0
READY_S = 120.0
PORTS = range(20_000, 30_000)
PEERS_FOLDER = Path(tempfile.gettempdir()) / "tutti-bench-peers"


class PeerMissingError(Exception):
    """A peer cannot be installed or started here; the run goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A gateway that answers."""

    name: str
    url: str
    """Up to and including ``/v1``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    """The root of its process tree; None where there is nothing to measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How Tutti runs."""

    accounts: int = 2
    replicas: int = 1


@contextlib.contextmanager
def direct(upstream: str) -> Iterator[Target]:
    """Yield the upstream itself."""
    yield Target(name="direct", url=f"{upstream}/v1")


@contextlib.contextmanager
def tutti(upstream: str, setting: Setting) -> Iterator[Target]:
    """Run Tutti: one key with limits, accounts with limits, none of which bind."""
    limits = {"rpm": 600_000, "tpm": 600_000_000}
    document = {
        "accounts": [
            {
                "name": f"account-{number}",
                "provider": "openai",
                "base_url": f"{upstream}/v1",
                "api_key": f"sk-{number}",
                "models": [MODEL],
                "limits": limits,
            }
            for number in range(setting.accounts)
        ],
        "auth": {"keys": [{"name": "bench", "key": KEY, "limits": {name: 10 * own for name, own in limits.items()}}]},
    }
    with served(document, replicas=setting.replicas) as (url, pid):
        yield Target(name="tutti", url=f"{url}/v1", headers={"Authorization": f"Bearer {KEY}"}, pid=pid)


@contextlib.contextmanager
def served(document: Mapping[str, object], *, replicas: int = 1) -> Iterator[tuple[str, int]]:
    """Run Tutti's HTTP door with a configuration; yields its address and the root of its process tree."""
    with tempfile.TemporaryDirectory(prefix="tutti-bench-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        config = folder / "tutti.yaml"
        config.write_text(yaml.safe_dump({**document, "data_dir": str(folder / "data")}), encoding="utf-8")
        command = [sys.executable, "-m", "app.cli", "serve", "--config", str(config), "--port", str(port)]
        if replicas > 1:
            command = [sys.executable, "-m", "benchmarks.gateway_replicas", str(config), str(port), str(replicas)]
        url = f"http://127.0.0.1:{port}"
        with _running(command, folder=folder, environment=_environment(folder)) as process:
            _wait(process, f"{url}/readyz", folder)
            yield url, process.pid


@contextlib.contextmanager
def litellm(upstream: str) -> Iterator[Target]:
    """Run LiteLLM's proxy without a database; its master key is the one key."""
    program = _installed_litellm()
    with tempfile.TemporaryDirectory(prefix="tutti-bench-litellm-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        config = folder / "config.yaml"
        model = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "sk-0"}
        document = {
            "model_list": [{"model_name": MODEL, "litellm_params": model}],
            "general_settings": {"master_key": KEY},
            "litellm_settings": {"telemetry": False},
        }
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        environment = {**_environment(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
        with _running(command, folder=folder, environment=environment) as process:
            _wait(process, f"http://127.0.0.1:{port}/health/liveliness", folder)
            bearer = {"Authorization": f"Bearer {KEY}"}
            yield Target(name="litellm", url=f"http://127.0.0.1:{port}/v1", headers=bearer, pid=process.pid)


@contextlib.contextmanager
def portkey(upstream: str) -> Iterator[Target]:
    """Run Portkey's gateway; where to send is told by headers, as its clients do."""
    program = _installed_portkey()
    with tempfile.TemporaryDirectory(prefix="tutti-bench-portkey-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        command = ["node", str(program), f"--port={port}", "--headless"]
        environment = {**_environment(folder), "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
        with _running(command, folder=folder, environment=environment) as process:
            _wait(process, f"http://127.0.0.1:{port}/", folder)
            headers = {
                "Authorization": "Bearer sk-0",
                "x-portkey-provider": "openai",
                "x-portkey-custom-host": f"{upstream}/v1",
            }
            yield Target(name="portkey", url=f"http://127.0.0.1:{port}/v1", headers=headers, pid=process.pid)


def _installed_litellm() -> Path:
    program = PEERS_FOLDER / "litellm" / "bin" / "litellm"
    if not program.exists():
        folder = program.parents[1]
        _install([sys.executable, "-m", "venv", str(folder)])
        _install([str(folder / "bin" / "pip"), "install", "-q", LITELLM])
    return program


def _installed_portkey() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise PeerMissingError("node or npm is not installed")
    folder = PEERS_FOLDER / "portkey"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text(json.dumps(PORTKEY), encoding="utf-8")
        _install(["npm", "install", "--no-fund", "--no-audit", "--prefix", str(folder)])
    return program


def _install(command: Sequence[str]) -> None:
    PEERS_FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissingError(str(error)) from error
    if done.returncode:
        raise PeerMissingError(f"{' '.join(command[:4])}: {done.stderr.strip()[-300:]}")


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without keys or settings of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG", "SSL_CERT_FILE") if name in os.environ}
    return {**kept, "HOME": str(home), "TERM": "dumb"}


@contextlib.contextmanager
def _running(
    command: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process tree; ended in an orderly way, and gone before this returns: the next must not share cores."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
    try:
        yield process
    finally:
        started: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            started = processes.tree(process.pid)
        process.send_signal(signal.SIGTERM)
        giving_up = threading.Timer(60, process.kill)
        giving_up.start()
        process.wait()
        giving_up.cancel()
        psutil.wait_procs(started, timeout=30)


def _wait(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    """Wait until a URL answers 200: Serve says 404 before it is ready."""
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    raise PeerMissingError(f"did not come up: {log[-600:]}")


def free_port() -> int:
    """Return a port below those that systems hand out: Ray asks for dozens of them before ours is bound."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")
