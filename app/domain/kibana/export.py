"""Puts together what Kibana imports: the files of deploy/kibana, and the one request of `tutti kibana install`."""

from __future__ import annotations

from app.domain.kibana.boards import DASHBOARDS, SEARCHES
from app.domain.kibana.saved_objects import Object, Setting, dashboard_object, data_view, ndjson, search_object

FILES: tuple[str, ...] = (*(dashboard.name for dashboard in DASHBOARDS), "searches")


def objects(setting: Setting) -> tuple[Object, ...]:
    """Return everything: the data view, the dashboards, the searches."""
    return (
        data_view(setting),
        *(dashboard_object(dashboard, setting) for dashboard in DASHBOARDS),
        *(search_object(search, setting) for search in SEARCHES),
    )


def file_of(name: str, setting: Setting | None = None) -> str:
    """Return one of ``FILES``; each brings the data view, so that it can be imported alone."""
    setting = setting or Setting()
    own = [search_object(search, setting) for search in SEARCHES] if name == "searches" else []
    own += [dashboard_object(dashboard, setting) for dashboard in DASHBOARDS if dashboard.name == name]
    return ndjson((data_view(setting), *own))
