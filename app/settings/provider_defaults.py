"""What Tutti assumes where the configuration says nothing: variables that hold keys, and models worth having.

Data, not decisions; dated with the model table.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.accounts import Provider

KEY_VARIABLES: Mapping[Provider, tuple[str, ...]] = {
    Provider.OPENAI: ("OPENAI_API_KEY",),
    Provider.ANTHROPIC: ("ANTHROPIC_API_KEY",),
    Provider.GEMINI: ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    Provider.DEEPSEEK: ("DEEPSEEK_API_KEY",),
    Provider.QWEN: ("DASHSCOPE_API_KEY",),
}
"""The usual environment variables; the first that is set counts."""

OPTIONS: Mapping[Provider, Mapping[str, str]] = {
    Provider.OPENAI: {"organization": "organisation to bill", "project": "project to bill"},
    Provider.LOCAL: {
        "model_path": "a GGUF file instead of the embedded model",
        "context_tokens": "context of one call: prompt and answer together",
        "parallel": "calls generated at once",
        "threads": "CPU threads of the generation; default: all cores but one",
    },
}
"""Options that a provider's adapter takes, with their meaning."""

PLUGIN_OPTION = "adapter"
"""Names an adapter of a plugin package (entry points ``tutti.providers``), which may take options of its own."""

DEFAULT_MODELS: Mapping[Provider, tuple[str, ...]] = {
    Provider.OPENAI: ("gpt-5.6-terra", "gpt-5-mini"),
    Provider.ANTHROPIC: ("claude-sonnet-5", "claude-haiku-4-5"),
    Provider.GEMINI: ("gemini-3.5-flash", "gemini-3.1-flash-lite"),
    Provider.DEEPSEEK: ("deepseek-v4-pro", "deepseek-flash"),
    Provider.QWEN: ("qwen3-max", "qwen-flash"),
}
"""What an account made from a variable serves: one model to think with, one that is cheap."""

DEFAULT_CONCURRENCY = 8
"""Calls at once of an account whose limits nobody told us; headers and 429s correct the rest."""

EMBEDDED_ACCOUNT = "embedded"
EMBEDDED_MODEL = "smollm2-135m"
EMBEDDED_CONCURRENCY = 2
"""Parallel slots of the embedded engine."""
