"""Brings our dashboards, searches and alert rules into a Kibana; again changes nothing but what differs.

Dashboards go as one import, which takes the place of what is there under our ids. Rules cannot be imported in working
order: the API makes them, and a connector that writes what fired to Kibana's log. Rules that somebody disabled stay so.
Called by ``tutti kibana install``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import orjson

from app.domain.chat import Json
from app.domain.errors import ConfigurationError, InternalError
from app.domain.events.installing import AdminAnswer, AdminRequests, Done, Installed, Step, at, differences, named
from app.domain.kibana import export
from app.domain.kibana.alerts import RULES
from app.domain.kibana.rules import Rule, connector_body, connector_id, new_rule_body, rule_body, rule_id
from app.domain.kibana.saved_objects import Object, Setting, fixed_id, ndjson

OLDEST = (8, 9)
"""What an import of our objects needs."""
MISTAKES_MAX = 5
_ACTION = {"group", "id", "params", "uuid", "frequency", "alerts_filter", "use_alert_data_for_template"}
_KINDS = {"index-pattern": "data view", "dashboard": "dashboard", "search": "search"}


class KibanaInstaller:
    """Installs into one Kibana.

    Args:
        server: Where to.
        setting: Which events the objects are about.
        space: Kibana's space; empty is the default one.
        dry_run: Only say what would be done.

    Used once.
    """

    def __init__(self, server: AdminRequests, setting: Setting, *, space: str = "", dry_run: bool = False) -> None:
        self._server = server
        self._setting = setting
        self._base = f"/s/{space}" if space else ""
        self._dry_run = dry_run
        self._steps: list[Step] = []

    async def install(self) -> Installed:
        """Install, or say what would be done.

        Raises:
            ConfigurationError: it refuses whoever signs in, is too old, or is no Kibana.
            InternalError: it cannot be reached, or refuses an object or rule.
        """
        await self._require_kibana()
        await self._import()
        await self._connect()
        for rule in RULES:
            await self._put_rule(rule)
        return Installed(steps=tuple(self._steps))

    async def _require_kibana(self) -> None:
        answer = await self._ask("GET", "/api/status")
        number = at(dict(answer.document), ("version", "number"))
        parts = number.split(".") if isinstance(number, str) else []
        if not answer.fine or len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
            raise ConfigurationError(
                f"{self._server.url} answers, but not like a Kibana: {answer.words or answer.status}",
                param="--url",
                remedy="Check the address, and that Kibana has started.",
            )
        if (int(parts[0]), int(parts[1])) < OLDEST:
            raise ConfigurationError(
                f"Kibana at {self._server.url} is {number}: our dashboards need 8.9 or newer.", param="--url"
            )

    async def _import(self) -> None:
        objects = export.objects(self._setting)
        if not self._dry_run:
            body, kind = _form(ndjson(objects))
            answer = await self._ask("POST", "/api/saved_objects/_import?overwrite=true", body, kind=kind)
            if not answer.fine or answer.document.get("success") is not True:
                raise InternalError(
                    f"Kibana refuses to import: {_import_errors(answer) or answer.words or answer.status}",
                    remedy="Whoever signs in needs to manage saved objects and dashboards.",
                )
        for one in objects:
            kind = _KINDS[str(one["type"])]
            self._steps.append(Step(what=kind, name=str(at(one, ("attributes", "title"))), done=Done.PUT))

    async def _connect(self) -> None:
        """See to it that there is something that says what fired."""
        path = f"/api/actions/connector/{connector_id(self._setting)}"
        found = await self._ask("GET", path)
        body = connector_body()
        step = Step(what="connector", name=str(body["name"]), done=Done.UNCHANGED)
        if found.status == 404:
            step = Step(what=step.what, name=step.name, done=Done.CREATED)
            if not self._dry_run:
                self._require(await self._ask("POST", path, orjson.dumps(body)), "make a connector")
        else:
            self._require(found, "look for our connector")
        self._steps.append(step)

    async def _put_rule(self, rule: Rule) -> None:
        path = f"/api/alerting/rule/{rule_id(rule, self._setting)}"
        found = await self._ask("GET", path)
        wanted = rule_body(rule, self._setting)
        if found.status == 404:
            await self._write("POST", path, new_rule_body(rule, self._setting), rule, Done.CREATED)
            return
        self._require(found, "look for our alert rules")
        changes = _rule_differences(wanted, found.document)
        if changes:
            kept = _actions(found.document)
            await self._write("PUT", path, {**wanted, "actions": kept}, rule, Done.CHANGED, named(changes))
        else:
            self._steps.append(Step(what="alert rule", name=rule.title, done=Done.UNCHANGED))

    async def _write(self, method: str, path: str, body: Object, rule: Rule, done: Done, detail: str = "") -> None:
        if not self._dry_run:
            answer = await self._ask(method, path, orjson.dumps(body))
            self._require(answer, f"keep the alert rule {rule.title!r}")
        self._steps.append(Step(what="alert rule", name=rule.title, done=done, detail=detail))

    async def _ask(self, method: str, path: str, body: bytes = b"", *, kind: str = "application/json") -> AdminAnswer:
        answer = await self._server.ask(method, self._base + path, body, kind=kind)
        if answer.status in (401, 403):
            raise ConfigurationError(
                f"Kibana at {self._server.url} "
                + ("does not know whoever signs in." if answer.status == 401 else f"forbids this: {answer.words}"),
                param="--user",
                remedy="Install as a user who may manage saved objects, connectors and rules.",
            )
        return answer

    def _require(self, answer: AdminAnswer, what: str) -> None:
        if not answer.fine:
            raise InternalError(
                f"Kibana at {self._server.url} refuses to {what}: {answer.words or answer.status}",
                remedy="What was done before stays; install again once that is mended.",
            )


def _rule_differences(wanted: Object, present: Mapping[str, Json]) -> tuple[str, ...]:
    """Compare what we say of a rule; its actions are the operator's own once it is there."""
    mine = {name: value for name, value in wanted.items() if name != "actions"}
    return differences(mine, {name: present.get(name) for name in mine})


def _actions(present: Mapping[str, Json]) -> list[Json]:
    """Return the rule's actions as an update takes them: what the server adds to them it refuses."""
    actions = present.get("actions")
    found = [action for action in actions if isinstance(action, dict)] if isinstance(actions, list) else []
    return [{name: value for name, value in action.items() if name in _ACTION} for action in found]


def _import_errors(answer: AdminAnswer) -> str:
    errors = answer.document.get("errors")
    found = errors if isinstance(errors, list) else []
    return "; ".join(f"{at(one, ('title',))}: {at(one, ('error', 'type'))}" for one in found[:MISTAKES_MAX])


def _form(text: str) -> tuple[bytes, str]:
    """Return an upload of ``text`` as a browser would make it, and its content type."""
    boundary = f"tutti-{fixed_id(text)}"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="tutti.ndjson"\r\n'
    body = f"{head}Content-Type: application/x-ndjson\r\n\r\n{text}\r\n--{boundary}--\r\n"
    return body.encode(), f"multipart/form-data; boundary={json.dumps(boundary)}"
