"""Typed settings: the only reader of configuration files and of the environment.

Everything is in what this package exports. ``load`` and its siblings return one immutable ``Orchestra`` or raise
``ConfigurationProblems`` with every mistake at once; nothing here knows Ray, HTTP or a provider's wire.
"""

from __future__ import annotations

from app.settings.client_key import KEY_VARIABLE, find_client_key
from app.settings.expansion import default_data_dir
from app.settings.loading import find_config, load, load_mapping, load_text
from app.settings.problems import ConfigurationProblems, Problem, describe_problems
from app.settings.template import write_template

__all__ = [
    "KEY_VARIABLE",
    "ConfigurationProblems",
    "Problem",
    "default_data_dir",
    "describe_problems",
    "find_client_key",
    "find_config",
    "load",
    "load_mapping",
    "load_text",
    "write_template",
]
