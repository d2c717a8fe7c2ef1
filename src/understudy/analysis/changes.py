"""What would change a verdict: computed from the counts by adding events to them.

Main function: :func:`what_would_change`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from understudy.analysis.evidence import Evidence, MetricEvidence, Question, rate_logs
from understudy.analysis.planning import Expected, log_of_question, requests_until
from understudy.analysis.shares import Tally, tallies_of
from understudy.core.policies import RATIO_MEASURES, Kind, Measure, MetricRule, Policy

_MOST_EVENTS = 10_000


def what_would_change(
    policy: Policy,
    evidence: Evidence,
    needs: Mapping[Question, float],
    requests_per_minute: float | None = None,
) -> dict[str, str]:
    """Say what would lead to a rollback, what to a promotion, and what may stay undecided.

    Args:
        needs: The e-value that each answer needs.
        requests_per_minute: Of both arms now; None tells requests only.

    Returns:
        ``rollback``, ``ship`` and ``maybe_never``, those that apply.
    """
    changes: dict[str, str] = {}
    guardrails = evidence.metrics if policy.primary is None else evidence.metrics[1:]
    rollbacks = [found for one in guardrails if (found := _rollback(policy, one, needs)) is not None]
    if rollbacks:
        changes["rollback"] = min(rollbacks)[1]
    waits = [
        _ship(one, "ship", needs[Question.NONINFERIORITY], requests_per_minute)
        for one in guardrails
        if one.weight(Question.NONINFERIORITY).max_log_e < math.log(needs[Question.NONINFERIORITY])
    ]
    if policy.primary is not None and evidence.metrics[0].weight(Question.SUPERIORITY).max_log_e < math.log(
        needs[Question.SUPERIORITY]
    ):
        waits.insert(0, _ship(evidence.metrics[0], "gain", needs[Question.SUPERIORITY], requests_per_minute))
    # The longest wait decides; what can't be said in requests comes first.
    if waits:
        changes["ship"] = max(waits)[1]
    greys = [_grey(one.rule) for one in guardrails]
    if greys:
        changes["maybe_never"] = greys[0]
    return changes


def _rollback(
    policy: Policy, metric: MetricEvidence, needs: Mapping[Question, float]
) -> tuple[int, str] | None:
    """Count the treatment's further bad events, with none of the control's, after which harm is proven."""
    rule = metric.rule
    if rule.measure not in RATIO_MEASURES or not metric.counts:
        return None
    log_needed = math.log(needs[Question.HARM])
    if metric.weight(Question.HARM).max_log_e >= log_needed:
        return None
    last = metric.counts[-1]

    def proven(events: int) -> bool:
        more = (
            Tally(last.stage, last.pi, 0, events, 0, events)
            if rule.better == "lower"
            else Tally(last.stage, last.pi, events, 0, events, 0)
        )
        return rate_logs(rule, tallies_of((*metric.counts, more)), metric.won)[0] >= log_needed

    high = 1
    while not proven(high):
        high *= 2
        if high > _MOST_EVENTS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proven(middle) else (middle, high)
    who, other = ("canary" if policy.kind is Kind.DEPLOY else "treatment"), "control"
    if rule.better == "higher":
        who, other = other, who
    return high, f"{high} more {who} {noun_of(rule)} with none in {other}"


def noun_of(rule: MetricRule) -> str:
    """Say what is counted, in the plural."""
    if rule.measure is Measure.LATENCY:
        return "slow answers"
    if rule.measure is Measure.PAIRED:
        return "disagreements"
    name = rule.metric.removesuffix("_rate").replace("_", " ")
    return name if name.endswith("s") else f"{name}s"


def _ship(
    metric: MetricEvidence, question: str, needed: float, requests_per_minute: float | None
) -> tuple[float, str]:
    """Say how many more requests a proof needs if things go on as they did; sorted by how many."""
    rule = metric.rule
    if rule.measure not in RATIO_MEASURES:
        return 0.0, f"more {rule.metric} measurements: its interval has to lie on the right side"
    requests = sum(one.control_requests + one.treatment_requests for one in metric.counts)
    if rule.measure is Measure.PAIRED and not any(
        one.control_events or one.treatment_events for one in metric.counts
    ):
        bound = (
            ""
            if rule.acceptable_rate is None
            else f", or more pairs: fewer than {rule.acceptable_rate:.2%} may disagree"
        )
        return math.inf, f"labels of the requests on which both disagree{bound}"
    if not requests:
        return math.inf, f"requests: there are none of {rule.metric} yet"
    last = metric.counts[-1]
    control_share = sum(one.control_events for one in metric.counts) / requests
    treatment_share = sum(one.treatment_events for one in metric.counts) / requests

    def proven(more: float) -> bool:
        added = Expected(
            last.pi,
            more * control_share,
            more * treatment_share,
            more * last.pi,
        )
        counts = [
            *(
                Expected(one.pi, one.control_events, one.treatment_events, one.treatment_requests)
                for one in metric.counts
            ),
            added,
        ]
        return log_of_question(rule, question, counts, control_share + treatment_share) >= math.log(needed)

    more = requests_until(proven)
    if more is None:
        if not control_share and not treatment_share:
            return math.inf, (
                f"no {noun_of(rule)} were seen, and a ratio can't be proven without any:"
                " set acceptable_rate to ship on a bound of the rate itself"
            )
        return math.inf, f"not at the current rates of {noun_of(rule)}"
    wait = ""
    if requests_per_minute:
        minutes = more / requests_per_minute
        wait = f" ({minutes:,.0f} min at {requests_per_minute:g}/min)"
    return float(more), f"about {_rounded(more):,} more requests at the current rates{wait}"


def _rounded(requests: int) -> int:
    """Keep two digits: an estimate looks like one."""
    if requests < 100:
        return requests
    digits = len(str(requests)) - 2
    return round(requests, -digits)


def _grey(rule: MetricRule) -> str:
    """Name the effects that are neither tolerated nor within the margin."""
    if rule.measure in RATIO_MEASURES:
        low, high = rule.tolerance, rule.margin
        if rule.better == "higher":
            low, high = 1.0 / rule.margin, 1.0 / rule.tolerance
        return f"a true ratio of {noun_of(rule)} between {low:.3g} and {high:.3g} may stay undecided"
    return (
        f"a true loss of {rule.metric} between {rule.tolerance:.3g} and {rule.margin:.3g} may stay undecided"
    )
