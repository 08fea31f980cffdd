"""A process joins the cluster that is named to it, and finds out in seconds that there is none any more."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray

JOIN = """
from actors import cluster
from app.domain.errors import ConfigurationError
try:
    print(cluster.join(namespace="tutti"))
except ConfigurationError as error:
    print("refused:", error.message, error.remedy)
"""
JOIN_WITHIN_S = 30.0
"""To find out that an address is stale, Ray's import on a busy machine included; Ray alone takes two minutes."""


class NotRay(BaseHTTPRequestHandler):
    """Something else that took the port of a cluster that is gone."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def join(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Say whether a process with this environment joins a cluster; no other `ray start` is recorded in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", JOIN],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "RAY_TMPDIR": str(folder), **variables},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=JOIN_WITHIN_S,
        check=False,
    )


@pytest.mark.parametrize("named", [True, False], ids=["RAY_ADDRESS", "recorded"])
@pytest.mark.parametrize("there", ["nothing", "silence", "http"])
def test_stale_address_is_no_cluster(tmp_path: Path, there: str, named: bool) -> None:
    """Whatever took the port of a cluster that is gone: no hang, no traceback, and the stale address is named."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        nothing = gone.getsockname()[1]
    with ThreadingHTTPServer(("127.0.0.1", 0), NotRay) as http, socket.create_server(("127.0.0.1", 0)) as silence:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        ports = {"nothing": nothing, "silence": silence.getsockname()[1], "http": http.server_port}
        address = f"127.0.0.1:{ports[there]}"
        if not named:
            (tmp_path / "ray").mkdir()
            (tmp_path / "ray" / "ray_current_cluster").write_text(address, encoding="utf-8")
        try:
            joined = join(tmp_path, **({"RAY_ADDRESS": address} if named else {}))
        finally:
            http.shutdown()

    assert joined.stdout == "False\n", joined.stderr
    assert address in joined.stderr
    assert "Traceback" not in joined.stderr


@pytest.mark.ray
def test_cluster_that_nobody_named_is_not_joined(ray_cluster: None, tmp_path: Path) -> None:
    """The cluster of these tests runs on this machine and is no business of a process that was not told of it."""
    assert join(tmp_path).stdout == "False\n"


@pytest.mark.ray
def test_cluster_that_wants_a_token_says_so(ray_cluster: None, tmp_path: Path) -> None:
    """Named but refusing us: to start another in silence would be to ignore what the user said."""
    refused = join(tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address)

    assert refused.stdout.startswith("refused: "), refused.stderr
    assert "RAY_AUTH_MODE=token" in refused.stdout
    assert "Traceback" not in refused.stderr


@pytest.mark.ray
def test_cluster_that_is_named_is_joined(ray_cluster: None, tmp_path: Path) -> None:
    """With its address and its token."""
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
    joined = join(tmp_path, RAY_ADDRESS=ray.get_runtime_context().gcs_address, **token)

    assert joined.stdout == "True\n", joined.stderr
