"""The dated table of models in ``app/data/models.yaml``: what is known of each, and what its price is.

Looks up; decides nothing. A model that is not in the table is allowed: its price is unknown, the rest is assumed low.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

from app.domain.accounts import ModelInfo, ModelKind, Provider, StructuredOutput, Tier
from app.domain.books.prices import PriceRow
from app.domain.cost import row_of_model
from app.settings.books_schema import TablePrices
from app.settings.document import parse_yaml
from app.settings.fields import Price
from app.settings.price_rows import extend_row
from app.settings.schema import ModelSection

# Releases are named by date: gpt-5-mini-2025-08-07, claude-haiku-4-5-20251001.
_RELEASE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_STRUCTURED_OF_PROVIDER = {
    Provider.OPENAI: StructuredOutput.SCHEMA,
    Provider.ANTHROPIC: StructuredOutput.SCHEMA,
    Provider.GEMINI: StructuredOutput.SCHEMA,
    Provider.DEEPSEEK: StructuredOutput.JSON_OBJECT,
    Provider.QWEN: StructuredOutput.JSON_OBJECT,
    Provider.CUSTOM: StructuredOutput.NONE,
    Provider.LOCAL: StructuredOutput.SCHEMA,
}


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str
    tier: Tier
    reasoning: bool
    context_tokens: int
    output_tokens_max: int
    structured: StructuredOutput
    input_usd_per_mtok: Price
    output_usd_per_mtok: Price
    cache_read_usd_per_mtok: Price = None
    price: TablePrices | None = None
    """What these three figures do not say: other rates, long contexts, hours, the day from which they hold."""
    source: str
    """Key of ``sources``."""
    note: str = ""
    also: tuple[str, ...] = ()
    """Other names of the same model."""
    chars_per_token: float = 4.0
    strip_reasoning: bool = False
    kind: ModelKind = "chat"
    images: bool | None = None
    tools: bool | None = None
    strengths: tuple[str, ...] = ()
    """Beside those of its family and tier."""
    best_for: tuple[str, ...] = ()
    """Instead of those of its tier."""


class _Family(BaseModel):
    """What models of one maker have in common, unless their row says otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: bool | None = None
    tools: bool | None = None
    strengths: tuple[str, ...] = ()


class _Tier(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    strengths: tuple[str, ...]
    best_for: tuple[str, ...]


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    url: str = ""
    as_of: Annotated[str, BeforeValidator(str)]
    """The date of what the source says."""
    valid_from: date | None = None
    """First day, in UTC, for which prices of rows that name no other are known to hold."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    read: Annotated[str, BeforeValidator(str)]
    """When the sources were read."""
    sources: dict[str, _Source]
    aliases: dict[str, str]
    families: dict[str, _Family]
    tiers: dict[Tier, _Tier]
    models: dict[str, _Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """One row as people read it."""

    info: ModelInfo
    price: PriceRow | None
    """Whole, and dated; None where the price is unknown."""
    also: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTable:
    """What is known of models, by name."""

    read: str
    """ISO date on which the sources were read."""
    aliases: Mapping[str, str]
    """Names that stand for whichever model is current, as ``r1``."""
    rows: Mapping[str, TableRow]
    sources: Mapping[str, str]
    """Key of a source to its title, date and address."""
    tiers: Mapping[Tier, _Tier]
    """What is said of models that have no row."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name of every row."""
        return tuple(name for row_name, row in self.rows.items() for name in (row_name, *row.also))

    def others_of(self, name: str) -> tuple[str, ...]:
        """Return the other names of the model whose row has exactly ``name``."""
        for row_name, row in self.rows.items():
            if name == row_name or name in row.also:
                return tuple(other for other in (row_name, *row.also) if other != name)
        return ()

    def find(self, name: str) -> ModelInfo | None:
        """Return what is known of the model that a provider calls ``name``: releases and prefixes are understood."""
        row = self._find_row(name)
        return row.info if row else None

    def find_price(self, name: str) -> PriceRow | None:
        """Return the whole price of the model that a provider calls ``name``."""
        row = self._find_row(name)
        return row.price if row else None

    def _find_row(self, name: str) -> TableRow | None:
        bare = name.rsplit("/", 1)[-1]
        for candidate in (name, bare, _RELEASE.sub("", bare)):
            target = self.aliases.get(candidate, candidate)
            for row_name, row in self.rows.items():
                if target == row_name or target in row.also:
                    return row
        return None

    def upstream_of(self, name: str, provider: str) -> str:
        """Return what the provider calls ``name``: an alias's target at the provider that trained it, else ``name``."""
        target = self.aliases.get(name)
        return target if target is not None and self.rows[target].info.family == provider else name


@cache
def model_table() -> ModelTable:
    """Return the table that ships with Tutti."""
    document = parse_yaml((files("app") / "data" / "models.yaml").read_text(encoding="utf-8"))
    assert not document.problems, document.problems
    table = _File.model_validate(document.data)
    sources = {
        key: ", ".join(filter(None, (source.title, source.as_of, source.url))) for key, source in table.sources.items()
    }
    rows = {}
    for name, row in table.models.items():
        info = _info(name, row, table, f"{sources[row.source]} (read {table.read})")
        rows[name] = TableRow(
            info=info, price=_price(info, row.price, table.sources[row.source]), also=row.also, note=row.note
        )
    assert set(table.aliases.values()) <= set(rows), "aliases point into the table"
    return ModelTable(read=table.read, aliases=table.aliases, rows=rows, sources=sources, tiers=table.tiers)


def _info(name: str, row: _Row, table: _File, price_source: str) -> ModelInfo:
    """Return what the table says of a model: its row, and what holds for its family and tier."""
    family = table.families.get(row.family, _Family())
    tier = table.tiers[row.tier]
    given = row.model_dump(exclude={"source", "note", "also", "price"})
    if row.kind == "chat":
        given["images"] = family.images if row.images is None else row.images
        given["tools"] = family.tools if row.tools is None else row.tools
        reasons = ("thinks before it answers",) if row.reasoning else ()
        given["strengths"] = tuple(dict.fromkeys((*row.strengths, *family.strengths, *reasons, *tier.strengths)))
        given["best_for"] = row.best_for or tier.best_for
    return ModelInfo(name=name, price_source=price_source, **given)


def _price(info: ModelInfo, extra: TablePrices | None, source: _Source) -> PriceRow | None:
    row = row_of_model(info)
    if row is None:
        return None
    row = replace(row, effective_from=source.valid_from or row.effective_from)
    if extra is None:
        return row
    rates = replace(row.rates, input=extra.input or row.rates.input, output=extra.output or row.rates.output)
    return extend_row(replace(row, rates=rates), extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One account's way of serving a public model."""

    account: str
    provider: Provider
    upstream: str


def describe_model(
    name: str, servings: tuple[Serving, ...], section: ModelSection | None, table: ModelTable
) -> tuple[ModelInfo, list[str]]:
    """Return what is known of public model ``name``, with notes on what is assumed.

    Args:
        name: The public name.
        servings: Who serves it, at least one; the first decides where they differ.
        section: What the configuration says of it; each of its keys wins.
        table: The model table.
    """
    notes: list[str] = []
    found = [table.find(serving.upstream) or table.find(name) for serving in servings]
    known = next((info for info in found if info is not None), None)
    if len({info.name for info in found if info is not None}) > 1:
        notes.append(
            f"Model {name!r} stands for different models at different accounts; properties and prices are those of "
            f"{servings[0].upstream!r} at {servings[0].account!r}."
        )
        known = found[0] or known
    info = replace(known, name=name) if known else _assumed(name, servings[0].provider, table)
    custom = [serving.account for serving in servings if serving.provider is Provider.CUSTOM]
    priced = section is not None and section.input_usd_per_mtok is not None and section.output_usd_per_mtok is not None
    if custom and len(custom) == len(servings):
        # The table has the vendors' prices; what another server charges, only its operator knows.
        info = replace(
            info,
            input_usd_per_mtok=None,
            output_usd_per_mtok=None,
            cache_read_usd_per_mtok=None,
            price_source=None,
        )
    elif custom and not priced:
        notes.append(f"Model {name!r} is priced at its vendor's price also at {', '.join(custom)}.")
    if section is not None:
        given = {key: value for key, value in section.model_dump(exclude_none=True).items()}
        if any(key.endswith("_usd_per_mtok") for key in given):
            given["price_source"] = "configuration"
        info = replace(info, **given)
    elif known is None:
        notes.append(
            f"Model {name!r} is not in the model table: {info.context_tokens} tokens of context, structured output "
            f"{info.structured.value!r} and tier {info.tier.value!r} are assumed; describe it under `models:`."
        )
    if info.input_usd_per_mtok is None or info.output_usd_per_mtok is None:
        notes.append(f"The price of model {name!r} is unknown, and so is the cost of what it does.")
    return info, notes


def _assumed(name: str, provider: Provider, table: ModelTable) -> ModelInfo:
    """Return cautious assumptions on a model that nobody described."""
    if provider is Provider.LOCAL:
        return ModelInfo(
            name=name,
            family="local",
            tier=Tier.TINY,
            context_tokens=4_096,
            output_tokens_max=2_048,
            structured=StructuredOutput.SCHEMA,
            input_usd_per_mtok="0",
            output_usd_per_mtok="0",
            price_source="runs on this machine",
            images=False,
            tools=False,
            strengths=table.tiers[Tier.TINY].strengths,
            best_for=table.tiers[Tier.TINY].best_for,
        )
    return ModelInfo(
        name=name,
        family=provider.value,
        tier=Tier.STANDARD,
        context_tokens=32_768,
        output_tokens_max=4_096,
        structured=_STRUCTURED_OF_PROVIDER[provider],
        # Every embedding model that we know of says so in its name.
        kind="embedding" if "embed" in name.lower() else "chat",
        best_for=table.tiers[Tier.STANDARD].best_for,
    )


def price_order(info: ModelInfo) -> Decimal:
    """Return a key that sorts models by price, cheapest first, unknown prices last."""
    if info.input_usd_per_mtok is None or info.output_usd_per_mtok is None:
        return Decimal("Infinity")
    return Decimal(info.input_usd_per_mtok) + Decimal(info.output_usd_per_mtok)
