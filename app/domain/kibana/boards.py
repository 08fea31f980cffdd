"""The dashboards and searches that Tutti brings: one for each question people come with.

Money and tokens are sums of ``call.finished`` alone, the postings of the books: what runs and tasks say of their cost
is in there already.
"""

from __future__ import annotations

from app.domain.kibana.questions import (
    By,
    Cases,
    Conditions,
    Dashboard,
    Metric,
    OverTime,
    Panel,
    Search,
    Shape,
    Split,
    at_least,
    count,
    is_,
    no,
    percentile,
    there,
    told,
    total,
)

CALLS: Conditions = (told("call.finished"),)
REQUESTS: Conditions = (told("request.finished"),)
RUNS_ENDED: Conditions = (told("run.finished"),)
TASKS_ENDED: Conditions = (told("task.finished"),)
FAILED = is_("outcome", "failure")
TOO_MANY = is_("error_type", "minute_limit", "day_limit")
"""What a provider's 429 becomes."""

COST = total("cost, USD", "cost_nano")
TOKENS = (total("input", "input_tokens"), total("output", "output_tokens"))
TIME = OverTime()


def _figure(title: str, where: Conditions, metric: Metric, width: int = 8) -> Panel:
    return Panel(title=title, shape="figure", where=where, metrics=(metric,), width=width, height=6)


def _time(title: str, shape: Shape, where: Conditions, metrics: tuple[Metric, ...], *splits: Split) -> Panel:
    return Panel(title=title, shape=shape, where=where, metrics=metrics, splits=(*splits, TIME))


def _table(title: str, where: Conditions, by: tuple[By, ...], *metrics: Metric, width: int = 24) -> Panel:
    return Panel(title=title, shape="table", where=where, metrics=metrics, splits=by, width=width, height=14)


def _donut(title: str, where: Conditions, by: By, metric: Metric) -> Panel:
    return Panel(title=title, shape="donut", where=where, metrics=(metric,), splits=(by,), width=16)


def _percentiles(field: str) -> tuple[Metric, ...]:
    return tuple(percentile(field, which) for which in (50, 95, 99))


MODEL = By(field="model", label="model")
PROVIDER = By(field="provider", label="provider")
ACCOUNT = By(field="account", label="account", size=50)
BY_OUTCOME = By(field="outcome", label="outcome")
BY_ERROR = By(field="error_type", label="error")

OVERVIEW = Dashboard(
    name="overview",
    title="Tutti: overview",
    description="What happens, what it costs, what fails. Everything else is one dashboard further.",
    panels=(
        _figure("Requests", REQUESTS, count("requests")),
        _figure("Requests that failed", (*REQUESTS, FAILED), count("failed")),
        _figure("Time to answer, 95 %", REQUESTS, percentile("duration_ns", 95)),
        _figure("Provider calls", CALLS, count("calls")),
        _figure("Cost, USD", CALLS, COST),
        _figure("Runs that ended", RUNS_ENDED, count("runs")),
        _time("Requests by outcome", "bars", REQUESTS, (count("requests"),), BY_OUTCOME),
        _time("Cost by provider, USD", "bars", CALLS, (COST,), PROVIDER),
        _time("Tokens", "areas", CALLS, TOKENS),
        _time("Calls that failed, by error", "bars", (*CALLS, there("error_type")), (count("calls"),), BY_ERROR),
        _donut("Calls by model", CALLS, MODEL, count("calls")),
        _donut("Cost by team", CALLS, By(field="team", label="team"), COST),
        _donut("Runs by status", RUNS_ENDED, By(field="run_status", label="status"), count("runs")),
        _table(
            "What happened",
            (),
            (By(field="action", label="event", size=50),),
            count("events"),
            count("failed", FAILED),
            width=48,
        ),
    ),
)

_SPENT = (count("calls"), *TOKENS, COST)
UNPRICED = no(there("cost_nano"))

COST_AND_USAGE = Dashboard(
    name="cost",
    title="Tutti: cost and usage",
    description="What was bought, by whom, for what, and how near budgets are. Sums of the books' own postings.",
    panels=(
        _figure("Cost, USD", CALLS, COST, 12),
        _figure("Saved by our cache, USD", CALLS, total("saved, USD", "savings_nano"), 12),
        _figure("Calls without a known price", (*CALLS, UNPRICED), count("calls"), 12),
        _figure("Input from providers' caches", CALLS, total("cached tokens", "cache_read_tokens"), 12),
        _time("Cost by model, USD", "bars", CALLS, (COST,), MODEL),
        _time(
            "Tokens",
            "lines",
            CALLS,
            (
                *TOKENS,
                total("of input: cached", "cache_read_tokens"),
                total("of input: written to cache", "cache_write_tokens"),
                total("of output: reasoning", "reasoning_tokens"),
            ),
        ),
        _table("By team", CALLS, (By(field="team", label="team", size=50),), *_SPENT),
        _table("By user", CALLS, (By(field="user", label="user", size=50),), *_SPENT),
        _table("By key and model", CALLS, (By(field="caller", label="key", size=20), MODEL), *_SPENT),
        _table("By account", CALLS, (ACCOUNT,), *_SPENT, total("saved, USD", "savings_nano")),
        _table("By kind of task", CALLS, (By(field="task_type", label="task", size=20),), *_SPENT),
        _table("By tenant", CALLS, (By(field="tenant", label="tenant", size=50),), *_SPENT),
        _table(
            "Budgets near their end, in their unit (nano-dollars or tokens)",
            (told("budget.alert"),),
            (
                By(field="budget_owner", label="budget of", size=50),
                By(field="budget_window", label="window"),
                By(field="budget_unit", label="unit"),
            ),
            count("alerts"),
            Metric(label="spent", operation="max", field="budget_spent"),
            Metric(label="limit", operation="max", field="budget_limit"),
        ),
        _time(
            "Calls that a budget refused",
            "bars",
            (told("budget.refused"),),
            (count("refused"),),
            By(field="budget_owner", label="budget of"),
        ),
        _donut(
            "Counted by the provider, or estimated", CALLS, By(field="usage_source", label="source"), count("calls")
        ),
        _donut("How calls ended", CALLS, By(field="ending", label="ending"), count("calls")),
        _donut("Cost by kind of task", CALLS, By(field="task_type", label="task"), COST),
    ),
)

LOAD: Conditions = (told("account.load"),)
LEAST = Metric(label="least that is left", operation="min", field="headroom")
LIMITS: Conditions = (told("limit.hit"),)

ACCOUNTS_AND_LIMITS = Dashboard(
    name="accounts",
    title="Tutti: accounts and limits",
    description="How much every account still has, what refuses calls, which accounts rest.",
    panels=(
        _figure(
            "Accounts that were called", CALLS, Metric(label="accounts", operation="unique_count", field="account"), 12
        ),
        _figure("Least headroom of any account", LOAD, LEAST, 12),
        _figure("Refused by providers (429)", (*CALLS, TOO_MANY), count("calls"), 12),
        _figure("Limits hit", LIMITS, count("hits"), 12),
        _time("Headroom: share of the tightest limit that is left", "lines", LOAD, (LEAST,), ACCOUNT),
        _time("Refused by providers (429), by account", "bars", (*CALLS, TOO_MANY), (count("calls"),), ACCOUNT),
        _table(
            "Accounts",
            CALLS,
            (ACCOUNT,),
            count("calls"),
            count("failed", FAILED),
            count("429", TOO_MANY),
            percentile("duration_ns", 95, "p95"),
            Metric(label="to the first part, mean", operation="average", field="ttft_s"),
            width=48,
        ),
        _time("Limits hit, by whose they are", "bars", LIMITS, (count("hits"),), By(field="scope", label="scope")),
        _table(
            "Limits hit",
            LIMITS,
            (By(field="limit_name", label="limit", size=20), By(field="scope", label="scope")),
            count("hits"),
            Metric(label="longest wait asked for", operation="max", field="retry_after_ms"),
        ),
        _time(
            "Accounts change their state",
            "bars",
            (told("account.changed"),),
            (count("changes"),),
            By(field="account_state", label="state"),
        ),
        _table(
            "Accounts that rested",
            (told("account.changed"), no(is_("account_state", "healthy"))),
            (ACCOUNT, By(field="account_state", label="state")),
            count("times"),
            Metric(label="longest rest", operation="max", field="retry_after_ms"),
        ),
        _time(
            "Calls made again, by reason",
            "bars",
            (told("call.retried"),),
            (count("again"),),
            By(field="reason", label="reason"),
        ),
        _time("Waits for limits, with all else that is ours", "lines", REQUESTS, _percentiles("overhead_ms")),
    ),
)

JUDGED: Conditions = (told("task.judged"),)

RUNS = Dashboard(
    name="runs",
    title="Tutti: runs",
    description="Projects on their way: how they end, how long they take, how often work is done again.",
    panels=(
        _figure("Accepted", (told("run.accepted"),), count("runs")),
        _figure("Ended", RUNS_ENDED, count("runs")),
        _figure("Failed", (*RUNS_ENDED, FAILED), count("runs")),
        _figure("From first dispatch to last result, 95 %", RUNS_ENDED, percentile("makespan_s", 95)),
        _figure("Tasks done again", (told("task.redo"),), count("tasks")),
        _figure("Waiting for people", (told("run.questions"),), count("times asked")),
        _time(
            "Accepted and ended",
            "lines",
            (told("run.accepted", "run.finished"),),
            (count("runs"),),
            By(field="action", label="event"),
        ),
        _time("How runs ended", "bars", RUNS_ENDED, (count("runs"),), By(field="run_status", label="status")),
        _time(
            "Makespan, beside what no schedule beats",
            "lines",
            RUNS_ENDED,
            (
                percentile("makespan_s", 50, "makespan, median"),
                percentile("makespan_s", 95, "makespan, 95 %"),
                percentile("lower_bound_s", 50, "lower bound, median"),
            ),
        ),
        _time("How tasks ended", "bars", TASKS_ENDED, (count("tasks"),), By(field="task_status", label="status")),
        _donut("Judgements", JUDGED, By(field="verdict", label="verdict"), count("results")),
        _donut("Written by models, or by rules", TASKS_ENDED, By(field="produced_by", label="by"), count("tasks")),
        _donut("Kinds of tasks", TASKS_ENDED, By(field="task_type", label="task"), count("tasks")),
        _table(
            "Stages",
            (told("stage.finished"),),
            (By(field="stage", label="stage"),),
            count("times"),
            count("failed", FAILED),
            percentile("duration_ns", 95, "p95"),
        ),
        _table(
            "Why runs wait or try again",
            (told("call.waiting", "call.failed"),),
            (By(field="action", label="event"), By(field="reason", label="reason", size=20)),
            count("times"),
        ),
        _table(
            "What runs bought",
            (*CALLS, there("run_id")),
            (By(field="run_id", label="run", size=50),),
            COST,
            count("calls"),
            *TOKENS,
            count("failed", FAILED),
            width=48,
        ),
    ),
)

BACKLOG: Conditions = (told("events.backlog"),)

RELIABILITY = Dashboard(
    name="reliability",
    title="Tutti: reliability",
    description="Errors, latency, what failed over, which parts died, and whether the events themselves arrive.",
    panels=(
        _figure("Requests that failed", (*REQUESTS, FAILED), count("failed"), 12),
        _figure("Calls that failed", (*CALLS, FAILED), count("failed"), 12),
        _figure("Parts that died", (told("actor.ended"), FAILED), count("actors"), 12),
        _figure("Events lost", (told("events.dropped"),), total("lost", "lost"), 12),
        _time("Share of calls by outcome", "shares", CALLS, (count("calls"),), BY_OUTCOME),
        _time(
            "What clients were answered",
            "bars",
            REQUESTS,
            (count("requests"),),
            Cases(
                cases=(
                    ("2xx", (at_least("http_status", 200), no(at_least("http_status", 300)))),
                    ("429", (is_("http_status", 429),)),
                    (
                        "4xx",
                        (at_least("http_status", 400), no(at_least("http_status", 500)), no(is_("http_status", 429))),
                    ),
                    ("5xx", (at_least("http_status", 500),)),
                )
            ),
        ),
        _time("Time of provider calls", "lines", CALLS, _percentiles("duration_ns")),
        _time("Time to the first part, 95 %, by provider", "lines", CALLS, (percentile("ttft_s", 95),), PROVIDER),
        _time("Requests, from first to last byte", "lines", REQUESTS, _percentiles("duration_ns")),
        _time("What is ours of it", "lines", REQUESTS, _percentiles("overhead_ms")),
        _table("Errors", (*CALLS, there("error_type")), (PROVIDER, BY_ERROR), count("calls")),
        _table(
            "Slowest models",
            CALLS,
            (MODEL,),
            count("calls"),
            *_percentiles("duration_ns"),
            percentile("ttft_s", 95, "first part, p95"),
        ),
        _time(
            "Parts that start and end",
            "bars",
            (told("actor.started", "actor.ended"),),
            (count("actors"),),
            By(field="action", label="event"),
        ),
        _time(
            "Events that wait to be shipped",
            "lines",
            BACKLOG,
            (
                Metric(label="events", operation="max", field="backlog"),
                Metric(label="dead letters", operation="max", field="dead_letters"),
            ),
        ),
        _time(
            "Age of the oldest of them",
            "lines",
            BACKLOG,
            (Metric(label="age", operation="max", field="oldest_age_s"),),
            By(field="subject", label="source"),
        ),
        _table(
            "Lines of logs",
            (told("log.line"),),
            (By(field="log_level", label="level"), By(field="logger", label="module", size=20)),
            count("lines"),
        ),
    ),
)

DASHBOARDS: tuple[Dashboard, ...] = (OVERVIEW, COST_AND_USAGE, ACCOUNTS_AND_LIMITS, RUNS, RELIABILITY)

SEARCHES: tuple[Search, ...] = (
    Search(
        name="failed calls",
        title="Tutti: calls that failed",
        description="Every provider call that failed, with the trace that it belongs to.",
        where=(*CALLS, FAILED),
        columns=("provider", "account", "model", "error_type", "duration_ns", "run_id", "request_id", "trace_id"),
    ),
    Search(
        name="failed requests",
        title="Tutti: requests that failed",
        description="What clients were answered instead.",
        where=(*REQUESTS, FAILED),
        columns=("caller", "endpoint", "request_model", "http_status", "error_type", "reason", "trace_id"),
    ),
    Search(
        name="one run",
        title="Tutti: events of runs",
        description="Filter by tutti.run.id to read a run from its acceptance to its end.",
        where=(there("run_id"),),
        columns=("action", "run_id", "sequence", "task_id", "attempt", "account", "outcome", "duration_ns"),
    ),
    Search(
        name="audit",
        title="Tutti: audit",
        description="Who did what: sign-ins, refusals, changes of the configuration, operators' acts.",
        where=(is_("event_class", "audit"),),
        columns=("action", "operator", "subject", "outcome", "reason", "caller", "endpoint"),
    ),
    Search(
        name="attention",
        title="Tutti: what wants attention",
        description="Events that are alerts by themselves: budgets, unknown holds, lost events, damaged files.",
        where=(is_("kind", "alert"),),
        columns=("action", "reason", "budget_owner", "holds", "lost", "subject"),
    ),
    Search(
        name="log errors",
        title="Tutti: errors and warnings in logs",
        description="With the trace they belong to.",
        where=(told("log.line"), is_("log_level", "error", "warning", "critical")),
        columns=("log_level", "logger", "message", "node", "error_type", "trace_id"),
    ),
)
