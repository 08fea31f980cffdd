"""The ready file is there exactly while the server is, and a killed server's file counts as none."""

from __future__ import annotations

import json
from pathlib import Path

from app.ready_file import NAME, ReadyFile, find_server


def test_the_file_is_there_while_the_server_is(tmp_path: Path) -> None:
    """Commands find the server by it, and must not find one that ended."""
    with ReadyFile(tmp_path, "http://127.0.0.1:8000"):
        assert find_server(tmp_path) == "http://127.0.0.1:8000"

    assert find_server(tmp_path) is None


def test_a_file_left_by_a_killed_server_counts_as_none(tmp_path: Path) -> None:
    """SIGKILL removes nothing: the pid tells."""
    (tmp_path / NAME).write_text(json.dumps({"url": "http://127.0.0.1:1", "pid": 2**22 + 1, "started": 0}))

    assert find_server(tmp_path) is None


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    """Half a file is no address."""
    (tmp_path / NAME).write_text('{"url": ')

    assert find_server(tmp_path) is None
