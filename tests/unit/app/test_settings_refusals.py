"""Every mistake in a configuration is refused with its field, its line and what to do, all of them at once."""

from __future__ import annotations

import pickle
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from app import settings
from app.settings import ConfigurationProblems, Problem
from tests.effort import examples

ENVIRON = {"HOME": "/home/someone", "KEY": "correct-horse-battery", "SPACES": "  "}
ACCOUNT = "accounts:\n  - name: a\n    provider: openai\n    api_key: ${KEY}\n    models: [gpt-5-mini]\n"
"""Five lines; what a test appends begins on line 6."""
GROUPED = ACCOUNT + "    quota_group: g\n"


def problems_of(text: str) -> tuple[Problem, ...]:
    """Return the mistakes in ``text``."""
    with pytest.raises(ConfigurationProblems) as caught:
        settings.load_text(text, source="tutti.yaml", environ=ENVIRON)
    return caught.value.problems


def the_problem(text: str) -> Problem:
    """Return the only mistake in ``text``."""
    problems = problems_of(text)
    assert len(problems) == 1, problems
    return problems[0]


REFUSALS: list[tuple[str, str, str, int | None, str, str]] = [
    # what, text, field, line, words of the message, words of the remedy
    ("nothing", "", "accounts", None, "missing", "at least one account"),
    ("no accounts", "accounts: []", "accounts", 1, "empty", "at least one account"),
    ("a list", "- a", "", 1, "must be a mapping", "accounts:"),
    ("unknown key", ACCOUNT + "colour: red\n", "colour", 6, "unknown key", "accounts, quota_groups"),
    ("key of an account", ACCOUNT + "    modles: [x]\n", "accounts[0].modles", 6, "unknown key", "mean 'models'"),
    ("key elsewhere", ACCOUNT + "    rpm: 5\n", "accounts[0].rpm", 6, "unknown key", "accounts[].limits"),
    (
        "key of limits",
        ACCOUNT + "    limits:\n      rdp: 5\n",
        "accounts[0].limits.rdp",
        7,
        "unknown key",
        "mean 'rpd'",
    ),
    ("key of group", ACCOUNT + "quota_groups:\n  g: {tmp: 1}\n", "quota_groups.g.tmp", 7, "unknown key", "'tpm'"),
    ("key of coordinator", ACCOUNT + "coordinator: {modle: x}\n", "coordinator.modle", 6, "unknown key", "'model'"),
    (
        "key of route",
        ACCOUNT + "routing:\n  x: {primary: [gpt-5-mini], fallbak: []}\n",
        "routing.x.fallbak",
        7,
        "unknown",
        "'fallback'",
    ),
    (
        "key of model",
        ACCOUNT + "models:\n  gpt-5-mini: {teir: cheap}\n",
        "models.gpt-5-mini.teir",
        7,
        "unknown",
        "'tier'",
    ),
    ("twice", ACCOUNT + "data_dir: /a\ndata_dir: /b\n", "data_dir", 7, "twice, first on line 6", "keep one"),
    (
        "provider",
        ACCOUNT.replace("openai", "opnai"),
        "accounts[0].provider",
        3,
        "unknown provider 'opnai'",
        "mean 'openai'",
    ),
    (
        "no provider",
        ACCOUNT.replace("    provider: openai\n", ""),
        "accounts[0].provider",
        2,
        "missing",
        "provider: openai",
    ),
    ("no key", ACCOUNT.replace("    api_key: ${KEY}\n", ""), "accounts[0].api_key", 2, "missing", "${OPENAI_API_KEY}"),
    (
        "custom",
        ACCOUNT.replace("openai", "custom"),
        "accounts[0].base_url",
        2,
        "'custom' has no default",
        "base_url: https",
    ),
    (
        "ftp",
        ACCOUNT + "    base_url: ftp://h\n",
        "accounts[0].base_url",
        6,
        "http:// or https://",
        "https://api.example",
    ),
    (
        "no host",
        ACCOUNT + "    base_url: 'http://'\n",
        "accounts[0].base_url",
        6,
        "not an address",
        "https://api.example",
    ),
    (
        "login",
        ACCOUNT + "    base_url: https://u:pw@h\n",
        "accounts[0].base_url",
        6,
        "user name or password",
        "api_key",
    ),
    ("no models", ACCOUNT.replace("[gpt-5-mini]", "[]"), "accounts[0].models", 5, "empty", "gpt-5-mini"),
    (
        "one model",
        ACCOUNT.replace("[gpt-5-mini]", "gpt-5-mini"),
        "accounts[0].models",
        5,
        "must be a list",
        "[gpt-5-mini]",
    ),
    (
        "long alias",
        ACCOUNT.replace("[gpt-5-mini]", "[{a: b, c: d}]"),
        "accounts[0].models[0]",
        5,
        "one pair",
        "{name: up",
    ),
    ("model twice", ACCOUNT.replace("mini]", "mini, gpt-5-mini]"), "accounts[0].models[1]", 5, "twice", "keep one"),
    (
        "model limits",
        ACCOUNT + "    model_limits:\n      gpt-5: {rpm: 1}\n",
        "accounts[0].model_limits.gpt-5",
        7,
        "does not serve 'gpt-5'",
        "add it",
    ),
    (
        "negative",
        ACCOUNT + "    limits:\n      rpm: -5\n",
        "accounts[0].limits.rpm",
        7,
        "found -5",
        "null for unlimited",
    ),
    ("zero", ACCOUNT + "    limits:\n      tpm: 0\n", "accounts[0].limits.tpm", 7, "found 0", "null for unlimited"),
    ("true", ACCOUNT + "    limits: {rpm: true}\n", "accounts[0].limits.rpm", 6, "found true", "null for unlimited"),
    ("half", ACCOUNT + "    limits: {rpm: 0.5}\n", "accounts[0].limits.rpm", 6, "whole number", "1 or more"),
    (
        "burst",
        ACCOUNT + "    limits: {burst_s: -1}\n",
        "accounts[0].limits.burst_s",
        6,
        "seconds from 0",
        "from 0 to 3600",
    ),
    (
        "fine burst",
        ACCOUNT + "    limits: {burst_s: 0.0001}\n",
        "accounts[0].limits.burst_s",
        6,
        "millisecond",
        "decimals",
    ),
    (
        "window",
        ACCOUNT + "    limits: {window: slidng}\n",
        "accounts[0].limits.window",
        6,
        "'slidng'",
        "mean 'sliding'",
    ),
    ("charge", ACCOUNT + "    limits: {charge: use}\n", "accounts[0].limits.charge", 6, "'use'", "mean 'used'"),
    (
        "no group",
        GROUPED + "quota_groups: {gg: {rpm: 1}}\n",
        "accounts[0].quota_group",
        6,
        "no quota group 'g'",
        "mean 'gg'",
    ),
    (
        "group",
        GROUPED + "    limits: {rpm: 2}\nquota_groups: {g: {rpm: 1}}\n",
        "accounts[0].limits",
        7,
        "conflicts with quota group 'g'",
        "quota_groups",
    ),
    (
        "group model",
        ACCOUNT + "quota_groups: {g: {model_limits: {m: {rpm: 1}}}}\n",
        "quota_groups.g.model_limits.m",
        6,
        "no account serves 'm'",
        "gpt-5-mini",
    ),
    (
        "routing",
        ACCOUNT + "routing:\n  x: {primary: [gpt-5-mni]}\n",
        "routing.x.primary[0]",
        7,
        "no account serves the model 'gpt-5-mni'",
        "mean 'gpt-5-mini'",
    ),
    (
        "fallback",
        ACCOUNT + "routing:\n  x: {primary: [gpt-5-mini], fallback: [r1]}\n",
        "routing.x.fallback[0]",
        7,
        "'r1'",
        "models",
    ),
    ("no primary", ACCOUNT + "routing:\n  x: {primary: []}\n", "routing.x.primary", 7, "empty", "at least one model"),
    (
        "task type",
        ACCOUNT + "routing:\n  Code Gen: {primary: [gpt-5-mini]}\n",
        "routing.Code Gen",
        7,
        "small letters",
        "code_generation",
    ),
    ("coordinator", ACCOUNT + "coordinator:\n  model: gpt-9\n", "coordinator.model", 7, "'gpt-9'", "gpt-5-mini"),
    ("judge", ACCOUNT + "coordinator: {judge_model: r2}\n", "coordinator.judge_model", 6, "'r2'", "models"),
    ("tasks", ACCOUNT + "coordinator: {max_tasks: 0}\n", "coordinator.max_tasks", 6, "1 to 200", "24"),
    (
        "price",
        ACCOUNT + "models: {x: {input_usd_per_mtok: -1}}\n",
        "models.x.input_usd_per_mtok",
        6,
        "price",
        "0 for free",
    ),
    (
        "nan",
        ACCOUNT + "models: {x: {input_usd_per_mtok: .nan}}\n",
        "models.x.input_usd_per_mtok",
        6,
        "price",
        "0 for free",
    ),
    ("name", ACCOUNT.replace("name: a", "name: a b"), "accounts[0].name", 2, "letters", "openai-a"),
    ("number", ACCOUNT.replace("name: a", "name: 7"), "accounts[0].name", 2, "must be text", "quotes"),
    (
        "local key",
        "accounts:\n  - name: a\n    provider: local\n    api_key: x\n    models: [m]\n",
        "accounts[0].api_key",
        4,
        "takes none",
        "delete",
    ),
    (
        "option",
        ACCOUNT + "    options: {projekt: x}\n",
        "accounts[0].options.projekt",
        6,
        "no such option",
        "'project'",
    ),
    ("data dir", ACCOUNT + "data_dir: /dev/null\n", "data_dir", 6, "not a directory", "name a directory"),
    ("variable", ACCOUNT.replace("KEY", "GONE"), "accounts[0].api_key", 4, "'GONE' is not set", "export GONE"),
    (
        "empty variable",
        ACCOUNT.replace("KEY", "SPACES"),
        "accounts[0].api_key",
        4,
        "'SPACES' is empty",
        "export SPACES",
    ),
    ("reference", ACCOUNT + "data_dir: ${not a name}\n", "data_dir", 6, "followed by the name", "$$"),
    ("open reference", ACCOUNT + "data_dir: ${KEY\n", "data_dir", 6, "followed by the name", "$$"),
    ("flow reference", "accounts:\n  - {name: a, api_key: ${KEY}}\n", "", 2, "not valid YAML", "into quotes"),
    ("syntax", "accounts: [\nb: 2\n", "", 3, "in what begins on line 1", "correct the YAML"),
    ("tab", "accounts:\n\t- a\n", "", 2, "not valid YAML", "not tabs"),
    ("control", "accounts:\n  - \x07\n", "", 2, "control character", "delete"),
    ("documents", ACCOUNT + "---\na: 1\n", "", 6, "not valid YAML", "correct the YAML"),
    ("tag", ACCOUNT + "data_dir: !!binary aGk=\n", "data_dir", 6, "means nothing", "delete the tag"),
    ("deep", "[" * 1_500, "", 1, "nested too deeply", "fewer levels"),
]


@pytest.mark.parametrize(
    ("text", "field", "line", "message", "remedy"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS]
)
def test_load_refuses_with_field_line_and_remedy(
    text: str, field: str, line: int | None, message: str, remedy: str
) -> None:
    """One mistake makes one problem, and it says where, what and what to do."""
    problem = the_problem(text)

    assert (problem.path, problem.line) == (field, line)
    assert message in problem.message
    assert remedy in problem.remedy


def test_load_names_every_mistake_at_once_in_the_order_of_lines() -> None:
    """One try, all mistakes: of syntax rules, of fields and of references."""
    text = (
        "accounts:\n"
        "  - name: a\n"
        "    provider: opnai\n"
        "    api_key: ${GONE}\n"
        "    models: [m]\n"
        "  - name: a\n"
        "    provider: custom\n"
        "    models: [n]\n"
        "    limits: {rpm: -1}\n"
        "    quota_group: g\n"
        "colour: red\n"
        "routing: {general: {primary: [o]}}\n"
    )
    with pytest.raises(ConfigurationProblems) as caught:
        settings.load_text(text, source="tutti.yaml", environ=ENVIRON)
    error = caught.value
    fields = [problem.path for problem in error.problems]

    assert fields == [
        "accounts[0].provider",
        "accounts[0].api_key",
        "accounts[1].base_url",
        "accounts[1].name",
        "accounts[1].limits",
        "accounts[1].limits.rpm",
        "accounts[1].quota_group",
        "colour",
        "routing.general.primary[0]",
    ]
    assert (error.param, error.line) == ("accounts[0].provider", 3)
    assert error.message.startswith("9 mistakes in tutti.yaml")
    assert settings.describe_problems(error).count("\n  line ") == 9
    assert pickle.loads(pickle.dumps(error)) == error


def test_load_says_nothing_of_routes_where_an_account_cannot_be_read() -> None:
    """A broken account might have served the model: no mistakes that vanish with the first correction."""
    text = "accounts:\n  - name: a\n    provider: local\n    models: [3]\nrouting: {general: {primary: [o]}}\n"

    assert the_problem(text).path == "accounts[0].models[0]"


def test_duplicate_names_are_refused_with_both_lines() -> None:
    """The reader need not search for the other one."""
    problem = the_problem(ACCOUNT + ACCOUNT.removeprefix("accounts:\n"))

    assert problem.path == "accounts[1].name"
    assert problem.line == 6
    assert "'a', first on line 2" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [*x]",
        "a: &x {<<: *x}",
        "a: &a [1,2,3,4,5,6,7,8]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]\n",
    ],
)
def test_load_refuses_aliases_that_never_end(text: str) -> None:
    """A file of a few lines must not eat the machine."""
    words = " ".join(problem.message for problem in problems_of(text))

    assert "never end" in words or "mappings only" in words


SECRETS = ["sk-proj-Zq3Yk8Lm2Nv5Xw7B", "hunter2hunter2", "AIzaSyA1b2C3d4E5f6G7h8"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "text",
    [
        ACCOUNT.replace("${KEY}", "'@@ @@'"),
        ACCOUNT.replace("${KEY}", "'${S} '").replace("gpt-5-mini", "m m"),
        ACCOUNT.replace("name: a", "name: '${S}!'"),
        ACCOUNT.replace("openai", "${S}"),
        ACCOUNT + "    base_url: ${S}\n",
        ACCOUNT + "    base_url: https://user:@@@host\n",
        ACCOUNT + "    base_url: https://host/v1?key=@@\n",
        ACCOUNT + "    quota_group: ${S}\n",
        ACCOUNT.replace("[gpt-5-mini]", "['${S}']") + "coordinator: {judge_model: nobody}\n",
        ACCOUNT + "coordinator: {judge_model: '${S}'}\n",
        ACCOUNT + "routing: {x: {primary: ['${S}']}}\n",
        ACCOUNT + "    api_key: @@\n",
        ACCOUNT.replace("api_key: ${KEY}", "api_key: [@@]"),
        ACCOUNT.replace("api_key: ${KEY}", "api_kee: @@"),
        ACCOUNT + "    limits: {rpm: '${S}'}\n",
        'accounts: "@@\n',
    ],
)
def test_no_message_holds_a_secret(text: str, secret: str) -> None:
    """Neither a key in the file nor what a variable holds comes out, wherever it was put by mistake."""
    with pytest.raises(ConfigurationProblems) as caught:
        settings.load_text(text.replace("@@", secret), environ={**ENVIRON, "S": secret})
    error = caught.value

    assert secret not in error.message
    assert secret not in repr(error.problems)
    assert secret not in repr(error.__dict__)
    assert error.__cause__ is None


def test_a_key_in_a_wrong_field_is_not_shown() -> None:
    """Keys are known by their looks where the field does not tell."""
    problems = problems_of(ACCOUNT.replace("openai", "sk-proj-Zq3Yk8Lm2Nv5Xw7B"))

    assert "Zq3Yk8" not in repr(problems)


@pytest.mark.parametrize(
    ("content", "message", "line"),
    [
        (b"accounts:\n  - name: \xff\n", "not UTF-8", 2),
        (b"#" * 1_000_001, "larger than a megabyte", None),
    ],
)
def test_load_refuses_files_that_are_no_text(tmp_path: Path, content: bytes, message: str, line: int | None) -> None:
    """Bytes are judged before YAML sees them."""
    path = tmp_path / "tutti.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationProblems) as caught:
        settings.load(path, environ=ENVIRON)

    assert message in caught.value.message
    assert caught.value.line == line
    assert str(path) in caught.value.message


def test_load_refuses_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    """A configuration that was named is never silently replaced by another."""
    for path in (tmp_path / "none.yaml", tmp_path):
        for arguments in ((path, ENVIRON), (None, {**ENVIRON, "TUTTI_CONFIG": str(path)})):
            with pytest.raises(ConfigurationProblems, match="cannot be read"):
                settings.load(arguments[0], environ=arguments[1])


def test_load_mapping_refuses_what_plain_data_cannot_hold() -> None:
    """Serve's user_config has no lines, so the field must do."""
    with pytest.raises(ConfigurationProblems) as caught:
        settings.load_mapping({"accounts": [{"name": "a", 3: "b", "models": object()}]}, environ=ENVIRON)
    found = {problem.path: problem for problem in caught.value.problems}

    assert "type object" in found["accounts[0].models"].message
    assert "not text" in found["accounts[0]"].message
    assert all(problem.line is None for problem in found.values())


_WORDS = ["accounts", "name", "provider", "models", "limits", "rpm", "a", "openai", "routing", "primary", "${X}", "$"]
_SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(_WORDS) | st.text(max_size=5)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=5),
    max_leaves=12,
)


@hypothesis_settings(max_examples=examples(150), deadline=None)
@given(
    accounts=_DOCUMENTS, rest=st.dictionaries(st.sampled_from(["routing", "quota_groups", "coordinator"]), _DOCUMENTS)
)
def test_load_mapping_refuses_nonsense_in_words(accounts: object, rest: dict[str, object]) -> None:
    """Whatever the shape of the data, the answer is a list of mistakes, never another exception."""
    with pytest.raises(ConfigurationProblems):
        settings.load_mapping({"accounts": accounts, **rest}, environ=ENVIRON)


@hypothesis_settings(max_examples=examples(150), deadline=None)
@given(text=st.text(alphabet=string.printable + "é中\x00", max_size=60))
def test_load_text_refuses_nonsense_in_words(text: str) -> None:
    """Whatever the bytes, the answer is a list of mistakes, never another exception."""
    with pytest.raises(ConfigurationProblems):
        settings.load_text(text, environ=ENVIRON)
