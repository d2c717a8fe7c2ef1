"""A shadow against the production variant whose requests it got: pairs of captured answers, and labels.

Owns what is one pair (one request that both answered), when the two agree, and who was right where a label
says so.  Refuses answers that were not captured.  Main function: :func:`judge_shadow`.

It reads everything anew at each look: all counts are of the fleet's whole time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from understudy.analysis.answers import Answer, value_of_answer
from understudy.analysis.evidence import Batch, advance, evidence_from_json, start_evidence, with_largest
from understudy.analysis.fields import Tolerance, differences
from understudy.analysis.pairing import grouped
from understudy.analysis.predictions import Prediction, predictions_of
from understudy.analysis.shares import Tally
from understudy.capture.comparing import SLACK_S, body_of
from understudy.capture.growing import bucket_and_prefix
from understudy.capture.judging import Judged, decided
from understudy.capture.reader import Captured, ObjectSource, read_window
from understudy.core.endpoints import Fleet, FleetVariant
from understudy.core.judgements import ArmRef, Pair, ShadowJudgement
from understudy.core.metrics import (
    ENDPOINT_NAMESPACE,
    SHADOW_REQUESTS,
    UNDERSTUDY_NAMESPACE,
    SeriesKey,
    dimensions_of,
)
from understudy.core.outcomes import LABEL, Scalar, Value
from understudy.core.policies import Measure, Policy, parse_policy, shadow_policy
from understudy.core.ports import Evidence, Objects, Outcomes, Series, Stages
from understudy.core.routing import shadow_share

SHADOW = "shadow"
MOST_PAIRS = 200_000
BATCH = 500
_SHORT_S = 7200.0


@dataclass
class PairCounts:
    """What became of the requests that both answered.

    Attributes:
        pairs: Answered by both.
        agreeing: Pairs with the same decision.
        labelled: Pairs with a label that both answers can be held against.
        only_control_right, only_treatment_right: Labelled pairs in which one was right, or nearer, alone.
        unlabelled_disagreements: Pairs whose labels would tell something.
        single: Requests of which only production's answer is there.
    """

    pairs: int = 0
    agreeing: int = 0
    labelled: int = 0
    only_control_right: int = 0
    only_treatment_right: int = 0
    unlabelled_disagreements: int = 0
    single: int = 0

    def take(self, control: Answer, treatment: Answer, label: Value | None) -> None:
        """Count one pair."""
        self.pairs += 1
        agree = decisions_agree(control, treatment)
        self.agreeing += agree
        losses = None if label is None else _losses(control, treatment, label)
        if losses is None:
            self.unlabelled_disagreements += not agree
            return
        self.labelled += 1
        self.only_control_right += losses[0] < losses[1]
        self.only_treatment_right += losses[1] < losses[0]


@dataclass(frozen=True)
class ShadowStores:
    """Where everything about a shadow is read."""

    objects: Objects
    outcomes: Outcomes
    stages: Stages
    log: Evidence
    series: Series


def judge_shadow(
    stores: ShadowStores,
    endpoint: str,
    fleet: Fleet,
    control: FleetVariant,
    treatment: FleetVariant,
    policy: Policy,
    now_s: float,
    before: ShadowJudgement | None = None,
) -> tuple[Judged, PairCounts]:
    """Judge a shadow on all that was captured since its fleet serves.

    Args:
        control: A production variant of the fleet.
        treatment: A shadow of the fleet, whose answers are captured.
        policy: One of its metrics, at least, is of pairs.
        before: How it was judged last; what was proven by the same policy of the same fleet stays so.
    """
    assert fleet.capture is not None  # the caller's check
    refs = [ArmRef(one.name, fleet.config_name, fleet.fleet_id) for one in (control, treatment)]
    pair = Pair(endpoint, SHADOW, *refs)
    stages = stores.stages.find(endpoint)
    ours = [stage for stage in stages if any(arm.fleet_id == fleet.fleet_id for arm in stage.arms)]
    began_s = ours[0].started_at_s if ours else now_s
    before_s = now_s - policy.label_window_s if policy.label_window_s else now_s + 1.0
    counts = PairCounts()
    _count_pairs(stores, pair, fleet.capture.destination, int(began_s), before_s, counts)
    rates, agreements = {}, {}
    for rule in policy.rules:
        if rule.measure is Measure.PAIRED:
            rates[rule.metric] = (
                Tally(
                    0, 0.5, counts.only_control_right, counts.only_treatment_right, counts.pairs, counts.pairs
                ),
            )
            agreements[rule.metric] = (Tally(0, 0.5, 0, counts.pairs - counts.agreeing, 0, counts.pairs),)
        elif rule.measure is Measure.RATE and rule.metric == "error_rate":
            errors = _errors(stores, pair, fleet, treatment, began_s, now_s)
            if errors is not None:
                rates[rule.metric] = (errors,)
    evidence = advance(
        policy,
        start_evidence(policy, pair.identity),
        Batch(1, pair.identity, rates=rates, agreements=agreements),
    )
    if before is not None and (before.pair != pair or parse_policy(before.policy) != policy):
        before = None
    if before is not None:
        evidence = with_largest(evidence, evidence_from_json(before.evidence))
    judgement = ShadowJudgement(
        name=shadow_judgement_name(endpoint, control.name, treatment.name),
        pair=pair,
        first_stage=ours[0].number if ours else 0,
        started_at_s=began_s,
        policy=policy.to_json(),
        evidence={},
        created_at_s=now_s,
        modified_at_s=now_s,
        batches=1,
        requests=counts.pairs,
        label_maturity=counts.labelled / counts.pairs if counts.labelled else None,
        label_exposures=counts.pairs if counts.labelled else None,
        decision="HOLD" if before is None else before.decision,
        decided_at=None if before is None else before.decided_at,
    )
    judged, _ = decided(Judged(judgement, evidence, policy), now_s)
    return judged, counts


def shadow_judgement_name(endpoint: str, control: str, shadow: str) -> str:
    """Name the judgement of a shadow."""
    return f"{endpoint}/{SHADOW}/{control}/{shadow}"


def policy_for_shadow(stored: Policy | None) -> Policy:
    """Return what must be proven of a shadow: as the endpoint's owner says of pairs, or the default."""
    if stored is not None and any(rule.measure is Measure.PAIRED for rule in stored.rules):
        return stored
    return shadow_policy()


def _count_pairs(
    stores: ShadowStores, pair: Pair, destination: str, from_s: float, before_s: float, counts: PairCounts
) -> None:
    source = ObjectSource(stores.objects, bucket_and_prefix(destination)[0])
    streams = [
        read_window(
            source,
            destination,
            pair.endpoint,
            ref.variant,
            from_s,
            before_s,
            on_bad=lambda _: None,
        )
        for ref in (pair.control, pair.treatment)
    ]
    both = islice(grouped(streams, lambda one: one.event_id, SLACK_S), MOST_PAIRS)
    while batch := list(islice(both, BATCH)):
        labels = _labels(stores.outcomes, pair.endpoint, batch)
        for control, treatment in batch:
            if control is None or control.output is None:
                continue
            if treatment is None or treatment.output is None:
                counts.single += 1
                continue
            label = labels.get(control.inference_id or "") or labels.get(control.event_id)
            counts.take(
                body_of(control.output), body_of(treatment.output), None if label is None else label[0]
            )


def _labels(
    outcomes: Outcomes, endpoint: str, batch: list[tuple[Captured | None, ...]]
) -> dict[str, tuple[Value]]:
    """Return labels by id; each in a tuple of one, as 0.0 is a label."""
    ids = {id_ for one, _ in batch if one is not None for id_ in (one.event_id, one.inference_id) if id_}
    return {id_: (kept.outcome.value,) for id_, kept in outcomes.find(endpoint, LABEL, ids).items()}


def _errors(
    stores: ShadowStores, pair: Pair, fleet: Fleet, treatment: FleetVariant, began_s: float, now_s: float
) -> Tally | None:
    """Count errors of production's requests and of the shadow's copies of them.

    A copy is made with the shadow's share, whatever becomes of the request: so an error is the shadow's with
    probability share / (1 + share) when both are as good.  Two errors of one request weigh less than that.
    """
    production = sum(one.current_weight for one in fleet.variants if not one.shadow)
    share = shadow_share(treatment.current_weight, production)
    if not share > 0.0:
        return None
    ours = [one for one in stores.log.totals(pair.endpoint) if one.fleet_id == fleet.fleet_id]
    named = {"EndpointName": pair.endpoint, "VariantName": treatment.name}
    of_fleet = {**named, "EndpointConfigName": fleet.config_name}
    young = now_s - began_s < _SHORT_S

    def total(metric: str, namespace: str = ENDPOINT_NAMESPACE, **dimensions: str) -> int:
        period_s = 1 if young else 60
        start_s = int(began_s) // period_s * period_s
        key = SeriesKey(namespace, metric, dimensions_of(dimensions or of_fleet))
        found = stores.series.read(key, start_s, int(now_s) + period_s, period_s)
        return round(sum(bucket.summary.sum for bucket in found))

    copies = total("Invocations")
    if young:  # copies that are under way are missing nowhere
        copies = max(copies, total(SHADOW_REQUESTS, UNDERSTUDY_NAMESPACE, **named, Outcome="mirrored"))
    return Tally(
        0,
        share / (1.0 + share),
        sum(one.failures + one.caller_errors for one in ours),
        total("Invocation4XXErrors") + total("Invocation5XXErrors"),
        sum(one.requests for one in ours),
        copies,
    )


# --- what two answers say ----------------------------------------------------------------------------


def decisions_agree(control: Answer, treatment: Answer) -> bool:
    """Tell whether two answers come to the same decision.

    The classes that models name are compared; scores in [0, 1] decide at 0.5, as in model quality; all else
    must be equal but for rounding.

    >>> decisions_agree(Answer(b"0.2", "text/csv"), Answer(b"0.4", "text/csv"))
    True
    >>> decisions_agree(Answer(b"12.5", "text/csv"), Answer(b"12.6", "text/csv"))
    False
    """
    if control.body == treatment.body:
        return True
    rows = _rows(control, treatment)
    if rows is not None:
        decided = [(_decision(one), _decision(other)) for one, other in rows]
        if all(one is not None and other is not None for one, other in decided):
            return all(one == other for one, other in decided)
    return not differences(value_of_answer(control), value_of_answer(treatment), Tolerance())[1]


def _rows(control: Answer, treatment: Answer) -> list[tuple[Prediction, Prediction]] | None:
    """Read both as so many predictions; as many rows as production's answer can be read as."""
    for count in _row_counts(control):
        ours, theirs = predictions_of(control, count), predictions_of(treatment, count)
        if ours is not None and theirs is not None:
            return list(zip(ours, theirs, strict=True))
    return None


def _row_counts(answer: Answer) -> Iterator[int]:
    yield 1
    value = value_of_answer(answer)
    if isinstance(value, dict) and isinstance(value.get("predictions"), list):
        yield len(value["predictions"])
    if isinstance(value, list) and len(value) > 1:
        yield len(value)


def _decision(one: Prediction) -> Scalar | None:
    if one.label is not None:
        return one.label
    if one.probabilities:
        return float(max(range(len(one.probabilities)), key=one.probabilities.__getitem__))
    if one.score is not None and 0.0 <= one.score <= 1.0:
        return float(one.score >= 0.5)
    return None


def _losses(control: Answer, treatment: Answer, label: Value) -> tuple[float, float] | None:
    """Say how wrong each answer is, all rows together; None when one can't be held against the label."""
    labels = label if isinstance(label, tuple) else (label,)
    sums = []
    for answer in (control, treatment):
        found = predictions_of(answer, len(labels))
        losses = (
            None if found is None else [_loss(one, true) for one, true in zip(found, labels, strict=True)]
        )
        if losses is None or any(one is None for one in losses):
            return None
        sums.append(sum(one for one in losses if one is not None))
    return sums[0], sums[1]


def _loss(one: Prediction, label: Scalar) -> float | None:
    if isinstance(label, str) or one.label is not None or one.probabilities or one.score is None:
        decision = _decision(one)
        return None if decision is None else float(decision != label)
    return float((one.score >= 0.5) != label) if label in (0.0, 1.0) else abs(one.score - label)
