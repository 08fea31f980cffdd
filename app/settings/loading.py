"""Finds the configuration and loads it: a file, plain data, the keys in the environment, or the embedded model.

The only place that reads files and the environment for the rest of the project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from app.domain.accounts import Orchestra
from app.settings.assembly import assemble
from app.settings.document import Document, from_mapping, parse_yaml
from app.settings.expansion import default_config_paths, default_data_dir, expand_document, expand_path
from app.settings.model_table import model_table
from app.settings.problems import ConfigurationProblems, Problem
from app.settings.provider_defaults import (
    DEFAULT_CONCURRENCY,
    DEFAULT_MODELS,
    EMBEDDED_ACCOUNT,
    EMBEDDED_CONCURRENCY,
    EMBEDDED_MODEL,
    KEY_VARIABLES,
)
from app.settings.references import check_data_dir, check_references
from app.settings.validation import validate_fields

CONFIG_VARIABLE = "TUTTI_CONFIG"
FILE_BYTES_MAX = 1_000_000
ENVIRONMENT = "environment"
EMBEDDED = "embedded model"


def load(path: Path | None = None, *, environ: Mapping[str, str] | None = None) -> Orchestra:
    """Load the configuration.

    Args:
        path: The file; None takes ``TUTTI_CONFIG``, else ``./tutti.yaml``, else ``~/.config/tutti/tutti.yaml``, else
            the keys in the usual environment variables, else the embedded model.
        environ: Environment variables; the process's own by default.

    Raises:
        ConfigurationProblems: it has mistakes; the error names all of them.
    """
    variables = os.environ if environ is None else environ
    found = path or find_config(variables)
    if found is None:
        return _without_file(variables)
    file = expand_path(str(found), variables, Path.cwd())
    orchestra = _orchestra(parse_yaml(_read(file)), source=str(file), environ=variables, base=file.parent)
    return replace(orchestra, config_path=str(file))


def load_text(text: str, *, source: str = "configuration", environ: Mapping[str, str] | None = None) -> Orchestra:
    """Load the configuration from YAML text; ``source`` names it in messages. Raises ConfigurationProblems."""
    variables = os.environ if environ is None else environ
    return _orchestra(parse_yaml(text), source=source, environ=variables, base=Path.cwd())


def load_mapping(
    document: Mapping[str, object], *, source: str = "inline", environ: Mapping[str, str] | None = None
) -> Orchestra:
    """Load the configuration from plain data, as Serve's ``user_config``. Raises ConfigurationProblems."""
    variables = os.environ if environ is None else environ
    return _orchestra(from_mapping(document), source=source, environ=variables, base=Path.cwd())


def find_config(environ: Mapping[str, str]) -> Path | None:
    """Return the file that is used when none is named; None where there is none."""
    named = environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named)
    return next((path for path in default_config_paths(environ) if path.exists()), None)


def _read(path: Path) -> str:
    source = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        problem = Problem(
            path="",
            message=f"the file cannot be read: {error.strerror}",
            remedy="name another with --config or TUTTI_CONFIG, or write one with `tutti init`",
        )
        raise ConfigurationProblems([problem], source=source) from None
    if len(content) > FILE_BYTES_MAX:
        problem = Problem(path="", message="the file is larger than a megabyte", remedy="name a configuration file")
        raise ConfigurationProblems([problem], source=source)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = Problem(path="", message="not UTF-8 text", remedy="save the file as UTF-8", line=line)
        raise ConfigurationProblems([problem], source=source) from None


def _orchestra(document: Document, *, source: str, environ: Mapping[str, str], base: Path) -> Orchestra:
    table = model_table()
    if document.problems and not document.data:
        raise ConfigurationProblems(document.problems, source=source)
    unreadable = len(document.problems)
    data, failed = expand_document(document, environ)
    file = validate_fields(document, data, failed)
    check_references(document, data, failed, table)
    written = data.get("data_dir")
    named = isinstance(written, str) and written.strip() and ("data_dir",) not in failed
    data_dir = expand_path(str(written).strip(), environ, base) if named else default_data_dir(environ)
    check_data_dir(document, data_dir)
    # Where a value could not even be read, what follows from its absence is not worth a line.
    unread = {problem.path for problem in document.problems[:unreadable]}
    document.problems[unreadable:] = [item for item in document.problems[unreadable:] if item.path not in unread]
    if document.problems or file is None:
        raise ConfigurationProblems(document.problems, source=source)
    return assemble(file, table=table, data_dir=data_dir, source=source)


def _without_file(environ: Mapping[str, str]) -> Orchestra:
    """Make accounts of the keys in the environment; without any, one of the embedded model."""
    accounts: list[dict[str, object]] = []
    variables: list[str] = []
    for provider, names in KEY_VARIABLES.items():
        variable = next((name for name in names if environ.get(name, "").strip()), None)
        if variable is not None:
            variables.append(variable)
            accounts.append(
                {
                    "name": provider.value,
                    "provider": provider.value,
                    "api_key": f"${{{variable}}}",
                    "models": list(DEFAULT_MODELS[provider]),
                    "limits": {"concurrency": DEFAULT_CONCURRENCY},
                }
            )
    if accounts:
        note = (
            f"No configuration file: accounts made from {', '.join(variables)}, {DEFAULT_CONCURRENCY} calls at once "
            "each; `tutti init` writes a file to set models and limits."
        )
        orchestra = load_mapping({"accounts": accounts}, source=ENVIRONMENT, environ=environ)
        return replace(orchestra, notes=(note, *orchestra.notes))
    embedded = {
        "name": EMBEDDED_ACCOUNT,
        "provider": "local",
        "models": [EMBEDDED_MODEL],
        "limits": {"concurrency": EMBEDDED_CONCURRENCY},
    }
    every = ", ".join(name for names in KEY_VARIABLES.values() for name in names)
    note = f"No configuration file and no key found (looked for {every})."
    orchestra = load_mapping({"accounts": [embedded]}, source=EMBEDDED, environ=environ)
    return replace(orchestra, notes=(note, *orchestra.notes))
