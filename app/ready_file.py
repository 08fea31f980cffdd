"""The data directory's ready file: tells commands on this machine where the running server listens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "ready.json"


class ReadyFile:
    """Writes the file for as long as the server accepts requests.

    Args:
        data_dir: The server's data directory.
        url: Where it listens.
        metrics: Where its metrics stand.
    """

    def __init__(self, data_dir: Path, url: str, metrics: Sequence[str] = ()) -> None:
        self._path = data_dir / NAME
        self._url = url
        self._metrics = list(metrics)

    def __enter__(self) -> ReadyFile:
        about = {"url": self._url, "pid": os.getpid(), "started": time.time(), "metrics": self._metrics}
        text = json.dumps(about)
        partial = self._path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)


def find_server(data_dir: Path) -> str | None:
    """Return the URL of the server that runs on ``data_dir``; a file left by a killed server counts as none."""
    try:
        return str(_found(data_dir)["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_metrics(data_dir: Path) -> tuple[str, ...]:
    """Return where the metrics of the server on ``data_dir`` stand; none where no server runs."""
    try:
        return tuple(map(str, _found(data_dir)["metrics"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _found(data_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data_dir / NAME).read_text(encoding="utf-8"))
    os.kill(int(found["pid"]), 0)
    return found
