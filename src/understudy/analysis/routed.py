"""From what routers counted to what evidence is advanced by.

Owns which rows count: of both arms, assigned at random, in a stage whose share is known, after the warm-up.
Refuses to guess: requests that named their variant are excluded and counted, those of no known stage are
told.  Pure: :func:`take_rows` gives the next state of a judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from understudy.analysis.evidence import Batch, Evidence, advance, with_thresholds
from understudy.analysis.latency import latency_tallies, latency_thresholds
from understudy.analysis.shares import Tally, tallies_of
from understudy.core.judgements import Judgement, Pair
from understudy.core.metrics import Summary
from understudy.core.policies import Measure, MetricRule, Policy
from understudy.core.stages import RANDOMISED, Counts, KeptCounts, Stage

ERRORS = "error_rate"
BEFORE_S = 86_400.0  # so far back the control's latencies are looked at for thresholds


@dataclass(frozen=True)
class Extra:
    """What the logs of labels and users add to a batch.

    Attributes:
        batch: Its rates, latencies, units, qualities and checks; sequence and identity don't matter.
        exposed_to, users_to: See ``Judgement``.
        label_maturity, label_exposures, measured: See ``Judgement``.
    """

    batch: Batch
    exposed_to: int = 0
    users_to: int = 0
    label_maturity: float | None = None
    label_exposures: int | None = None
    measured: Mapping[str, Any] | None = None


def take_rows(
    judgement: Judgement,
    evidence: Evidence,
    policy: Policy,
    stages: Mapping[int, Stage],
    rows: Sequence[KeptCounts],
    extra: Extra | None = None,
) -> tuple[Judgement, Evidence]:
    """Take new rows of the log of counts, in their order, as one batch.

    Returns:
        The judgement without its evidence rendered, and the evidence.
    """
    pair = judgement.pair
    sticky = any(stages[row.counts.stage].sticky for row in rows if row.counts.stage in stages)
    counted = [row.counts for row in rows if _counts(judgement, pair, stages, row.counts)]
    randomised = randomised_counts(judgement, stages, rows)
    judgement = replace(
        judgement,
        counted_to=max([judgement.counted_to, *(row.sequence for row in rows)]),
        requests=judgement.requests + sum(one.requests for one in randomised),
        excluded_targeted=judgement.excluded_targeted
        + sum(one.requests for one in counted if one.source not in RANDOMISED),
        unlogged=judgement.unlogged + _unlogged(judgement, stages, rows),
    )
    tallies = [] if sticky else [_tally(pair, stages, one) for one in randomised]
    rates = {}
    if not sticky:
        for rule in policy.rules:
            if rule.metric == ERRORS and rule.measure is Measure.RATE:
                warm = [one for one in randomised if _is_warm(judgement, rule, one)]
                rates[ERRORS] = tallies_of(_tally(pair, stages, one) for one in warm)
    checks = {"assigned": tallies_of(replace(one, control_events=0, treatment_events=0) for one in tallies)}
    # One user's requests are not independent: of a sticky endpoint its first one counts, from the other log.
    latencies = {
        rule.metric: _latencies(judgement, pair, stages, evidence, rule, randomised)
        for rule in policy.rules
        if rule.measure is Measure.LATENCY and _thresholds(evidence, rule) and not sticky
    }
    judgement, evidence = _fix_thresholds(judgement, evidence, policy, stages, rows)
    batch = Batch(
        judgement.batches + 1,
        pair.identity,
        rates={name: one for name, one in rates.items() if one},
        latencies={name: one for name, one in latencies.items() if one},
        checks={name: one for name, one in checks.items() if one},
    )
    if extra is not None:
        batch = replace(
            batch,
            rates={**batch.rates, **extra.batch.rates},
            latencies={**batch.latencies, **extra.batch.latencies},
            units=extra.batch.units,
            qualities=extra.batch.qualities,
            checks={**batch.checks, **extra.batch.checks},
        )
        judgement = replace(
            judgement,
            exposed_to=max(judgement.exposed_to, extra.exposed_to),
            users_to=max(judgement.users_to, extra.users_to),
            label_maturity=judgement.label_maturity if extra.label_maturity is None else extra.label_maturity,
            label_exposures=judgement.label_exposures
            if extra.label_exposures is None
            else extra.label_exposures,
            measured=judgement.measured if extra.measured is None else dict(extra.measured),
        )
    if not (batch.rates or batch.latencies or batch.units or batch.qualities or batch.checks):
        return judgement, evidence
    return replace(judgement, batches=batch.sequence), advance(policy, evidence, batch)


def randomised_counts(
    judgement: Judgement, stages: Mapping[int, Stage], rows: Iterable[KeptCounts]
) -> list[Counts]:
    """Return the counts of a trial that evidence may be made of."""
    return [
        row.counts
        for row in rows
        if row.counts.source in RANDOMISED and _counts(judgement, judgement.pair, stages, row.counts)
    ]


def _counts(judgement: Judgement, pair: Pair, stages: Mapping[int, Stage], one: Counts) -> bool:
    """Tell whether a row is of this trial: an arm's, in a stage in which both get requests."""
    if one.stage < judgement.first_stage or not (pair.control.is_of(one) or pair.treatment.is_of(one)):
        return False
    stage = stages.get(one.stage)
    return stage is not None and pair.share(stage) is not None


def _unlogged(judgement: Judgement, stages: Mapping[int, Stage], rows: Iterable[KeptCounts]) -> int:
    """Count requests of the trial's time whose stage nobody knows."""
    return sum(
        row.counts.requests
        for row in rows
        if row.counts.stage not in stages
        and row.counts.at_s >= judgement.started_at_s
        and row.counts.source in RANDOMISED
        and (judgement.pair.control.is_of(row.counts) or judgement.pair.treatment.is_of(row.counts))
    )


def _tally(pair: Pair, stages: Mapping[int, Stage], one: Counts) -> Tally:
    stage = stages[one.stage]
    share = pair.share(stage)
    assert share is not None  # _counts
    events = one.failures + one.abandoned
    if pair.treatment.is_of(one):
        return Tally(stage.number, share, 0, events, 0, one.requests)
    return Tally(stage.number, share, events, 0, one.requests, 0)


def _is_warm(judgement: Judgement, rule: MetricRule, one: Counts) -> bool:
    # Counts have whole seconds; without a warm-up, the one in which the trial began is counted.
    return one.at_s >= int(judgement.started_at_s) + rule.warmup_s


# --- latencies ---------------------------------------------------------------------------------------


def _thresholds(evidence: Evidence, rule: MetricRule) -> tuple[float, ...]:
    found = evidence.metric(rule.metric)
    return () if found is None else found.thresholds_us


def _latencies(
    judgement: Judgement,
    pair: Pair,
    stages: Mapping[int, Stage],
    evidence: Evidence,
    rule: MetricRule,
    counted: Sequence[Counts],
) -> tuple[tuple[Tally, ...], ...]:
    """Count what was slower than the thresholds that were fixed before these rows."""
    thresholds = _thresholds(evidence, rule)
    sums: dict[int, list[Summary]] = {}
    for one in counted:
        if _is_warm(judgement, rule, one) and one.model_latency_us.count:
            both = sums.setdefault(one.stage, [Summary(), Summary()])
            both[pair.treatment.is_of(one)] = both[pair.treatment.is_of(one)] + one.model_latency_us
    levels: list[list[Tally]] = [[] for _ in thresholds]
    for number, (control, treatment) in sorted(sums.items()):
        share = pair.share(stages[number])
        assert share is not None  # _counts
        for level, some in zip(
            levels, latency_tallies(number, share, control, treatment, thresholds), strict=True
        ):
            level.extend(some)
    return tuple(map(tallies_of, levels)) if sums else ()


def _fix_thresholds(
    judgement: Judgement,
    evidence: Evidence,
    policy: Policy,
    stages: Mapping[int, Stage],
    rows: Sequence[KeptCounts],
) -> tuple[Judgement, Evidence]:
    """Add the control's answers to what thresholds are made from, until there are enough.

    Rows that were looked at for a threshold are never counted above it.
    """
    missing = [
        rule for rule in policy.rules if rule.measure is Measure.LATENCY and not _thresholds(evidence, rule)
    ]
    if not missing:
        return replace(judgement, before_us=None), evidence
    before = Summary() if judgement.before_us is None else Summary.from_json(judgement.before_us)
    for row in rows:
        one = row.counts
        if judgement.pair.control.is_of(one) and one.at_s >= judgement.started_at_s - BEFORE_S:
            before = before + one.model_latency_us
    for rule in missing:
        thresholds = latency_thresholds(before, rule)
        if thresholds is not None:
            evidence = with_thresholds(evidence, rule.metric, thresholds)
    return replace(judgement, before_us=before.to_json()), evidence
