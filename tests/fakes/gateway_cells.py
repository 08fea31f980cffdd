"""The cells of the conformance matrix: client formats, providers, features; ``gateway_matrix`` has the checks."""

from __future__ import annotations

PROVIDERS = ("openai", "anthropic", "gemini")
FORMATS = {
    "chat": "OpenAI chat completions, `openai` SDK",
    "responses": "OpenAI Responses, `openai` SDK",
    "messages": "Anthropic Messages, `anthropic` SDK",
}
FEATURES = {
    "text": "answer, usage and end",
    "stream": "stream, with usage",
    "length": "ceiling of output",
    "tools": "two tool calls at once",
    "tools_stream": "the same, streamed",
    "tool_results": "tool results sent back",
    "schema": "JSON schema by the SDK's `parse()`",
    "image": "image",
    "reasoning": "reasoning, both ways",
}
CELLS = [(form, provider, feature) for form in FORMATS for provider in PROVIDERS for feature in FEATURES]
"""Each is a test of ``tests/acceptance/test_gateway_sdks.py`` and must hold; the page shows them all."""
