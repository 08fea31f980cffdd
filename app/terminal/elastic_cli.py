"""`tutti elastic` and `tutti kibana`: declares them; what they do is imported when one is called."""

from __future__ import annotations

from typing import Annotated

import typer

from app.terminal.execute import execute
from app.terminal.options import Config, ElasticPassword, Json, KibanaUrl

elastic = typer.Typer(no_args_is_help=True, help="Elasticsearch, where events are shipped: prepare it once.")
kibana = typer.Typer(no_args_is_help=True, help="Kibana: our dashboards, searches and alerts in it.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
Prefix = Annotated[
    str | None, typer.Option("--prefix", metavar="NAME", help="Of the indices; default: the configuration's.")
]
User = Annotated[
    str | None,
    typer.Option(
        "--user", metavar="NAME", help="Who installs, with the password of ELASTIC_PASSWORD; default: who ships."
    ),
]
CaCert = Annotated[
    str | None, typer.Option("--ca-cert", metavar="FILE", help="Certificates to trust; default: the configuration's.")
]


@elastic.command("install", epilog="Example: ELASTIC_PASSWORD=… tutti elastic install --user elastic --dry-run")
def elastic_install(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Where it answers; default: the configuration's.")
    ] = None,
    dry_run: DryRun = False,
    user: User = None,
    password: ElasticPassword = None,
    ca_cert: CaCert = None,
    prefix: Prefix = None,
    allow_forget: Annotated[
        bool,
        typer.Option("--allow-forget", help="The key may also find and delete: `tutti events forget` needs that."),
    ] = False,
    new_key: Annotated[bool, typer.Option("--new-key", help="Make an API key although there is one.")] = False,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Prepare Elasticsearch: templates, lifecycle, alias, and with security a role and an API key, told once.

    Again changes nothing. Signing in is the installer's; what is made for the shipper may create documents only.
    """
    from app.terminal import elastic_commands

    reach = elastic_commands.Reach(config=config, url=url, user=user, password=password, ca_cert=ca_cert, prefix=prefix)
    execute(
        context.obj,
        lambda: elastic_commands.install(
            reach, dry_run=dry_run, may_forget=allow_forget, new_key=new_key, as_json=as_json
        ),
        as_json=as_json,
    )


@kibana.command(
    "install", epilog="Example: ELASTIC_PASSWORD=… tutti kibana install --url http://localhost:5601 --user elastic"
)
def kibana_install(  # noqa: PLR0913  one parameter an option
    context: typer.Context,
    url: KibanaUrl = "http://localhost:5601",
    space: Annotated[str, typer.Option("--space", metavar="NAME", help="Kibana's space; default: its own.")] = "",
    dry_run: DryRun = False,
    user: User = None,
    password: ElasticPassword = None,
    ca_cert: CaCert = None,
    prefix: Prefix = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Bring dashboards, saved searches and alert rules into Kibana. Again changes only what differs."""
    from app.terminal import elastic_commands

    reach = elastic_commands.Reach(config=config, url=url, user=user, password=password, ca_cert=ca_cert, prefix=prefix)
    execute(
        context.obj,
        lambda: elastic_commands.install_kibana(reach, space=space, dry_run=dry_run, as_json=as_json),
        as_json=as_json,
    )
