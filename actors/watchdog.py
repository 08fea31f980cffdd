"""Ends what a private cluster started when its starter is gone, however it went.

Ray's own reaper leaves two agents of the raylet behind after SIGKILL. Every process of the cluster inherits a marker in
its environment; this process (one per private cluster, in a session of its own) waits on a pipe that closes when the
starter ends, and then ends every process that carries the marker, or that was a descendant of the starter when the
cluster was up (the agents overwrite their environment with their title). It touches nothing else.

Run by ``actors.cluster`` as ``python -m actors.watchdog MARKER`` with the pipe as standard input.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time

import psutil

MARKER_NAME = "TUTTI_CLUSTER_MARKER"
GRACE_S = 3.0
"""How long an orderly end may take before the marked processes are told to end."""
TERMINATE_S = 3.0


def start(marker: str) -> subprocess.Popen[bytes]:
    """Start the watchdog for this process; it acts when this process ends or closes the pipe."""
    environment = {name: value for name, value in os.environ.items() if name != MARKER_NAME}
    return subprocess.Popen(
        [sys.executable, "-m", "actors.watchdog", marker],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )


def note_started(guard: subprocess.Popen[bytes]) -> None:
    """Tell the watchdog that the cluster is up, so that it notes the descendants of this process."""
    assert guard.stdin is not None
    guard.stdin.write(b".")
    guard.stdin.flush()


def close(guard: subprocess.Popen[bytes]) -> None:
    """Let the watchdog end whatever is left, without waiting for it."""
    assert guard.stdin is not None
    guard.stdin.close()


class Prey:
    """The processes of one cluster."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._noted: set[psutil.Process] = set()

    def note_descendants(self, starter_pid: int) -> None:
        """Remember what descends from the starter now, this watchdog aside."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(starter_pid).children(recursive=True):
                if process.pid != os.getpid():
                    self._noted.add(process)

    def living(self) -> set[psutil.Process]:
        """Return those that still run; a reused pid is another process to psutil, which compares start times."""
        found = {process for process in self._noted if process.is_running() and not _is_zombie(process)}
        for process in psutil.process_iter():
            # Gone meanwhile, or not ours to look at: then not ours to end either.
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARKER_NAME) == self._marker:
                    found.add(process)
        return found

    def end(self) -> None:
        """End them: a moment to go by themselves, then SIGTERM, then SIGKILL."""
        self._wait(GRACE_S)
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.terminate()
        self._wait(TERMINATE_S)
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.living() and time.monotonic() < deadline:
            time.sleep(0.2)


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True


def main() -> None:
    """Wait for the pipe to close, then clean up."""
    prey = Prey(sys.argv[1])
    starter_pid = os.getppid()
    while sys.stdin.buffer.read(1):
        prey.note_descendants(starter_pid)
    prey.end()


if __name__ == "__main__":
    main()
