"""Every panel and every alert rule, asked of a real Elasticsearch, says what the events' own values say.

The events go the product's way: emitter, documents, bulk requests, our templates. What Kibana would ask is read from
the objects it imports; what the answer must be is computed from the values before they were documents.
"""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from app.domain.events.delivery import Fate
from app.domain.events.spec import ElasticsearchSpec
from app.domain.kibana import export
from app.domain.kibana.alerts import RULES
from app.domain.kibana.boards import DASHBOARDS
from app.domain.kibana.rules import new_rule_body
from app.domain.kibana.saved_objects import Setting
from app.services.events.elastic_install import ElasticInstaller, Wish
from app.sinks.admin import AdminClient
from app.sinks.elasticsearch import ElasticsearchSink
from app.sinks.elasticsearch_http import ElasticsearchHttp
from tests.fakes import event_samples, kibana_reader, panel_answers, rule_reader
from tests.fakes.event_samples import OLD, Sample
from tests.fixtures.elasticsearch_server import ElasticsearchServer

STORIES: dict[str, Callable[[int], list[Sample]]] = {
    "calm": event_samples.calm,
    "trouble": event_samples.trouble,
    "silent": event_samples.silent,
}
BATCH = 2_000

FIRES: dict[str, set[str]] = {
    "headroom": {"full,m,rpm"},
    "rate limited": {"limited"},
    "errors": {"broken"},
    "requests failed": {"*"},
    "latency": {"slow"},
    "first part": {"late"},
    "budget": {"team:a:day:UTC,usd"},
    "burn": {"leak"},
    "stuck run": {"run-stuck", "run-stuck-after-answers"},
    "ledger imbalance": {"*"},
    "unknown holds": {"*"},
    "spool age": {OLD},
    "dead letters": {OLD},
    "events lost": {"*"},
}
"""For whom each rule fires in the story of trouble."""


@dataclass(frozen=True)
class Story:
    """Events in Elasticsearch, and what they were made of."""

    server: ElasticsearchServer
    setting: Setting
    samples: Sequence[Sample]
    now_ns: int

    def search(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ask several things at once; every one must be answered."""
        header = json.dumps({"index": f"{self.setting.prefix}-*"})
        lines = "".join(f"{header}\n{json.dumps(request)}\n" for request in requests)
        kind = {"content-type": "application/x-ndjson"}
        answer = self.server.http.post("/_msearch", content=lines.encode(), headers=kind).json()
        for one in answer["responses"]:
            assert one["status"] == 200, one["error"]
            assert one["_shards"]["failed"] == 0, one
        return list(answer["responses"])

    def dashboards(self) -> list[dict[str, Any]]:
        """Return the dashboards that are about these events, as Kibana would read them."""
        lines = [json.loads(json.dumps(one)) for one in export.objects(self.setting)]
        return [one for one in lines if one["type"] == "dashboard"]


@pytest.fixture(scope="module")
def stories(elasticsearch: ElasticsearchServer) -> dict[str, Story]:
    """Three stories in the real server, each with templates and indices of its own."""
    return asyncio.run(_stored(elasticsearch))


async def _stored(server: ElasticsearchServer) -> dict[str, Story]:
    found = {}
    for name, tell in STORIES.items():
        spec = ElasticsearchSpec(url=server.url, index_prefix=f"kibana-{name}")
        client = AdminClient(spec)
        await ElasticInstaller(client, Wish(prefix=spec.index_prefix)).install()
        await client.aclose()
        now_ns = time.time_ns()
        samples = tell(now_ns)
        events = await event_samples.told(samples)
        sink = ElasticsearchSink(spec, ElasticsearchHttp(spec))
        for start in range(0, len(events), BATCH):
            delivery = await sink.deliver(events[start : start + BATCH])
            assert {outcome.fate for outcome in delivery.outcomes} == {Fate.STORED}, delivery
        await sink.aclose()
        server.ask("POST", f"/{spec.index_prefix}-*/_refresh")
        found[name] = Story(server, Setting(prefix=spec.index_prefix), samples, now_ns)
    return found


def test_every_field_that_is_asked_for_is_in_an_index_of_our_template(stories: dict[str, Story]) -> None:
    """As Elasticsearch tells it, not as our table does; what is summed or split must be aggregatable."""
    story = stories["calm"]
    caps = story.server.ask("GET", f"/{story.setting.prefix}/_field_caps?fields=*")["fields"]
    for one in export.objects(story.setting):
        asked = kibana_reader.fields_of(json.loads(json.dumps(one)))
        assert asked <= set(caps), asked - set(caps)
        if one["type"] == "dashboard":
            assert all(kind["aggregatable"] for name in asked for kind in caps[name].values())


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)
def test_every_panel_says_what_the_values_say(board: Any, stories: dict[str, Story]) -> None:
    """All rows and all numbers; no panel is empty."""
    story = stories["trouble"]
    (saved,) = [one for one in story.dashboards() if one["attributes"]["title"] == board.title]
    drawn = [attributes for _, attributes in kibana_reader.lens_panels(saved)]
    answers = story.search([kibana_reader.request_of(attributes) for attributes in drawn])
    for panel, attributes, answer in zip(board.panels, drawn, answers, strict=True):
        said = kibana_reader.rows_of(attributes, answer)
        computed = panel_answers.rows(panel, story.samples, story.now_ns)
        assert said, f"{panel.title} is empty"
        assert panel_answers.differing(said, computed) == [], panel.title


def test_headline_figures_are_those_of_the_books(stories: dict[str, Story]) -> None:
    """Counted once more without any declaration of ours: postings alone make cost and tokens."""
    story = stories["trouble"]
    figures = {}
    for saved in story.dashboards():
        drawn = dict(kibana_reader.lens_panels(saved))
        answers = story.search([kibana_reader.request_of(attributes) for attributes in drawn.values()])
        for (title, attributes), answer in zip(drawn.items(), answers, strict=True):
            if attributes["visualizationType"] == "lnsMetric":
                (row,) = kibana_reader.rows_of(attributes, answer).values()
                figures[saved["attributes"]["title"], title] = next(iter(row.values()))
    calls = [one.values for one in story.samples if one.type == "call.finished"]
    cost = sum(int(str(one.get("cost_nano") or 0)) for one in calls)

    assert figures["Tutti: overview", "Provider calls"] == len(calls)
    assert figures["Tutti: overview", "Cost, USD"] == cost == figures["Tutti: cost and usage", "Cost, USD"]
    assert figures["Tutti: accounts and limits", "Refused by providers (429)"] == sum(
        one.get("error_type") in ("minute_limit", "day_limit") for one in calls
    )
    assert figures["Tutti: reliability", "Calls that failed"] == sum(one.get("outcome") == "failure" for one in calls)
    assert figures["Tutti: reliability", "Events lost"] == sum(
        int(str(one.values.get("lost") or 0)) for one in story.samples if one.type == "events.dropped"
    )


def test_a_panel_that_asks_something_else_is_noticed(stories: dict[str, Story]) -> None:
    """Negative controls: another field, another filter, another split, a lost condition."""
    story = stories["trouble"]
    (board,) = [board for board in DASHBOARDS if board.name == "cost"]
    (panel,) = [panel for panel in board.panels if panel.title == "By team"]
    (saved,) = [one for one in story.dashboards() if one["attributes"]["title"] == board.title]
    right = dict(kibana_reader.lens_panels(saved))["By team"]
    spoiled = [copy.deepcopy(right) for _ in range(3)]
    columns = [one["state"]["datasourceStates"]["formBased"]["layers"]["layer"]["columns"] for one in spoiled]
    columns[0]["m1"]["sourceField"] = "gen_ai.usage.output_tokens"
    columns[1]["b0"]["sourceField"] = "user.id"
    spoiled[2]["state"]["query"]["query"] = ""
    answers = story.search([kibana_reader.request_of(attributes) for attributes in (right, *spoiled)])
    computed = panel_answers.rows(panel, story.samples, story.now_ns)
    differences = [panel_answers.differing(kibana_reader.rows_of(right, answer), computed) for answer in answers]

    assert differences[0] == []
    assert all(differences[1:])


@pytest.mark.parametrize("name", STORIES)
def test_every_rule_says_what_the_values_say_and_fires_where_there_is_a_cause(
    name: str, stories: dict[str, Story]
) -> None:
    """Its metrics for every group; silent on a calm day, each for its own cause in trouble, one when all is silent."""
    story = stories[name]
    bodies = [json.loads(json.dumps(new_rule_body(rule, story.setting))) for rule in RULES]
    answers = story.search([rule_reader.request_of(body) for body in bodies])
    expected = {"calm": {}, "trouble": FIRES, "silent": {"no events": {"*"}}}[name]
    for rule, body, answer in zip(RULES, bodies, answers, strict=True):
        said = rule_reader.figures_of(body, answer)
        computed = panel_answers.figures(rule, story.samples, story.now_ns)
        rows = [{(group,): values for group, values in figures.items()} for figures in (said, computed)]
        assert panel_answers.differing(*rows) == [], rule.name
        assert rule_reader.fired(body, said) == expected.get(rule.name, set()), (rule.name, said)


def test_every_rule_has_a_cause_in_some_story() -> None:
    """A rule that no story makes fire would be shown by nothing."""
    assert {rule.name for rule in RULES} == {*FIRES, "no events"}
