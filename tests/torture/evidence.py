"""What a soak leaves behind for its verdict: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["answered", "refused", "failed", "cut", "broken", "left"]
"""Refused: 4xx. Failed: 5xx. Cut: an error event after the first byte. Broken: the connection. Left: the client."""
FAILED: frozenset[Outcome] = frozenset({"failed", "cut", "broken"})
"""Without an answer, and not the client's doing."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call as its client saw it; times are ``time.monotonic`` seconds."""

    ask: str
    """Names the prompt, which begins with it; repeats share it."""
    kind: str
    began_s: float
    ended_s: float = 0.0
    outcome: Outcome = "broken"
    status: int = 0
    retry_after: str | None = None
    cached: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    text: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request in the simulator's log, in our clock."""

    ask: str
    account: str
    model: str
    began_s: float
    ended_s: float
    status: int
    fault: str | None
    input_tokens: int
    output_tokens: int
    """Tokens billed."""

    @property
    def billed(self) -> bool:
        """Whether it cost anything."""
        return self.input_tokens + self.output_tokens > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A process that was ended with SIGKILL."""

    at_s: float
    victim: str
    """replica, account or callers."""
    name: str
    accounts: tuple[str, ...] = ()
    """Those whose limiters lived there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Memory of one process."""

    at_s: float
    pss_mib: float
    private_mib: float


@dataclass(slots=True, kw_only=True)
class Life:
    """Memory of one process over its life."""

    name: str
    ours: bool
    """Ray's own processes are shown and not judged."""
    samples: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class Counted:
    """Tokens that the accounts' views counted, over all lives of their actors."""

    tokens: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """By (account, model): input and output."""
    _before: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    _now: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)

    def note(self, views: list[Mapping[str, Any]]) -> None:
        """Take the views as they are now; counts that fell belong to a new life."""
        for view in views:
            pair = str(view["account"]), str(view["model"])
            now = int(view["calls"]), int(view["input_tokens"]), int(view["output_tokens"])
            last = self._now.get(pair, (0, 0, 0))
            if now < last:
                base = self._before.get(pair, (0, 0))
                self._before[pair] = base[0] + last[1], base[1] + last[2]
            self._now[pair] = now
            base = self._before.get(pair, (0, 0))
            self.tokens[pair] = base[0] + now[1], base[1] + now[2]


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Everything a verdict is made of."""

    began_s: float
    ended_s: float = 0.0
    """Of the load."""
    calls: list[Call] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    lives: dict[int, Life] = field(default_factory=dict)
    """By process id."""
    counted: Counted = field(default_factory=Counted)
    over_limit: Mapping[str, int] = field(default_factory=dict)
    """What the simulator refused for its own limits, by kind."""
    open_upstream: int = 0
    """Calls that the simulator still had open when patience ended."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Reservations that were not given back by then, by account and model; callers included."""
    settled_s: float = 0.0
    """How long that took."""
    replicas: int = 0
    """Alive at the end."""
    wanted_replicas: int = 0
    exit_status: int | None = None
    left_running: tuple[str, ...] = ()
    """Processes of the server that outlived it."""
