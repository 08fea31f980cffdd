"""What Elasticsearch is told once, before events come: templates, lifecycle, rights. Pure, from the field table.

Every piece carries our version, so that an installer tells what is older, and refuses to go back. Only what the
smallest distribution knows is taken for granted: lifecycle and rights are pieces of their own.

Source: elastic.co, Elasticsearch 9.2: index templates, ILM, security APIs.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.events.fields import SCHEMA, mappings

VERSION = 2
"""Of everything here; raised with every change, so that an older Tutti does not undo it."""
PRIORITY = 200
"""Above Elasticsearch's own templates for logs, which have 100."""
OWNER = "tutti"

Object = dict[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One thing that is put to a path and can be read there again."""

    what: str
    """For people: ``index template``."""
    name: str
    path: str
    body: Object
    found_at: tuple[str | int, ...]
    """The way to it in the answer of a GET."""
    version_at: tuple[str, ...]
    """The way to our version in it."""


def templates(prefix: str, *, lifecycle: bool) -> tuple[Piece, ...]:
    """Return the templates, in the order in which they are put.

    Args:
        prefix: Of the indices; also the alias to read by.
        lifecycle: Whether the server manages the lives of indices.
    """
    settings: Object = {
        "index": {
            "number_of_shards": 1,
            # One copy where there is a second node, none on a single one, which would stay yellow for ever.
            "auto_expand_replicas": "0-1",
            "codec": "best_compression",
            "refresh_interval": "5s",
            "mapping": {"total_fields": {"limit": 400, "ignore_dynamic_beyond_limit": True}},
        }
    }
    parts = [
        _component(prefix, "settings", {"settings": settings}),
        _component(prefix, "mappings", {"mappings": mapped()}),
    ]
    if lifecycle:
        rule: Object = {"index": {"lifecycle": {"name": prefix, "parse_origination_date": True}}}
        parts.append(_component(prefix, "lifecycle", {"settings": rule}))
    composed: list[Json] = [f"{prefix}-{part}" for part in ("settings", "mappings", "lifecycle", "custom")]
    whole = Piece(
        what="index template",
        name=prefix,
        path=f"/_index_template/{prefix}",
        body={
            "index_patterns": [f"{prefix}-*"],
            "priority": PRIORITY,
            "composed_of": composed,
            # `custom` is the operator's: what stands there wins, and no install touches it.
            "ignore_missing_component_templates": composed[2:],
            "template": {"aliases": {prefix: {}}},
            "version": VERSION,
            "_meta": _meta(),
        },
        found_at=("index_templates", 0, "index_template"),
        version_at=("_meta", "version"),
    )
    return (*parts, whole)


def lifecycle_policy(prefix: str, keep_days: int | None) -> Piece:
    """Return the rule by which the server deletes old indices.

    Args:
        prefix: Of the indices.
        keep_days: How long they stay; None: for ever.
    """
    phases: Object = {
        "hot": {"min_age": "0ms", "actions": {"set_priority": {"priority": 100}}},
    }
    if keep_days is None or keep_days > 2:
        actions: Object = {"forcemerge": {"max_num_segments": 1}, "set_priority": {"priority": 50}}
        phases["warm"] = {"min_age": "2d", "actions": actions}
    if keep_days is not None:
        phases["delete"] = {"min_age": f"{keep_days}d", "actions": {"delete": {}}}
    return Piece(
        what="lifecycle policy",
        name=prefix,
        path=f"/_ilm/policy/{prefix}",
        body={"policy": {"_meta": _meta(), "phases": phases}},
        found_at=(prefix,),
        version_at=("policy", "_meta", "version"),
    )


def writer_role(prefix: str, *, lifecycle: bool, may_forget: bool) -> Piece:
    """Return the role of whoever ships events: it creates documents and their indices; it reads and deletes nothing.

    Args:
        prefix: Of the indices.
        lifecycle: Whether the server manages the lives of indices; the shipper asks for that before it deletes days.
        may_forget: Whether it may also find and delete documents, for ``tutti events forget``.
    """
    name = f"{prefix}-writer"
    return Piece(
        what="role",
        name=name,
        path=f"/_security/role/{name}",
        body={**_rights(prefix, lifecycle=lifecycle, may_forget=may_forget), "metadata": _meta()},
        found_at=(name,),
        version_at=("metadata", "version"),
    )


def reader_role(prefix: str) -> Piece:
    """Return the role of people who look at events, in Kibana for instance."""
    name = f"{prefix}-reader"
    privileges: list[Json] = ["read", "view_index_metadata"]
    return Piece(
        what="role",
        name=name,
        path=f"/_security/role/{name}",
        body={"indices": [{"names": _names(prefix), "privileges": privileges}], "metadata": _meta()},
        found_at=(name,),
        version_at=("metadata", "version"),
    )


def api_key_request(prefix: str, *, lifecycle: bool, may_forget: bool) -> Object:
    """Return what asks for a key with the writer's rights and no others, whoever asks."""
    name = f"{prefix}-writer"
    rights = _rights(prefix, lifecycle=lifecycle, may_forget=may_forget)
    return {"name": name, "role_descriptors": {name: rights}, "metadata": _meta()}


def mapped() -> Object:
    """Return the mappings, with our version in their ``_meta``: indices keep it."""
    return {**mappings(), "_meta": {**_meta(), "schema": SCHEMA}}


def _component(prefix: str, part: str, template: Object) -> Piece:
    name = f"{prefix}-{part}"
    return Piece(
        what="component template",
        name=name,
        path=f"/_component_template/{name}",
        body={"template": template, "version": VERSION, "_meta": _meta()},
        found_at=("component_templates", 0, "component_template"),
        version_at=("_meta", "version"),
    )


def _rights(prefix: str, *, lifecycle: bool, may_forget: bool) -> Object:
    cluster: list[Json] = ["monitor", "read_ilm"] if lifecycle else ["monitor"]
    privileges: list[Json] = ["auto_configure", "create_doc", "view_index_metadata"]
    if may_forget:
        # To refresh is maintenance: what was stored a moment ago must be found.
        privileges += ["read", "delete", "maintenance"]
    return {"cluster": cluster, "indices": [{"names": _names(prefix), "privileges": privileges}]}


def _names(prefix: str) -> list[Json]:
    return [f"{prefix}-*", prefix]


def _meta() -> Object:
    return {"managed_by": OWNER, "version": VERSION}
