"""Checks what concerns events and needs more than one field: one receiver, one way to sign in.

As ``references`` it works on data that may be wrong elsewhere and says nothing of what cannot be read.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.chat import Json
from app.settings.document import Document


def check_events(document: Document, data: Mapping[str, Json]) -> None:
    """Report mistakes in ``events`` into ``document``."""
    events = data.get("events")
    if not isinstance(events, dict):
        return
    receivers = [name for name in ("elasticsearch", "file", "otlp") if events.get(name) is not None]
    if len(receivers) > 1:
        document.report(("events", receivers[1]), "is a second receiver of events", f"keep it or `{receivers[0]}`")
    elastic = events.get("elasticsearch")
    if not isinstance(elastic, dict):
        return
    key, user, password = (elastic.get(name) is not None for name in ("api_key", "username", "password"))
    path = ("events", "elasticsearch")
    if user != password:
        document.report(path, "username and password belong together", "write both, or `api_key` instead")
    elif key and user:
        document.report(path, "signs in twice", "write `api_key`, or username and password")
