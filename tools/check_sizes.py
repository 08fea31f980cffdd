"""Checks the house's sizes: modules of at most 500 lines, functions of at most 70; lists what is larger and exits 1.

Run as ``python tools/check_sizes.py``. Modules that hold only data (assignments, imports, docstrings) are exempt.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FOLDERS = ("app", "actors", "tests", "benchmarks", "tools")
ROOT = Path(__file__).resolve().parents[1]

_DATA = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)


def oversized(path: Path, name: str) -> Iterator[str]:
    """Yield a line of text for everything in the module at ``path`` that is too large; ``name`` is what to call it."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = source.count("\n") + (not source.endswith("\n") and bool(source))
    if lines > MODULE_LINES_MAX and not is_data(tree):
        yield f"{name}: {lines} lines, at most {MODULE_LINES_MAX}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES_MAX}"


def is_data(tree: ast.Module) -> bool:
    """Tell whether a module is a data table: no functions, no classes, no statements that do something."""
    return all(
        isinstance(node, _DATA) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in tree.body
    )


def check(root: Path, folders: Sequence[str] = FOLDERS) -> list[str]:
    """Return a line of text for everything under ``root`` that is too large."""
    return [
        line
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
        for line in oversized(path, path.relative_to(root).as_posix())
    ]


def main() -> int:
    """Print what is too large; 1 if anything is."""
    lines = check(ROOT)
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
