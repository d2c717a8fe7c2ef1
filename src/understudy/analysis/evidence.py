"""The evidence of a trial: counts per metric, and the largest e-value that each question ever had.

Owns :class:`Evidence` (frozen, JSON and back without loss) and :func:`advance`, which takes a batch of
counts.
A batch counts once: its sequence number must be above the last one's, so what is stored after each batch can
be fed again from any earlier one.  Everything that a bet rests on (thresholds, expected rates, clips) is
fixed before the batch it is used on, so a batch may be a request or an hour.

Refuses to mix configurations: counts of another identity begin a new evidence (a redeploy is a new trial).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from understudy.analysis.asymptotic import Difference, log_evidence_of_z
from understudy.analysis.bets import Bankroll, Unit, after_units
from understudy.analysis.horizon import Look, looks_after
from understudy.analysis.shares import (
    Bets,
    Split,
    Tallies,
    bets_above,
    bets_below,
    bets_both,
    bets_within,
    log_evidence,
    log_mixture,
    log_rate_below,
    log_without_event,
    merged,
    swapped,
    tallies_from_json,
    tallies_of,
)
from understudy.core.policies import (
    ACCEPTABLE_WEIGHT,
    EARLY_WEIGHT,
    LATENCY_LEVELS,
    LATENCY_MDES,
    Measure,
    MetricRule,
    Mode,
    Policy,
)


class Question(StrEnum):
    """What is asked of a metric; the answer is an e-value against the opposite."""

    HARM = "harm"  # worse than tolerated?
    NONINFERIORITY = "noninferiority"  # not worse by the margin?
    SUPERIORITY = "superiority"  # better?
    NO_GAIN = "no_gain"  # not better by the MDE?


QUESTIONS = tuple(Question)
FOR_PRIMARY = (Question.SUPERIORITY, Question.NO_GAIN)
FOR_GUARDRAIL = (Question.HARM, Question.NONINFERIORITY)
# Both arms get requests as the shares say, or something is wrong with the assignment or the logging.
SAMPLE_RATIO = bets_both((0.02, 0.05, 0.1, 0.2, 0.4, 0.8))
SAMPLE_RATIO_ALPHA = 0.001


@dataclass(frozen=True)
class Weight:
    """How much an answer weighs.

    Attributes:
        log_e: Natural logarithm of the e-value now.
        max_log_e: The largest it ever was; decisions rest on it.
    """

    log_e: float = 0.0
    max_log_e: float = 0.0

    def after(self, log_e: float) -> Weight:
        """Take a new e-value."""
        return Weight(log_e, max(self.max_log_e, log_e))


Weights = tuple[Weight, Weight, Weight, Weight]  # as QUESTIONS
_NOTHING: Weights = (Weight(), Weight(), Weight(), Weight())


@dataclass(frozen=True)
class MetricEvidence:
    """What is known of one metric.

    Attributes:
        rule: What it is judged by.
        weights: One per question.
        levels: Tallies: of a rate one; of pairs one, or that of agreement and it; of a latency one per
            threshold, the rule's quantile last.
        thresholds_us: Of a latency: edges of the sketch's buckets, fixed before use.
        won: Of a rate that bets on every request: logarithms won on those without the event, per alternative,
            on harm and on superiority.
        bankroll: Of a mean.
        difference: Of model quality, the newest.
        looks: In mode ``horizon``, what was seen at the planned looks.
    """

    rule: MetricRule
    weights: Weights = _NOTHING
    levels: tuple[Tallies, ...] = ()
    thresholds_us: tuple[float, ...] = ()
    won: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    bankroll: Bankroll | None = None
    difference: Difference | None = None
    looks: tuple[Look, ...] = ()

    @property
    def counts(self) -> Tallies:
        """The counts that are shown: of a latency, above the rule's own threshold."""
        return self.levels[-1] if self.levels else ()

    def weight(self, question: Question) -> Weight:
        """Return the weight of one answer."""
        return self.weights[QUESTIONS.index(question)]


@dataclass(frozen=True)
class RatioCheck:
    """A check that something is split as the shares say; events are not looked at.

    Attributes:
        name: E.g. ``assigned``, ``answered``, ``labelled:accuracy``.
    """

    name: str
    counts: Tallies = ()
    weight: Weight = Weight()


Observation = Tallies | tuple[Tallies, ...] | Sequence[Unit] | Difference


@dataclass(frozen=True)
class Batch:
    """What came since the last batch; only :class:`Difference` is of everything so far.

    Attributes:
        sequence: Above the last batch's; one that is not is ignored.
        identity: Whose counts these are, e.g. both arms' configurations and models.
        rates: New counts by metric, of rates and pairs.
        latencies: New counts by metric, one per threshold of the evidence.
        units: New units by metric, in order of exposure.
        qualities: The newest difference by metric.
        agreements: New pairs by metric of pairs: events of the treatment are those that disagree, labelled
            or not.
        checks: New counts by check: their requests must be split as the shares say.
    """

    sequence: int
    identity: str = ""
    rates: Mapping[str, Tallies] = field(default_factory=dict)
    latencies: Mapping[str, tuple[Tallies, ...]] = field(default_factory=dict)
    units: Mapping[str, Sequence[Unit]] = field(default_factory=dict)
    qualities: Mapping[str, Difference] = field(default_factory=dict)
    checks: Mapping[str, Tallies] = field(default_factory=dict)
    agreements: Mapping[str, Tallies] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is decided from, besides policy and validity.

    Attributes:
        identity: Both arms' configurations and models.
        sequence: Of the last batch; -1 before the first.
        metrics: In the policy's order.
        checks: Of the sample ratio, by name in rising order.
        restarts: How often the identity changed, each time beginning anew.
    """

    identity: str
    metrics: tuple[MetricEvidence, ...]
    sequence: int = -1
    checks: tuple[RatioCheck, ...] = ()
    restarts: int = 0

    def metric(self, name: str) -> MetricEvidence | None:
        """Return one metric's evidence; None when there is none of that name."""
        return next((one for one in self.metrics if one.rule.metric == name), None)

    def to_json(self) -> dict[str, Any]:
        """Render all of it; :func:`evidence_from_json` reads it back without loss."""
        return {
            "identity": self.identity,
            "sequence": self.sequence,
            "restarts": self.restarts,
            "metrics": [_metric_json(one) for one in self.metrics],
            "checks": [
                [one.name, [stage.to_json() for stage in one.counts], one.weight.log_e, one.weight.max_log_e]
                for one in self.checks
            ],
        }


def start_evidence(
    policy: Policy, identity: str = "", thresholds_us: Mapping[str, Sequence[float]] | None = None
) -> Evidence:
    """Begin with nothing known.

    Args:
        thresholds_us: By latency metric, from ``latency.latency_thresholds``; one without can get them later,
            before its first count, through :func:`with_thresholds`.

    Raises:
        ValueError: thresholds of a metric that is no latency, or not one per level.
    """
    evidence = Evidence(identity, tuple(_start_metric(rule) for rule in policy.rules))
    for metric, some in (thresholds_us or {}).items():
        evidence = with_thresholds(evidence, metric, some)
    return evidence


def level_count(rule: MetricRule) -> int:
    """Return how many thresholds a latency has: its own, and the early warning's before it."""
    return 1 if rule.threshold_us is not None else len(LATENCY_LEVELS) + 1


def with_thresholds(evidence: Evidence, metric: str, thresholds_us: Sequence[float]) -> Evidence:
    """Fix the thresholds of a latency before anything was counted above them.

    Raises:
        ValueError: no such latency, a wrong number of thresholds, or others are in use.
    """
    found = evidence.metric(metric)
    if found is None or found.rule.measure is not Measure.LATENCY:
        raise ValueError(f"{metric} is no latency of this policy")
    if len(thresholds_us) != level_count(found.rule):
        raise ValueError(f"{metric} has {level_count(found.rule)} thresholds, not {len(thresholds_us)}")
    if found.thresholds_us and found.thresholds_us != tuple(thresholds_us):
        raise ValueError(f"{metric} is counted above other thresholds already")
    fixed = replace(found, thresholds_us=tuple(thresholds_us), levels=((),) * len(thresholds_us))
    return replace(evidence, metrics=tuple(fixed if one is found else one for one in evidence.metrics))


def advance(policy: Policy, evidence: Evidence, batch: Batch) -> Evidence:
    """Take a batch of counts.

    Returns:
        The evidence after it; unchanged when the batch is not newer.  With another identity it begins anew
        and counts the restart.

    Raises:
        ValueError: a metric that the policy does not have, or counts that do not fit.
    """
    if batch.sequence <= evidence.sequence:
        return evidence
    if batch.identity != evidence.identity:
        evidence = replace(start_evidence(policy, batch.identity), restarts=evidence.restarts + 1)
    given = {**batch.rates, **batch.latencies, **batch.units, **batch.qualities}
    known = {one.rule.metric: one.rule for one in evidence.metrics}
    for name in given:
        if name not in known:
            raise ValueError(f"{name} is no metric of policy {policy.name}")
    metrics = tuple(
        [
            _after(policy, one, given[one.rule.metric], batch) if one.rule.metric in given else one
            for one in evidence.metrics
        ]
    )
    checks = {one.name: one for one in evidence.checks}
    for name, counts in batch.checks.items():
        checks[name] = _after_check(checks.get(name, RatioCheck(name)), merged(_counts(checks, name), counts))
    for name, counts in batch.rates.items():
        if known[name].measure is Measure.RATE:
            key = f"counted:{name}"
            checks[key] = _after_check(checks.get(key, RatioCheck(key)), merged(_counts(checks, key), counts))
    for name, quality in batch.qualities.items():
        if quality.labelled:
            key = f"labelled:{name}"
            checks[key] = _after_check(checks.get(key, RatioCheck(key)), quality.labelled)
    names = checks if len(checks) == len(evidence.checks) else sorted(checks)
    return Evidence(
        evidence.identity, metrics, batch.sequence, tuple([checks[name] for name in names]), evidence.restarts
    )


def with_largest(evidence: Evidence, before: Evidence) -> Evidence:
    """Keep the largest that each answer ever weighed, of evidence that is made anew at each look.

    Checks are of what is there now: what was missing may have come.
    """

    def larger(one: Weight, other: Weight) -> Weight:
        return Weight(one.log_e, max(one.max_log_e, other.max_log_e))

    metrics = []
    for one in evidence.metrics:
        held = before.metric(one.rule.metric)
        if held is not None and held.rule == one.rule:
            harm, noninferiority, superiority, no_gain = map(larger, one.weights, held.weights)
            one = replace(one, weights=(harm, noninferiority, superiority, no_gain))
        metrics.append(one)
    return replace(evidence, metrics=tuple(metrics))


def _counts(checks: Mapping[str, RatioCheck], name: str) -> Tallies:
    return checks[name].counts if name in checks else ()


def _after_check(check: RatioCheck, counts: Tallies) -> RatioCheck:
    split = [Split(one.pi, one.control_requests, one.treatment_requests) for one in counts]
    return RatioCheck(check.name, counts, check.weight.after(log_evidence(split, SAMPLE_RATIO)))


def _start_metric(rule: MetricRule) -> MetricEvidence:
    if rule.measure is Measure.MEAN:
        assert rule.clip is not None  # the policy's check
        good = 1.0 if rule.better == "higher" else -1.0
        nulls = (rule.tolerance, -rule.margin, 0.0, -rule.mde)
        signs = (-good, good, good, -good)
        return MetricEvidence(rule, bankroll=Bankroll.start(nulls, signs, clip=rule.clip, mde=rule.mde))
    if rule.measure is Measure.RATE and rule.every_request:
        nothing = (0.0,) * 8
        return MetricEvidence(rule, levels=((),), won=(nothing, nothing))
    if rule.measure in (Measure.RATE, Measure.PAIRED):
        return MetricEvidence(rule, levels=((),))
    return MetricEvidence(rule)


def _after(policy: Policy, metric: MetricEvidence, given: Any, batch: Batch) -> MetricEvidence:
    if metric.rule.measure is Measure.LATENCY:
        return _after_latency(metric, given)
    if metric.rule.measure is Measure.MEAN:
        return _after_mean(metric, given)
    if metric.rule.measure is Measure.QUALITY:
        return _after_quality(policy, metric, given)
    if metric.rule.measure is Measure.PAIRED:
        return _after_pairs(policy, metric, given, batch.agreements.get(metric.rule.metric, ()))
    return _after_rate(policy, metric, given)


def _asked(policy: Policy, rule: MetricRule) -> tuple[Question, ...]:
    return FOR_PRIMARY if rule == policy.primary else FOR_GUARDRAIL


def _weighed(metric: MetricEvidence, logs: Sequence[float]) -> Weights:
    harm, noninferiority, superiority, no_gain = metric.weights
    return (
        harm.after(logs[0]),
        noninferiority.after(logs[1]),
        superiority.after(logs[2]),
        no_gain.after(logs[3]),
    )


def bets_of(rule: MetricRule, question: Question) -> Bets:
    """Return the bets on the ratio of bad things that answer a question."""
    close = rule.measure is Measure.PAIRED
    if question is Question.HARM:
        return bets_above(rule.tolerance, rule.mde, close=close)
    if question is Question.NONINFERIORITY:
        return bets_within(rule.margin)
    if question is Question.SUPERIORITY:
        return bets_below(1.0, rule.mde, close=close)
    return bets_above(1.0 / rule.mde, rule.mde, close=close)


def bad_first(rule: MetricRule, counts: Tallies) -> Tallies:
    """Turn counts so that a larger ratio is worse: successes are counted for the other arm."""
    return counts if rule.better == "lower" else swapped(counts)


def rate_logs(
    rule: MetricRule,
    counts: Tallies,
    won: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
    asked: tuple[Question, ...] = QUESTIONS,
) -> tuple[float, float, float, float]:
    """Weigh the answers about a rate, or about pairs.

    Args:
        won: On requests without the event; see :class:`MetricEvidence`.
        asked: Others are left at 0.

    Returns:
        Natural logarithms of e-values, as ``QUESTIONS``.
    """
    turned = bad_first(rule, counts)
    logs = [0.0, 0.0, 0.0, 0.0]
    for at, question in enumerate(QUESTIONS):
        if question in asked:
            gained = won[at // 2] if question in (Question.HARM, Question.SUPERIORITY) else ()
            logs[at] = log_evidence(turned, bets_of(rule, question), gained or None)
    if rule.acceptable_rate is not None and rule.measure is Measure.RATE and Question.NONINFERIORITY in asked:
        absolute = log_rate_below(counts, rule.acceptable_rate)
        logs[1] = log_mixture((logs[1], absolute), (1.0 - ACCEPTABLE_WEIGHT, ACCEPTABLE_WEIGHT))
    return logs[0], logs[1], logs[2], logs[3]


def _after_rate(policy: Policy, metric: MetricEvidence, batch: Tallies) -> MetricEvidence:
    rule = metric.rule
    before = metric.counts
    won = metric.won
    if rule.every_request:
        won = _won_after(rule, won, before, batch)
    counts = merged(before, batch)
    looks = metric.looks
    if policy.mode is Mode.HORIZON and policy.primary == rule and policy.horizon_requests is not None:
        looks = looks_after(looks, bad_first(rule, counts), policy.horizon_requests, policy.looks)
    # Requests without an event move nothing, where they are not bet on.
    quiet = not rule.every_request and rule.acceptable_rate is None
    if quiet and not any(one.control_events or one.treatment_events for one in batch):
        return MetricEvidence(rule, metric.weights, (counts,), won=won, looks=looks)
    weights = _weighed(metric, rate_logs(rule, counts, won, _asked(policy, rule)))
    return MetricEvidence(rule, weights, (counts,), won=won, looks=looks)


def _after_pairs(
    policy: Policy, metric: MetricEvidence, batch: Tallies, agreement: Tallies
) -> MetricEvidence:
    """Weigh who was right alone; and how seldom they disagree, which needs no labels.

    Two models that disagree in a share of d can't differ by more than d in how often they are right.
    """
    rule = metric.rule
    counts = tallies_of((*metric.counts, *batch))
    agreed = tallies_of((*(metric.levels[0] if len(metric.levels) > 1 else ()), *agreement))
    logs = rate_logs(rule, counts, asked=_asked(policy, rule))
    if rule.acceptable_rate is not None and agreed and rule != policy.primary:
        absolute = log_rate_below(agreed, rule.acceptable_rate)
        mixed = log_mixture((logs[1], absolute), (0.5, 0.5))
        logs = (logs[0], mixed, logs[2], logs[3])
    return MetricEvidence(rule, _weighed(metric, logs), (agreed, counts) if agreed else (counts,))


def _won_after(
    rule: MetricRule, won: tuple[tuple[float, ...], tuple[float, ...]], before: Tallies, batch: Tallies
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Settle the bets on a batch's requests without the event, at the rate known before it."""
    events = sum(one.control_events + one.treatment_events for one in before)
    requests = sum(one.control_requests + one.treatment_requests for one in before)
    if requests == 0:
        return won
    rate = (events + 0.5) / (requests + 1.0)
    turned = bad_first(rule, batch)
    bets = [bets_of(rule, question) for question in (Question.HARM, Question.SUPERIORITY)]
    # Against a null that is not 1 there is no fair bet on a request without an event.
    gains = [log_without_event(turned, one, rate) if one.null == 1.0 else () for one in bets]
    harm, better = (
        tuple(a + b for a, b in zip(old, gain, strict=True)) if gain else old
        for old, gain in zip(won, gains, strict=True)
    )
    return harm, better


def latency_logs(rule: MetricRule, levels: Sequence[Tallies]) -> tuple[float, float, float, float]:
    """Weigh the four answers about a latency: harm mostly at the rule's threshold, partly by early
    warning."""
    own = [log_evidence(levels[-1], bets_of(rule, question)) for question in QUESTIONS]
    harms = [
        log_evidence(counts, bets_above(rule.tolerance, mde))
        for counts, mde in zip(levels[:-1], LATENCY_MDES, strict=False)
    ]
    if harms:
        weights = (1.0 - EARLY_WEIGHT, *(EARLY_WEIGHT / len(harms),) * len(harms))
        own[0] = log_mixture((own[0], *harms), weights)
    return own[0], own[1], own[2], own[3]


def _after_latency(metric: MetricEvidence, batch: tuple[Tallies, ...]) -> MetricEvidence:
    name = metric.rule.metric
    if not metric.thresholds_us:
        raise ValueError(f"{name} has no thresholds yet")
    if len(batch) != len(metric.thresholds_us):
        raise ValueError(f"{name} is counted above {len(metric.thresholds_us)} thresholds, not {len(batch)}")
    levels = tuple(tallies_of((*before, *new)) for before, new in zip(metric.levels, batch, strict=True))
    return replace(metric, levels=levels, weights=_weighed(metric, latency_logs(metric.rule, levels)))


def _after_mean(metric: MetricEvidence, units: Sequence[Unit]) -> MetricEvidence:
    assert metric.bankroll is not None
    bankroll = after_units(metric.bankroll, units)
    logs = [bankroll.log_evidence(question) for question in range(len(QUESTIONS))]
    return replace(metric, bankroll=bankroll, weights=_weighed(metric, logs))


def _after_quality(policy: Policy, metric: MetricEvidence, newest: Difference) -> MetricEvidence:
    if not math.isfinite(newest.difference) or not math.isfinite(newest.standard_error):
        raise ValueError(f"{metric.rule.metric}: a difference and its standard error are finite")
    changed = replace(metric, difference=newest)
    if not newest.enough:
        return changed
    rule = metric.rule
    gain = newest.difference if rule.better == "higher" else -newest.difference
    harm, promote = policy.alpha_rollback, policy.alpha_promote
    effects = (
        (-gain - rule.tolerance, harm),
        (gain + rule.margin, promote),
        (gain, promote),
        (rule.mde - gain, promote),
    )
    logs = [
        log_evidence_of_z(effect / newest.standard_error, newest.examples, alpha) for effect, alpha in effects
    ]
    return replace(changed, weights=_weighed(metric, logs))


def _metric_json(one: MetricEvidence) -> dict[str, Any]:
    return {
        "rule": one.rule.to_json(),
        "weights": [[weight.log_e, weight.max_log_e] for weight in one.weights],
        "levels": [[stage.to_json() for stage in counts] for counts in one.levels],
        "thresholds_us": list(one.thresholds_us),
        "won": [list(some) for some in one.won],
        "bankroll": None if one.bankroll is None else one.bankroll.to_json(),
        "difference": None if one.difference is None else one.difference.to_json(),
        "looks": [asdict(look) for look in one.looks],
    }


def evidence_from_json(data: Mapping[str, Any]) -> Evidence:
    """Read what :meth:`Evidence.to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is not that.
    """
    return Evidence(
        identity=data["identity"],
        sequence=data["sequence"],
        restarts=data["restarts"],
        metrics=tuple(_metric_from_json(one) for one in data["metrics"]),
        checks=tuple(
            RatioCheck(name, tallies_from_json(counts), Weight(log_e, max_log_e))
            for name, counts, log_e, max_log_e in data["checks"]
        ),
    )


def _metric_from_json(data: Mapping[str, Any]) -> MetricEvidence:
    rule = MetricRule.from_json(data["rule"])
    harm, noninferiority, superiority, no_gain = (Weight(*one) for one in data["weights"])
    won_harm, won_better = (tuple(one) for one in data["won"])
    difference = data["difference"]
    return MetricEvidence(
        rule=rule,
        weights=(harm, noninferiority, superiority, no_gain),
        levels=tuple(tallies_from_json(one) for one in data["levels"]),
        thresholds_us=tuple(data["thresholds_us"]),
        won=(won_harm, won_better),
        bankroll=None if data["bankroll"] is None else Bankroll.from_json(data["bankroll"]),
        difference=None
        if difference is None
        else Difference(**{**difference, "labelled": tallies_from_json(difference["labelled"])}),
        looks=tuple(Look(**one) for one in data["looks"]),
    )
