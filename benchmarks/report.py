"""Prints what a benchmark found as a table, with the machine, and keeps it as JSON under ``benchmarks/results``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson
import psutil
import ray

from app.domain.chat import Json

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Json]:
    """Return what a figure must be read with; the load is that before the run."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "ray": str(ray.__version__),
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def publish(
    name: str, *, short: bool, on: Mapping[str, Json], rows: Sequence[Sequence[str]], found: Mapping[str, Json]
) -> None:
    """Print a table and write the JSON file.

    Args:
        name: The benchmark.
        short: Whether this was its short form, which never overwrites the figures of a full run.
        on: From ``machine``, taken before the run.
        rows: Of the table; the first is its head.
        found: Everything measured.
    """
    print(f"\n{name}{' (short)' if short else ''}: {', '.join(f'{key} {value}' for key, value in on.items())}\n")
    print(table(rows), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{'-short' if short else ''}.json"
    document = {"benchmark": name, "short": short, "machine": dict(on), **found}
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as a Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def said(cpu_s: Mapping[str, float]) -> str:
    """Return CPU seconds by kind of process in one line, the small ones left out."""
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in cpu_s.items() if seconds >= 0.05)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
