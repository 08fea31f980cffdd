"""Rules of the house that a look at the sources decides."""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath

from tests.architecture.tracked import modules, tracked_texts

ENVIRONMENT_READERS = {
    "actors/watchdog.py": "starts the watchdog without the marker by which it finds a killed starter's processes",
    "actors/cluster.py": "sets Ray's own variables before Ray starts, and the marker; Ray reads them from the process",
    "app/cli.py": "typer declares TUTTI_SERVER and TUTTI_DEBUG beside the options that they stand for",
    "app/terminal/options.py": "typer declares variables beside the options that they stand for: servers, a password",
}
"""Modules outside app/settings that may touch the environment, each with its reason."""

_ENVIRONMENT_NAMES = frozenset({"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"})
_VAGUE_NAMES = frozenset({"utils.py", "helpers.py", "common.py", "manager.py"})
# One-letter classes keep these patterns from matching this page.
_OPEN_ENDS = re.compile(r"\b(?:TO[D]O|FIX[M]E)\b(?!\s*\(?#\d+)")
_MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|root|Users)/[\w.]|\b[A-Z]:\\Users\\")
_REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi[.]org|pythonhosted[.]org|registry[.](?:npmjs[.]org|yarnpkg[.]com)|crates[.]io|proxy[.]golang[.]org"
    r"|artifac[t]ory|nexus[.])",
    re.IGNORECASE,
)
_OPEN_END, _HOME = "# TO-DO".replace("-", ""), "/".join(("", "root", ".cache"))


def touches_environment(tree: ast.Module) -> bool:
    """Tell whether a module reads or changes environment variables, itself or through typer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in _ENVIRONMENT_NAMES:
            if isinstance(node.value, ast.Name) and node.value.id == "os":
                return True
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            if any(alias.name in _ENVIRONMENT_NAMES for alias in node.names):
                return True
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            return True
    return False


def test_environment_is_read_in_settings_only() -> None:
    """One reader, so that one page lists every variable; a reason that no longer holds is removed."""
    readers = {name for name, tree in modules("app", "actors") if touches_environment(tree)}
    elsewhere = {name for name in readers if not name.startswith("app/settings")}

    assert any(name.startswith("app/settings/") for name in readers)
    assert elsewhere == set(ENVIRONMENT_READERS)


def test_touches_environment_sees_every_way() -> None:
    """The check itself: what it must find, and what it must not."""
    for text in (
        "import os\nos.environ['A']",
        "import os\nx = os.getenv('A')",
        "from os import environ",
        "typer.Option(envvar='A')",
        "def f():\n    return dict(os.environ)",
    ):
        assert touches_environment(ast.parse(text)), text
    for text in ("import os\nos.cpu_count()", "from os import path", "self.environ", "def f(environ): return environ"):
        assert not touches_environment(ast.parse(text)), text


def test_modules_are_named_after_what_they_do() -> None:
    """A vague name collects unrelated things."""
    vague = [name for name, _ in tracked_texts() if PurePosixPath(name).name in _VAGUE_NAMES]

    assert vague == []


def test_open_ends_name_their_issue() -> None:
    """What is left undone is found in the list of issues, not by accident."""
    found = _lines_with(_OPEN_ENDS)

    assert _OPEN_ENDS.search(f"{_OPEN_END}: later")
    assert not _OPEN_ENDS.search(f"{_OPEN_END}(#12): later")
    assert found == []


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    """A clone must work elsewhere: no paths of the machine it was written on, no addresses of package registries."""
    assert _MACHINE_PATHS.search(f"see {_HOME}")
    assert not _MACHINE_PATHS.search("https://example.com/work/item")
    assert _REGISTRY_HOSTS.search(".".join(("https://files", "pythonhosted", "org/x")))
    assert _lines_with(_MACHINE_PATHS) == []
    assert _lines_with(_REGISTRY_HOSTS) == []


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]
