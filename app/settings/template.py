"""The commented configuration that `tutti init` writes.

Accounts whose keys are in the environment are switched on, the others stand behind a ``#``: what is written loads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from app.domain.accounts import Provider
from app.settings.provider_defaults import (
    DEFAULT_CONCURRENCY,
    DEFAULT_MODELS,
    EMBEDDED_ACCOUNT,
    EMBEDDED_CONCURRENCY,
    EMBEDDED_MODEL,
    KEY_VARIABLES,
)

_HEAD = """\
## Tutti's configuration. Lines with ## explain; lines with one # are settings that are switched off: delete the # to
## switch them on. `tutti check` names every mistake with its line, docs/configuration.md lists every setting.
## ${NAME} is replaced by the environment variable NAME in any text, $$ is a dollar sign. A changed file is applied
## while Tutti runs; a wrong one changes nothing and says why.

## One entry per account: an API key that you are entitled to use.
accounts:
"""

_ACCOUNT = """\
  - name: {name}
    provider: {provider}
    api_key: ${{{variable}}}
    models: [{models}]
    limits: {{concurrency: {concurrency}}}
"""

_EMBEDDED = f"""\
  - name: {EMBEDDED_ACCOUNT}
    provider: local
    models: [{EMBEDDED_MODEL}]
    limits: {{concurrency: {EMBEDDED_CONCURRENCY}}}
"""

_CUSTOM = """\
  - name: in-house
    identity: platform@example.com
    provider: custom
    base_url: http://127.0.0.1:8080/v1
    models: [{house-model: the-name-the-server-knows}]
    limits: {rpm: 600, tpm: 400000, concurrency: 16, burst_s: 1, window: bucket, charge: used}
    model_limits: {house-model: {rpm: 300}}
    timeout_s: 300
"""

_TAIL = """\

## Accounts of one organisation share its limits: name the group in each account (`quota_group: acme-openai`, instead of
## `limits`) and give the limits here.
#quota_groups:
#  acme-openai: {rpm: 500, tpm: 200000}

## Who conducts. r1 stands for DeepSeek's current reasoning model; where no account serves it, the strongest reasoning
## model configured conducts. judge_model null: a model of another family, where there is one.
coordinator:
  model: r1
  judge_model: null
  max_tasks: 24
  max_depth: 8
  max_redo: 2

## Which models take which type of task, best first. Types not named here are routed by what models can be trusted with:
## general, reasoning, writing, research, code_generation, data_extraction, translation, summarisation,
## financial_analysis.
#routing:
#  code_generation: {primary: [deepseek-flash], fallback: [gpt-5-mini]}

## Keys of the gateway: with at least one, every call needs one; without any, only this machine can call. key_hash
## (sha256:…, see docs/configuration.md) instead of key keeps the key out of this file.
#auth:
#  keys:
#    - name: team-search
#      key_hash: sha256:0000000000000000000000000000000000000000000000000000000000000000
#      limits: {rpm: 600, tpm: 400000, concurrency: 32}
#      class: interactive
#    - name: nightly
#      key_hash: sha256:1111111111111111111111111111111111111111111111111111111111111111
#      class: batch
#      weight: 0.5

## How calls of clients are served: the queue while every account is busy, attempts, what stands in for a model that a
## client names, kept answers, web pages that may call.
#gateway:
#  queue_max: 10000
#  queue_timeout_s: 120
#  attempts_max: 4
#  retry_ratio: 0.1
#  batch_headroom: 0.1
#  idle_timeout_s: 60
#  classifier: false
#  cache: {enabled: false, ttl_s: 3600, scope: caller, size_mb: 64}
#  cors: {origins: []}

## What you know of models that the model table does not have. Unknown prices make unknown costs, never zero.
#models:
#  house-model: {family: llama, tier: standard, structured: json_object, input_usd_per_mtok: 0, output_usd_per_mtok: 0}

## What may be spent: checked before every call, for the most it can cost. `tutti budgets` shows what is left.
#budgets:
#  - {for: tenant, window: month, usd: 500.00, time_zone: Europe/Berlin}
#  - {for: "user:*", window: day, tokens: 2000000, soft: 0.9}
#  - {for: "key:*", window: day, usd: 20.00, hard: false}

## What models cost you, where that is not what the model table says.
#prices:
#  - {model: gpt-5-mini, from: 2026-08-01, input: 0.20, output: 1.60, cache_read: 0.02, batch: 0.5}

## Where runs are kept: a file in this directory, or a PostgreSQL database.
data_dir: ~/.local/share/tutti
#store: {url: "postgresql://tutti@localhost/tutti"}
"""


def write_template(environ: Mapping[str, str] | None = None) -> str:
    """Return a commented configuration that loads in ``environ``, by default the process's environment."""
    variables = os.environ if environ is None else environ
    parts = [_HEAD]
    some = False
    for provider, names in KEY_VARIABLES.items():
        present = next((name for name in names if variables.get(name, "").strip()), None)
        some = some or present is not None
        entry = _ACCOUNT.format(
            name=f"{provider.value}-a",
            provider=provider.value,
            variable=present or names[0],
            models=", ".join(DEFAULT_MODELS[provider]),
            concurrency=DEFAULT_CONCURRENCY,
        )
        parts.append(f"{_title(provider)}{entry if present else _off(entry)}")
    parts.append("## Any OpenAI-compatible server.\n" + _off(_CUSTOM))
    parts.append("## The embedded model: small, free, on this machine.\n" + (_off(_EMBEDDED) if some else _EMBEDDED))
    parts.append(_TAIL)
    return "".join(parts)


def _off(entry: str) -> str:
    return "".join(f"#{line}" for line in entry.splitlines(keepends=True))


def _title(provider: Provider) -> str:
    names = {
        Provider.OPENAI: "OpenAI",
        Provider.ANTHROPIC: "Anthropic",
        Provider.GEMINI: "Google Gemini",
        Provider.DEEPSEEK: "DeepSeek",
        Provider.QWEN: "Qwen (DashScope); keys belong to a region: name its base_url if yours is not the default",
    }
    return f"## {names[provider]}.\n"
