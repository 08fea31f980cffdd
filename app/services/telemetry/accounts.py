"""What is measured of accounts: how much they could still take, as the directory sees them all; and what calls cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from app.domain.books.entries import UsageEntry
from app.domain.events.fields import PROVIDERS
from app.domain.load import LoadRow
from app.services.telemetry import instruments


def measure_accounts(rows: Sequence[LoadRow], unfit: Iterable[str]) -> None:
    """Set the levels of every account.

    Args:
        rows: Their load, as their actors last said.
        unfit: Accounts whose actors do not answer.
    """
    absent = dict.fromkeys(unfit, True)
    headroom: dict[tuple[str, ...], float] = {
        (row.account, row.model): 0.0 if row.account in absent else headroom_of(row) for row in rows
    }
    cooldown: dict[tuple[str, ...], float] = {}
    serving: dict[tuple[str, ...], float] = {(account,): 0.0 for account in absent}
    for row in rows:
        account = (row.account,)
        cooldown[account] = max(cooldown.get(account, 0.0), row.cooldown_s)
        serves = row.account not in absent and row.state == "healthy"
        # An account serves while any of its models does.
        serving[account] = max(serving.get(account, 0.0), float(serves))
    instruments.HEADROOM.replace(headroom)
    instruments.IN_FLIGHT.replace({(row.account, row.model): row.in_flight for row in rows})
    instruments.COOLDOWN.replace(cooldown)
    instruments.SERVING.replace(serving)


def headroom_of(row: LoadRow) -> float:
    """Return what may start now, as a share of the tightest limit; 1 where there is no limit."""
    if row.state == "dead" or row.cooldown_s > 0 or row.closed_s > 0:
        return 0.0
    shares = [bucket.level / bucket.capacity for bucket in row.buckets if bucket.capacity > 0]
    if row.concurrency:
        shares.append(1.0 - row.in_flight / row.concurrency)
    return min(1.0, max(0.0, min(shares, default=1.0)))


def measure_spend(entry: UsageEntry) -> None:
    """Count what a call cost, where that is known and not nothing."""
    if entry.cost_nano:
        provider = PROVIDERS.get(entry.provider, entry.provider)
        instruments.SPEND.add(entry.cost_nano / 1e9, provider, entry.model, entry.account)
