"""A good configuration becomes the orchestra it describes, wherever it comes from."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from app import settings
from app.domain.accounts import Orchestra, Provider, StructuredOutput, Tier
from app.domain.limits import LimitSpec
from app.settings.model_table import model_table
from app.settings.provider_defaults import DEFAULT_MODELS, KEY_VARIABLES
from app.settings.roles import DEFAULT_TIERS
from app.settings.schema import SECTIONS, section_at

ENVIRON = {"HOME": "/home/someone", "KEY": "correct-horse-battery"}

CONTRACT = """\
accounts:
  - name: openai-a
    identity: ops@acme.example
    provider: openai
    api_key: ${KEY}
    models: [gpt-5-mini, {fast: gpt-5.4-nano}]
    limits:
      {rpm: 500, tpm: 200000, itpm: null, otpm: null, rpd: null, concurrency: 32, burst_s: 1.5, window: sliding, charge: used}
    model_limits: {fast: {rpm: 100, tpm: null}}
  - name: openai-b
    provider: openai
    api_key: other
    models: [gpt-5-mini]
    quota_group: acme-openai
  - name: deepseek
    provider: deepseek
    api_key: third
    models: [deepseek-v4-pro, deepseek-flash]
quota_groups: {acme-openai: {rpm: 50, tpm: 20000, model_limits: {gpt-5-mini: {rpm: 7}}}}
coordinator: {model: r1, judge_model: null, max_tasks: 12, max_depth: 4, max_redo: 1}
routing: {code_generation: {primary: [r1], fallback: [gpt-5-mini, r1]}}
data_dir: ~/music
"""  # noqa: E501


def loaded(text: str, **environ: str) -> Orchestra:
    """Load ``text`` in an environment of ours."""
    return settings.load_text(text, environ={**ENVIRON, **environ})


def account(provider: str, *models: str, name: str | None = None, more: str = "") -> str:
    """Return one account's lines."""
    return (
        f"  - name: {name or provider}\n    provider: {provider}\n    api_key: key-of-{name or provider}\n"
        f"    models: [{', '.join(models)}]\n{more}"
    )


def test_load_text_reads_the_whole_contract() -> None:
    """Every key of the contract arrives where the actors look for it."""
    orchestra = loaded(CONTRACT)
    first, second, third = orchestra.accounts

    assert (first.name, first.identity, first.provider) == ("openai-a", "ops@acme.example", Provider.OPENAI)
    assert first.api_key == "correct-horse-battery"
    assert first.models == (("gpt-5-mini", "gpt-5-mini"), ("fast", "gpt-5.4-nano"))
    whole = LimitSpec(rpm=500, tpm=200_000, concurrency=32, burst_ms=1_500, window="sliding", charge="used")
    fast = LimitSpec(rpm=100, tpm=None, concurrency=32, burst_ms=1_500, window="sliding", charge="used")
    assert first.limits == (("gpt-5-mini", whole), ("fast", fast))
    assert second.scope == "group:acme-openai"
    assert second.limits == (("gpt-5-mini", LimitSpec(rpm=7, tpm=20_000)),)
    assert third.limits == (("deepseek-v4-pro", LimitSpec()), ("deepseek-flash", LimitSpec()))
    coordinator = orchestra.coordinator
    assert (coordinator.tasks_max, coordinator.depth_max, coordinator.redo_max) == (12, 4, 1)
    assert orchestra.data_dir == "/home/someone/music"
    assert "correct-horse-battery" not in repr(orchestra)
    assert pickle.loads(pickle.dumps(orchestra)) == orchestra


def test_r1_is_deepseeks_reasoning_model_where_somebody_serves_it() -> None:
    """Under its own name, under the alias, and under a name of the user's own."""
    for models, public in (("deepseek-v4-pro", "deepseek-v4-pro"), ("r1", "r1"), ("{mind: deepseek-v4-pro}", "mind")):
        orchestra = loaded("accounts:\n" + account("openai", "gpt-5") + account("deepseek", models))
        specification = orchestra.account("deepseek")

        assert orchestra.coordinator.model == public
        assert orchestra.coordinator.requested_model == "r1"
        assert specification.upstream_model(public) == "deepseek-v4-pro"
        assert not any("r1" in note for note in orchestra.notes)


def test_r1_at_another_server_is_its_own_affair() -> None:
    """A custom server may call anything r1."""
    text = "accounts:\n" + account("custom", "r1", more="    base_url: https://h/v1\n")

    assert loaded(text).accounts[0].models == (("r1", "r1"),)


def test_the_old_reasoner_has_its_reasoning_stripped() -> None:
    """The alias's upstream decides what is known of it."""
    orchestra = loaded("accounts:\n" + account("deepseek", "{r1: deepseek-reasoner}"))

    assert orchestra.coordinator.model == "r1"
    assert orchestra.model("r1").strip_reasoning
    assert orchestra.model("r1").structured is StructuredOutput.NONE


@pytest.mark.parametrize(
    ("models", "chosen", "words"),
    [
        (("gpt-4.1", "gpt-5-mini", "gpt-5.4-mini"), "gpt-5.4-mini", "strongest reasoning model"),
        (("gpt-4.1", "gpt-5", "gpt-5.5"), "gpt-5.5", "strongest reasoning model"),
        (("gpt-4o-mini", "gpt-4.1"), "gpt-4.1", "strongest model"),
    ],
)
def test_without_r1_the_strongest_reasoning_model_coordinates_and_a_note_says_so(
    models: tuple[str, ...], chosen: str, words: str
) -> None:
    """Reasoning first, then tier, then price."""
    orchestra = loaded("accounts:\n" + account("openai", *models))

    assert orchestra.coordinator.model == chosen
    assert any("'r1'" in note and repr(chosen) in note and words in note for note in orchestra.notes)


def test_roles_are_cast_over_families_and_prices() -> None:
    """Judge: another family. Clarifier: cheap. Transcriber: the cheapest that enforces schemas."""
    text = "accounts:\n" + account("deepseek", "r1", "deepseek-flash") + account("anthropic", "claude-sonnet-5")
    coordinator = loaded(text).coordinator
    alone = loaded("accounts:\n" + account("deepseek", "r1")).coordinator
    wished = loaded(text + "coordinator: {judge_model: deepseek-flash, clarify_model: r1}\n").coordinator

    assert coordinator.model == "r1"
    assert coordinator.judge_model == "claude-sonnet-5"
    assert coordinator.clarify_model == "deepseek-flash"
    assert coordinator.transcribe_model == "claude-sonnet-5"
    assert {alone.judge_model, alone.clarify_model, alone.transcribe_model} == {"r1"}
    assert (wished.judge_model, wished.clarify_model) == ("deepseek-flash", "r1")


def test_the_embedded_model_takes_no_part_where_another_can() -> None:
    """Its verdicts were measured to be noise, though its family is another and its price is nothing."""
    embedded = "  - {name: e, provider: local, models: [smollm2-135m]}\n"
    orchestra = loaded("accounts:\n" + embedded + account("deepseek", "r1"))
    coordinator = orchestra.coordinator

    assert {coordinator.model, coordinator.judge_model, coordinator.clarify_model, coordinator.transcribe_model} == {
        "r1"
    }
    assert orchestra.routes[0].primary == ("r1",)
    assert orchestra.routes[0].fallback == ("smollm2-135m",)
    assert orchestra.account("e").limits[0][1].concurrency == 2


def test_routes_follow_tiers_unless_the_configuration_says_otherwise() -> None:
    """All task types have a route over all models; a named one replaces its default, aliases resolved."""
    orchestra = loaded(CONTRACT)
    routes = {route.task_type: route for route in orchestra.routes}
    every = {model.name for model in orchestra.models}

    assert set(routes) == set(DEFAULT_TIERS)
    assert routes["code_generation"].primary == ("deepseek-v4-pro",)
    assert routes["code_generation"].fallback == ("gpt-5-mini",)
    assert routes["reasoning"].primary == ("deepseek-v4-pro",)
    assert routes["translation"].primary == ("fast", "deepseek-flash", "gpt-5-mini")
    for name, route in routes.items():
        if name != "code_generation":
            assert {*route.primary, *route.fallback} == every


def test_a_task_type_of_the_users_own_is_allowed() -> None:
    """Routing is not limited to the types we know."""
    orchestra = loaded(CONTRACT.replace("code_generation:", "poetry_2:"))

    assert "poetry_2" in {route.task_type for route in orchestra.routes}


def test_unknown_models_are_allowed_and_their_price_is_unknown() -> None:
    """Cautious assumptions, and a note that says which; never a price of zero."""
    custom = account("custom", "house", "gpt-5-mini", more="    base_url: https://h/v1\n")
    orchestra = loaded("accounts:\n" + custom)
    house, vendor = orchestra.model("house"), orchestra.model("gpt-5-mini")

    assert (house.input_usd_per_mtok, house.output_usd_per_mtok) == (None, None)
    assert (house.context_tokens, house.structured) == (32_768, StructuredOutput.NONE)
    assert any("'house' is not in the model table" in note for note in orchestra.notes)
    assert vendor.context_tokens == 272_000
    assert vendor.input_usd_per_mtok is None, "what a custom server charges is not the vendor's price"


def test_a_models_section_describes_and_corrects_models() -> None:
    """Each key wins over the table and over assumptions; the rest stays."""
    text = (
        "accounts:\n"
        + account("custom", "house", more="    base_url: https://h/v1\n")
        + account("openai", "gpt-5")
        + "models:\n  house: {family: llama, tier: cheap, structured: json_object, context_tokens: 8192,\n"
        "          input_usd_per_mtok: 0.10, output_usd_per_mtok: 0}\n"
        "  gpt-5: {input_usd_per_mtok: '1'}\n  absent: {tier: strong}\n"
    )
    orchestra = loaded(text)
    house, vendor = orchestra.model("house"), orchestra.model("gpt-5")

    assert (house.family, house.tier, house.structured) == ("llama", Tier.CHEAP, StructuredOutput.JSON_OBJECT)
    assert (house.input_usd_per_mtok, house.output_usd_per_mtok, house.price_source) == ("0.1", "0", "configuration")
    assert (vendor.input_usd_per_mtok, vendor.output_usd_per_mtok) == ("1", "10")
    assert not any("house" in note for note in orchestra.notes)
    assert any("'absent'" in note for note in orchestra.notes)


def test_releases_are_priced_as_their_model() -> None:
    """Providers name releases by date."""
    orchestra = loaded("accounts:\n" + account("anthropic", "claude-haiku-4-5-20251001"))

    assert orchestra.models[0].output_usd_per_mtok == "5"
    assert orchestra.models[0].name == "claude-haiku-4-5-20251001"


def test_one_key_in_two_accounts_is_noted() -> None:
    """Each would spend the whole limit; in one group they share it."""
    twice = (
        "accounts:\n" + account("openai", "gpt-5") + account("openai", "gpt-5", name="b").replace("of-b", "of-openai")
    )
    grouped = twice.replace("models: [gpt-5]", "models: [gpt-5]\n    quota_group: g") + "quota_groups: {g: {rpm: 1}}\n"

    assert any("same key" in note for note in loaded(twice).notes)
    assert not any("same key" in note for note in loaded(grouped).notes)
    assert "key-of-openai" not in " ".join(loaded(twice).notes)


def test_variables_are_expanded_in_any_text_and_dollars_are_escaped() -> None:
    """Also as a part of a text, and as a number."""
    text = "accounts:\n" + account(
        "openai", "'${M}-mini'", more="    identity: $$5 for ${WHO}, $x\n    limits: {rpm: '${N}'}\n"
    )
    orchestra = loaded(text, M="gpt-5", WHO="me", N="7")

    assert orchestra.accounts[0].identity == "$5 for me, $x"
    assert orchestra.models[0].name == "gpt-5-mini"
    assert orchestra.accounts[0].limits[0][1].rpm == 7


def test_yaml_surprises_are_text_or_plain_numbers() -> None:
    """YAML 1.1 would read a boolean, an octal number and a date."""
    text = "accounts:\n" + account(
        "openai", "gpt-5", name="no", more="    limits: {rpm: 0500}\n    identity: 2026-11-21\n"
    )
    orchestra = loaded(text)

    assert orchestra.accounts[0].name == "no"
    assert orchestra.accounts[0].identity == "2026-11-21"
    assert orchestra.accounts[0].limits[0][1].rpm == 500


def test_anchors_and_merges_save_typing() -> None:
    """Keys of the mapping itself win over merged ones."""
    text = (
        "accounts:\n  - &a {name: a, provider: openai, api_key: k, models: [gpt-5], limits: {rpm: 5}}\n"
        "  - {<<: *a, name: b, api_key: l}\n"
    )
    first, second = loaded(text).accounts

    assert (second.name, second.api_key, second.models, second.limits) == ("b", "l", first.models, first.limits)


def test_sections_with_nothing_in_them_are_defaults() -> None:
    """What remains when every line of a section is commented out."""
    text = "accounts:\n" + account("openai", "gpt-5", more="    limits:\n    model_limits:\n    options:\n")
    bare = loaded(text)

    assert loaded(text + "quota_groups:\ncoordinator:\nrouting:\nmodels:\ndata_dir:\n") == bare


def test_equal_configurations_have_equal_fingerprints_and_a_changed_key_does_not() -> None:
    """The directory tells by it whether there is anything to do."""
    first, again = loaded(CONTRACT), loaded("# a comment\n" + CONTRACT)
    changed = loaded(CONTRACT, KEY="another")

    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != changed.fingerprint
    assert "correct-horse-battery" not in first.fingerprint


def test_options_reach_the_adapter_and_a_plugin_may_take_its_own() -> None:
    """Text and numbers; what a plugin takes is not ours to know."""
    more = "    options: {project: p, organization: 7}\n"
    plugin = "    options: {adapter: theirs, colour: true}\n"
    text = "accounts:\n" + account("openai", "gpt-5", more=more) + account("openai", "gpt-5", name="b", more=plugin)
    first, second = loaded(text).accounts

    assert first.options == (("project", "p"), ("organization", "7"))
    assert second.options == (("adapter", "theirs"), ("colour", "true"))


def test_load_mapping_reads_what_load_text_reads() -> None:
    """Serve hands plain data over; tuples are lists."""
    inline = {
        "accounts": ({"name": "a", "provider": "openai", "api_key": "${KEY}", "models": ("gpt-5",)},),
        "data_dir": "/data",
    }
    text = "accounts: [{name: a, provider: openai, api_key: '${KEY}', models: [gpt-5]}]\ndata_dir: /data\n"

    assert settings.load_mapping(inline, environ=ENVIRON).fingerprint == loaded(text).fingerprint


def test_load_finds_the_file_in_the_documented_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, TUTTI_CONFIG, ./tutti.yaml, ~/.config/tutti/tutti.yaml, and only then the environment's keys."""
    home, here = tmp_path / "home", tmp_path / "here"
    paths = [
        tmp_path / "named.yaml",
        tmp_path / "variable.yaml",
        here / "tutti.yaml",
        home / ".config/tutti/tutti.yaml",
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("accounts:\n" + account("openai", "gpt-5", name=path.stem) + "data_dir: data\n")
    monkeypatch.chdir(here)
    environ = {"HOME": str(home), "TUTTI_CONFIG": str(paths[1]), "OPENAI_API_KEY": "k"}
    named = settings.load(paths[0], environ=environ)
    by_variable = settings.load(environ=environ)
    del environ["TUTTI_CONFIG"]
    found = []
    for path in paths[2:]:
        found.append(settings.load(environ=environ))
        path.unlink()
    last = settings.load(environ=environ)

    assert [item.config_path for item in (named, by_variable, *found, last)] == [*map(str, paths), None]
    assert named.source == str(paths[0])
    assert named.data_dir == str(tmp_path / "data"), "relative to the file"
    assert last.source == "environment"


def test_load_reads_the_processes_own_environment_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every shell of ours relies on."""
    path = tmp_path / "tutti.yaml"
    path.write_text("\ufeffaccounts:\n" + account("openai", "'${MODEL_NAME}'"), encoding="utf-8")
    monkeypatch.setenv("MODEL_NAME", "gpt-5")

    assert settings.load(path).models[0].name == "gpt-5"


@pytest.mark.parametrize(("provider", "variable"), [(p, v) for p, names in KEY_VARIABLES.items() for v in names])
def test_keys_in_the_environment_become_accounts(
    provider: Provider, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable is enough, and the note names it, not its value."""
    monkeypatch.chdir(tmp_path)
    orchestra = settings.load(environ={"HOME": str(tmp_path), variable: "horse-battery"})

    assert [(item.provider, item.api_key) for item in orchestra.accounts] == [(provider, "horse-battery")]
    assert tuple(name for name, _ in orchestra.accounts[0].models) == DEFAULT_MODELS[provider]
    assert all(limits.concurrency == 8 for _, limits in orchestra.accounts[0].limits)
    assert variable in orchestra.notes[0]
    assert "horse-battery" not in " ".join(orchestra.notes)
    assert orchestra.data_dir == str(tmp_path / ".local/share/tutti")
    assert all(model.price_source and model.input_usd_per_mtok for model in orchestra.models)


def test_without_file_and_keys_the_embedded_model_plays_and_a_note_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small model, real machinery."""
    monkeypatch.chdir(tmp_path)
    orchestra = settings.load(environ={"HOME": str(tmp_path), "OPENAI_API_KEY": " "})
    words = " ".join(orchestra.notes)

    assert orchestra.source == "embedded model"
    (only,) = orchestra.accounts
    assert (only.name, only.provider, only.models) == (
        "embedded",
        Provider.LOCAL,
        (("smollm2-135m", "smollm2-135m"),),
    )
    assert only.limits[0][1].concurrency == 2
    assert orchestra.models[0].input_usd_per_mtok == "0"
    assert "small model, real machinery; add a key for quality" in words
    assert "OPENAI_API_KEY" in words


def test_template_loads_in_any_environment() -> None:
    """With no key, with one, with all; accounts whose key is there are switched on."""
    for environ in ({}, {"DEEPSEEK_API_KEY": "k"}, {names[-1]: "k" for names in KEY_VARIABLES.values()}):
        orchestra = settings.load_text(settings.write_template(environ), environ={"HOME": "/h", **environ})

        assert len(orchestra.accounts) == max(1, len(environ))
        assert ("local" in {item.provider.value for item in orchestra.accounts}) == (not environ)


def test_template_loads_with_everything_switched_on() -> None:
    """What stands behind a single # is right too, and uses every key of an account's limits."""
    template = re.sub(r"^#(?!#)", "", settings.write_template({}), flags=re.MULTILINE)
    orchestra = settings.load_text(template, environ={"HOME": "/h", **{n[0]: "k" for n in KEY_VARIABLES.values()}})

    assert {item.provider for item in orchestra.accounts} == set(Provider)
    assert "house-model" in {model.name for model in orchestra.models}


def test_model_table_has_a_dated_source_for_every_price() -> None:
    """Prices are data with provenance; names are unique over rows and aliases."""
    table = model_table()
    names = [*table.aliases, *table.rows, *(name for row in table.rows.values() for name in row.also)]

    assert len(names) == len(set(names))
    assert table.aliases["r1"] == "deepseek-v4-pro"
    for name, row in table.rows.items():
        assert row.info.price_source, name
        assert table.read in row.info.price_source
        assert row.info.input_usd_per_mtok is not None
        assert row.info.output_tokens_max <= row.info.context_tokens
    assert {model for models in DEFAULT_MODELS.values() for model in models} <= set(table.rows)
    assert table.rows["gpt-5.4-mini"].info.cache_read_usd_per_mtok == "0.075"


def test_every_section_is_found_at_its_place() -> None:
    """The words for unknown keys depend on it."""
    paths: dict[str, tuple[str | int, ...]] = {
        place: tuple(
            item
            for part in place.replace("*", "named").split(".")
            if part
            for item in ((part[:-2], 0) if part.endswith("[]") else (part,))
        )
        for place in SECTIONS
    }

    for place, path in paths.items():
        assert section_at(path) is SECTIONS[place], place
    assert section_at(("quota_groups", "models", "model_limits", "limits")) is SECTIONS["quota_groups.*.model_limits.*"]
    assert section_at(("accounts", 0, "options")) is None
