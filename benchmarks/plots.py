"""Draws what the benchmarks have found: reads ``benchmarks/results/*.json``, writes an SVG beside each.

Plain text without a library, so that the same figures make the same file: `python -m benchmarks.plots`.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from benchmarks.report import RESULTS

WIDTH, ROW, LABEL, PLOT_HEIGHT = 760, 24, 250, 220
COLOURS = ("#3465a4", "#f57900", "#4e9a06", "#75507b", "#cc0000", "#c4a000", "#06989a", "#555753")

Bars = Sequence[tuple[str, float, str]]
"""(label, value, text at its end) each."""
Lines = Mapping[str, Sequence[tuple[float, float]]]


def bars(title: str, rows: Bars, *, y: int) -> tuple[str, int]:
    """Return a chart of horizontal bars from height ``y``, and the height where it ends."""
    most = max((value for _label, value, _text in rows), default=0.0) or 1.0
    parts = [_text(10, y + 16, title, bold=True)]
    for number, (label, value, said) in enumerate(rows):
        top = y + 28 + number * ROW
        width = (WIDTH - LABEL - 130) * max(0.0, value) / most
        parts.append(_text(LABEL - 8, top + 13, label, anchor="end"))
        colour = COLOURS[0] if label.startswith("tutti") else COLOURS[-1]
        parts.append(f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{ROW - 8}" fill="{colour}"/>')
        parts.append(_text(int(LABEL + width) + 6, top + 13, said))
    return "\n".join(parts), y + 28 + len(rows) * ROW + 16


def lines(title: str, series: Lines, *, y: int, unit: str) -> tuple[str, int]:
    """Return a chart of lines from height ``y``, beginning at zero, and the height where it ends."""
    points = [point for line in series.values() for point in line]
    most_x = max((x for x, _value in points), default=0.0) or 1.0
    most_y = max((value for _x, value in points), default=0.0) or 1.0
    left, top, width = 60, y + 28, WIDTH - 220
    parts = [_text(10, y + 16, title, bold=True), _text(left - 6, top + 8, f"{most_y:.4g} {unit}", anchor="end")]
    parts.append(
        f'<path d="M{left} {top}V{top + PLOT_HEIGHT}H{left + width}" fill="none" stroke="#888"/>'
        + _text(left - 6, top + PLOT_HEIGHT, "0", anchor="end")
        + _text(left + width, top + PLOT_HEIGHT + 14, f"{most_x:.6g}", anchor="end")
    )
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(
            f"{left + width * x / most_x:.1f},{top + PLOT_HEIGHT - PLOT_HEIGHT * value / most_y:.1f}"
            for x, value in line
        )
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(left + width + 12, top + 12 + number * 18, name, colour=colour))
    return "\n".join(parts), top + PLOT_HEIGHT + 30


def _text(x: int, y: int, words: str, *, anchor: str = "start", bold: bool = False, colour: str = "#222") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight} fill="{colour}">{html.escape(words)}</text>'


def _gateway(found: Mapping[str, Any]) -> list[Callable[[int], tuple[str, int]]]:
    """Return the charts of the gateway beside its peers."""
    targets = {name: each["parts"] for name, each in found["targets"].items() if name != "direct"}
    charts = []
    for part in ("32", "128"):
        rows = [
            (name, 1e3 * parts[part]["cpu_s"] / parts[part]["answered"], "")
            for name, parts in targets.items()
            if part in parts and parts[part]["answered"]
        ]
        if rows:
            said = [(name, value, f"{value:.2f} CPU s") for name, value, _text in rows]
            charts.append(_bars(f"CPU seconds for 1 000 requests, {part} connections", said))
    chunks = [
        (name, 1e6 * parts["spread"]["cpu_s"] / parts["spread"]["chunks"])
        for name, parts in targets.items()
        if parts.get("spread", {}).get("chunks")
    ]
    charts.append(_bars("CPU of a streamed chunk", [(name, value, f"{value:.0f} µs") for name, value in chunks]))
    if "direct" in found["targets"]:
        direct = found["targets"]["direct"]["parts"]["1"]["median_s"]
        added = [(name, 1e3 * (parts["1"]["median_s"] - direct)) for name, parts in targets.items()]
        charts.append(_bars("added latency, 1 connection, median", [(n, v, f"{v:.2f} ms") for n, v in added]))
    return charts


def _pool(found: Mapping[str, Any]) -> list[Callable[[int], tuple[str, int]]]:
    """Return how a pool was used over the time of the run, and its makespan beside the bounds."""
    spans = [
        ("bound, the provider's buckets", found["provider_bound_s"]),
        ("bound, our buckets", found["bound_s"]),
        ("tutti", found["makespan_s"]),
    ]
    use = {
        key: [(number + 0.5, float(share.rstrip("%"))) for number, share in enumerate(shares)]
        for key, shares in found["over_time"].items()
    }
    title = "use of each key's scarcer limit, by tenth of the run"
    return [
        _bars(f"makespan of {found['tasks']} requests", [(name, value, f"{value:.1f} s") for name, value in spans]),
        lambda y: lines(title, use, y=y, unit="%"),
    ]


def _memory(found: Mapping[str, Any]) -> list[Callable[[int], tuple[str, int]]]:
    """Return private memory by process over the requests."""
    readings = found["readings"]
    names = [name for name in ("ServeReplica", "AccountActor", "Store", "gcs") if name in readings[-1]["private_mib"]]
    series = {
        name: [(each["requests"], each["private_mib"][name]) for each in readings if name in each["private_mib"]]
        for name in names
    }
    return [lambda y: lines("private memory over the requests", series, y=y, unit="MiB")]


def _bars(title: str, rows: Bars) -> Callable[[int], tuple[str, int]]:
    return lambda y: bars(title, rows, y=y)


def draw(name: str, found: Mapping[str, Any]) -> str | None:
    """Return the SVG of one result; None where there is nothing to draw of it."""
    maker = next((made for begin, made in _MAKERS.items() if name.startswith(begin)), None)
    if maker is None:
        return None
    parts, y = [], 10
    for chart in maker(found):
        text, y = chart(y)
        parts.append(text)
    machine = found["machine"]
    parts.append(_text(10, y + 10, f"{machine['cores']} cores, {machine['processor']}, {machine['measured_at'][:10]}"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 24}" font-family="sans-serif"'
    return (
        f'{head} font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


_MAKERS = {"gateway_pool": _pool, "gateway_memory": _memory, "gateway": _gateway}


def main() -> int:
    """Entry point."""
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem.endswith("-short"):
            continue  # a check, not a measurement
        drawn = draw(path.stem, orjson.loads(path.read_bytes()))
        if drawn is not None:
            path.with_suffix(".svg").write_text(drawn, encoding="utf-8")
            print(f"wrote {path.with_suffix('.svg').name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
