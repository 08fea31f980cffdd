"""A dated copy of the directory's snapshot: which accounts exist, where, and how loaded they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.domain.accounts import Orchestra
from app.domain.errors import CapacityError
from app.domain.load import LoadRow


class SnapshotRoster:
    """The port ``Roster``; whoever polls the directory calls ``update``, replies refresh single rows by ``note``.

    Not thread-safe: the owner's event loop is the lock.
    """

    def __init__(self) -> None:
        self._orchestra: Orchestra | None = None
        self._hosts: Mapping[str, str] = {}
        self._rows: dict[tuple[str, str], LoadRow] = {}

    def update(self, orchestra: Orchestra, hosts: Mapping[str, str], rows: Sequence[LoadRow]) -> None:
        """Take a newer snapshot; rows that a reply has refreshed since are kept."""
        self._orchestra = orchestra
        self._hosts = hosts
        served = {(account.name, model) for account in orchestra.accounts for model, _upstream in account.models}
        self._rows = {key: row for key, row in self._rows.items() if key in served and key[0] in hosts}
        for row in rows:
            self.note(row)

    def note(self, row: LoadRow) -> None:
        """Take one row if it is newer than what is known."""
        known = self._rows.get((row.account, row.model))
        if known is None or row.observed_at_s >= known.observed_at_s:
            self._rows[row.account, row.model] = row

    def orchestra(self) -> Orchestra:
        """Return the newest known configuration; raises CapacityError while there is none."""
        if self._orchestra is None:
            raise CapacityError("the configuration is not known yet", retry_after_s=1.0)
        return self._orchestra

    def host_of(self, account: str) -> str | None:
        """Return the actor that hosts ``account``; None while it is being created or drained."""
        return self._hosts.get(account)

    def row(self, account: str, model: str) -> LoadRow | None:
        """Return the last known load of one (account, model)."""
        return self._rows.get((account, model))

    def load(self) -> Sequence[LoadRow]:
        """Return the last known load of every (account, model) that is being served."""
        return list(self._rows.values())
