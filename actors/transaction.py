"""How the store actor's parts reach its database: by commands that it runs in a transaction.

Nothing more is shared: some parts only write, some read as well, and each says in its constructor what it needs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

Value = TypeVar("Value")


class Transaction(Protocol):
    """Runs a command on the store's connection for writing, or on one for reading; raises GatewayError.

    A command that writes is on disk when its call returns.
    """

    def __call__(self, command: Callable[[Connection], Value], /) -> Awaitable[Value]: ...
