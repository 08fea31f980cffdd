"""A Kibana as an installer sees it, in memory: status, import, connectors, rules, in the shapes of Elastic's reference.

No Kibana was at hand: these shapes are read, not recorded (docs/compatibility.md says so). An import is checked as
Kibana checks it (``kibana_reader``), parameters of rules by the schemas of Kibana's sources.
"""

from __future__ import annotations

import email
import re
from typing import Any

import orjson

from app.domain.events.installing import AdminAnswer
from tests.fakes.kibana_reader import mistakes, parse

METRICS = {"avg", "sum", "min", "max", "cardinality", "rate", "p95", "p99", "count"}
NEW_ONLY = {"rule_type_id", "consumer", "enabled"}


class FakeKibana:
    """The port ``AdminRequests``.

    Args:
        version: What it says it is.
        refuse: Status with which everything is refused.
    """

    url = "http://kibana.test:5601"

    def __init__(self, *, version: str = "9.2.0", refuse: int = 0) -> None:
        self.version = version
        self.refuse = refuse
        self.objects: dict[str, dict[str, Any]] = {}
        self.connectors: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []

    async def ask(self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json") -> AdminAnswer:
        """Answer one request."""
        self.asked.append((method, path))
        if self.refuse:
            return _refused(self.refuse, "no")
        if path.endswith("/api/status"):
            return _fine({"name": "kibana", "version": {"number": self.version}})
        if "/api/saved_objects/_import" in path:
            return self._import(body, kind)
        kept = self.connectors if "/api/actions/connector/" in path else self.rules
        name = path.rsplit("/", 1)[1]
        if method == "GET":
            return _fine(kept[name]) if name in kept else _refused(404, "Saved object not found")
        return self._keep(method, kept, name, orjson.loads(body))

    @property
    def changes(self) -> list[str]:
        """Paths of what was asked that changes anything."""
        return [path for method, path in self.asked if method != "GET"]

    def _import(self, body: bytes, kind: str) -> AdminAnswer:
        form = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        (_, part) = form.walk()
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes), "a file"
        sent = parse(content.decode())
        wrong = mistakes(sent)
        if wrong:
            errors = [{"title": mistake, "error": {"type": "unknown"}} for mistake in wrong]
            return _fine({"success": False, "successCount": 0, "errors": errors})
        self.objects |= {one["id"]: one for one in sent}
        return _fine({"success": True, "successCount": len(sent)})

    def _keep(self, method: str, kept: dict[str, Any], name: str, sent: dict[str, Any]) -> AdminAnswer:
        if (method == "POST") == (name in kept):
            return _refused(409 if method == "POST" else 404, "conflict")
        if kept is self.rules:
            wrong = self._rule_mistake(sent, kept.get(name, sent)["rule_type_id"])
            if wrong or bool(NEW_ONLY & set(sent)) != (method == "POST"):
                return _refused(400, wrong or "additional properties")
            # The server adds what nobody sent, and takes none of it back.
            actions = [{**action, "connector_type_id": ".server-log", "uuid": "u"} for action in sent["actions"]]
            sent = {**kept.get(name, {}), **sent, "actions": actions, "id": name, "mute_all": False, "revision": 0}
        kept[name] = sent
        return _fine(sent)

    def _rule_mistake(self, rule: dict[str, Any], kind: str) -> str:
        params = rule["params"]
        for action in rule["actions"]:
            if action["id"] not in self.connectors:
                return "no such connector"
            if "connector_type_id" in action:
                return "additional properties"
        if kind == ".es-query":
            query = orjson.loads(params["esQuery"])
            known = params["searchType"] == "esQuery" and params["index"] and params["timeField"] and "query" in query
            return "" if known else "[esQuery]: must contain query"
        if kind != "observability.rules.custom_threshold":
            return f"unknown rule type {kind}"
        if params["searchConfiguration"]["index"] not in self.objects:
            return "no such data view"
        for criterion in params["criteria"]:
            names = [metric["name"] for metric in criterion["metrics"]]
            if set(re.findall("[A-Z]", criterion["equation"])) != set(names):
                return f"equation {criterion['equation']} over {names}"
            if re.search(r"[^A-Z+\-\s\d.()/*><=?:&!|]", criterion["equation"]):
                return "signs that an equation may not have"
            for metric in criterion["metrics"]:
                if metric["aggType"] not in METRICS or ("field" in metric) == (metric["aggType"] == "count"):
                    return f"metric {metric}"
        return ""


def _fine(document: dict[str, Any]) -> AdminAnswer:
    return AdminAnswer(status=200, document=document, words="")


def _refused(status: int, words: str) -> AdminAnswer:
    return AdminAnswer(status=status, document={"statusCode": status, "message": words}, words=words)
