"""Decides a batch of commands on balances that are at hand, one after the other, and keeps what has changed.

The caller (``app.storage.ledger``) brings in what the commands speak of and writes what comes out, in one transaction.
Deciding in memory is what makes hundreds of commands cost a few statements and still end as one by one. Not
thread-safe, and good for one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.domain.books.balances import (
    Account,
    BookedEntry,
    HeldAmount,
    HoldState,
    Transfer,
    TransferKind,
    alert_of,
    move,
    refusal_of,
)
from app.domain.books.budgets import QUARTER_S, BudgetSpec, Owners
from app.domain.books.entries import (
    Answer,
    Command,
    Correct,
    Correction,
    Ending,
    Expire,
    Hold,
    Settle,
    SoftAlert,
    UsageEntry,
    Void,
)
from app.domain.books.legs import AccountKey, leg_set_of, legs_for, spec_of
from app.domain.books.sums import Sums, charged_nano, charged_tokens, sums_of
from app.domain.books.unknown import replacement_id, settlement_id
from app.domain.chat import NO_USAGE


class Batch:
    """The part of the books that some commands speak of.

    Args:
        specs: Every budget that may apply to anybody in the batch.
        quarter: The latest quarter of an hour in which the books were ever written; time does not go back behind it,
            so that a clock which jumped back opens no window again.
    """

    def __init__(self, specs: Iterable[BudgetSpec], quarter: int) -> None:
        self._specs = tuple(specs)
        self.quarter = quarter
        self.accounts: dict[str, Account] = {}
        self.leg_sets: dict[str, tuple[str, ...]] = {}
        self.holds: dict[str, HeldAmount] = {}
        self.known: set[str] = set()
        """Ids of entries and corrections that are in the store already."""
        self.current: dict[str, tuple[BookedEntry, Sums]] = {}
        """By entry id: the entry, and its sums with all corrections."""
        self.transfers: list[Transfer] = []
        self.booked: list[BookedEntry] = []
        self._planned: dict[tuple[Owners, int], str] = {}
        self._accounts_of: dict[str, list[Account]] = {}

    def plan(self, commands: Sequence[Command]) -> list[AccountKey]:
        """Return the accounts that new holds, and entries without a known hold, will need."""
        wanted: dict[str, AccountKey] = {}
        quarter = self.quarter
        for command in commands:
            quarter = max(quarter, int(command.at_s // QUARTER_S))
            if isinstance(command, Hold):
                owners: Iterable[Owners] = (command.owners,)
            elif isinstance(command, Settle) and command.hold_id not in self.holds:
                owners = (entry.owners for entry in command.entries)
            else:
                continue
            for one in owners:
                if (one, quarter) not in self._planned:
                    keys = legs_for(one, self._specs, quarter * QUARTER_S)
                    name = leg_set_of(key.account_id for key in keys)
                    self._planned[one, quarter] = name
                    self.leg_sets[name] = tuple(key.account_id for key in keys)
                    wanted.update((key.account_id, key) for key in keys)
        return list(wanted.values())

    @property
    def planned_sets(self) -> set[str]:
        """Names of the leg sets that may not be in the store yet."""
        return set(self._planned.values())

    def bring(self, account: Account) -> None:
        """Add an account, with the limit that holds for it now."""
        account.spec = spec_of(account.key, self._specs)
        if account.spec is not None:
            account.limit = account.spec.limit_in(account.key.ledger)
            assert account.limit is not None, "spec_of finds budgets that limit the account's ledger"
            account.hard_limit = account.limit if account.spec.hard else None
            account.alert_at = None if account.alerted else account.spec.soft_share * account.limit
        self.accounts[account.key.account_id] = account

    def apply(self, command: Command) -> Answer:
        """Decide one command; what it speaks of must have been brought in."""
        self.quarter = max(self.quarter, int(command.at_s // QUARTER_S))
        if isinstance(command, Hold):
            return self._hold(command)
        if isinstance(command, Settle):
            return self._settle(command)
        if isinstance(command, Void):
            return self._void(command)
        if isinstance(command, Expire):
            return self._expire(command)
        return self._correct(command)

    def _hold(self, command: Hold) -> Answer:
        known = self.holds.get(command.hold_id)
        if known is not None:
            same = (known.hold.owners, known.hold.amount_nano, known.hold.tokens) == (
                command.owners,
                command.amount_nano,
                command.tokens,
            )
            return Answer(outcome="replayed" if same else "conflict")
        leg_set = self._planned[command.owners, self.quarter]
        legs = self._legs(leg_set)
        for account in legs:
            refusal = refusal_of(account, command)
            if refusal is not None:
                return Answer(outcome="refused", refusal=refusal)
        held = HeldAmount(hold=command, leg_set=leg_set)
        self.holds[command.hold_id] = held
        self._move(
            Transfer(
                kind=TransferKind.PENDING,
                at_s=command.at_s,
                leg_set=leg_set,
                nano=held.nano,
                tokens=command.tokens,
                hold_id=command.hold_id,
            )
        )
        return Answer(outcome="done")

    def _settle(self, command: Settle) -> Answer:
        held = self.holds.get(command.hold_id) if command.hold_id is not None else None
        by_hand = any(entry.ending is Ending.SETTLED for entry in command.entries)
        if by_hand and not (held is not None and held.unknown):
            said = all(entry.entry_id in self.known for entry in command.entries)
            return Answer(outcome="replayed" if said else "conflict")
        repeated = tuple(entry.entry_id for entry in command.entries if entry.entry_id in self.known)
        fresh = self._fresh(command.entries)
        if command.entries and not fresh:
            # Said again; perhaps before a hold of that id came, which is not its to end.
            return Answer(outcome="replayed")
        if held is None:
            return self._settle_without_hold(command, fresh, repeated)
        nano, tokens = self._book(command, fresh, held.leg_set)
        taken_back: tuple[Correction, ...] = ()
        if held.state is HoldState.OPEN:
            self._end(held, TransferKind.POST, command.at_s, min(nano, held.nano), min(tokens, held.hold.tokens))
            nano, tokens = nano - min(nano, held.nano), tokens - min(tokens, held.hold.tokens)
        elif held.unknown:
            self._resolve(held, command.at_s)
        elif not fresh:
            settled = held.state is HoldState.POSTED or held.resolved
            return Answer(outcome="replayed" if settled else "conflict")
        else:
            taken_back = self._take_back(held, command.at_s)
        self._single(command, held.leg_set, nano, tokens)
        alerts = self._alerts(held.leg_set)
        return Answer(outcome="done", alerts=alerts, count=len(fresh), repeated=repeated, corrections=taken_back)

    def _settle_without_hold(self, command: Settle, fresh: Sequence[UsageEntry], repeated: tuple[str, ...]) -> Answer:
        if not fresh:
            return Answer(outcome="replayed" if command.hold_id is None else "missing")
        alerts: list[SoftAlert] = []
        for owners in dict.fromkeys(entry.owners for entry in fresh):
            leg_set = self._planned[owners, self.quarter]
            nano, tokens = self._book(command, [entry for entry in fresh if entry.owners == owners], leg_set)
            self._single(command, leg_set, nano, tokens)
            alerts += self._alerts(leg_set)
        return Answer(outcome="done", alerts=tuple(alerts), count=len(fresh), repeated=repeated)

    def _void(self, command: Void) -> Answer:
        held = self.holds.get(command.hold_id)
        if held is None:
            return Answer(outcome="missing")
        taken_back: tuple[Correction, ...] = ()
        if held.state is HoldState.OPEN:
            self._end(held, TransferKind.VOID, command.at_s, 0, 0)
        elif held.unknown:
            self._resolve(held, command.at_s)
        else:
            taken_back = self._take_back(held, command.at_s)
            if not taken_back:
                return Answer(outcome="conflict" if held.state is HoldState.POSTED else "replayed")
        return Answer(outcome="done", corrections=taken_back)

    def _expire(self, command: Expire) -> Answer:
        alerts: list[SoftAlert] = []
        count = 0
        for held in sorted(self.holds.values(), key=lambda held: (held.hold.expires_s, held.hold.hold_id)):
            if held.state is HoldState.OPEN and is_overdue(held.hold, command):
                self._end(held, TransferKind.EXPIRE, command.at_s, 0, 0)
                alerts += self._alerts(held.leg_set)
                count += 1
        return Answer(outcome="done", alerts=tuple(alerts), count=count)

    def _correct(self, command: Correct) -> Answer:
        if command.correction_id in self.known:
            return Answer(outcome="replayed")
        found = self.current.get(command.entry_id)
        if found is None:
            return Answer(outcome="missing")
        booked, before = found
        entry = replace(
            booked.entry,
            usage=command.usage,
            cost_nano=command.cost_nano,
            price_id=command.price_id,
        )
        after = sums_of(entry)
        correction = BookedEntry(
            entry=replace(entry, error_kind=command.note or entry.error_kind),
            row_id=command.correction_id,
            sums=tuple(new - old for new, old in zip(after, before, strict=True)),
            hold_id=booked.hold_id,
            leg_set=booked.leg_set,
            booked_s=command.at_s,
            corrects=command.entry_id,
        )
        self.booked.append(correction)
        self.known.add(command.correction_id)
        self.current[command.entry_id] = (booked, after)
        nano, tokens = charged_nano(correction.sums), charged_tokens(correction.sums)
        for kind, sign in ((TransferKind.CORRECT, 1), (TransferKind.REFUND, -1)):
            if sign * nano > 0 or sign * tokens > 0:
                self._move(
                    Transfer(
                        kind=kind,
                        at_s=command.at_s,
                        leg_set=booked.leg_set,
                        nano=max(0, sign * nano),
                        tokens=max(0, sign * tokens),
                        hold_id=booked.hold_id,
                        entry_id=command.correction_id,
                    )
                )
        told = Correction(correction_id=command.correction_id, entry=entry, differences=correction.sums)
        return Answer(outcome="done", alerts=self._alerts(booked.leg_set), count=1, corrections=(told,))

    def _take_back(self, held: HeldAmount, at_s: float) -> tuple[Correction, ...]:
        """Undo what a person settled an unknown hold with, if one did: who knows has come; return what that changed."""
        undo = Correct(
            correction_id=replacement_id(held.hold.hold_id),
            entry_id=settlement_id(held.hold.hold_id),
            usage=NO_USAGE,
            cost_nano=0,
            price_id=None,
            at_s=at_s,
        )
        return self._correct(undo).corrections

    def _fresh(self, entries: Sequence[UsageEntry]) -> list[UsageEntry]:
        fresh = []
        for entry in entries:
            if entry.entry_id not in self.known:
                self.known.add(entry.entry_id)
                fresh.append(entry)
        return fresh

    def _book(self, command: Settle, entries: Sequence[UsageEntry], leg_set: str) -> tuple[int, int]:
        nano = tokens = 0
        for entry in entries:
            sums = sums_of(entry)
            booked = BookedEntry(
                entry=entry,
                row_id=entry.entry_id,
                sums=sums,
                hold_id=command.hold_id,
                leg_set=leg_set,
                booked_s=command.at_s,
            )
            self.booked.append(booked)
            self.current[entry.entry_id] = (booked, sums)
            nano += charged_nano(sums)
            tokens += charged_tokens(sums)
        return nano, tokens

    def _single(self, command: Settle, leg_set: str, nano: int, tokens: int) -> None:
        if nano or tokens:
            self._move(
                Transfer(
                    kind=TransferKind.SINGLE,
                    at_s=command.at_s,
                    leg_set=leg_set,
                    nano=nano,
                    tokens=tokens,
                    hold_id=command.hold_id,
                )
            )

    def _end(self, held: HeldAmount, kind: TransferKind, at_s: float, nano: int, tokens: int) -> None:
        held.state = _STATE_AFTER[kind]
        held.ended_s = at_s
        self._move(self._freeing(held, kind, at_s, nano, tokens))

    def _resolve(self, held: HeldAmount, at_s: float) -> None:
        held.resolved = True
        self._move(self._freeing(held, TransferKind.RESOLVE, at_s, 0, 0))

    def _freeing(self, held: HeldAmount, kind: TransferKind, at_s: float, nano: int, tokens: int) -> Transfer:
        return Transfer(
            kind=kind,
            at_s=at_s,
            leg_set=held.leg_set,
            nano=nano,
            tokens=tokens,
            freed_nano=held.nano,
            freed_tokens=held.hold.tokens,
            hold_id=held.hold.hold_id,
        )

    def _move(self, transfer: Transfer) -> None:
        self.transfers.append(transfer)
        for account in self._legs(transfer.leg_set):
            move(account, transfer)

    def _legs(self, leg_set: str) -> list[Account]:
        found = self._accounts_of.get(leg_set)
        if found is None:
            found = [self.accounts[account_id] for account_id in self.leg_sets[leg_set]]
            self._accounts_of[leg_set] = found
        return found

    def _alerts(self, leg_set: str) -> tuple[SoftAlert, ...]:
        alerts: tuple[SoftAlert, ...] = ()
        for account in self._legs(leg_set):
            if account.alert_at is not None and account.used >= account.alert_at:
                account.alerted, account.alert_at = True, None
                alerts += (alert_of(account),)
        return alerts


def is_overdue(hold: Hold, command: Expire) -> bool:
    """Return whether ``command`` takes the hold's holder for dead."""
    if command.holder is not None:
        return hold.holder == command.holder
    return hold.expires_s <= command.at_s


_STATE_AFTER = {
    TransferKind.POST: HoldState.POSTED,
    TransferKind.VOID: HoldState.VOIDED,
    TransferKind.EXPIRE: HoldState.EXPIRED,
}
