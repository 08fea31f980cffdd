"""What a new configuration may not change while Tutti runs: where it keeps things, and that its door is locked.

Pure; called by the directory before it takes a configuration over.
"""

from __future__ import annotations

from app.domain.accounts import Orchestra
from app.domain.errors import ConfigurationError


def check_change(before: Orchestra, after: Orchestra) -> None:
    """Make sure that ``after`` may follow ``before``.

    Raises:
        ConfigurationError: it needs a restart.
    """
    if after.data_dir != before.data_dir:
        raise ConfigurationError(
            f"data_dir cannot change while Tutti runs (now {before.data_dir!r})",
            param="data_dir",
            remedy="restart Tutti to move the data directory",
        )
    if after.store_url != before.store_url:
        raise ConfigurationError(
            "store.url cannot change while Tutti runs", param="store.url", remedy="restart Tutti to move its store"
        )
    # Where the door listens is decided at the start, by whether there are keys: it may be open to a network.
    if before.callers and not after.callers:
        raise ConfigurationError(
            "auth.keys cannot be emptied while Tutti runs: its door would be open to whoever reaches it",
            param="auth.keys",
            remedy="keep a key, or restart Tutti without any: it then listens on this machine alone",
        )
