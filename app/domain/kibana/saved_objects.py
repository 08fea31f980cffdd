"""Writes dashboards, searches and the data view as the lines that Kibana imports: the same bytes from the same code.

Ids are made of names, so that an import takes the place of the one before it. Kibana migrates what is older than itself
and refuses what is newer: versions here are those of 8.9.

Source: Kibana's saved objects API, `_import`; model versions of `dashboard`, `index-pattern` and `search`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.domain.chat import Json
from app.domain.events.fields import DEFAULT_PROFILE, FIELDS, Profile, path_of
from app.domain.kibana.lens import REFERENCE, lens_attributes
from app.domain.kibana.questions import Dashboard, Panel, Search, kql

Object = dict[str, Json]

CORE_VERSION = "8.8.0"
VERSIONS = {"index-pattern": "8.0.0", "dashboard": "8.9.0", "search": "8.0.0"}
COLUMNS = 48
SINCE = "now-24h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Which events the objects are about."""

    prefix: str = "tutti-events"
    """Of their indices."""
    profile: Profile = DEFAULT_PROFILE

    @property
    def data_view_id(self) -> str:
        """The id of the data view."""
        return fixed_id(self.prefix, "data view")


def fixed_id(*names: str) -> str:
    """Return the UUID (version 5) that these names always have."""
    digest = bytearray(hashlib.sha1(("tutti\0" + "\0".join(names)).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def data_view(setting: Setting) -> Object:
    """Return the data view of the events.

    Money is kept in nano-dollars: shown through Kibana's format of durations, the only one that divides by 10⁹ without
    a script.
    """
    formats: Object = {}
    for field in FIELDS:
        shown = _format_of(field.unit)
        if shown is not None:
            formats[field.path_in(setting.profile)] = shown
    attributes: Object = {
        "title": f"{setting.prefix}-*",
        "name": "Tutti: events",
        "timeFieldName": path_of("at"),
        "allowNoIndex": True,
        "fieldFormatMap": _text(formats),
    }
    return _object("index-pattern", setting.data_view_id, attributes, ())


def dashboard_object(dashboard: Dashboard, setting: Setting) -> Object:
    """Return a dashboard with its panels."""
    panels: list[Json] = []
    references: list[Json] = []
    for position, (panel, place) in enumerate(placed(dashboard.panels)):
        index = f"p{position:02}"
        attributes = lens_attributes(panel, setting.data_view_id, setting.profile)
        panels.append(
            {
                "type": "lens",
                "panelIndex": index,
                "gridData": {**place, "i": index},
                "title": panel.title,
                "embeddableConfig": {"enhancements": {}, "attributes": attributes},
            }
        )
        references.append({"type": "index-pattern", "id": setting.data_view_id, "name": f"{index}:{REFERENCE}"})
    options: Object = {
        "useMargins": True,
        "syncColors": True,
        "syncCursor": True,
        "syncTooltips": False,
        "hidePanelTitles": False,
    }
    source: Object = {"query": {"query": "", "language": "kuery"}, "filter": []}
    return _object(
        "dashboard",
        fixed_id(setting.prefix, "dashboard", dashboard.name),
        {
            "title": dashboard.title,
            "description": dashboard.description,
            "kibanaSavedObjectMeta": {"searchSourceJSON": _text(source)},
            "timeRestore": True,
            "timeFrom": SINCE,
            "timeTo": "now",
            "refreshInterval": {"pause": False, "value": 60_000},
            "panelsJSON": _text(panels),
            "optionsJSON": _text(options),
        },
        references,
    )


def search_object(search: Search, setting: Setting) -> Object:
    """Return a saved search."""
    name = "kibanaSavedObjectMeta.searchSourceJSON.index"
    query: Object = {"query": kql(search.where, setting.profile), "language": "kuery"}
    source: Object = {"query": query, "filter": [], "indexRefName": name}
    columns: list[Json] = [path_of(column, setting.profile) for column in search.columns]
    return _object(
        "search",
        fixed_id(setting.prefix, "search", search.name),
        {
            "title": search.title,
            "description": search.description,
            "columns": columns,
            "sort": [[path_of("at"), "desc"]],
            "grid": {},
            "hideChart": False,
            "kibanaSavedObjectMeta": {"searchSourceJSON": _text(source)},
        },
        [{"type": "index-pattern", "id": setting.data_view_id, "name": name}],
    )


def placed(panels: Sequence[Panel]) -> Iterable[tuple[Panel, dict[str, Json]]]:
    """Yield every panel with its place: row by row from the left, a row as high as its highest."""
    x = y = row = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, row = 0, y + row, 0
        yield panel, {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, row = x + panel.width, max(row, panel.height)


def ndjson(objects: Iterable[Object]) -> str:
    """Return objects as the file that Kibana imports."""
    return "".join(f"{_text(one)}\n" for one in objects)


def _object(kind: str, object_id: str, attributes: Object, references: Sequence[Json]) -> Object:
    return {
        "type": kind,
        "id": object_id,
        "attributes": attributes,
        "references": [*references],
        "coreMigrationVersion": CORE_VERSION,
        "typeMigrationVersion": VERSIONS[kind],
    }


def _format_of(unit: str) -> Object | None:
    match unit:
        case "nano-USD":
            return _duration("nanoseconds", "asSeconds", precision=4, suffix=False)
        case "nanoseconds":
            return _duration("nanoseconds", "humanizePrecise", precision=2)
        case "milliseconds":
            return _duration("milliseconds", "humanizePrecise", precision=2)
        case "seconds":
            return _duration("seconds", "humanizePrecise", precision=2)
        case "bytes":
            return {"id": "bytes", "params": {"pattern": "0,0.[0]b"}}
        case _:
            return None


def _duration(source: str, target: str, *, precision: int, suffix: bool = True) -> Object:
    params: Object = {
        "inputFormat": source,
        "outputFormat": target,
        "outputPrecision": precision,
        "useShortSuffix": True,
        "showSuffix": suffix,
    }
    return {"id": "duration", "params": params}


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
