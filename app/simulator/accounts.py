"""Which keys exist, what state they are in, and the quotas they share."""

from __future__ import annotations

from dataclasses import dataclass

from app.simulator.config import Key, Limits, SimulatorConfig
from app.simulator.exchange import Gauges, Refusal
from app.simulator.limits import Demand, LimitKind, Quota, Rejection

_GAUGED: tuple[LimitKind, ...] = ("rpm", "rpd", "tpm", "itpm", "otpm")
_UNLIMITED = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A key that exists."""

    key: str
    group: str | None
    state: str
    headers: bool

    @property
    def scope(self) -> tuple[str, str]:
        """What its limits hold for: its group, else itself."""
        return ("group", self.group) if self.group is not None else ("key", self.key)


class Accounts:
    """The keys of a configuration, and one quota per scope and model.

    Args:
        wall_offset_ns: What to add to a monotonic time to get Unix time, in nanoseconds.
    """

    def __init__(self, config: SimulatorConfig, *, wall_offset_ns: int) -> None:
        self._wall_offset_ns = wall_offset_ns
        self._quotas: dict[tuple[tuple[str, str], str], Quota] = {}
        self.apply(config)

    def apply(self, config: SimulatorConfig) -> None:
        """Take over changed keys. Limits that changed start full, requests in flight stay counted."""
        self._open = not config.keys
        self._accounts = {key.key: _account(key) for key in config.keys}
        self._limits: dict[tuple[str, str], Key] = {}
        for key in config.keys:
            if key.limits is not None or key.model_limits:
                self._limits.setdefault(self._accounts[key.key].scope, key)

    def get(self, key: str | None) -> Account:
        """Return the key's account.

        Raises:
            Refusal: there is none, or it may not be used.
        """
        if key is None:
            raise Refusal("auth", "You didn't provide an API key.")
        account = self._accounts.get(key)
        if account is None and self._open:
            account = Account(key=key, group=None, state="ok", headers=True)
        if account is None or account.state == "revoked":
            raise Refusal("auth", f"Incorrect API key provided: {_masked(key)}.")
        if account.state == "no_balance":
            raise Refusal("no_balance", "You exceeded your current quota, please check your plan and billing details.")
        return account

    def find(self, key: str | None) -> Account | None:
        """Return the key's account whatever its state."""
        return self._accounts.get(key) if key is not None else None

    def admit(self, account: Account, model: str, demand: Demand, now_ns: int) -> Quota | Rejection:
        """Charge a request to its quota, or say which limit refuses it."""
        quota = self._quota(account, model)
        return quota.admit(demand, now_ns) or quota

    def gauges(self, account: Account, model: str, now_ns: int) -> Gauges:
        """Return the limits for the headers; none where the key shows no headers."""
        if not account.headers:
            return {}
        quota = self._quota(account, model)
        found = {kind: quota.gauge(kind, now_ns) for kind in _GAUGED}
        return {kind: gauge for kind, gauge in found.items() if gauge is not None}

    def _quota(self, account: Account, model: str) -> Quota:
        stated = self._limits.get(account.scope)
        limits = _UNLIMITED if stated is None else stated.model_limits.get(model, stated.limits or _UNLIMITED)
        quota = self._quotas.get((account.scope, model))
        if quota is None:
            quota = self._quotas[account.scope, model] = Quota(limits, wall_offset_ns=self._wall_offset_ns)
        elif quota.limits != limits:
            quota.relimit(limits)
        return quota


def _account(key: Key) -> Account:
    return Account(key=key.key, group=key.group, state=key.state, headers=key.headers)


def _masked(key: str) -> str:
    return f"{key[:3]}***{key[-2:]}" if len(key) > 8 else "***"
