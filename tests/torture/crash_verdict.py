"""Judges played crash combinations and makes the table of them: a row a case, figures by number of deaths planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from app.domain.accounts import EndpointClass
from tests.torture.crash_play import Case, Played

FOUND = frozenset({EndpointClass.IDEMPOTENT, EndpointClass.LOOKUP, EndpointClass.BATCH})
"""Endpoints at which every lost call is found, or found not to have been: no second bill, and exact books of runs."""
NAMELESS = frozenset({"before-send", "accepted", "received"})
"""Deaths before the commit of the provider's name for the call: until then ``reattach`` is opaque."""
HEAD = (
    "who pays, endpoint",
    "combinations",
    "deaths",
    "most bills a call",
    "billed twice",
    "not obtained",
    "books below",
)


def violations(played: Played) -> list[str]:
    """Return what must not happen and did, with the combination that did it."""
    case = played.case
    found = [f"the books were below the bills: {moment}" for moment in played.below]
    if played.failed:
        found.append(played.failed)
    known = _is_known(played)
    allowed = 0 if known or case.on_unknown == "hold" else case.calls * len(played.deaths)
    if played.duplicates > allowed:
        found.append(f"{played.bills.requests} bills for {case.calls} calls and {len(played.deaths)} deaths")
    # With "hold" a call of which nobody knows may wait for a person instead of being answered.
    if played.obtained < case.calls and (known or case.on_unknown == "retry"):
        found.append(f"{played.obtained} of {case.calls} answers were obtained")
    if played.bills.requests < played.obtained:
        found.append(f"{played.obtained} answers for {played.bills.requests} bills: the count is wrong")
    if played.figures.held and not played.failed:
        found.append(f"{played.figures.held} nano-dollars are still held in the end")
    if case.way == "run" and known and played.figures.total != played.bills.nano:
        found.append(f"the books say {played.figures}, the bills {played.bills.nano} nano-dollars")
    return [f"{case.name}, {' + '.join(played.points) or 'no crash'}: {what}" for what in found]


def _is_known(played: Played) -> bool:
    """Tell whether it is found out of every call of this combination what became of it."""
    if played.case.endpoint is EndpointClass.REATTACH:
        # Of several calls at once, one may be anywhere while another is at the named point.
        return played.case.calls == 1 and not NAMELESS.intersection(played.deaths)
    return played.case.endpoint in FOUND


def rows(record: Sequence[Played]) -> list[list[str]]:
    """Return the table's rows, head first."""
    made: list[list[str]] = [list(HEAD)]
    for case in dict.fromkeys(played.case for played in record):
        same = [played for played in record if played.case == case]
        made.append(
            [
                _named(case),
                _by_length(same, lambda _played: True),
                str(sum(len(played.deaths) for played in same)),
                _most(case, max(played.bills.requests for played in same)),
                _by_length(same, lambda played: played.duplicates > 0),
                _by_length(same, lambda played: played.obtained < played.case.calls),
                str(sum(len(played.below) for played in same)),
            ]
        )
    return made


def _named(case: Case) -> str:
    return case.name if case.calls == 1 else f"{case.name}, {case.calls} calls at once"


def _most(case: Case, bills: int) -> str:
    """Return the most bills of one call; of several at once only their mean is known."""
    return str(bills) if case.calls == 1 else f"up to {-(-bills // case.calls)} in the mean"


def _by_length(record: Sequence[Played], counts: Callable[[Played], bool]) -> str:
    """Return how many of them count, by how many deaths they plan."""
    lengths = sorted({len(played.points) for played in record})
    return "/".join(str(sum(len(played.points) == each and counts(played) for played in record)) for each in lengths)
