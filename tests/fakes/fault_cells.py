"""The cells of the fault matrix: what a provider does, how it is asked, who else could serve.

``tests/acceptance/test_gateway_faults.py`` runs them; what comes of it is in ``recorded/fault_matrix.json`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.gateway_pool import account, chat_model

PROMPT = "Write a little about tea."
OUTPUT_TOKENS = 12
FINE = "fine"
"""A model whose account has no fault."""
RETRY_AFTER_S = 30
ACCOUNT_TIMEOUT_S = 3
GATEWAY = {"attempts_max": 2, "queue_timeout_s": 5, "idle_timeout_s": 2, "retry_ratio": 1.0}
WHOLE, STREAM, BEGUN = "whole", "stream", "begun"
MODES = {WHOLE: "whole", STREAM: "stream, before the first byte", BEGUN: "stream, after the first bytes"}
POOLS = {"alone": 1, "pair": 2}
"""Accounts that serve the model. Alone: every call meets the fault. A pair: the first call does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row of the matrix, once per mode."""

    name: str
    """For people."""
    kind: str | None
    """The simulator's name of it."""
    provider: str = "openai"
    modes: tuple[str, ...] = (WHOLE, STREAM)
    more: dict[str, Any] = field(default_factory=dict)
    """Other fields of the simulator's fault."""


_BREAKING = (WHOLE, STREAM, BEGUN)
FAULTS = (
    Fault(name="none", kind=None),
    Fault(name="429 with `retry-after: 30`", kind="http_429", more={"retry_after": RETRY_AFTER_S}),
    Fault(name="429 without `retry-after`", kind="http_429"),
    Fault(
        name="429 of the day, with `retryDelay` 30 s",
        kind="http_429",
        provider="gemini",
        more={"retry_after": RETRY_AFTER_S, "quota_id": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"},
    ),
    Fault(name="500", kind="http_500"),
    Fault(name="503", kind="http_503", provider="gemini"),
    Fault(name="504", kind="http_504"),
    Fault(name="529 overloaded", kind="http_529", provider="anthropic"),
    Fault(name="503 with `retry-after: 30`", kind="http_503", more={"retry_after": RETRY_AFTER_S}),
    Fault(name="dead key (401)", kind="dead_key"),
    Fault(name="dead key (400 `API_KEY_INVALID`)", kind="dead_key", provider="gemini"),
    Fault(name="402", kind="http_402", provider="deepseek"),
    Fault(name="403", kind="http_403"),
    Fault(name="429 `insufficient_quota`", kind="no_balance"),
    Fault(name="400 invalid request", kind="http_400"),
    Fault(name="404 model missing", kind="http_404"),
    Fault(name="413 too large", kind="http_413", provider="anthropic"),
    Fault(name="400 context too long", kind="too_long"),
    Fault(name="connection reset", kind="reset"),
    Fault(name="accepted, billed, dropped", kind="accept_then_drop"),
    Fault(name="billed, then 500", kind="bill_then_500"),
    Fault(name="no answer at all (timeout)", kind="hang"),
    Fault(name="head, then dropped", kind="cut_before_first"),
    Fault(name="cut off", kind="cut_stream", modes=_BREAKING),
    Fault(name="cut off, Anthropic", kind="cut_stream", provider="anthropic", modes=_BREAKING),
    Fault(name="cut off, Gemini", kind="cut_stream", provider="gemini", modes=_BREAKING),
    Fault(name="stalls for ever", kind="stall", modes=_BREAKING),
    Fault(name="error after 200", kind="error_event", modes=(STREAM, BEGUN)),
    Fault(name="error after 200, Anthropic", kind="error_event", provider="anthropic", modes=(STREAM, BEGUN)),
    Fault(name="error after 200, Gemini", kind="error_event", provider="gemini", modes=(STREAM, BEGUN)),
    Fault(name="garbage in place of JSON", kind="garbage_json", modes=_BREAKING),
    Fault(name="out of machines half way (DeepSeek)", kind="no_resources", provider="deepseek"),
    Fault(name="blank content", kind="blank_content"),
    Fault(name="half of the content, said to be whole", kind="truncated_json"),
    Fault(name="answer delivered twice", kind="duplicate"),
    Fault(name="answer delivered twice, Anthropic", kind="duplicate", provider="anthropic"),
    Fault(name="answer delivered twice, Gemini", kind="duplicate", provider="gemini"),
    Fault(name="first byte late", kind="slow_first", more={"seconds": 1}),
    Fault(name="drips", kind="slow_drip", more={"seconds": 0.1}),
    Fault(name="thinks aloud (`<think>`)", kind="think_tags"),
    Fault(name="401 in other words", kind="http_401"),
    Fault(name="talks around its answer", kind="prose_json"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One call, and everything that is its own: model, accounts, key."""

    fault: Fault
    mode: str
    pool: str
    number: int

    @property
    def name(self) -> str:
        """How it is called in the record."""
        return f"{self.fault.name} | {self.mode} | {self.pool}"

    @property
    def model(self) -> str:
        """Served by its accounts only."""
        return f"cell-{self.number}"

    @property
    def accounts(self) -> tuple[str, ...]:
        """Serve its model only."""
        return tuple(f"{self.model}-{letter}" for letter in "ab"[: POOLS[self.pool]])

    @property
    def key(self) -> str:
        """Of its client: one call at a time, so that a reservation that stays is seen."""
        return f"key-of-{self.model}"

    def simulated(self) -> dict[str, Any] | None:
        """Return the simulator's fault."""
        if self.fault.kind is None:
            return None
        place: dict[str, Any] = {"at_chunk": 3 if self.mode == BEGUN else 0} if self.mode != WHOLE else {}
        often: dict[str, Any] = {"first": 1} if self.pool == "pair" else {}
        return {"kind": self.fault.kind, "match": {"model": self.model}, **place, **often, **self.fault.more}


CELLS = tuple(
    Cell(fault=fault, mode=mode, pool=pool, number=number)
    for number, (fault, mode, pool) in enumerate(
        (fault, mode, pool) for fault in FAULTS for mode in fault.modes for pool in POOLS
    )
)


def simulator_file() -> dict[str, Any]:
    """Return the configuration of the simulator."""
    return {
        "host": "127.0.0.1",
        "port": 0,
        "profile": {
            "latency": {"kind": "constant", "mean_s": 0.01},
            "output_tokens": {"kind": "constant", "mean": OUTPUT_TOKENS},
        },
        "models": {cell.model: {"dialect": "deepseek"} for cell in CELLS if cell.fault.provider == "deepseek"}
        | {cell.model: {} for cell in CELLS if cell.fault.provider != "deepseek"}
        | {FINE: {}},
        "default_reply": "lorem",
        "faults": [fault for cell in CELLS if (fault := cell.simulated()) is not None],
        "bill_on_disconnect": "as_provider",
    }


def configuration(url: str) -> dict[str, Any]:
    """Return the server's configuration."""
    accounts = [
        account(url, name, cell.fault.provider, cell.model, timeout_s=ACCOUNT_TIMEOUT_S)
        for cell in CELLS
        for name in cell.accounts
    ]
    keys = [{"name": cell.model, "key": cell.key, "limits": {"concurrency": 1}} for cell in CELLS]
    return {
        "accounts": [*accounts, account(url, FINE, "openai", FINE)],
        "coordinator": {"model": FINE},
        "routing": {"general": {"primary": [FINE]}},
        "models": {name: chat_model(name) for name in (FINE, *(cell.model for cell in CELLS))},
        "auth": {"keys": keys},
        "accounts_per_actor": 1_000,
        "gateway": GATEWAY,
    }


def rows() -> Iterator[tuple[Fault, str, tuple[Cell, ...]]]:
    """Yield what the page shows in one row: a fault, a mode, and a cell for each pool."""
    for fault in FAULTS:
        for mode in fault.modes:
            yield fault, mode, tuple(cell for cell in CELLS if cell.fault is fault and cell.mode == mode)
