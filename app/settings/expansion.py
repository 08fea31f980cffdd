"""Replaces ``${NAME}`` by environment variables in every text value, and ``~`` in paths.

``$$`` is a dollar sign; a dollar sign before anything but ``{`` or ``$`` is itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from app.domain.chat import Json
from app.settings.document import Document
from app.settings.problems import FieldPath

_DOLLAR = re.compile(r"\$(?:\$|\{([^}]*)(\}?))")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def expand_document(document: Document, environ: Mapping[str, str]) -> tuple[dict[str, Json], set[FieldPath]]:
    """Return the data with every reference replaced, and the fields where that failed (reported in ``document``)."""
    failed: set[FieldPath] = set()
    expanded = _expand(document.data, (), document, environ, failed)
    assert isinstance(expanded, dict), "a mapping stays one"
    return expanded, failed


def _expand(
    value: Json, path: FieldPath, document: Document, environ: Mapping[str, str], failed: set[FieldPath]
) -> Json:
    if isinstance(value, dict):
        return {key: _expand(item, (*path, key), document, environ, failed) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, (*path, index), document, environ, failed) for index, item in enumerate(value)]
    if not isinstance(value, str) or "$" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, closed = match.group(1), match.group(2)
        if name is None:
            return "$"
        problem = _problem_of(name, bool(closed), environ)
        if problem is None:
            return environ[name]
        failed.add(path)
        document.report(path, *problem)
        return match.group(0)

    return _DOLLAR.sub(replace, value)


def _problem_of(name: str, closed: bool, environ: Mapping[str, str]) -> tuple[str, str] | None:
    if not closed or not _NAME.fullmatch(name):
        return (
            "`${` must be followed by the name of an environment variable and `}`",
            "write ${NAME}, or $$ for a dollar sign",
        )
    if name not in environ:
        return f"the environment variable {name!r} is not set", f"export {name}=…, or write $$ for a dollar sign"
    if not environ[name].strip():
        return f"the environment variable {name!r} is empty", f"export {name}=…"
    return None


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Return where runs are kept when the configuration names no place: ``~/.local/share/tutti``."""
    return _home(environ) / ".local" / "share" / "tutti"


def default_config_paths(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where a configuration is looked for when none is named, in order."""
    return Path("tutti.yaml"), _home(environ) / ".config" / "tutti" / "tutti.yaml"


def expand_path(text: str, environ: Mapping[str, str], base: Path) -> Path:
    """Return the absolute path that ``text`` names; relative ones are relative to ``base``."""
    if text == "~" or text.startswith("~/"):
        return _home(environ) / text[2:]
    return Path(base / text).absolute()


def _home(environ: Mapping[str, str]) -> Path:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError:
        # A container's user without an entry in the password file; the data directory is always printed.
        return Path.cwd()
