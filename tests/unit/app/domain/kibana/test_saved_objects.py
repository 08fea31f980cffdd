"""What Kibana imports is whole: every reference, column and place; the checks themselves notice what is broken."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.events.fields import ALIASES, FIELDS, FieldType
from app.domain.kibana import export
from app.domain.kibana.boards import DASHBOARDS
from app.domain.kibana.saved_objects import Setting, fixed_id
from tests.fakes.kibana_reader import fields_of, lens_panels, mistakes, parse

Objects = list[dict[str, Any]]

LONG_TEXT = {field.path for field in FIELDS if field.type in (FieldType.TEXT, FieldType.STORED)}


def objects() -> Objects:
    """Return everything as it is read back."""
    return [json.loads(json.dumps(one)) for one in export.objects(Setting())]


@pytest.mark.parametrize("name", export.FILES)
def test_every_file_is_whole_by_itself(name: str) -> None:
    """Imported alone into an empty Kibana, nothing is missing."""
    found = parse(export.file_of(name))
    assert mistakes(found) == []
    assert found[0]["type"] == "index-pattern"
    assert len(found) > 1


def test_everything_together_is_whole_and_the_same_every_time() -> None:
    """One import for all; ids and bytes never change by themselves."""
    assert mistakes(objects()) == []
    assert [export.file_of(name) for name in export.FILES] == [export.file_of(name) for name in export.FILES]
    assert uuid.UUID(fixed_id("a", "b")).version == 5
    assert fixed_id("a", "b") != fixed_id("ab")


def test_two_tuttis_in_one_kibana_do_not_share_objects() -> None:
    """Another prefix, other ids, another data view."""
    ids = {one["id"] for one in objects()}
    others = {str(one["id"]) for one in export.objects(Setting(prefix="other"))}
    assert not ids & others


def test_only_mapped_fields_are_asked_for_and_long_text_only_shown() -> None:
    """A field that is renamed breaks this, not somebody's dashboard."""
    known = {field.path for field in FIELDS} | set(ALIASES)
    for one in objects():
        assert fields_of(one) <= known
        if one["type"] == "dashboard":
            assert not fields_of(one) & LONG_TEXT


def test_the_newer_profile_names_its_fields_everywhere() -> None:
    """Renamed is the field of tokens written to a cache."""
    newer = [json.loads(json.dumps(one)) for one in export.objects(Setting(profile="genai-main"))]
    asked = set().union(*(fields_of(one) for one in newer))
    assert "gen_ai.usage.cache_write.input_tokens" in asked
    assert "gen_ai.usage.cache_creation.input_tokens" not in asked


def test_every_dashboard_asks_what_only_the_smallest_distribution_must_answer() -> None:
    """No formulas, last values, differences: they need modules that a server may lack."""
    operations = set()
    for one in objects():
        if one["type"] == "dashboard":
            for _, attributes in lens_panels(one):
                layers = attributes["state"]["datasourceStates"]["formBased"]["layers"]
                operations |= {
                    column["operationType"] for layer in layers.values() for column in layer["columns"].values()
                }
    few = {"count", "sum", "average", "max", "min", "percentile", "unique_count", "terms", "filters", "date_histogram"}
    assert operations == few
    assert len({board.title for board in DASHBOARDS}) == 5


def _panels(of: Objects, change: Callable[[list[dict[str, Any]]], None]) -> None:
    panels = json.loads(of[1]["attributes"]["panelsJSON"])
    change(panels)
    of[1]["attributes"]["panelsJSON"] = json.dumps(panels)


def _visualization(panel: dict[str, Any]) -> dict[str, Any]:
    return dict(panel["embeddableConfig"]["attributes"]["state"]).get("visualization", {})  # type: ignore[no-any-return]  # JSON


def _layer(panel: dict[str, Any]) -> dict[str, Any]:
    state = panel["embeddableConfig"]["attributes"]["state"]
    return dict(state["datasourceStates"]["formBased"]["layers"])["layer"]  # type: ignore[no-any-return]  # JSON


BROKEN: dict[str, tuple[Callable[[Objects], None], str]] = {
    "dropped reference": (lambda of: of[1]["references"].pop(), "does not carry its reference"),
    "unknown attribute": (lambda of: of[1]["attributes"].update(color="red"), "unknown attribute color"),
    "missing data view": (lambda of: of[0].update(id="other"), "missing reference"),
    "newer version": (lambda of: of[1].update(typeMigrationVersion="8.10.0"), "version"),
    "same id twice": (lambda of: of.append(copy.deepcopy(of[2])), "stands twice"),
    "dangling accessor": (
        lambda of: _panels(of, lambda panels: _visualization(panels[0]).update(metricAccessor="m9")),
        "drawn are",
    ),
    "overlap": (lambda of: _panels(of, lambda panels: panels[1]["gridData"].update(x=0)), "overlaps"),
    "too wide": (lambda of: _panels(of, lambda panels: panels[-1]["gridData"].update(w=49)), "does not fit"),
    "lost column": (lambda of: _panels(of, lambda panels: _layer(panels[6])["columnOrder"].pop()), "columnOrder"),
    "search without data view": (
        lambda of: next(one for one in of if one["type"] == "search")["references"].clear(),
        "data view is not referred to",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_notices_what_is_broken(name: str) -> None:
    """Negative controls: a check that cannot fail protects nothing."""
    spoil, words = BROKEN[name]
    found = objects()
    spoil(found)
    assert any(words in mistake for mistake in mistakes(found)), mistakes(found)
