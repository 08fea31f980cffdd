"""Messages that are sent hundreds of times a second, packed by the ordinary pickler.

Ray pickles arguments with a pickler that also takes functions and classes made on the spot; for plain values that
costs twice as much. What is packed here reaches Ray as bytes, which it hands over as they are.
"""

from __future__ import annotations

import pickle
from typing import Any


def pack(value: object) -> bytes:
    """Return ``value``, made of plain values only, as bytes."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def unpack(data: bytes) -> Any:
    """Return what an actor of ours packed."""
    return pickle.loads(data)


class Packed:
    """For actors: any of their methods may be asked with packed arguments, and answers packed."""

    async def packed(self, method: str, arguments: bytes) -> bytes:
        """Call ``method`` with arguments that came packed; errors travel as always."""
        return pack(await getattr(self, method)(*unpack(arguments)))
