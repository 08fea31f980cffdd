"""docs/events.md, from the table of fields and the declarations of event types."""

from __future__ import annotations

from collections.abc import Sequence

from app.domain.events.fields import ALIASES, DEFAULT_PROFILE, EVERY, FIELD, FIELDS, PROFILES, SCHEMA
from app.domain.events.schema import TYPES, EventClass

_INTRODUCTION = """\
Everything that happens is told as an event: one JSON document a line, made once where it happens, kept on disk before
it is acknowledged, and passed on as it is. Its keys are whole paths, as ECS loggers write them: Elasticsearch makes the
same objects of them.

```
tutti events --since 1h                                     # what happened, read on this machine; no server needed
tutti events --where type=call.finished --where account=openai-a --follow --json
tutti events types                                          # this page's types
tutti events forget --user u-4711                           # a person's events: here, in the store, in Elasticsearch
```

**Where they wait.** What the journal and the books write (calls, runs, tasks, postings, budgets) is told in the same
transaction, into the store's outbox: the event is there if and only if the fact is. Everything else goes from its
process to the node's spool, `events.sqlite` in `data_dir`, once a second. Both are emptied by the log shipper
where `events.elasticsearch` is configured; until then they keep `events.keep_days` of history, which is shipped when a
receiver is configured later. Ids are made at the source and grow with time; the index is that of the event's own day,
so an event is stored once however often it is sent.

**What is never told.** Prompts, answers, feedback, messages of errors, keys: there is no field for them, and an event
with a field that its type does not declare is refused where it is made.

**Sums.** `call.finished` is the posting of an entry in the books: sums of its tokens and costs, corrected by
`ledger.corrected`, are the bill. Other events repeat costs of what they are about (a task, a run): do not add them up
together. `gen_ai.usage.*` parts are included in `input_tokens` and `output_tokens`. A cost that is absent is unknown.
"""

_POLICY = {
    EventClass.AUDIT: "the writer is refused, with what to do",
    EventClass.BILLING: "nothing more is bought; what was bought is booked all the same",
    EventClass.BUSINESS: "the writer keeps it, and says it again",
    EventClass.TELEMETRY: "the oldest are dropped, and `events.dropped` says how many",
    EventClass.DEBUG: "dropped first, and told as well",
}


def events_page(generated: str) -> str:
    """Return docs/events.md, with the remark that it is generated."""
    parts = ["# Events", generated, _INTRODUCTION.rstrip()]
    classes = [(f"`{one.value}`", _POLICY[one]) for one in EventClass]
    parts.append("## Classes\n\nWhat happens where `events.spool_mb` is used up and nothing may be deleted:\n\n")
    parts[-1] += _table(("class", "then"), classes)
    rows = [
        (
            f"`{one.name}`",
            one.event_class.value,
            f"`{one.dataset}`",
            one.meaning,
            ", ".join(f"`{FIELD[name].path}`" for name in one.fields),
        )
        for one in TYPES
    ]
    parts.append(f"## Types\n\n{len(rows)} of them; `event.action` is the type's name.\n\n")
    parts[-1] += _table(("type", "class", "dataset", "meaning", "fields"), rows)
    parts.append(_fields())
    return "\n\n".join(parts) + "\n"


def _fields() -> str:
    (other,) = (profile for profile in PROFILES if profile != DEFAULT_PROFILE)
    rows = [
        (
            f"`{field.path}`" + (f" (`{other}`: `{field.genai_main}`)" if field.genai_main else ""),
            f"`{field.name}`",
            field.type.value,
            field.unit or "–",
            field.meaning + (" In every event." if field.name in EVERY else ""),
        )
        for field in FIELDS
    ]
    aliases = ", ".join(f"`{alias}` stands for `{path}`" for alias, path in ALIASES.items())
    return (
        f"## Fields\n\nSchema `{SCHEMA}`. `events.profile` says which state of OpenTelemetry's conventions for "
        f"generative AI names them; both names are mapped always. {aliases}. `tutti events --where` takes either name."
        "\n\n" + _table(("field", "short name", "type", "unit", "meaning"), rows)
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)
