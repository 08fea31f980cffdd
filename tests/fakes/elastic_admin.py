"""An Elasticsearch as an installer sees it, in memory: answers in the shapes that Elastic's reference shows.

What the test server has too (templates, mappings, aliases) is held against the real one by
``tests/integration/test_elastic_install.py``; lifecycle and security are shapes of the documentation, met by no server
here (docs/compatibility.md says so).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.domain.events.installing import AdminAnswer


class FakeElastic:
    """The port ``AdminRequests``.

    Args:
        lifecycle: Whether ILM answers.
        security: Whether the security APIs answer.
        refuse: Status with which a path that begins so is refused.
    """

    url = "http://elastic.test:9200"

    def __init__(
        self, *, lifecycle: bool = True, security: bool = True, refuse: Mapping[str, int] | None = None
    ) -> None:
        self.lifecycle = lifecycle
        self.security = security
        self.refuse = dict(refuse or {})
        self.kept: dict[str, dict[str, Any]] = {}
        self.indices: dict[str, dict[str, Any]] = {}
        self.keys: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str]] = []

    async def ask(self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json") -> AdminAnswer:
        """Answer one request."""
        assert kind == "application/json"
        self.asked.append((method, path))
        place = urlsplit(path).path
        for beginning, status in self.refuse.items():
            if place.startswith(beginning):
                return AdminAnswer(status=status, document={}, words=f"status {status}")
        sent = orjson.loads(body) if body else {}
        found = self._answer(method, place, sent)
        if found is None:
            return AdminAnswer(status=404, document={}, words="resource_not_found_exception")
        if found is _NO_HANDLER:
            return AdminAnswer(status=400, document={"error": f"no handler found for uri [{path}]"}, words="status 400")
        return AdminAnswer(status=200, document=found, words="")

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What was asked that changes anything."""
        return [(method, path) for method, path in self.asked if method != "GET"]

    def _answer(self, method: str, place: str, sent: dict[str, Any]) -> dict[str, Any] | None:
        part = place.split("/")[1]
        if (part == "_ilm" and not self.lifecycle) or (part == "_security" and not self.security):
            return _NO_HANDLER
        if place == "/_cluster/health":
            return {"cluster_name": "test", "status": "green"}
        if place == "/_ilm/status":
            return {"operation_mode": "RUNNING"}
        if place == "/_security/_authenticate":
            return {"username": "elastic", "roles": ["superuser"], "enabled": True}
        if place == "/_security/api_key":
            return self._key(sent) if method == "POST" else {"api_keys": self.keys}
        if place.endswith(("/_mapping", "/_alias")):
            name = place.rsplit("/", 1)[1]
            if method == "GET":
                at = "mappings" if name == "_mapping" else "aliases"
                return {index: {at: held.get(at, {})} for index, held in self.indices.items()}
            self.indices[place.split("/")[1]]["mappings"].update(sent)
            return {"acknowledged": True}
        if place == "/_aliases":
            for action in sent["actions"]:
                self.indices[action["add"]["index"]].setdefault("aliases", {})[action["add"]["alias"]] = {}
            return {"acknowledged": True}
        if method == "PUT":
            self.kept[place] = sent
            return {"acknowledged": True}
        return _shown(place, self.kept[place]) if place in self.kept else None

    def _key(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.keys.append({"id": f"k{len(self.keys)}", **sent, "invalidated": False})
        return {"id": f"k{len(self.keys)}", "name": sent["name"], "api_key": "plain", "encoded": "ENCODED=="}


_NO_HANDLER: dict[str, Any] = {"no": "handler"}


def _shown(place: str, held: dict[str, Any]) -> dict[str, Any]:
    """Return what a GET shows of what was put: settings become text, roles and policies get the server's own fields."""
    name = place.rsplit("/", 1)[1]
    if place.startswith("/_component_template/"):
        return {"component_templates": [{"name": name, "component_template": _as_text(held)}]}
    if place.startswith("/_index_template/"):
        return {"index_templates": [{"name": name, "index_template": _as_text(held)}]}
    if place.startswith("/_ilm/"):
        shown = orjson.loads(orjson.dumps(held))
        if "delete" in shown["policy"]["phases"]:
            shown["policy"]["phases"]["delete"]["actions"]["delete"] = {"delete_searchable_snapshot": True}
        return {name: {"version": 1, "modified_date": "2026-11-21T00:00:00.000Z", "in_use_by": {}, **shown}}
    extra = {"applications": [], "run_as": [], "transient_metadata": {"enabled": True}}
    indices = [{**one, "allow_restricted_indices": False} for one in held["indices"]]
    return {name: {"cluster": [], **held, **extra, "indices": indices}}


def _as_text(held: dict[str, Any]) -> dict[str, Any]:
    settings = held.get("template", {}).get("settings")
    if settings is None:
        return held
    return {**held, "template": {**held["template"], "settings": _text(settings)}}


def _text(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _text(inner) for name, inner in value.items()}
    return str(value).lower() if isinstance(value, bool) else str(value)
