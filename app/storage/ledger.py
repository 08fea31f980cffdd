"""SQL of the books: every command is applied on an open connection, inside the caller's transaction.

Brings in what a batch of commands speaks of, has ``domain.books.batch`` decide, and writes what changed: a batch of
hundreds costs a few statements. Does not commit and keeps nothing between calls, so that a transaction undone is undone
here too. One process writes (the store actor); a second one would be noticed by the compare-and-set of a hold's state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import BindParameter, Connection, bindparam, insert, select, update

from app.domain.books.balances import Account, BookedEntry, HeldAmount, HoldState, Transfer, TransferKind, move
from app.domain.books.batch import Batch
from app.domain.books.budgets import BudgetSpec, Ledger, owner_words
from app.domain.books.entries import Answer, Command, Correct, Expire, Hold, Settle, Void
from app.domain.books.legs import AccountKey, leg_set_of
from app.domain.books.sums import DIMENSIONS, SUMS, day_of, dimensions_of, hour_of
from app.domain.books.unknown import replacement_id, settlement_id
from app.domain.errors import InternalError
from app.domain.events.facts import answers_told, entries_told
from app.storage import books_rows as rows
from app.storage import outbox
from app.storage.books_tables import (
    BALANCES,
    books_clock,
    hold,
    ledger_account,
    leg,
    transfer,
    usage_day,
    usage_entry,
    usage_hour,
    usage_run,
)
from app.storage.budget_rows import find_specs
from app.storage.prepared import Cell, Prepared
from app.storage.upsert import adding, ignoring, replacing

COMMANDS_AT_ONCE = 1_000
"""Longer batches are applied in parts, so that no statement grows without bound."""
IDS_AT_ONCE = 5_000

_CLOCK = select(books_clock.c.quarter).where(books_clock.c.id == 1)
_IDS: BindParameter[list[str]] = bindparam("ids", expanding=True)
_HOLDS = select(hold).where(hold.c.id.in_(_IDS))
_OVERDUE = select(hold).where(hold.c.state == HoldState.OPEN, hold.c.expires_s <= bindparam("now_s"))
_OF_HOLDER = select(hold).where(hold.c.state == HoldState.OPEN, hold.c.holder == bindparam("of_holder"))
_KNOWN = select(usage_entry.c.id).where(usage_entry.c.id.in_(_IDS))
_ENTRIES = select(usage_entry).where(usage_entry.c.id.in_(_IDS), usage_entry.c.corrects.is_(None))
_CORRECTIONS = select(usage_entry).where(usage_entry.c.corrects.in_(_IDS))
_ACCOUNTS = select(ledger_account).where(ledger_account.c.id.in_(_IDS)).with_for_update()
_LEGS = (
    select(leg.c.leg_set, ledger_account)
    .select_from(leg.join(ledger_account, ledger_account.c.id == leg.c.account_id))
    .where(leg.c.leg_set.in_(_IDS))
)

_PUT_LEG = Prepared(ignoring(leg), ("leg_set", "account_id"))
_PUT_ACCOUNT = Prepared(insert(ledger_account).inline(), rows.ACCOUNT_COLUMNS)
_MOVE_ACCOUNT = Prepared(
    update(ledger_account)
    .where(ledger_account.c.id == bindparam("of_id"))
    .values({name: ledger_account.c[name] + bindparam(f"d_{name}") for name in BALANCES} | {"alerted": bindparam("a")}),
    (*(f"d_{name}" for name in BALANCES), "a", "of_id"),
)
_PUT_HOLD = Prepared(insert(hold).inline(), rows.HOLD_COLUMNS)
_END_HOLD = Prepared(
    update(hold)
    .where(hold.c.id == bindparam("of_id"), hold.c.state == bindparam("was"), hold.c.resolved == bindparam("was_r"))
    .values(state=bindparam("s"), resolved=bindparam("r"), ended_s=bindparam("e")),
    ("s", "r", "e", "of_id", "was", "was_r"),
)
_PUT_TRANSFER = Prepared(insert(transfer).inline(), rows.TRANSFER_COLUMNS)
_PUT_ENTRY = Prepared(insert(usage_entry).inline(), rows.ENTRY_COLUMNS)
_ADD_HOUR = Prepared(adding(usage_hour, SUMS), ("hour", *DIMENSIONS, *SUMS))
_ADD_DAY = Prepared(adding(usage_day, SUMS), ("day", *DIMENSIONS, *SUMS))
_ADD_RUN = Prepared(adding(usage_run, SUMS), ("run_id", "hour", *DIMENSIONS, *SUMS))
_PUT_CLOCK = Prepared(replacing(books_clock), ("id", "quarter"))

COUNTERS = {ledger: f"{ledger}/providers" for ledger in Ledger}
"""The other side of every transfer, by ledger."""


def apply(connection: Connection, commands: Sequence[Command]) -> list[Answer]:
    """Apply commands in order and return their answers; the same as one by one, in few statements.

    Raises:
        InternalError: another process changed the books meanwhile; nothing of this transaction may be kept.
    """
    answers: list[Answer] = []
    for part in _parts(commands):
        answers += _apply(connection, part)
    return answers


def take_hold(connection: Connection, command: Hold) -> Answer:
    """Set aside what a hold asks on all budgets that apply, or refuse and say which one has no room."""
    return _one(connection, command)


def settle(connection: Connection, command: Settle) -> Answer:
    """Book entries, post their sum and give the rest of the hold back; what exceeds the hold is booked all the same."""
    return _one(connection, command)


def void(connection: Connection, command: Void) -> Answer:
    """Give a hold back whole."""
    return _one(connection, command)


def expire(connection: Connection, command: Expire) -> Answer:
    """Move what dead holders held to unknown."""
    return _one(connection, command)


def correct(connection: Connection, command: Correct) -> Answer:
    """Book the difference between what an entry says and what turned out."""
    return _one(connection, command)


def select_in(connection: Connection, query: rows.Query, ids: Iterable[str]) -> Iterable[rows.Found]:
    """Yield what ``query`` finds for its parameter ``ids``, however many they are."""
    wanted = list(dict.fromkeys(ids))
    for start in range(0, len(wanted), IDS_AT_ONCE):
        yield from connection.execute(query, {"ids": wanted[start : start + IDS_AT_ONCE]})


def open_accounts(connection: Connection, spent: Sequence[tuple[AccountKey, int]], at_s: float) -> None:
    """Post what was spent in a window before its budget existed, as far as the account does not have it yet."""
    stored = _find_accounts(connection, [*(key.account_id for key, _amount in spent), *COUNTERS.values()])
    accounts, legs, transfers = [], [], []
    for key, amount in spent:
        account = stored.get(key.account_id) or Account(key=key)
        missing = amount - (account.posted - account.refunded)
        if missing <= 0:
            continue
        usd = key.ledger is Ledger.USD
        leg_set = leg_set_of([key.account_id])
        opening = Transfer(
            kind=TransferKind.OPENING,
            at_s=at_s,
            leg_set=leg_set,
            nano=missing if usd else 0,
            tokens=0 if usd else missing,
        )
        move(account, opening)
        accounts.append(account)
        legs.append((leg_set, key.account_id))
        transfers.append(rows.transfer_row(opening))
    _PUT_LEG.run(connection, legs)
    _put_accounts(connection, accounts, stored)
    _PUT_TRANSFER.run(connection, transfers)


def now_quarter(connection: Connection) -> int:
    """Return the latest quarter of an hour in which the books were written."""
    return connection.execute(_CLOCK).scalar() or 0


def _one(connection: Connection, command: Command) -> Answer:
    return apply(connection, [command])[0]


def _parts(commands: Sequence[Command]) -> Iterable[Sequence[Command]]:
    """Yield runs of commands; an expiry stands alone, because it must see what was written before it."""
    part: list[Command] = []
    for command in commands:
        if part and (isinstance(command, Expire) or isinstance(part[-1], Expire) or len(part) == COMMANDS_AT_ONCE):
            yield part
            part = []
        part.append(command)
    if part:
        yield part


def _apply(connection: Connection, commands: Sequence[Command]) -> list[Answer]:
    quarter = now_quarter(connection)
    held = _find_holds(connection, commands)
    corrected = _find_corrected(connection, commands, held)
    leg_sets, accounts = _find_legs(
        connection, {*(one.leg_set for one in held), *(booked.leg_set for booked, _sums in corrected)}
    )
    batch = Batch(_specs(connection, commands, accounts.values(), held), quarter)
    batch.holds = {one.hold.hold_id: one for one in held}
    batch.current = {booked.row_id: (booked, sums) for booked, sums in corrected}
    batch.known = {row.id for row in select_in(connection, _KNOWN, _ids_to_know(commands, held))}
    batch.leg_sets = leg_sets
    for account in accounts.values():
        batch.bring(account)
    planned = [key for key in batch.plan(commands) if key.account_id not in accounts]
    stored = _find_accounts(connection, [*(key.account_id for key in planned), *COUNTERS.values()])
    for key in planned:
        batch.bring(stored.get(key.account_id) or Account(key=key))
    answers = [batch.apply(command) for command in commands]
    _write(connection, batch, stored, quarter)
    outbox.tell(connection, answers_told(commands, answers))
    return answers


def _find_holds(connection: Connection, commands: Sequence[Command]) -> list[HeldAmount]:
    first = commands[0]
    if isinstance(first, Expire):
        if first.holder is None:
            found = connection.execute(_OVERDUE, {"now_s": first.at_s})
        else:
            found = connection.execute(_OF_HOLDER, {"of_holder": first.holder})
        return [rows.held_of(row) for row in found]
    ids = [one.hold_id for one in commands if isinstance(one, Hold | Settle | Void) and one.hold_id is not None]
    return [rows.held_of(row) for row in select_in(connection, _HOLDS, ids)]


def _find_corrected(
    connection: Connection, commands: Sequence[Command], held: Sequence[HeldAmount]
) -> list[tuple[BookedEntry, tuple[int, ...]]]:
    ids = [command.entry_id for command in commands if isinstance(command, Correct)]
    # What a person settled gives way to what comes after all.
    ids += [settlement_id(one.hold.hold_id) for one in held if one.resolved]
    if not ids:
        return []
    sums = {row.id: (rows.booked_of(row), rows.sums_in(row)) for row in select_in(connection, _ENTRIES, ids)}
    for row in select_in(connection, _CORRECTIONS, ids):
        booked, before = sums[row.corrects]
        sums[row.corrects] = (booked, tuple(a + b for a, b in zip(before, rows.sums_in(row), strict=True)))
    return list(sums.values())


def _find_legs(connection: Connection, names: Iterable[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, Account]]:
    found: dict[str, list[str]] = {}
    accounts: dict[str, Account] = {}
    for row in select_in(connection, _LEGS, names):
        found.setdefault(row.leg_set, []).append(row.id)
        if row.id not in accounts:
            accounts[row.id] = rows.account_of(row)
    return {name: tuple(sorted(ids)) for name, ids in found.items()}, accounts


def _find_accounts(connection: Connection, ids: Iterable[str]) -> dict[str, Account]:
    return {row.id: rows.account_of(row) for row in select_in(connection, _ACCOUNTS, ids)}


def _specs(
    connection: Connection, commands: Sequence[Command], accounts: Iterable[Account], held: Sequence[HeldAmount]
) -> Iterable[BudgetSpec]:
    known = {one.hold.hold_id for one in held}
    owners = {command.owners for command in commands if isinstance(command, Hold)}
    for command in commands:
        if isinstance(command, Settle) and command.hold_id not in known:
            owners.update(entry.owners for entry in command.entries)
    words = {word for one in owners for word in owner_words(one)}
    for account in accounts:
        words.update((f"{account.key.owner_kind}:{account.key.owner_name}", f"{account.key.owner_kind}:*"))
    return find_specs(connection, words)


def _ids_to_know(commands: Sequence[Command], held: Sequence[HeldAmount]) -> Iterable[str]:
    yield from (replacement_id(one.hold.hold_id) for one in held if one.resolved)
    for command in commands:
        if isinstance(command, Settle):
            yield from (entry.entry_id for entry in command.entries)
        elif isinstance(command, Correct):
            yield command.correction_id


def _write(connection: Connection, batch: Batch, stored: dict[str, Account], quarter: int) -> None:
    if batch.quarter != quarter:
        _PUT_CLOCK.run(connection, [(1, batch.quarter)])
    used = {one.leg_set for one in batch.transfers} | {one.leg_set for one in batch.booked}
    touched = {account_id for name in used for account_id in batch.leg_sets[name]}
    planned = sorted(used & batch.planned_sets)
    _PUT_LEG.run(connection, [(name, one) for name in planned for one in batch.leg_sets[name]])
    _put_accounts(connection, [batch.accounts[one] for one in sorted(touched)], stored)
    _PUT_HOLD.run(connection, [rows.hold_row(one) for one in batch.holds.values() if one.stored is None])
    changed = [
        (one.state.value, int(one.resolved), one.ended_s, one.hold.hold_id, one.stored[0].value, int(one.stored[1]))
        for one in batch.holds.values()
        if one.stored is not None and one.stored != (one.state, one.resolved)
    ]
    if _END_HOLD.run(connection, changed) != len(changed):
        raise InternalError("another process changed the books", remedy="see that one Tutti writes to this database")
    _PUT_TRANSFER.run(connection, [rows.transfer_row(one) for one in batch.transfers])
    _write_entries(connection, batch.booked)


def _put_accounts(connection: Connection, accounts: Iterable[Account], stored: dict[str, Account]) -> None:
    """Insert or move accounts, and the counters by what all of them together moved."""
    accounts = list(accounts)
    if not accounts:
        return
    fresh: list[tuple[Cell, ...]] = []
    moved: list[tuple[Cell, ...]] = []
    sums = {ledger: [0, 0, 0, 0] for ledger in Ledger}
    for account in accounts:
        before = account.stored or (0, 0, 0, 0)
        change = [now - was for now, was in zip(account.balances, before, strict=True)]
        sums[account.key.ledger] = [a + b for a, b in zip(sums[account.key.ledger], change, strict=True)]
        pending, posted, unknown, refunded = change
        if account.stored is None:
            fresh.append(rows.account_row(account, (pending, posted, unknown, 0, refunded, 0)))
        elif any(change) or account.alerted:
            moved.append((pending, posted, unknown, 0, refunded, 0, int(account.alerted), account.key.account_id))
    for ledger, (pending, posted, unknown, refunded) in sums.items():
        change_of_counter = (0, refunded, 0, pending, posted, unknown)
        if COUNTERS[ledger] in stored:
            moved.append((*change_of_counter, 0, COUNTERS[ledger]))
        else:
            fresh.append(rows.counter_row(COUNTERS[ledger], ledger, change_of_counter))
    _PUT_ACCOUNT.run(connection, fresh)
    _MOVE_ACCOUNT.run(connection, moved)


def _write_entries(connection: Connection, booked: Sequence[BookedEntry]) -> None:
    if not booked:
        return
    hours: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    runs: dict[tuple[str, int, tuple[str, ...]], list[int]] = {}
    cells = []
    for one in booked:
        dimensions, run_id = dimensions_of(one.entry), one.entry.owners.run
        hour = hour_of(one.entry.at_s)
        cells.append(rows.entry_row(one, dimensions))
        _add(hours, (hour, dimensions), one.sums)
        if run_id:
            _add(runs, (run_id, hour, dimensions), one.sums)
    _PUT_ENTRY.run(connection, cells)
    outbox.tell(connection, entries_told(booked))
    _ADD_HOUR.run(connection, [(hour, *place, *sums) for (hour, place), sums in hours.items()])
    days: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for (hour, place), sums in hours.items():
        _add(days, (day_of(hour), place), sums)
    _ADD_DAY.run(connection, [(day, *place, *sums) for (day, place), sums in days.items()])
    _ADD_RUN.run(connection, [(run, hour, *place, *sums) for (run, hour, place), sums in runs.items()])


def _add(into: dict[rows.Place, list[int]], place: rows.Place, sums: Sequence[int]) -> None:
    found = into.get(place)
    if found is None:
        into[place] = list(sums)
        return
    for index, value in enumerate(sums):
        found[index] += value
