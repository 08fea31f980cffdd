"""The files of the project as git knows them, and their modules parsed."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@cache
def tracked_files() -> tuple[Path, ...]:
    """Return every tracked file that exists."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30)
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return tuple(path for path in (ROOT / name for name in names) if path.is_file())


def tracked_texts() -> list[tuple[str, str]]:
    """Return (name, text) of every tracked text file."""
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found.append((path.relative_to(ROOT).as_posix(), content.decode("utf-8", errors="replace")))
    return found


def modules(*folders: str) -> list[tuple[str, ast.Module]]:
    """Return (name, syntax tree) of every tracked module in these folders."""
    return [
        (name, ast.parse(text))
        for name, text in tracked_texts()
        if name.endswith(".py") and name.split("/", 1)[0] in folders
    ]
