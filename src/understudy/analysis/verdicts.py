"""Deciding: promote, keep, hold, roll back, or say that the numbers are not valid.

Main functions: :func:`decide_verdict`, a pure function of policy, evidence and validity, and
:func:`replay_verdict`, which decides again from what was stored, to the same bits.

The rules: INVALID when a check failed; ROLLBACK when harm is proven in any guardrail (Bonferroni over the
guardrails: the probability of any wrong rollback is below alpha, over all looks); PROMOTE when every
guardrail is proven no worse, and the primary metric, if there is one, better (intersection-union: no
correction needed); KEEP when the gain is proven too small; HOLD otherwise.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from understudy.analysis.asymptotic import difference_interval
from understudy.analysis.changes import what_would_change
from understudy.analysis.evidence import (
    FOR_GUARDRAIL,
    FOR_PRIMARY,
    SAMPLE_RATIO_ALPHA,
    Evidence,
    MetricEvidence,
    Question,
    evidence_from_json,
)
from understudy.analysis.horizon import crossed
from understudy.analysis.second_opinions import second_opinions
from understudy.analysis.shares import (
    Tallies,
    Tally,
    bets_both,
    estimate_ratio,
    log_evidence,
    ratio_interval,
)
from understudy.core.policies import RATIO_MEASURES, Measure, Mode, Policy, parse_policy
from understudy.core.verdicts import Decision, Validity, Verdict

_LOG10 = math.log(10.0)
# Requests without a datum of PutMetricData are bet on as events; in one arm alone, seven are enough.
_MISSING, _MISSING_NEEDED = bets_both((0.8, 3.2)), math.log(20.0)
# Data may be counted before their requests are.
_MOST_PER_REQUEST, _EARLY_VALUES = 1.05, 100


def decide_verdict(
    policy: Policy,
    evidence: Evidence,
    validity: Validity | None = None,
    *,
    decided_at: str | None = None,
    requests_per_minute: float | None = None,
) -> Verdict:
    """Judge what is known.

    Args:
        requests_per_minute: Of both arms now, to tell waits in minutes; None tells them in requests.
        decided_at: ISO 8601 time at which the decision was reached first; the caller keeps it.

    Returns:
        The verdict; its ``replay`` is a hash of all arguments.

    Raises:
        ValueError: the evidence is of another policy.
    """
    if tuple(one.rule for one in evidence.metrics) != policy.rules:
        raise ValueError(f"the evidence was not collected for policy {policy.name}")
    validity = Validity() if validity is None else validity
    decision, reason = _decision(policy, evidence, validity)
    needs = needed(policy)
    promote = [_log10(one, Question.NONINFERIORITY) for one in _guardrails(policy, evidence)]
    if policy.primary is not None:
        promote.append(_log10(evidence.metrics[0], Question.SUPERIORITY))
    return Verdict(
        decision=decision,
        decided_at=None if decision in (Decision.HOLD, Decision.INVALID) else decided_at,
        policy=policy.name,
        alpha={"promote": policy.alpha_promote, "rollback": policy.alpha_rollback},
        reason=reason,
        evidence=tuple(_row(policy, one, needs) for one in evidence.metrics),
        validity=_validity_json(evidence, validity),
        would_change=what_would_change(policy, evidence, needs, requests_per_minute),
        side_by_side=second_opinions(policy, evidence),
        replay=_digest(verdict_inputs(policy, evidence, validity, decided_at, requests_per_minute)),
        harm_log10=max(
            (
                _log10(one, Question.HARM)
                for one in _guardrails(policy, evidence)
                if one.rule.metric not in doubts(evidence)
            ),
            default=0.0,
        )
        - math.log10(max(1, len(policy.guardrails))),
        noninferiority_log10=min(
            (_log10(one, Question.NONINFERIORITY) for one in _guardrails(policy, evidence)), default=0.0
        ),
        promote_log10=min(promote, default=0.0),
    )


def verdict_inputs(
    policy: Policy,
    evidence: Evidence,
    validity: Validity | None = None,
    decided_at: str | None = None,
    requests_per_minute: float | None = None,
) -> dict[str, Any]:
    """Render everything that a verdict is decided from; store it under the verdict's ``replay``."""
    return {
        "policy": policy.to_json(),
        "evidence": evidence.to_json(),
        "validity": (Validity() if validity is None else validity).to_json(),
        "decided_at": decided_at,
        "requests_per_minute": requests_per_minute,
    }


def replay_verdict(inputs: Mapping[str, Any]) -> Verdict:
    """Decide again from :func:`verdict_inputs`."""
    return decide_verdict(
        parse_policy(inputs["policy"]),
        evidence_from_json(inputs["evidence"]),
        Validity.from_json(inputs["validity"]),
        decided_at=inputs["decided_at"],
        requests_per_minute=inputs["requests_per_minute"],
    )


def _digest(inputs: Mapping[str, Any]) -> str:
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def needed(policy: Policy) -> dict[Question, float]:
    """Return the e-value that each answer needs."""
    promote = 1.0 / policy.alpha_promote
    return {
        Question.HARM: max(1, len(policy.guardrails)) / policy.alpha_rollback,
        Question.NONINFERIORITY: promote,
        Question.SUPERIORITY: promote,
        Question.NO_GAIN: promote,
    }


def _guardrails(policy: Policy, evidence: Evidence) -> tuple[MetricEvidence, ...]:
    return evidence.metrics if policy.primary is None else evidence.metrics[1:]


def _log10(metric: MetricEvidence, question: Question) -> float:
    return metric.weight(question).max_log_e / _LOG10


def _proven(metric: MetricEvidence, question: Question, needs: Mapping[Question, float]) -> bool:
    return metric.weight(question).max_log_e >= math.log(needs[question])


def _decision(policy: Policy, evidence: Evidence, validity: Validity) -> tuple[Decision, str]:
    fault = _fault(evidence, validity)
    if fault is not None:
        return Decision.INVALID, fault
    needs = needed(policy)
    guardrails = _guardrails(policy, evidence)
    if validity.repeated_units:
        return (
            Decision.HOLD,
            "users keep their variant, so their requests are not independent: count users instead",
        )
    doubted = doubts(evidence)
    for one in guardrails:
        if _proven(one, Question.HARM, needs) and one.rule.metric not in doubted:
            return Decision.ROLLBACK, f"{describe(one)}; harm is proven"
    if doubted:
        return Decision.HOLD, next(iter(doubted.values()))
    fewest = min((_fewest_requests(one) for one in evidence.metrics), default=0)
    primary = evidence.metrics[0] if policy.primary is not None else None
    won = primary is None or _won(policy, primary, needs)
    unproven = [one for one in guardrails if not _proven(one, Question.NONINFERIORITY, needs)]
    # What was proven once may have stopped being so: nothing is promoted on evidence that points back now.
    turned = [one for one in guardrails if one.weight(Question.NONINFERIORITY).log_e < 0.0]
    if primary is not None and won and _points_back(policy, primary):
        turned.insert(0, primary)
    if won and not unproven and not turned and fewest >= policy.minimum_requests:
        if primary is None:
            return Decision.PROMOTE, "; ".join(describe(one) for one in guardrails) + "; no harm is proven"
        return Decision.PROMOTE, f"{describe(primary)}; better, and no guardrail is worse"
    if primary is not None and not won and _fewest_requests(primary) >= policy.minimum_requests:
        if _proven(primary, Question.NO_GAIN, needs):
            return Decision.KEEP, f"{describe(primary)}; a gain of the MDE is ruled out"
        if _inside_rope(primary):
            return Decision.KEEP, f"{describe(primary)}; the effect is too small to matter"
    return Decision.HOLD, _why_hold(policy, primary, won, unproven, turned, fewest)


def _won(policy: Policy, primary: MetricEvidence, needs: Mapping[Question, float]) -> bool:
    if policy.mode is Mode.HORIZON:
        return crossed(primary.looks, policy.looks, policy.alpha_promote)
    return _proven(primary, Question.SUPERIORITY, needs)


def _points_back(policy: Policy, primary: MetricEvidence) -> bool:
    if policy.mode is Mode.HORIZON:
        return False
    return primary.weight(Question.SUPERIORITY).log_e < 0.0


def _fault(evidence: Evidence, validity: Validity) -> str | None:
    """Say why the numbers don't mean what they seem to; None when nothing is known against them."""
    if validity.config_changes:
        return "a variant's model or configuration changed during the test: begin a new one"
    if validity.unlogged:
        return f"{validity.unlogged} requests have no logged share: they can't be weighed"
    if validity.unfit_values:
        return (
            f"{validity.unfit_values} values of a metric of PutMetricData are not 0 or 1: it is no rate;"
            " report other numbers as outcomes"
        )
    if validity.immature_counted:
        return (
            f"{validity.immature_counted} exposures are younger than the label window: labels may still come"
        )
    log_needed = math.log(max(1, len(evidence.checks)) / SAMPLE_RATIO_ALPHA)
    for check in evidence.checks:
        if check.weight.max_log_e >= log_needed:
            control = sum(one.control_requests for one in check.counts)
            treatment = sum(one.treatment_requests for one in check.counts)
            return (
                f"sample ratio: {control} {check.name} of the control and {treatment} of the treatment are"
                " not split as the weights say; requests or labels of one arm are missing or not random"
            )
    return None


def doubts(evidence: Evidence) -> dict[str, str]:
    """Say of metrics of PutMetricData what keeps them from being believed as they are now.

    They tell of requests without naming them, so their number is held against that of the arms' requests:
    no more data than requests, and as few missing in one arm as in the other.
    """
    checks = {one.name: one.counts for one in evidence.checks}
    found = {}
    for metric in evidence.metrics:
        if metric.rule.cloudwatch is None:
            continue
        name = metric.rule.metric
        due = checks.get(f"due:{name}", ())
        for arm in ("control", "treatment"):
            values, requests = (_both(some, "requests")[arm] for some in (metric.counts, due))
            if values > _MOST_PER_REQUEST * requests + _EARLY_VALUES:
                found[name] = (
                    f"{name}: {values} values of the {arm} for {requests} requests that were assigned at"
                    " random; several of one request are not independent"
                )
        values_of = {one.stage: one for one in metric.counts}
        missing = []
        for sent in due:
            had = values_of.get(sent.stage, Tally(sent.stage, sent.pi))
            control = max(0, sent.control_requests - had.control_requests)
            treatment = max(0, sent.treatment_requests - had.treatment_requests)
            missing.append(Tally(sent.stage, sent.pi, control, treatment, control, treatment))
        if name not in found and log_evidence(missing, _MISSING) >= _MISSING_NEEDED:
            lost = _both(tuple(missing), "events")
            found[name] = (
                f"{name}: values are missing of {lost['control']} requests of the control and"
                f" {lost['treatment']} of the treatment, not by chance"
            )
    return found


def _why_hold(
    policy: Policy,
    primary: MetricEvidence | None,
    won: bool,
    unproven: list[MetricEvidence],
    turned: list[MetricEvidence],
    fewest: int,
) -> str:
    if primary is not None and not won:
        return f"{describe(primary)}; promotion needs proof of a gain"
    if unproven:
        one = unproven[0]
        text = describe(one)
        if one.rule.measure is Measure.LATENCY and not one.thresholds_us:
            return f"{text}; its thresholds need more of the control's answers first"
        return f"{text}; shipping needs proof of {_proof(one)}"
    if turned:
        return f"{describe(turned[0])}; it was proven, but what came since speaks against it"
    return f"each arm needs {policy.minimum_requests} requests; one has {fewest}"


def _proof(metric: MetricEvidence) -> str:
    """Say what non-inferiority is, of the ratio as it is shown (treatment to control)."""
    rule = metric.rule
    if rule.measure in RATIO_MEASURES:
        return f"< {rule.margin:.3g}" if rule.better == "lower" else f"> {1.0 / rule.margin:.3g}"
    return f"< {rule.margin:.3g}" if rule.better == "lower" else f"> {-rule.margin:.3g}"


def _fewest_requests(metric: MetricEvidence) -> int:
    """Return the requests (units, examples) of the arm that has fewer."""
    if metric.bankroll is not None:
        return min(metric.bankroll.control_units, metric.bankroll.treatment_units)
    if metric.difference is not None:
        tallies = metric.difference.labelled
        if not tallies:
            return metric.difference.examples
    else:
        tallies = metric.counts
    return min(sum(one.control_requests for one in tallies), sum(one.treatment_requests for one in tallies))


def interval_of(metric: MetricEvidence) -> tuple[float | None, tuple[float, float] | None]:
    """Return a metric's effect, treatment to control, and its 95 % confidence sequence; None where
    unknown."""
    if metric.bankroll is not None:
        effect, error = metric.bankroll.effect, metric.bankroll.standard_error
        if effect is None or not error:
            return effect, None
        return effect, difference_interval(effect, error, metric.bankroll.units)
    if metric.rule.measure is Measure.QUALITY:
        newest = metric.difference
        if newest is None or not newest.enough:
            return (None if newest is None else newest.difference), None
        return newest.difference, difference_interval(
            newest.difference, newest.standard_error, newest.examples
        )
    tallies = metric.counts
    if not any(one.control_events or one.treatment_events for one in tallies):
        return None, None
    return estimate_ratio(tallies), ratio_interval(tallies)


def describe(metric: MetricEvidence) -> str:
    """Say a metric's effect in half a sentence."""
    effect, interval = interval_of(metric)
    noun = "ratio" if metric.rule.measure in RATIO_MEASURES else "difference"
    name = metric.rule.metric.removesuffix("_rate")
    shown = "unknown" if effect is None else f"{effect:.3g}"
    if interval is None:
        return f"{name} {noun} {shown}, nothing to build an interval from yet"
    low, high = interval
    return f"{name} {noun} {shown}, time-uniform 95% CS [{low:.3g}, {high:.3g}]"


def _inside_rope(metric: MetricEvidence) -> bool:
    rope = metric.rule.rope
    _, interval = interval_of(metric)
    if rope is None or interval is None:
        return False
    low, high = interval
    if metric.rule.measure in RATIO_MEASURES:
        return low > 1.0 / rope and high < rope
    return low > -rope and high < rope


def _row(policy: Policy, metric: MetricEvidence, needs: Mapping[Question, float]) -> dict[str, Any]:
    primary = metric.rule == policy.primary
    effect, interval = interval_of(metric)
    row: dict[str, Any] = {"metric": metric.rule.metric, "measure": str(metric.rule.measure)}
    if metric.levels:
        row["events"] = _both(metric.counts, "events")
        row["stages"] = [
            {"pi": one.pi, "requests": one.control_requests + one.treatment_requests} for one in metric.counts
        ]
    if metric.bankroll is not None:
        row["units"] = {
            "control": metric.bankroll.control_units,
            "treatment": metric.bankroll.treatment_units,
            "clipped": metric.bankroll.clipped,
        }
    if metric.difference is not None:
        row["examples"] = metric.difference.examples
        row["values"] = {"control": metric.difference.control, "treatment": metric.difference.treatment}
    if metric.thresholds_us:
        row["threshold_us"] = metric.thresholds_us[-1]
    row["effect"] = _number(effect)
    row["interval"] = None if interval is None else [_number(one) for one in interval]
    asked = FOR_PRIMARY if primary else FOR_GUARDRAIL
    for question in asked:
        name = {
            Question.HARM: "harm",
            Question.NONINFERIORITY: "noninf",
            Question.SUPERIORITY: "superior",
            Question.NO_GAIN: "no_gain",
        }[question]
        row[f"E_{name}"] = _e_value(metric.weight(question).log_e)
        row[f"max_E_{name}"] = _e_value(metric.weight(question).max_log_e)
        row[f"needs_{name}"] = _number(needs[question])
    return row


def _both(tallies: Tallies, what: str) -> dict[str, int]:
    return {arm: sum(getattr(one, f"{arm}_{what}") for one in tallies) for arm in ("control", "treatment")}


def _e_value(log_e: float) -> float:
    """Return an e-value with four digits; the largest that JSON readers take is enough for any bigger one."""
    return float(f"{math.exp(min(log_e, 690.0)):.4g}")


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _validity_json(evidence: Evidence, validity: Validity) -> dict[str, Any]:
    checks = {one.name: _e_value(one.weight.max_log_e) for one in evidence.checks}
    return {
        "srm_E": max(checks.values(), default=1.0),
        "srm_needs": _number(max(1, len(checks)) / SAMPLE_RATIO_ALPHA),
        "srm_checks": checks,
        **validity.to_json(),
        "restarts": evidence.restarts,
    }
