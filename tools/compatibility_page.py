"""Makes docs/compatibility.md from what the tests hold: every recorded case, and what was run against what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.fakes import gateway_cells

RECORDINGS = Path(__file__).resolve().parents[1] / "tests" / "contract" / "recordings"
PROVIDERS = ("openai", "anthropic", "gemini", "deepseek", "qwen", "custom")

_INTRODUCTION = """\
# Compatibility: what was tested against what

Three kinds of evidence, weakest first, and none is claimed for another:

- **recording**: the adapter sends exactly the documented path and body and reads the documented reply, field by field,
  over real HTTP. The recordings were written from the providers' documentation in November 2026, not captured.
- **simulator**: the adapter plays against our simulator over real HTTP; the simulator in turn is checked with the
  providers' own SDKs.
- **the real thing**: a paid account. **Not done yet for any paid provider**; run `tutti check --live` with your key,
  and tell us.

State of 2026-11-21.

| part | recording | simulator | the real thing |
|---|---|---|---|
"""

_PARTS = (
    ("OpenAI chat completions", "yes", "yes, official `openai` SDK against the simulator", "no key here"),
    ("Anthropic Messages", "yes", "yes, official `anthropic` SDK", "no key here"),
    ("Gemini generateContent", "yes", "yes, official `google-genai` SDK", "no key here"),
    ("DeepSeek (chat completions dialect)", "yes", "yes, keep-alives and blank lines included", "no key here"),
    ("Qwen / DashScope (chat completions dialect)", "yes", "as OpenAI", "no key here"),
    ("any OpenAI-compatible server (custom)", "yes", "yes", "the simulator only"),
    ("embedded model (SmolLM2-135M, xllamacpp)", "-", "-", "yes, in every run of `make run` and `make test`"),
    (
        "Ray 2.60: actors, Serve, jobs, `ray up` files",
        "-",
        "-",
        "yes on one machine; `ray up` files pass Ray's validator",
    ),
    ("SQLite journal", "-", "-", "yes"),
    (
        "spans by OTLP over HTTP",
        "-",
        "-",
        "a receiver of our own that reads them with the protocol's official package; Jaeger not here",
    ),
    (
        "metrics, dashboards, alert rules",
        "-",
        "-",
        "Ray's endpoint, read with Prometheus' official Python parser; queries checked against the metrics there are; "
        "Prometheus and Grafana themselves not here: docs/observability.md brings them up",
    ),
    (
        "Elasticsearch 9.2.0: templates, mappings, alias, bulk requests, retention by date",
        "-",
        "-",
        "yes, in every run of `make test` (the vendor's own server, with fewer modules)",
    ),
    (
        "the tests' Elasticsearch by Docker, for machines without Java or Maven",
        "-",
        "once, by hand: a command that stands in for `docker` and runs that server by Java",
        "Docker not here, so the vendor's image was never run. `make test` on a machine with Docker and without Java "
        "does it; the image is the full distribution, with lifecycle management",
    ),
    (
        "Elasticsearch: lifecycle management, roles, API keys",
        "shapes of the reference, in a fake",
        "-",
        "not here: that distribution has neither. `tutti elastic install --dry-run` on a full one says what it would "
        "do",
    ),
    (
        "Kibana 8.9 and later: dashboards, searches, alert rules",
        "shapes of the reference and of Kibana's sources, in a fake",
        "-",
        "Kibana itself not here; every panel and rule is asked of the real Elasticsearch as its query, and its numbers "
        "equal those computed from the events' values, of events made up for it and of those of a real server. "
        "Equations of rules, which Elasticsearch works out by a script, are worked out by the test. "
        "To repeat it: deploy/compose.elastic.yaml, `tutti kibana install`",
    ),
)

_LANGUAGES = """
## Languages

Answers in English, Vietnamese and Chinese are tested with scripted models. The embedded model writes English only:
measured, its Vietnamese, Chinese and French are not usable, and its judgements and scores do not tell good work from
bad; the output says so.

## Not translated

What an adapter cannot translate it refuses with the field's name; nothing is dropped in silence. Retries inside SDKs
and HTTP clients are off everywhere.
"""


_GATEWAY = """
## The gateway: client format, provider, feature

Every cell is a test of `tests/acceptance/test_gateway_sdks.py`: the client's official SDK, unmodified, against a real
server with the simulator as provider. The same file holds the errors as the SDKs' own exceptions, aborts, timeouts,
embeddings, and LangChain's `langchain-openai` (answers, streams, tools, structured output) with every provider.
"""


def compatibility_page() -> str:
    """Return the page."""
    rows = "".join(f"| {' | '.join(part)} |\n" for part in _PARTS)
    cases = "".join(_provider_section(provider) for provider in PROVIDERS)
    recorded = f"\n## Recorded cases\n\nRun by `tests/contract`.\n{cases}"
    return f"{_INTRODUCTION}{rows}{_GATEWAY}{_matrix()}{recorded}{_LANGUAGES}"


def _matrix() -> str:
    tables = []
    for form, title in gateway_cells.FORMATS.items():
        rows = (
            f"| {said} | {' | '.join(_cell(form, provider, feature) for provider in gateway_cells.PROVIDERS)} |\n"
            for feature, said in gateway_cells.FEATURES.items()
        )
        head = f"| {title} | {' | '.join(gateway_cells.PROVIDERS)} |\n|{'---|' * (len(gateway_cells.PROVIDERS) + 1)}\n"
        tables.append(f"\n{head}{''.join(rows)}")
    return "".join(tables)


def _cell(form: str, provider: str, feature: str) -> str:
    return "tested" if (form, provider, feature) in gateway_cells.CELLS else "-"


def _provider_section(provider: str) -> str:
    rows = "".join(f"| {name} | {about} |\n" for name, about in _cases(provider))
    return f"\n### {provider}\n\n| case | what it protects |\n|---|---|\n{rows}"


def _cases(provider: str) -> Iterator[tuple[str, str]]:
    for path in sorted((RECORDINGS / provider).glob("*.json")):
        recording = json.loads(path.read_text(encoding="utf-8"))
        about = str(recording["about"]).replace("|", "\\|")
        errors = recording.get("errors")
        if errors is None:
            yield path.stem, about
        else:
            yield f"{len(errors)} refusals", f"{about} {'; '.join(str(error['name']) for error in errors)}"
