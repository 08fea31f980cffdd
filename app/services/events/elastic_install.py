"""Prepares an Elasticsearch for events: looks what it can do, puts what is missing or older, leaves the rest alone.

Doing it again changes nothing. What a newer Tutti installed is not undone. Where the server has no lifecycle
management or no security, these pieces are left out and said: retention is then ours, by the dates in indices' names.
Called by ``tutti elastic install``; running servers need none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from app.domain.chat import Json
from app.domain.errors import ConfigurationError, ConflictError, GatewayError, InternalError
from app.domain.events.elastic_templates import (
    VERSION,
    Piece,
    api_key_request,
    lifecycle_policy,
    mapped,
    reader_role,
    templates,
    writer_role,
)
from app.domain.events.installing import AdminAnswer, AdminRequests, Done, Installed, Step, at, differences, named

PARAM = "events.elasticsearch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be installed."""

    prefix: str
    keep_days: int | None = 30
    may_forget: bool = False
    """Whether the shipper's key may also delete documents."""
    new_key: bool = False
    """Whether a key is made although there is one."""
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What the server knows beside documents."""

    lifecycle: bool
    security: bool


class ElasticInstaller:
    """Installs into one server.

    Args:
        server: Where to.
        wish: What.

    Used once.
    """

    def __init__(self, server: AdminRequests, wish: Wish) -> None:
        self._server = server
        self._wish = wish
        self._steps: list[Step] = []
        self._warnings: list[str] = []

    async def install(self) -> Installed:
        """Install, or with ``dry_run`` only say what would be done.

        Raises:
            ConfigurationError: it refuses our key or its rights, or is no Elasticsearch.
            ConflictError: a newer Tutti installed there.
            InternalError: it cannot be reached, or refuses for a reason of its own.
        """
        features = await self._features()
        prefix = self._wish.prefix
        if features.lifecycle:
            await self._put(lifecycle_policy(prefix, self._wish.keep_days))
        else:
            kept = (
                "nothing is deleted"
                if self._wish.keep_days is None
                else f"Tutti deletes days before the last {self._wish.keep_days}"
            )
            self._skip("lifecycle policy", prefix, f"the server has no lifecycle management: {kept}")
        for piece in templates(prefix, lifecycle=features.lifecycle):
            await self._put(piece)
        await self._mend_indices()
        key = await self._secure(lifecycle=features.lifecycle) if features.security else None
        if not features.security:
            self._skip("role", f"{prefix}-writer", "the server runs without security: anybody may write and read")
        return Installed(steps=tuple(self._steps), warnings=tuple(self._warnings), api_key=key)

    async def _features(self) -> Features:
        health = await self._get("/_cluster/health")
        if not health.fine or "cluster_name" not in health.document:
            self._refuse_rights(health, "look at the cluster's health (`monitor`)")
            raise ConfigurationError(
                f"{self._server.url} answers, but not like an Elasticsearch: {health.words or health.status}",
                param=f"{PARAM}.url",
                remedy="Check the address.",
            )
        lifecycle = await self._get("/_ilm/status")
        security = await self._get("/_security/_authenticate")
        if lifecycle.status == 403:
            self._refuse_rights(lifecycle, "manage lifecycles (`manage_ilm`)")
        return Features(lifecycle=lifecycle.fine, security=security.fine)

    async def _put(self, piece: Piece) -> None:
        """Bring one piece to what it should be."""
        found = await self._get(piece.path)
        present: Json = at(dict(found.document), piece.found_at) if found.fine else None
        if not found.fine and found.status != 404:
            self._refuse(found, f"read the {piece.what} {piece.name!r}")
        changes = differences(piece.body, present) if present is not None else ()
        if present is not None:
            self._require_not_newer(piece, present)
        if present is not None and not changes:
            self._steps.append(Step(what=piece.what, name=piece.name, done=Done.UNCHANGED))
            return
        if not self._wish.dry_run:
            answer = await self._server.ask("PUT", piece.path, orjson.dumps(piece.body))
            if not answer.fine:
                self._refuse(answer, f"put the {piece.what} {piece.name!r}")
        done = Done.CREATED if present is None else Done.CHANGED
        self._steps.append(Step(what=piece.what, name=piece.name, done=done, detail=named(changes)))

    def _require_not_newer(self, piece: Piece, present: Json) -> None:
        version = at(present, piece.version_at)
        if isinstance(version, int) and version > VERSION:
            raise ConflictError(
                f"The {piece.what} {piece.name!r} is of a newer Tutti: version {version}, this one installs {VERSION}.",
                remedy="Install with that Tutti; this one's events fit there.",
            )

    async def _mend_indices(self) -> None:
        """Give indices that are there already the fields and the alias that new ones get from the template."""
        prefix = self._wish.prefix
        found = await self._get(f"/{prefix}-*/_mapping")
        aliases = await self._get(f"/{prefix}-*/_alias")
        if not found.fine:
            self._refuse(found, "read the indices' mappings (`view_index_metadata`)")
        for index in sorted(found.document):
            present = at(dict(found.document), (index, "mappings"))
            owner = at(present, ("_meta", "schema"))
            if owner is None:
                self._warnings.append(
                    f"The index {index!r} was made before this installation: its fields were guessed, dashboards "
                    "cannot use it. Reindex or delete it; its documents are not in the alias."
                )
                continue
            changes = differences({"properties": mapped()["properties"]}, present)
            if changes:
                body = {"properties": mapped()["properties"], "_meta": mapped()["_meta"]}
                await self._change(
                    f"/{index}/_mapping",
                    body,
                    Step(what="fields of index", name=index, done=Done.CHANGED, detail=named(changes)),
                )
            if at(dict(aliases.document), (index, "aliases", prefix)) is None:
                add: dict[str, Json] = {"actions": [{"add": {"index": index, "alias": prefix}}]}
                await self._change("/_aliases", add, Step(what="alias of index", name=index, done=Done.CREATED), "POST")

    async def _change(self, path: str, body: Mapping[str, Json], step: Step, method: str = "PUT") -> None:
        if not self._wish.dry_run:
            answer = await self._server.ask(method, path, orjson.dumps(body))
            if not answer.fine:
                self._warnings.append(f"The {step.what} {step.name!r} stays as it is: {answer.words}")
                return
        self._steps.append(step)

    async def _secure(self, *, lifecycle: bool) -> str | None:
        """Make the roles, and a key for the shipper where there is none; return the new key."""
        prefix, forget = self._wish.prefix, self._wish.may_forget
        await self._put(writer_role(prefix, lifecycle=lifecycle, may_forget=forget))
        await self._put(reader_role(prefix))
        request = api_key_request(prefix, lifecycle=lifecycle, may_forget=forget)
        name = str(request["name"])
        found = await self._get(f"/_security/api_key?name={name}&active_only=true")
        if not found.fine:
            self._refuse(found, "look for API keys (`manage_api_key`)")
        keys = found.document.get("api_keys")
        if isinstance(keys, list) and keys and not self._wish.new_key:
            stale = [key for key in keys if differences(request["role_descriptors"], at(key, ("role_descriptors",)))]
            if len(stale) == len(keys):
                self._warnings.append(
                    f"The API key {name!r} that is there has other rights than it should have: make one with "
                    "--new-key, then invalidate the old one."
                )
            self._steps.append(Step(what="API key", name=name, done=Done.UNCHANGED, detail="--new-key makes another"))
            return None
        made: Json = None
        if not self._wish.dry_run:
            answer = await self._server.ask("POST", "/_security/api_key", orjson.dumps(request))
            if not answer.fine:
                self._refuse(answer, "make an API key; sign in as a user: a key can make none with rights")
            made = answer.document.get("encoded")
        self._steps.append(Step(what="API key", name=name, done=Done.CREATED))
        return made if isinstance(made, str) else None

    async def _get(self, path: str) -> AdminAnswer:
        answer = await self._server.ask("GET", path)
        if answer.status == 401:
            raise ConfigurationError(
                f"Elasticsearch at {self._server.url} does not know whoever signs in.",
                param=PARAM,
                remedy="Check the user and password, or the API key.",
            )
        return answer

    def _skip(self, what: str, name: str, why: str) -> None:
        self._steps.append(Step(what=what, name=name, done=Done.SKIPPED, detail=why))

    def _refuse_rights(self, answer: AdminAnswer, what: str) -> None:
        if answer.status == 403:
            raise ConfigurationError(
                f"Whoever signs in at {self._server.url} may not {what}.",
                param=PARAM,
                remedy="Install as a user with manage_index_templates, manage_ilm, manage_security and monitor.",
            )

    def _refuse(self, answer: AdminAnswer, what: str) -> None:
        """Raise what a refusal means."""
        self._refuse_rights(answer, what)
        error: GatewayError = InternalError(
            f"Elasticsearch at {self._server.url} refuses to {what}: {answer.words or answer.status}",
            remedy="What was done before stays; install again once that is mended.",
        )
        raise error
