"""Metrics of PutMetricData as evidence: zeros and ones, by the arm and the stage that they were sent for.

Owns which data count: of an arm's metric, in periods (a second or a minute, the data's resolution) that lie
in one stage alone and are over for the rule's ``delay_s``.  A period in which the shares changed belongs to
no stage and is left out.  Refuses values other than 0 and 1: they are counted, and make the verdict invalid.
Main class: :class:`MeasuredReader`.

Nothing is counted twice, and late data are counted by their timestamps: what is read are the totals of the
last hours, and what a judgement is given is what they have more than those that it has counted.  Those are
kept with its evidence.  The requests of the same periods are counted beside them (the check ``due:METRIC``):
data that are missing in one arm alone would flatter it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from understudy.analysis.evidence import Batch
from understudy.analysis.routed import Extra, randomised_counts
from understudy.analysis.shares import Tallies, Tally, tallies_of
from understudy.core.judgements import ROLLOUT, ArmRef, Judgement, Pair
from understudy.core.metrics import ZERO_BUCKET, SeriesKey, Summary, bucket_of, dimensions_of
from understudy.core.policies import CloudWatchMetric, Policy
from understudy.core.ports import Series
from understudy.core.stages import Counts, KeptCounts, Stage

Span = tuple[int, int, int]  # a stage's number, and the time in which its periods lie

LATEST_S = 7200  # data that come later are not counted; the store keeps seconds for three hours
_MOVED_EVERY_S = 600
_FIT = frozenset({ZERO_BUCKET, bucket_of(1.0)})
_ROUNDING = 1e-6


@dataclass
class Counted:
    """What of one metric a judgement has counted, in the periods from ``from_s`` on.

    Attributes:
        stages: By stage: the control's values and ones, the treatment's values and ones.
        unfit: Values that are neither 0 nor 1, in periods of both arms that were read.
        waiting: By period and stage, requests of control and treatment whose period is not over.
    """

    from_s: int
    stages: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    unfit: int = 0
    waiting: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """Render it."""
        return [
            self.from_s,
            self.unfit,
            [[stage, *some] for stage, some in sorted(self.stages.items())],
            [[*place, *some] for place, some in sorted(self.waiting.items())],
        ]

    @classmethod
    def from_json(cls, data: Any) -> Counted:
        """Read what :meth:`to_json` wrote."""
        from_s, unfit, stages, waiting = data
        return cls(
            from_s,
            {stage: (a, b, c, d) for stage, a, b, c, d in stages},
            unfit,
            {(at_s, stage): (control, treatment) for at_s, stage, control, treatment in waiting},
        )


class MeasuredReader:
    """Reads series for all judgements."""

    def __init__(self, series: Series) -> None:
        self._series = series

    def read(
        self,
        judgement: Judgement,
        policy: Policy,
        stages: Mapping[int, Stage],
        rows: Sequence[KeptCounts],
        now_s: float,
    ) -> Extra:
        """Return new counts by metric, and what is counted with them, to be kept as ``measured``.

        Args:
            stages: Of the endpoint.
            rows: New ones of the log of counts.
        """
        rates: dict[str, Tallies] = {}
        checks: dict[str, Tallies] = {}
        measured = dict(judgement.measured)
        requests = randomised_counts(judgement, stages, rows)
        for rule in policy.rules:
            if rule.cloudwatch is None:
                continue
            name = rule.metric
            before = (
                Counted.from_json(measured[name])
                if name in measured
                else Counted(int(judgement.started_at_s) // 60 * 60)
            )
            step_s = rule.cloudwatch.resolution_s
            until_s = math.floor((now_s - rule.cloudwatch.delay_s) / step_s) * step_s
            spans = list(_spans(judgement, stages, step_s, rule.warmup_s))
            found, after = self._read(judgement, rule.cloudwatch, stages, spans, before, until_s)
            periods = [replace(one, at_s=one.at_s // step_s * step_s) for one in requests]
            due = _due(judgement.pair, stages, spans, periods, after, until_s)
            if found:
                rates[name] = found
            if due:
                checks[f"due:{name}"] = due
            if found or due or after.unfit != before.unfit or after.waiting != before.waiting:
                measured[name] = after.to_json()
        return Extra(Batch(0, rates=rates, checks=checks), measured=measured)

    def _read(
        self,
        judgement: Judgement,
        metric: CloudWatchMetric,
        stages: Mapping[int, Stage],
        spans: Sequence[Span],
        before: Counted,
        until_s: int,
    ) -> tuple[Tallies, Counted]:
        """Read the data of all periods that are over."""
        from_s = before.from_s
        if until_s - LATEST_S >= from_s + _MOVED_EVERY_S:
            from_s = (until_s - LATEST_S) // 60 * 60
        keys = [key_of(judgement.pair, ref, metric) for ref in _arms(judgement.pair)]
        after = Counted(from_s, dict(before.stages), before.unfit, dict(before.waiting))
        unfit = 0
        found = []
        for number, first_s, end_s in spans:
            share = judgement.pair.share(stages[number])
            if end_s <= from_s:
                after.stages.pop(number, None)
            start_s, end_s = max(first_s, before.from_s), min(end_s, until_s)
            if share is None or start_s >= end_s:
                continue
            rows = [self._rows(key, start_s, end_s) for key in keys]
            wrong = sum(int(one.count) for some in rows for _, one in some if not _is_fit(one))
            if wrong:
                unfit += wrong
                continue
            had = before.stages.get(number, (0, 0, 0, 0))
            # A total below what was counted, of data that are no longer kept apart, takes nothing back.
            new = [max(0, now - then) for now, then in zip(_totals(rows), had, strict=True)]
            if any(new):
                found.append(Tally(number, share, min(new[1], new[0]), min(new[3], new[2]), new[0], new[2]))
            if end_s > from_s:
                kept = _totals([[row for row in some if row[0] >= from_s] for some in rows])
                if from_s == before.from_s:
                    kept = tuple(map(max, kept, had))
                after.stages[number] = kept[0], kept[1], kept[2], kept[3]
        after.unfit = max(before.unfit, unfit)
        return tallies_of(found), after

    def _rows(self, key: SeriesKey, start_s: int, end_s: int) -> list[tuple[int, Summary]]:
        """Read the periods in [start, end): whole minutes as such, the rest by seconds."""
        first_s, last_s = -(-start_s // 60) * 60, end_s // 60 * 60
        if first_s >= last_s:
            parts = [(start_s, end_s, 1)]
        else:
            parts = [(start_s, first_s, 1), (first_s, last_s, 60), (last_s, end_s, 1)]
        return [
            (bucket.start_s, bucket.summary)
            for begin_s, finish_s, period_s in parts
            if begin_s < finish_s
            for bucket in self._series.read(key, begin_s, finish_s, period_s)
        ]


def key_of(pair: Pair, ref: ArmRef, metric: CloudWatchMetric) -> SeriesKey:
    """Name an arm's metric; two fleets have variants of one name, so their configurations tell them apart."""
    dimensions = {"EndpointName": pair.endpoint, "VariantName": ref.variant, **dict(metric.dimensions)}
    if pair.kind == ROLLOUT:
        dimensions["EndpointConfigName"] = ref.config_name
    return SeriesKey(metric.namespace, metric.metric_name, dimensions_of(dimensions))


def _due(
    pair: Pair,
    stages: Mapping[int, Stage],
    spans: Sequence[Span],
    requests: Sequence[Counts],
    counted: Counted,
    until_s: int,
) -> Tallies:
    """Take requests out of those that wait, once the period in which they ended is over."""
    for one in requests:
        place = (one.at_s, one.stage)
        control, treatment = counted.waiting.get(place, (0, 0))
        if pair.treatment.is_of(one):
            treatment += one.requests
        else:
            control += one.requests
        counted.waiting[place] = control, treatment
    within = {number: (start_s, end_s) for number, start_s, end_s in spans}
    due = []
    for place in [place for place in counted.waiting if place[0] < until_s]:
        at_s, number = place
        control, treatment = counted.waiting.pop(place)
        start_s, end_s = within.get(number, (0, 0))
        share = pair.share(stages[number])
        if share is not None and start_s <= at_s < end_s:
            due.append(Tally(number, share, 0, 0, control, treatment))
    return tallies_of(due)


def _arms(pair: Pair) -> tuple[ArmRef, ArmRef]:
    return pair.control, pair.treatment


def _spans(judgement: Judgement, stages: Mapping[int, Stage], step_s: int, warmup_s: float) -> Iterable[Span]:
    """Return (stage, start, end): the periods that lie in one stage alone, of those that may count.

    Data of a period in which a user kept a variant say nothing of how many users there were: stages of
    sticky endpoints are left out.
    """
    ordered = [stages[number] for number in sorted(stages)]
    begun_s = stages[judgement.first_stage].started_at_s if judgement.first_stage in stages else 0.0
    earliest_s = math.floor(begun_s / step_s) * step_s
    if judgement.started_at_s > begun_s:  # another policy began later: what was there by then is not its
        earliest_s = math.ceil(judgement.started_at_s / step_s) * step_s
    if warmup_s:
        earliest_s = max(earliest_s, math.ceil((judgement.started_at_s + warmup_s) / step_s) * step_s)
    for before, stage in pairwise([None, *ordered]):
        assert stage is not None
        if stage.number < judgement.first_stage or stage.sticky:
            continue
        start_s = math.floor(stage.started_at_s / step_s) * step_s
        if before is not None and (before.ended_at_s is None or before.ended_at_s > start_s):
            start_s = math.ceil(stage.started_at_s / step_s) * step_s
        end_s = math.inf if stage.ended_at_s is None else math.floor(stage.ended_at_s / step_s) * step_s
        start_s = max(start_s, earliest_s)
        if start_s < end_s:
            yield stage.number, start_s, int(min(end_s, 2**53))


def _totals(arms: Iterable[Iterable[tuple[int, Summary]]]) -> tuple[int, ...]:
    """Return values and ones, of one arm after the other."""
    totals: list[int] = []
    for rows in arms:
        some = [summary for _, summary in rows]
        totals += [round(sum(one.count for one in some)), round(sum(one.sum for one in some))]
    return tuple(totals)


def _is_fit(one: Summary) -> bool:
    """Tell whether values may all have been 0 or 1; of a StatisticSet no more can be said."""
    whole = all(abs(number - round(number)) <= _ROUNDING for number in (one.count, one.sum))
    ends = one.minimum in (0.0, 1.0) and one.maximum in (0.0, 1.0)
    return whole and ends and 0.0 <= one.sum <= one.count and set(one.buckets) <= _FIT
