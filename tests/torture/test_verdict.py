"""The judge of the soak: a clean soak is kept, and every rule notices when it is broken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.torture.evidence import Call, Counted, Evidence, Kill, Life, Outcome, Row, Sample
from tests.torture.report import lines
from tests.torture.setting import CHAT, EMBEDDER, NARROW_BURST_S, NARROW_RPM, Setting
from tests.torture.verdict import KINDS, RECOVERY_S, judge

MINUTES = 5.0
USAGE = 20, 30
OUTCOMES: dict[str, Outcome] = {"wrong": "refused"}


def clean() -> Evidence:
    """Return what a soak leaves behind in which everything went well, with a fault and a kill on the way."""
    evidence = Evidence(began_s=0.0, ended_s=60 * MINUTES, replicas=2, wanted_replicas=2, exit_status=0)
    for number, kind in enumerate(KINDS):
        add(evidence, f"t{number}", kind, 10.0 + number, OUTCOMES.get(kind, "answered"))
    add(evidence, "t20", "leaving", 30.0, "left")
    add(evidence, "t21", "cached", 31.0, "answered").cached = True
    evidence.rows = [row for row in evidence.rows if row.ask != "t21"]
    over = add(evidence, "t22", "narrow", 32.0, "refused")
    over.status, over.retry_after = 429, "3"
    evidence.lives[1] = Life(name="callers", ours=True, samples=memory(80.0, 0.1))
    evidence.lives[2] = Life(name="raylet", ours=False, samples=memory(50.0, 9.0))
    evidence.counted = counted(evidence)
    return evidence


def add(evidence: Evidence, ask: str, kind: str, at_s: float, outcome: Outcome) -> Call:
    """Add a call of a client, and the provider's row where there is one."""
    call = Call(ask=ask, kind=kind, began_s=at_s, ended_s=at_s + 0.5, outcome=outcome, status=200, text=ask)
    if outcome == "answered":
        call.input_tokens, call.output_tokens = USAGE
    if outcome in ("refused", "failed"):
        call.status = 400 if outcome == "refused" else 500
    else:
        evidence.rows.append(row(ask, at_s, status=499 if outcome == "left" else 200))
    evidence.calls.append(call)
    return call


def row(ask: str, at_s: float, *, status: int = 200, fault: str | None = None) -> Row:
    """Return what the provider's log says of a billed call."""
    tokens_in, tokens_out = USAGE
    return Row(
        ask=ask,
        account="alpha",
        model=CHAT,
        began_s=at_s + 0.1,
        ended_s=at_s + 0.4,
        status=status,
        fault=fault,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
    )


def memory(mib: float, mib_per_min: float) -> list[Sample]:
    """Return samples of a process that grows that fast."""
    return [
        Sample(at_s=at_s, pss_mib=mib, private_mib=mib + mib_per_min * at_s / 60)
        for at_s in range(0, int(60 * MINUTES), 5)
    ]


def counted(evidence: Evidence) -> Counted:
    """Return counts that agree with the provider's whole answers."""
    whole = sum(each.status == 200 for each in evidence.rows)
    view = {"account": "alpha", "model": CHAT, "calls": whole}
    noted = Counted()
    noted.note([{**view, "input_tokens": whole * USAGE[0], "output_tokens": whole * USAGE[1]}])
    return noted


def broken(evidence: Evidence) -> list[str]:
    """Return the rules that are not kept."""
    return [check.what for check in judge(evidence) if not check.kept]


def grow(evidence: Evidence) -> None:
    evidence.lives[1].samples = memory(80.0, 8.0)


def exceed(evidence: Evidence) -> None:
    evidence.over_limit = {"rpm": 1}


def leak(evidence: Evidence) -> None:
    evidence.held = {"caller:narrow/all": 1}


def orphan(evidence: Evidence) -> None:
    evidence.open_upstream = 1


def buy_twice(evidence: Evidence) -> None:
    evidence.rows.append(row("t0", 200.0, status=499))


def bill_a_stranger(evidence: Evidence) -> None:
    evidence.rows.append(row("t999", 200.0, status=499))


def refuse_and_buy(evidence: Evidence) -> None:
    evidence.calls[0].outcome, evidence.calls[0].status = "refused", 404
    add(evidence, "t30", "chat", 200.0, "answered")
    evidence.counted = counted(evidence)


def lose_a_report(evidence: Evidence) -> None:
    add(evidence, "t31", "chat", 200.0, "answered")


def tell_otherwise(evidence: Evidence) -> None:
    evidence.calls[0].output_tokens = 1


def fail(evidence: Evidence) -> None:
    add(evidence, "t32", "chat", 200.0, "failed")


def refuse_without_a_time(evidence: Evidence) -> None:
    add(evidence, "t33", "chat", 200.0, "refused").status = 429


def let_too_many_pass(evidence: Evidence) -> None:
    for number in range(int(NARROW_RPM * (NARROW_BURST_S + 40) / 60)):
        add(evidence, f"n{number}", "narrow", 20.0, "answered")
    evidence.counted = counted(evidence)


def repeat_too_often(evidence: Evidence) -> None:
    for _ in range(2):
        add(evidence, "t34", "repeats", 200.0, "answered")
    evidence.counted = counted(evidence)


def answer_differently(evidence: Evidence) -> None:
    add(evidence, "t35", "repeats", 200.0, "answered")
    evidence.calls.append(Call(ask="t35", kind="repeats", began_s=200.0, ended_s=201.0, outcome="answered", text="?"))
    evidence.counted = counted(evidence)


def never_serve(evidence: Evidence) -> None:
    evidence.calls = [call for call in evidence.calls if call.kind != "embeddings"]
    evidence.rows = [each for each in evidence.rows if each.ask != f"t{KINDS.index('embeddings')}"]


def lose_a_replica(evidence: Evidence) -> None:
    evidence.replicas = 1


def leave_a_process(evidence: Evidence) -> None:
    evidence.left_running = ("7 raylet",)


BREAKS: dict[str, tuple[Callable[[Evidence], None], str]] = {
    "memory": (grow, "private memory"),
    "limits": (exceed, "refused for its limits"),
    "reservations": (leak, "reservations held"),
    "orphans": (orphan, "calls open at the provider"),
    "bought twice": (buy_twice, "billed more often than asked"),
    "a stranger's bill": (bill_a_stranger, "billed more often than asked"),
    "refused and bought": (refuse_and_buy, "refused calls that were billed"),
    "lost report": (lose_a_report, "billed more than their views counted"),
    "usage": (tell_otherwise, "told otherwise than billed"),
    "failure": (fail, "not by a fault or a kill"),
    "no retry-after": (refuse_without_a_time, "without retry-after"),
    "narrow caller": (let_too_many_pass, "narrow caller"),
    "repeats bought": (repeat_too_often, "bought too often"),
    "repeats differ": (answer_differently, "answered differently"),
    "variety": (never_serve, "never served"),
    "replicas": (lose_a_replica, "replicas at the end"),
    "processes": (leave_a_process, "outlived"),
}


def test_clean_soak_keeps_every_rule() -> None:
    """Ray's own growth is shown and not judged, a client that leaves is no failure, and the report says all of it."""
    evidence = clean()

    assert broken(evidence) == []
    assert any("callers" in line and "flat" in line for line in lines(evidence, judge(evidence)))


@pytest.mark.parametrize("name", BREAKS)
def test_every_rule_notices_when_it_is_broken(name: str) -> None:
    """One thing goes wrong, and the rule for it says so; the report names it."""
    change, what = BREAKS[name]
    evidence = clean()
    change(evidence)

    assert len(broken(evidence)) == 1, broken(evidence)
    assert what in broken(evidence)[0]
    assert any(line.startswith("NOT KEPT") and what in line for line in lines(evidence, judge(evidence)))


def test_fault_of_the_provider_excuses_the_failure_it_causes() -> None:
    """And no other."""
    evidence = clean()
    add(evidence, "t40", "chat", 200.0, "failed")
    evidence.rows.append(row("t40", 200.0, status=500, fault="bill_then_500"))
    assert broken(evidence) == []

    add(evidence, "t41", "chat", 200.0, "failed")
    assert len(broken(evidence)) == 1


@pytest.mark.parametrize(("after_s", "excused"), [(-0.2, True), (RECOVERY_S - 1, True), (RECOVERY_S + 1, False)])
def test_kill_excuses_what_was_open_or_began_before_it_was_repaired(after_s: float, *, excused: bool) -> None:
    """A call long after a kill has no excuse."""
    evidence = clean()
    evidence.kills = [Kill(at_s=100.0, victim="replica", name="SERVE_REPLICA::x")]
    add(evidence, "t42", "chat", 100.0 + after_s, "failed")

    assert (broken(evidence) == []) is excused


def test_kill_excuses_uncounted_tokens_of_its_own_accounts_only() -> None:
    """The counts of other accounts were never lost."""
    evidence = clean()
    add(evidence, "t43", "chat", 100.0, "answered")
    evidence.kills = [Kill(at_s=101.0, victim="account", name="account-alpha", accounts=("alpha",))]
    assert broken(evidence) == []

    evidence.kills = [Kill(at_s=101.0, victim="account", name="account-beta", accounts=("beta",))]
    assert len(broken(evidence)) == 1


def test_counts_go_on_over_lives_of_an_actor() -> None:
    """What a killed actor had counted is added to what its next life counts."""
    noted = Counted()
    for calls, tokens in ((3, 30), (5, 50), (0, 0), (2, 20)):
        view = {"account": "delta", "model": EMBEDDER, "calls": calls, "input_tokens": tokens, "output_tokens": 0}
        noted.note([view])

    assert noted.tokens == {("delta", EMBEDDER): (70, 0)}


def test_seed_decides_faults_and_kills() -> None:
    """The same seed plays the same, another one something else; the last kill leaves time to forget the dead."""
    one, again, other = (Setting(seconds=600, seed=seed, kills=8) for seed in (1, 1, 2))

    assert one.faults() == again.faults() != other.faults()
    assert one.planned() == again.planned() != other.planned()
    assert {each.victim for each in one.planned()} == {"replica", "account", "callers"}
    assert max(each.at_s for each in one.planned()) < 600 * 2 / 3
    assert max(each.at_s for each in Setting(seconds=40, seed=1, kills=1).planned()) <= 4.0
