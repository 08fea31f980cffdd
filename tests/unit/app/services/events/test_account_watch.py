"""A change of an account's state is told once; how much is left, once a minute."""

from __future__ import annotations

from dataclasses import replace

from app.domain.load import BucketLevel, LoadRow
from app.services.events.account_watch import AccountWatch
from tests.fakes.told import Told

ROW = LoadRow(
    account="a",
    model="m",
    scope="account:a",
    state="healthy",
    in_flight=1,
    concurrency=4,
    buckets=(BucketLevel(kind="requests", level=25.0, capacity=100.0, rate_per_s=1.0),),
    cooldown_s=0.0,
    call_s=1.0,
    call_output_tokens=1.0,
    error_rate=0.0,
    context_tokens=1,
    observed_at_s=0.0,
)
PROVIDERS = {"a": "gemini"}


def test_cooldown_and_recovery_are_told_once_each() -> None:
    """The first look at a healthy account is no news; at a parked one it is."""
    events = Told()
    watch = AccountWatch(events)
    cooling = replace(ROW, state="cooling_minute", cooldown_s=12.5)
    for at_s, row in enumerate((ROW, cooling, cooling, ROW, ROW)):
        watch.look([row], PROVIDERS, float(at_s))

    assert events.values("account.changed") == [
        {"account": "a", "provider": "gcp.gemini", "model": "m", "account_state": state, "retry_after_ms": wait}
        for state, wait in (("cooling_minute", 12_500), ("healthy", None))
    ]


def test_headroom_is_told_once_a_minute() -> None:
    """One line for every limit."""
    events = Told()
    watch = AccountWatch(events)
    for at_s in (0.0, 30.0, 59.0, 60.0, 61.0):
        watch.look([ROW], PROVIDERS, at_s)

    told = [(values["limit_name"], values["headroom"]) for values in events.values("account.load")]
    assert told == [("rpm", 0.25), ("concurrency", 0.75)] * 2
