"""Judges what a soak left behind: one check a rule, each with what was found and what is allowed.

Pure. What a kill may cost is stated here: calls that were open at the time, and nothing else.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.torture.evidence import FAILED, Call, Evidence, Kill, Life, Row, Sample
from tests.torture.setting import NARROW_BURST_S, NARROW_RPM, PROVIDERS

BEFORE_KILL_S = 3.0
"""Counts are read once a second, and reports travel in batches: what ended this long before a kill may be uncounted."""
RECOVERY_S = 20.0
"""From a kill until its part of the work is taken over: an actor's process takes seconds to start."""
WARM_S, WARM_SHARE = 120.0, 0.25
"""Of a process's life, before which growth is filling: the shorter of both."""
SAMPLES_MIN = 10
GROWTH_MIB = 24.0
"""What a process may take once, however short the soak: a replica's allocator fills by 13 MiB over its first 40 000
requests (``benchmarks.gateway_memory``, which judges finer), the cache and the kept repeats up to their bounds."""
GROWTH_MIB_PER_MIN = 1.0
NAMED_MAX = 5

KINDS = (
    "chat", "stream", "embeddings", "messages", "leaving", "slow", "repeats", "cached", "narrow", "wrong",
)  # fmt: skip
NEVER_ANSWERED = {"wrong": "refused"}
"""What a kind must have seen at least once, where that is not an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule."""

    what: str
    found: str
    allowed: str
    kept: bool
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How the private memory of one process moved after it was warm."""

    life: Life
    minutes: float
    mib_per_min: float

    @property
    def kept(self) -> bool:
        """Whether it grew no more than a warm process may."""
        return self.mib_per_min * self.minutes <= max(GROWTH_MIB, GROWTH_MIB_PER_MIN * self.minutes)


def judge(evidence: Evidence) -> list[Check]:
    """Return every check, in the order of the report."""
    return [judged(evidence) for judged in CHECKS]


def growths(evidence: Evidence) -> list[Growth]:
    """Return the growth of every process that lived long enough under load to tell."""
    found = []
    for life in evidence.lives.values():
        warm = _warm(life.samples, evidence.ended_s)
        if len(warm) < SAMPLES_MIN:
            continue
        slope = statistics.linear_regression([each.at_s for each in warm], [each.private_mib for each in warm]).slope
        found.append(Growth(life=life, minutes=(warm[-1].at_s - warm[0].at_s) / 60, mib_per_min=60 * slope))
    return found


def _warm(samples: Sequence[Sample], until_s: float) -> list[Sample]:
    loaded = [each for each in samples if each.at_s <= until_s]
    if not loaded:
        return []
    length_s = loaded[-1].at_s - loaded[0].at_s
    warm_s = loaded[0].at_s + min(WARM_S, length_s * WARM_SHARE)
    return [each for each in loaded if each.at_s >= warm_s]


def _memory(evidence: Evidence) -> Check:
    ours = [growth for growth in growths(evidence) if growth.life.ours]
    grown = [growth for growth in ours if not growth.kept]
    most = max((growth.mib_per_min for growth in ours), default=0.0)
    return Check(
        what=f"private memory of {len(ours)} processes, steepest slope",
        found=f"{most:+.2f} MiB/min",
        allowed=f"{GROWTH_MIB_PER_MIN:g} MiB/min, or {GROWTH_MIB:g} MiB in all",
        kept=bool(ours) and not grown,
        details=tuple(f"{growth.life.name}: {growth.mib_per_min:+.2f} MiB/min" for growth in grown),
    )


def _limits(evidence: Evidence) -> Check:
    said = ", ".join(f"{kind} {count}" for kind, count in evidence.over_limit.items())
    return _none("calls that the provider refused for its limits", sum(evidence.over_limit.values()), [said])


def _held(evidence: Evidence) -> Check:
    details = [f"{name}: {count}" for name, count in evidence.held.items()]
    return _none(f"reservations held {evidence.settled_s:.0f} s after the load", len(evidence.held), details)


def _orphans(evidence: Evidence) -> Check:
    return _none(f"calls open at the provider {evidence.settled_s:.0f} s after the load", evidence.open_upstream, ())


def _unknown_bills(evidence: Evidence) -> Check:
    """Every call that the provider billed belongs to one that a client made, and to no more of them than were made."""
    asked = Counter(call.ask for call in evidence.calls if not call.cached)
    billed: Counter[str] = Counter(row.ask for row in evidence.rows if row.billed and row.fault is None)
    details = [
        f"{ask}: billed {count} times, asked {asked[ask]} times"
        for ask, count in billed.items()
        if count > asked[ask] and not _near_kill(_spans(row for row in evidence.rows if row.ask == ask), evidence.kills)
    ]
    return _none("prompts billed more often than asked, faults and kills aside", len(details), details)


def _refused_bills(evidence: Evidence) -> Check:
    """What was refused cost nothing, unless a fault of the provider's lies between."""
    rows = _by_ask(evidence)
    details = [
        f"{call.ask} ({call.kind}): {call.status}, and {row.input_tokens}+{row.output_tokens} tokens billed"
        for call in evidence.calls
        if call.outcome in ("refused", "failed")
        and (row := next((row for row in rows[call.ask] if row.billed and row.fault is None), None)) is not None
        and call.kind != "repeats"
        and not _near_kill(((call.began_s, call.ended_s),), evidence.kills)
    ]
    return _none("refused calls that were billed all the same", len(details), details)


def _uncounted(evidence: Evidence) -> Check:
    """The provider's bill for whole answers is what the accounts' views counted, calls near a kill aside."""
    left = {call.ask for call in evidence.calls if call.outcome == "left"}
    billed: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in evidence.rows:
        if row.status == 200 and row.fault is None and row.ask not in left and not _uncountable(row, evidence.kills):
            billed[row.account, row.model][0] += row.input_tokens
            billed[row.account, row.model][1] += row.output_tokens
    details = []
    for pair, (tokens_in, tokens_out) in billed.items():
        counted = evidence.counted.tokens.get(pair, (0, 0))
        if tokens_in > counted[0] or tokens_out > counted[1]:
            name = "/".join(pair)
            details.append(f"{name}: billed {tokens_in}+{tokens_out}, counted {counted[0]}+{counted[1]} tokens")
    return _none("accounts that were billed more than their views counted", len(details), details)


def _uncountable(row: Row, kills: Sequence[Kill]) -> bool:
    """Tell whether a kill may have kept a call out of the counts of its account."""
    return any(
        row.ended_s > kill.at_s - BEFORE_KILL_S and row.began_s < kill.at_s + RECOVERY_S
        for kill in kills
        if kill.victim == "replica" or row.account in kill.accounts
    )


def _wrong_usage(evidence: Evidence) -> Check:
    """What an answer says was used is what the provider billed for it."""
    rows, seen, details = _by_ask(evidence), 0, []
    for call in evidence.calls:
        own = [row for row in rows[call.ask] if row.fault is None]
        if call.outcome != "answered" or call.input_tokens is None or len(own) != 1 or call.kind == "cached":
            continue
        seen += 1
        told, billed = (call.input_tokens, call.output_tokens), (own[0].input_tokens, own[0].output_tokens)
        if told != billed:
            details.append(f"{call.ask} ({call.kind}, {PROVIDERS[own[0].account]}): told {told}, billed {billed}")
    return _none(f"of {seen} answers with usage, told otherwise than billed", len(details), details)


def _failures(evidence: Evidence) -> Check:
    """A client sees a failure only where the provider failed for this call, or a process was killed under it."""
    rows = _by_ask(evidence)
    failed = [call for call in evidence.calls if call.outcome in FAILED]
    details = [
        f"{call.ask} ({call.kind}) {call.outcome} {call.status} after {call.ended_s - call.began_s:.1f} s: {call.said}"
        for call in failed
        if not any(row.fault for row in rows[call.ask])
        and not _near_kill(((call.began_s, call.ended_s),), evidence.kills)
    ]
    return _none(f"of {len(failed)} failed calls, not by a fault or a kill", len(details), details)


def _honest_refusals(evidence: Evidence) -> Check:
    """A 429 says when to come back."""
    refused = [call for call in evidence.calls if call.status == 429]
    details = [f"{call.ask} ({call.kind}): {call.said}" for call in refused if not call.retry_after]
    return _none(f"of {len(refused)} answers 429, without retry-after", len(details), details)


def _narrow(evidence: Evidence) -> Check:
    """A caller's own limit holds over all replicas."""
    own = [call for call in evidence.calls if call.kind == "narrow"]
    passed = sum(call.outcome in ("answered", "cut") for call in own)
    length_s = max((call.ended_s for call in own), default=0.0) - evidence.began_s
    allowed = int(NARROW_RPM * (NARROW_BURST_S + length_s) / 60)
    return Check(
        what=f"calls of the narrow caller that passed, of {len(own)}",
        found=str(passed),
        allowed=str(allowed),
        kept=passed <= allowed,
    )


def _repeats(evidence: Evidence) -> Check:
    """Repeats under one key are bought once by all replicas together, kills aside; one purchase gives one answer."""
    rows = _by_ask(evidence)
    by_ask: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.calls:
        if call.kind == "repeats" and call.outcome == "answered":
            by_ask[call.ask].append(call)
    details = []
    for ask, calls in by_ask.items():
        whole = [row for row in rows[ask] if row.fault is None and row.status == 200]
        killed = _near_kill([(call.began_s, call.ended_s) for call in calls], evidence.kills)
        if len(whole) > 1 and not killed:
            details.append(f"{ask}: bought {len(whole)} times")
        if len({call.text for call in calls}) > max(1, len(whole)):
            details.append(f"{ask}: {len(calls)} answers differ")
    return _none(f"of {len(by_ask)} repeated requests, bought too often or answered differently", len(details), details)


def _variety(evidence: Evidence) -> Check:
    """Every kind of client got what it came for, and the cache answered: otherwise the soak shows nothing."""
    seen = {(call.kind, call.outcome) for call in evidence.calls}
    missing = [kind for kind in KINDS if (kind, NEVER_ANSWERED.get(kind, "answered")) not in seen]
    missing += [] if ("leaving", "left") in seen else ["leaving (none left)"]
    missing += [] if any(call.cached for call in evidence.calls) else ["cached (no hit)"]
    return _none(f"kinds of clients, of {len(KINDS)}, that were never served", len(missing), missing)


def _whole_again(evidence: Evidence) -> Check:
    return Check(
        what="replicas at the end",
        found=str(evidence.replicas),
        allowed=str(evidence.wanted_replicas),
        kept=evidence.replicas == evidence.wanted_replicas,
    )


def _orderly_end(evidence: Evidence) -> Check:
    return Check(
        what="exit status of the server; processes that outlived it",
        found=f"{evidence.exit_status}; {len(evidence.left_running)}",
        allowed="0; 0",
        kept=evidence.exit_status == 0 and not evidence.left_running,
        details=evidence.left_running,
    )


def _none(what: str, count: int, details: Iterable[str]) -> Check:
    return Check(what=what, found=str(count), allowed="0", kept=count == 0, details=tuple(details)[:NAMED_MAX])


def _by_ask(evidence: Evidence) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in evidence.rows:
        rows[row.ask].append(row)
    return rows


def _spans(rows: Iterable[Row]) -> list[tuple[float, float]]:
    return [(row.began_s, row.ended_s) for row in rows]


def _near_kill(spans: Iterable[tuple[float, float]], kills: Sequence[Kill]) -> bool:
    """Tell whether one of these spans was open at a kill, or began before its damage was repaired."""
    return any(end_s >= kill.at_s and begin_s <= kill.at_s + RECOVERY_S for begin_s, end_s in spans for kill in kills)


CHECKS: tuple[Callable[[Evidence], Check], ...] = (
    _memory,
    _limits,
    _held,
    _orphans,
    _unknown_bills,
    _refused_bills,
    _uncounted,
    _wrong_usage,
    _failures,
    _honest_refusals,
    _narrow,
    _repeats,
    _variety,
    _whole_again,
    _orderly_end,
)
