"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Default: TUTTI_CONFIG, ./tutti.yaml, ~/.config/tutti/tutti.yaml, else the keys in the environment.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="TUTTI_SERVER",
        help="The running server; default: the one on the data directory.",
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
BooksServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="TUTTI_SERVER",
        help="Ask this server, with the key of TUTTI_API_KEY; default: read the database.",
    ),
]
ElasticPassword = Annotated[str | None, typer.Option("--password", envvar="ELASTIC_PASSWORD", hidden=True)]
KibanaUrl = Annotated[str, typer.Option("--url", metavar="URL", envvar="TUTTI_KIBANA", help="Where Kibana answers.")]
