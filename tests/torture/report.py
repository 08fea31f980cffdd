"""Prints a soak: what was played, memory by process, and one row a check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.report import table
from tests.torture.evidence import FAILED, Evidence, Kill, Life
from tests.torture.verdict import RECOVERY_S, Check, growths

POINTS = 8
"""Of each memory series."""


def lines(evidence: Evidence, checks: Sequence[Check]) -> list[str]:
    """Return the report."""
    faults = Counter(row.fault for row in evidence.rows if row.fault)
    said = ", ".join(f"{kind} {count}" for kind, count in faults.most_common())
    told = ["", table(_calls(evidence)), "", f"upstream: {len(evidence.rows)} calls; faults: {said or 'none'}", ""]
    told += [table(_memory(evidence)), ""]
    told += [_kill(kill, evidence) for kill in evidence.kills]
    told += ["", table([["check", "found", "allowed", "kept"], *(_row(check) for check in checks)])]
    for check in checks:
        if not check.kept:
            told += [f"NOT KEPT: {check.what}", *(f"  {detail}" for detail in check.details)]
    return told


def _kill(kill: Kill, evidence: Evidence) -> str:
    """Return whom a kill hit, and how many calls failed for how long after it."""
    hit = [
        call
        for call in evidence.calls
        if call.outcome in FAILED and call.ended_s >= kill.at_s and call.began_s <= kill.at_s + RECOVERY_S
    ]
    until_s = max((call.ended_s for call in hit), default=kill.at_s) - kill.at_s
    at_s = kill.at_s - evidence.began_s
    return (
        f"killed {kill.name} ({kill.victim}) at {at_s:.1f} s: {len(hit)} calls failed, the last {until_s:.1f} s later"
    )


def _row(check: Check) -> list[str]:
    return [check.what, check.found, check.allowed, "yes" if check.kept else "NO"]


def _calls(evidence: Evidence) -> list[list[str]]:
    outcomes = ("answered", "refused", "failed", "cut", "broken", "left")
    counts: Counter[tuple[str, str]] = Counter((call.kind, call.outcome) for call in evidence.calls)
    hits = Counter(call.kind for call in evidence.calls if call.cached)
    rows = [["clients", *outcomes, "from the cache", "longest"]]
    for kind in dict.fromkeys(call.kind for call in evidence.calls):
        longest_s = max(call.ended_s - call.began_s for call in evidence.calls if call.kind == kind)
        counted = (str(counts[kind, outcome]) for outcome in outcomes)
        rows.append([kind, *counted, str(hits[kind]), f"{longest_s:.1f} s"])
    return rows


def _memory(evidence: Evidence) -> list[list[str]]:
    """Return PSS over time of every process that lived long enough; slopes are of private memory."""
    rows = [["process", "PSS, MiB, over its life under load", "slope, private", "judged"]]
    for growth in sorted(growths(evidence), key=lambda each: (not each.life.ours, each.life.name)):
        judged = "" if not growth.life.ours else "flat" if growth.kept else "GROWS"
        series = _series(growth.life, evidence.ended_s)
        rows.append([growth.life.name[:48], series, f"{growth.mib_per_min:+.2f} MiB/min", judged])
    return rows


def _series(life: Life, until_s: float) -> str:
    samples = [each for each in life.samples if each.at_s <= until_s]
    step = max(1, len(samples) // POINTS)
    return " ".join(f"{each.pss_mib:.0f}" for each in [*samples[::step], samples[-1]])
