"""The alert rules that Tutti brings, and what whoever is woken by one should know.

Thresholds are where people usually want to hear of it; in Kibana they are changed by a copy of the rule, because an
install puts these back.
"""

from __future__ import annotations

from app.domain.kibana.boards import BACKLOG, CALLS, FAILED, LOAD, REQUESTS, TOO_MANY
from app.domain.kibana.questions import Metric, at_least, count, no, older, percentile, there, told, total
from app.domain.kibana.rules import Rule, Words

EVERYTHING = count("events")
LEAST_CALLS = 20
"""Of so few, a share says nothing; it counts as none."""


def _largest(field: str) -> Metric:
    return Metric(label=field, operation="max", field=field)


RULES: tuple[Rule, ...] = (
    Rule(
        name="headroom",
        title="an account is nearly at its limit",
        where=LOAD,
        metrics=(Metric(label="headroom", operation="max", field="headroom"),),
        comparator="<",
        threshold=0.2,
        window="5m",
        # Not the account alone: one limit that is full beside others that are not is what holds calls up.
        groups=("account", "model", "limit_name"),
        delay=3,
        words=Words(
            fired="For five minutes a limit of the account had less than a fifth left.",
            why="What comes now waits, or goes to dearer accounts; when all are like this, callers are refused.",
            triage="`tutti accounts`; dashboard `Tutti: accounts and limits`: is one account full, or all of them?",
            remediation="Add an account of the same provider, raise its limits if the provider allows more, or give "
            "batch work a lower service class.",
        ),
    ),
    Rule(
        name="rate limited",
        title="a provider refuses calls for their rate (429)",
        where=CALLS,
        metrics=(count("429", TOO_MANY), count("calls")),
        equation=f"B > {LEAST_CALLS} ? A / B : 0",
        comparator=">",
        threshold=0.05,
        window="10m",
        groups=("account",),
        words=Words(
            fired="More than one call in twenty of the account was refused with 429.",
            why="Our limits stand higher than the provider's: every refusal costs time.",
            triage="Are the account's rpm and tpm those of the provider's page? Is its key used elsewhere?",
            remediation="Lower the account's limits in the configuration, or put accounts that share a quota into one "
            "`quota_group`.",
        ),
    ),
    Rule(
        name="errors",
        title="a provider fails too often",
        where=CALLS,
        metrics=(count("failed", FAILED, no(TOO_MANY)), count("calls")),
        equation=f"B > {LEAST_CALLS} ? A / B : 0",
        comparator=">",
        threshold=0.1,
        window="10m",
        groups=("provider",),
        words=Words(
            fired="More than one call in ten to the provider failed, 429 not counted.",
            why="Clients are served by other accounts as long as there are some; each failure costs them time.",
            triage="Saved search `Tutti: calls that failed`: one kind of error, one model, one account? The provider's "
            "status page.",
            remediation="dead_key: give the account another key. timeout, overloaded: wait, or take the provider out "
            "of the routes. garbage, invalid_request: report it with a trace.",
        ),
    ),
    Rule(
        name="requests failed",
        title="clients are answered with errors of ours",
        where=REQUESTS,
        metrics=(count("failed", FAILED, at_least("http_status", 429)), count("requests")),
        equation=f"B > {LEAST_CALLS} ? A / B : 0",
        comparator=">",
        threshold=0.05,
        window="10m",
        words=Words(
            fired="More than one request in twenty ended in an error.",
            why="Failover did not help: every account failed, was full, or a part of Tutti is down.",
            triage="`tutti doctor`; dashboard `Tutti: reliability`: what were clients answered, which parts died?",
            remediation="429: more accounts or higher limits of the key. 5xx: follow one trace from the saved search "
            "`Tutti: requests that failed`.",
        ),
    ),
    Rule(
        name="latency",
        title="calls take long",
        where=CALLS,
        metrics=(percentile("duration_ns", 95),),
        comparator=">",
        threshold=60_000_000_000,
        window="15m",
        groups=("model",),
        delay=2,
        words=Words(
            fired="One call in twenty of the model took longer than a minute.",
            why="People wait, and calls hold their account's slots for that long.",
            triage="Dashboard `Tutti: reliability`, slowest models: is it the provider, or are the answers long?",
            remediation="Put another model first in the route, limit `max_tokens`, or set the account's `timeout_s`.",
        ),
    ),
    Rule(
        name="first part",
        title="answers begin late",
        where=(*CALLS, there("ttft_s")),
        metrics=(percentile("ttft_s", 95),),
        comparator=">",
        threshold=10,
        window="15m",
        groups=("model",),
        delay=2,
        words=Words(
            fired="One streamed answer in twenty of the model began after more than ten seconds.",
            why="Whoever reads along sees nothing until then.",
            triage="One account or all of them? Do prompts grow (dashboard `Tutti: cost and usage`, input tokens)?",
            remediation="Prefer another account or model for interactive work; use the provider's prompt cache.",
        ),
    ),
    Rule(
        name="budget",
        title="a budget is nearly used up",
        where=(told("budget.alert"),),
        metrics=(_largest("budget_spent"), _largest("budget_limit")),
        equation="A / B",
        comparator=">=",
        threshold=0.8,
        window="1h",
        groups=("budget_id", "budget_unit"),
        words=Words(
            fired="The budget passed the share from which its owner wants to hear of it.",
            why="At its end calls that might exceed it are refused.",
            triage="`tutti budgets` shows the rate and when it ends; dashboard `Tutti: cost and usage`: who spends?",
            remediation="Raise the budget, or move work to cheaper models by the routes.",
        ),
    ),
    Rule(
        name="burn",
        title="money is spent faster than before",
        where=CALLS,
        metrics=(
            total("last hour", "cost_nano", no(older("1h"))),
            total("day before", "cost_nano", older("1h")),
        ),
        # The hour's sum against the mean hour of the day before it, and not below a dollar.
        equation="A > 1000000000 ? A / ((B > 1000000000 ? B : 1000000000) / 24) : 0",
        comparator=">",
        threshold=10,
        window="25h",
        groups=("team",),
        words=Words(
            fired="In the last hour the team spent ten times what it spent in a mean hour of the day before.",
            why="A loop, a leaked key, or a new use nobody planned for.",
            triage="Dashboard `Tutti: cost and usage`, by key and model and by user, last hour.",
            remediation="Set a budget for the key or user, or disable the key; `tutti reload` applies it at once.",
        ),
    ),
    Rule(
        name="stuck run",
        title="a run does not end",
        where=(told("run.accepted", "run.finished", "run.questions", "run.answered"),),
        metrics=(
            count("accepted", told("run.accepted"), older("2h")),
            count("finished", told("run.finished")),
            count("asked", told("run.questions")),
            count("answered", told("run.answered")),
        ),
        # Waiting for people is no fault: questions that are open count as an end.
        equation="A - B - (C > D ? C - D : 0)",
        comparator=">",
        threshold=0,
        window="24h",
        groups=("run_id",),
        words=Words(
            fired="The run was accepted more than two hours ago, has not ended, and waits for nobody's answers.",
            why="Somebody waits for it, and its budget stays held.",
            triage="`tutti projects show RUN`: which task, which account does it wait for?",
            remediation="`tutti projects retry RUN TASK`, or cancel it; see `tutti doctor` for dead actors.",
        ),
    ),
    Rule(
        name="ledger imbalance",
        title="the books do not add up",
        where=(told("ledger.verified"),),
        metrics=(_largest("difference"),),
        comparator=">",
        threshold=0,
        window="1h",
        words=Words(
            fired="Adding up single entries gave other sums than the balances.",
            why="Budgets are decided on balances: they may let too much or too little through.",
            triage="`tutti books verify` names every difference.",
            remediation="Keep a copy (`tutti db backup`) and report the differences.",
        ),
    ),
    Rule(
        name="unknown holds",
        title="nobody knows what some calls cost",
        where=(told("ledger.unknown"),),
        metrics=(total("holds", "holds"),),
        comparator=">",
        threshold=0,
        window="1h",
        words=Words(
            fired="Processes died while they held money for calls.",
            why="What they held counts as spent until somebody says what was billed.",
            triage="`tutti books unknown` lists them.",
            remediation="Compare with the provider's own figures, then `tutti books settle HOLD`.",
        ),
    ),
    Rule(
        name="spool age",
        title="events wait too long to be shipped",
        where=BACKLOG,
        metrics=(_largest("oldest_age_s"),),
        comparator=">",
        threshold=300,
        window="5m",
        groups=("node",),
        words=Words(
            fired="The oldest event of the process waits for more than five minutes.",
            why="What Kibana shows is old; when the spool is full, telemetry is dropped and buying stops.",
            triage="`tutti doctor`: what does shipping say? If Elasticsearch is away altogether, `no events` fires "
            "instead of this.",
            remediation="Mend what it names: its disk, its rights, its shards; nothing is lost meanwhile.",
        ),
    ),
    Rule(
        name="dead letters",
        title="Elasticsearch refuses events for good",
        where=BACKLOG,
        metrics=(_largest("dead_letters"),),
        comparator=">",
        threshold=0,
        window="5m",
        groups=("node",),
        words=Words(
            fired="Events were put aside because their index cannot keep them.",
            why="They are missing here until they are sent again.",
            triage="`tutti events dead list` shows them with Elasticsearch's reason.",
            remediation="Mostly a mapping from before: `tutti elastic install`, then `tutti events dead replay`.",
        ),
    ),
    Rule(
        name="events lost",
        title="events were dropped",
        where=(told("events.dropped"),),
        metrics=(total("lost", "lost"),),
        comparator=">",
        threshold=0,
        window="15m",
        words=Words(
            fired="A spool or a process had no more room for events.",
            why="Figures of telemetry are too low since then; bills and audit are kept whole.",
            triage="Saved search `Tutti: what wants attention`: which class, and why?",
            remediation="Raise `events.spool_mb`, sample what is told too often, or mend shipping.",
        ),
    ),
    Rule(
        name="no events",
        title="no events arrive",
        where=(),
        metrics=(EVERYTHING,),
        comparator="<",
        threshold=1,
        window="5m",
        also_silent=True,
        words=Words(
            fired="For five minutes nothing came, although every node tells of itself once a minute.",
            why="Tutti is down, or its way here is: every other alert is blind.",
            triage="`tutti doctor` on the machine: does Tutti run, does it reach Elasticsearch, is its key valid?",
            remediation="Start it, or mend the way; what happened meanwhile arrives by itself.",
        ),
    ),
)
