"""The simulator's own addresses: ``/__stats``, ``/__control``, ``/__reset``. They need no key."""

from __future__ import annotations

import orjson
from pydantic import JsonValue
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.simulator.config import SimulatorConfig, parse_config
from app.simulator.engine import Engine
from app.simulator.json_reading import JsonObject

_REPLACED = ("faults", "replies", "profile", "models", "default_reply", "bill_on_disconnect", "deepseek_keepalive")


def control_routes(engine: Engine) -> list[BaseRoute]:
    """Return the routes that read and change a simulator."""

    async def stats(request: Request) -> Response:
        with_log = request.query_params.get("log", "0") not in ("", "0", "false")
        return _json(engine.stats(with_log=with_log))

    async def reset(request: Request) -> Response:
        engine.reset()
        return _json({"ok": True})

    async def control(request: Request) -> Response:
        try:
            change = orjson.loads(await request.body())
            engine.configure(changed(engine.config, change))
        except ValueError as error:
            return _json({"error": str(error)}, status=400)
        return _json({"ok": True})

    return [
        Route("/__stats", stats, methods=["GET"]),
        Route("/__reset", reset, methods=["POST"]),
        Route("/__control", control, methods=["POST"]),
    ]


def changed(config: SimulatorConfig, change: JsonValue) -> SimulatorConfig:
    """Return ``config`` with parts replaced: whole lists of faults and replies, and per key what is given.

    Args:
        change: ``faults``, ``replies``, ``profile``, ``models``, ``default_reply``, ``bill_on_disconnect`` or
            ``deepseek_keepalive`` as the file has them; ``keys`` as ``{key: {state, limits, …}}`` or as the file's
            list. Keys that are not named stay as they are.

    Raises:
        ValueError: the change or its result is wrong.
    """
    if not isinstance(change, dict):
        raise ValueError("control: must be an object with faults, replies, keys, …; see docs/simulator.md")
    unknown = sorted(set(change) - {*_REPLACED, "keys"})
    if unknown:
        raise ValueError(f"control: {unknown[0]}: cannot change while running; restart with another configuration")
    document: JsonObject = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document.update({name: change[name] for name in _REPLACED if name in change})
    if "keys" in change:
        document["keys"] = _merged_keys(config, change["keys"])
    return parse_config(document, source="control")


def _merged_keys(config: SimulatorConfig, change: JsonValue) -> list[JsonValue]:
    merged: dict[str, JsonObject] = {
        key.key: key.model_dump(mode="json", by_alias=True, exclude_unset=True) for key in config.keys
    }
    for name, fields in _named(change):
        before = merged.get(name, {"key": name})
        merged[name] = {**before, **fields, "key": name}
        group = merged[name].get("group")
        shared: JsonObject = {part: merged[name][part] for part in ("limits", "model_limits") if part in fields}
        if group is None or not shared:
            continue
        for other in merged.values():
            # A group has one set of limits, wherever it is written.
            if other.get("group") == group and ("limits" in other or "model_limits" in other):
                other.update(shared)
    return list(merged.values())


def _named(change: JsonValue) -> list[tuple[str, JsonObject]]:
    if isinstance(change, dict):
        return [(name, fields) for name, fields in change.items() if isinstance(fields, dict)]
    found: list[tuple[str, JsonObject]] = []
    for item in change if isinstance(change, list) else []:
        name = item.get("key") if isinstance(item, dict) else None
        if not isinstance(item, dict) or not isinstance(name, str):
            raise ValueError("control: keys: every item needs its key")
        found.append((name, item))
    return found


def _json(value: JsonObject, *, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")
