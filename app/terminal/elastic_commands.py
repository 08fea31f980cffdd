"""What prepares Elasticsearch and Kibana: reads where they are, installs, and says what was done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from app import settings
from app.domain.chat import Json
from app.domain.errors import ConfigurationError
from app.domain.events.installing import Done, Installed, Step
from app.domain.events.spec import ElasticsearchSpec
from app.domain.kibana.saved_objects import Setting
from app.services.events.elastic_install import ElasticInstaller, Wish
from app.services.events.kibana_install import KibanaInstaller
from app.sinks.admin import AdminClient
from app.terminal.output import ExitStatus, emit_json, standard_error, standard_output

_MARKS = {
    Done.CREATED: ("+", "green"),
    Done.CHANGED: ("~", "yellow"),
    Done.UNCHANGED: ("=", "dim"),
    Done.SKIPPED: ("-", "dim"),
    Done.PUT: ("+", "green"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a person says which server is meant; None: as the configuration says."""

    config: Path | None = None
    url: str | None = None
    user: str | None = None
    password: str | None = None
    ca_cert: str | None = None
    prefix: str | None = None

    def spec(self) -> ElasticsearchSpec:
        """Return where Elasticsearch is and who signs in.

        Raises:
            ConfigurationError: neither says where.
        """
        found = settings.load(self.config).events.elasticsearch
        if found is None:
            if self.url is None:
                raise ConfigurationError(
                    "There is no Elasticsearch in the configuration.",
                    param="events.elasticsearch",
                    remedy="Write `events: {elasticsearch: {url: …}}`, or name it with --url.",
                )
            found = ElasticsearchSpec(url=self.url)
        return self.reached(found)

    def reached(self, spec: ElasticsearchSpec) -> ElasticsearchSpec:
        """Return ``spec`` with what was said on the command line in its place."""
        if self.user is not None:
            spec = replace(spec, api_key=None, username=self.user, password=self.password or "")
        return replace(
            spec,
            url=self.url or spec.url,
            ca_cert=self.ca_cert or spec.ca_cert,
            index_prefix=self.prefix or spec.index_prefix,
        )


async def install(reach: Reach, *, dry_run: bool, may_forget: bool, new_key: bool, as_json: bool) -> int:
    """Prepare Elasticsearch and say what was done.

    Raises:
        GatewayError: it cannot be reached, or refuses.
    """
    spec = reach.spec()
    wish = Wish(
        prefix=spec.index_prefix, keep_days=spec.keep_days, may_forget=may_forget, new_key=new_key, dry_run=dry_run
    )
    client = AdminClient(spec)
    try:
        installed = await ElasticInstaller(client, wish).install()
    finally:
        await client.aclose()
    tell(installed, dry_run=dry_run, as_json=as_json)
    return int(ExitStatus.ANSWERED)


async def install_kibana(reach: Reach, *, space: str, dry_run: bool, as_json: bool) -> int:
    """Bring dashboards and rules into Kibana and say what was done.

    Raises:
        GatewayError: it cannot be reached, or refuses.
    """
    spec = reach.spec()
    profile = settings.load(reach.config).events.profile
    client = AdminClient(spec, kibana=True)
    try:
        setting = Setting(prefix=spec.index_prefix, profile=profile)
        installed = await KibanaInstaller(client, setting, space=space, dry_run=dry_run).install()
    finally:
        await client.aclose()
    tell(installed, dry_run=dry_run, as_json=as_json)
    return int(ExitStatus.ANSWERED)


def tell(installed: Installed, *, dry_run: bool, as_json: bool) -> None:
    """Say on standard output what was done; a key only there, and only now."""
    if as_json:
        steps: list[Json] = [
            {"what": step.what, "name": step.name, "done": step.done.value, "detail": step.detail}
            for step in installed.steps
        ]
        document: dict[str, Json] = {"dry_run": dry_run, "steps": steps, "warnings": [*installed.warnings]}
        emit_json(document | ({"api_key": installed.api_key} if installed.api_key else {}))
        return
    console = standard_output()
    for step in installed.steps:
        console.print(_line(step, dry_run=dry_run), soft_wrap=True)
    for warning in installed.warnings:
        standard_error().print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    if installed.api_key:
        console.print(Text(f"\napi_key: {installed.api_key}"), soft_wrap=True)
        standard_error().print(
            Text("This key is shown once and kept nowhere: put it where events.elasticsearch.api_key refers to."),
            soft_wrap=True,
        )


def _line(step: Step, *, dry_run: bool) -> Text:
    mark, style = _MARKS[step.done]
    done = (
        f"would be {step.done.value}"
        if dry_run and step.done in (Done.CREATED, Done.CHANGED, Done.PUT)
        else step.done.value
    )
    detail = f": {step.detail}" if step.detail else ""
    return Text.assemble((f"{mark} ", style), f"{step.what} {step.name}  ", (f"{done}{detail}", style))
