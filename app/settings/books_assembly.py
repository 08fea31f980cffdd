"""Turns what the configuration says of the books into the domain's values: budgets, and dated price rows.

Reads nothing, refuses nothing; called by ``assembly``. The model table uses it for its own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import date

from app.domain.accounts import AccountSpec, ModelInfo, Provider
from app.domain.books.budgets import BudgetSpec, OwnerKind
from app.domain.books.prices import PriceRow, Rates
from app.domain.cost import row_of_model
from app.settings.books_schema import BudgetSection, PriceSection
from app.settings.model_table import ModelTable, Serving
from app.settings.price_rows import extend_row, name_row

SOURCE = "configuration"
_DEFAULTS = {Provider.OPENAI: ("service_tier", "project"), Provider.ANTHROPIC: ("inference_geo", "workspace")}
"""Whose console may make requests dearer that do not name a field, and of which of its parts that is a setting."""


def budgets_of(sections: Sequence[BudgetSection], tenant: str) -> tuple[BudgetSpec, ...]:
    """Return the budgets as configured."""
    specs = []
    for section in sections:
        kind, name = section.owner
        specs.append(
            BudgetSpec(
                owner_kind=kind,
                owner_name=tenant if kind is OwnerKind.TENANT else name,
                window=section.window,
                time_zone=section.time_zone,
                limit_nano=section.usd,
                limit_tokens=section.tokens,
                soft_share=section.soft,
                hard=section.hard,
            )
        )
    return tuple(specs)


def unseen_defaults(accounts: Sequence[AccountSpec], budgets: Sequence[BudgetSpec]) -> list[str]:
    """Return notes on prices that a provider's own settings decide, where budgets of money rely on them."""
    if all(budget.limit_nano is None for budget in budgets):
        return []
    names = {
        provider: ", ".join(repr(account.name) for account in accounts if account.provider is provider)
        for provider in _DEFAULTS
    }
    return [
        f"Calls at {names[provider]} that name no `{field}` are held and booked at the standard price; where the "
        f"provider's {part} has another default, write its prices under `prices`."
        for provider, (field, part) in _DEFAULTS.items()
        if names[provider]
    ]


def prices_of(
    models: Sequence[ModelInfo],
    servings: Mapping[str, Sequence[Serving]],
    sections: Sequence[PriceSection],
    table: ModelTable,
    find: Callable[[str], str | None],
) -> tuple[PriceRow, ...]:
    """Return every price of the models that are served, the table's first.

    A configured row stands in for the table's of the same model from its first day on; one for a single provider stands
    before both, as ``find_row`` has it.

    Args:
        models: Every served model, as described.
        servings: Who serves them, by public name.
        sections: The configured rows; a model that nobody serves is left out.
        table: The model table.
        find: Resolves other names of served models.
    """
    configured = [_configured(section, name) for section in sections if (name := find(section.model)) is not None]
    starts: dict[str, date] = {}
    for row in configured:
        if row.provider is None:
            starts[row.model] = min(row.effective_from, starts.get(row.model, row.effective_from))
    known = [row for model in models for row in _known(model, servings[model.name], table)]
    kept = [row for row in known if row.model not in starts or row.effective_from < starts[row.model]]
    said = {(row.model, row.provider) for row in configured}
    # Where the table tells providers apart, a row for all of them must stand before each one's.
    apart = [
        name_row(replace(general, provider=provider), SOURCE)
        for general in configured
        for model, provider in dict.fromkeys((row.model, row.provider) for row in known)
        if general.provider is None and model == general.model and provider is not None
        if (model, provider) not in said
    ]
    return (*kept, *configured, *apart)


def _configured(section: PriceSection, model: str) -> PriceRow:
    row = PriceRow(
        price_id="",
        model=model,
        provider=section.provider.value if section.provider else None,
        rates=Rates(input=section.input, output=section.output),
        source=SOURCE,
    )
    return name_row(extend_row(row, section), SOURCE)


def _known(model: ModelInfo, servings: Sequence[Serving], table: ModelTable) -> list[PriceRow]:
    """Return the table's rows of one public model: everybody's, and a provider's own where that serves another model.

    ``models`` in the configuration decides what the model costs where it says so; then the table has no say.
    """
    plain = row_of_model(model)
    if plain is None:
        return []
    if model.price_source == SOURCE:
        return [name_row(plain, SOURCE)]
    rows: dict[Provider | None, PriceRow] = {}
    for serving in servings:
        found = table.find_price(serving.upstream) or table.find_price(model.name)
        if found is None or (serving.provider is Provider.CUSTOM and rows):
            continue
        general = rows.setdefault(None, found)
        if general is not found:
            rows.setdefault(serving.provider, found)
    if not rows:
        return [name_row(plain, "table")]
    return [
        name_row(replace(row, model=model.name, provider=provider.value if provider else None), "table")
        for provider, row in rows.items()
    ]
