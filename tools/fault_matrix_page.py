"""Makes docs/fault-matrix.md from what a run of the fault matrix recorded."""

from __future__ import annotations

import json
from pathlib import Path

from app.http.gateway.patience import STALLED_S
from app.providers.departures import DEPARTURES
from app.services.gateway.drains import DRAIN_S, DRAINS_MAX
from tests.fakes import fault_cells
from tests.fakes.fault_cells import BEGUN, MODES, Cell

RECORD = Path(__file__).resolve().parents[1] / "tests" / "acceptance" / "recorded" / "fault_matrix.json"
_SETTINGS = ", ".join(f"`{name}: {value}`" for name, value in fault_cells.GATEWAY.items())

_INTRODUCTION = f"""\
# Fault matrix: what a client gets when a provider fails

Every row was run: a real server, real HTTP, the [simulator](simulator.md) as the provider.
`tests/acceptance/test_gateway_faults.py` runs all of it again and fails where this page is wrong.

- **Client**: what an OpenAI client sees. A status is an error before anything else was sent; "then error event" comes
  in a stream that has begun, where nothing can be taken back.
- **Calls**: tries at the provider. **Billed**: input + output tokens that the provider charges for all of them; one
  answer is 7 + {fault_cells.OUTPUT_TOKENS}.
- **Account**: the worst state that the account which failed was seen in, for a moment or until a person acts (`dead`).
- **One account**: nobody else serves the model, and every call meets the fault. **Two accounts**: the first call does,
  the other account is well.

Configured for this page: {_SETTINGS},
and `timeout_s: {fault_cells.ACCOUNT_TIMEOUT_S}` for every account. In every cell nothing stays reserved, of the
accounts or of the caller, and no call stays open; whole answers are counted by Tutti to the token as they are billed,
though no client here asks for usage.

| provider does | asked | one account: client | calls | billed | account | two: client | calls | billed | account |
|---|---|---|---|---|---|---|---|---|---|
"""

_DEPARTURES = f"""
## A client that goes away

Where that stops the bill the provider is stopped; the call then counts as all that was reserved for it. Where it does
not, the call is read to its end without its client: it keeps its permit, and account and caller are charged exactly
what the provider bills. At most {DRAINS_MAX} such calls a replica, {DRAIN_S:.0f} s each; more are stopped.
`tests/acceptance/test_gateway_departures.py` shows both for every provider. Calls of plugins are stopped. A client that
takes nothing of its stream for {STALLED_S:.0f} s has left it.

| provider | stream | not streamed | source |
|---|---|---|---|
"""


def fault_matrix_page() -> str:
    """Return the page."""
    seen: dict[str, dict[str, object]] = json.loads(RECORD.read_text(encoding="utf-8"))
    lines, departures = [], []
    for fault, mode, cells in fault_cells.rows():
        told = " | ".join(_cell(seen, cell) for cell in cells)
        provider = "" if fault.provider == "openai" or fault.provider in fault.name.lower() else f" ({fault.provider})"
        asked = MODES[mode] if BEGUN in fault.modes else mode
        lines.append(f"| {fault.name}{provider} | {asked} | {told} |\n")
    for name, departure in DEPARTURES.items():
        words = ("read to its end" if on else "stopped" for on in (departure.stream_goes_on, departure.whole_goes_on))
        departures.append(f"| {name} | {' | '.join(words)} | {departure.source} |\n")
    return f"{_INTRODUCTION}{''.join(lines)}{_DEPARTURES}{''.join(departures)}"


def _cell(seen: dict[str, dict[str, object]], cell: Cell) -> str:
    row = seen[cell.name]
    return " | ".join(str(row[column]) for column in ("client", "attempts", "billed", "account"))
