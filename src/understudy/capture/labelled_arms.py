"""Model quality of two arms, from captured answers, labels and the log of assignments.

Owns which labelled answers may be compared: those of requests that were assigned at random, whose share is
known, and that are older than the label window.  Whether labels come as often for one arm as for the other is
part of what it finds.  Main class: :class:`LabelledArms`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from understudy.analysis.evidence import Batch
from understudy.analysis.influence import Answers, difference_of_quality
from understudy.analysis.quality_report import Example, Question, decided
from understudy.analysis.routed import Extra
from understudy.analysis.shares import Tallies, Tally, tallies_of
from understudy.capture.growing import bucket_and_prefix
from understudy.capture.judging import Judged
from understudy.capture.labelled import BATCH, examples_of, join_labels
from understudy.capture.reader import Captured, ObjectSource, read_window
from understudy.core.endpoints import Endpoint
from understudy.core.judgements import ArmRef, Judgement
from understudy.core.outcomes import Value
from understudy.core.policies import Measure
from understudy.core.ports import Assignments, Objects, Outcomes, Records, Stages
from understudy.core.stages import RANDOMISED, Stage

MOST_RECORDS = 200_000  # of one arm


@dataclass
class _Arm:
    """Labelled examples of one arm."""

    examples: list[Example] = field(default_factory=list)
    labelled: Counter[int] = field(default_factory=Counter)
    mature: int = 0


class LabelledArms:
    """Reads captured answers of judgements whose policy asks for model quality."""

    def __init__(
        self,
        records: Records,
        objects: Objects,
        outcomes: Outcomes,
        assignments: Assignments,
        stages: Stages,
    ) -> None:
        self._records = records
        self._objects = objects
        self._outcomes = outcomes
        self._assignments = assignments
        self._stages = stages

    def find(self, judged: Judged, now_s: float) -> Extra | None:
        """Measure both arms on everything that is labelled so far.

        Returns:
            None when the policy asks for no quality, or nothing was captured.
        """
        rules = [rule for rule in judged.policy.rules if rule.measure is Measure.QUALITY]
        if not rules:
            return None
        judgement, window_s = judged.judgement, judged.policy.label_window_s
        before_s = now_s - window_s if window_s else float("inf")
        stages = {stage.number: stage for stage in self._stages.find(judgement.pair.endpoint)}
        arms = []
        for ref in (judgement.pair.control, judgement.pair.treatment):
            destination = self._destination(judgement.pair.endpoint, ref)
            if destination is None:
                return None
            records = self._captured(judgement, ref, destination, now_s)
            arms.append(self._labelled(judgement, ref, stages, records, before_s))
        control, treatment = arms
        labelled = _labelled_tallies(judgement, stages, control, treatment)
        qualities = {}
        for rule in rules:
            found = difference_of_quality(
                rule.metric, _answers(rule.metric, control), _answers(rule.metric, treatment)
            )
            if found is not None:
                qualities[rule.metric] = replace(found, labelled=labelled)
        mature = control.mature + treatment.mature
        total = sum(control.labelled.values()) + sum(treatment.labelled.values())
        return Extra(
            Batch(0, qualities=qualities),
            label_maturity=total / mature if mature else None,
            label_exposures=mature or None,
        )

    def _destination(self, endpoint_name: str, ref: ArmRef) -> str | None:
        """Return where an arm's answers are captured; None where they are not."""
        stored = self._records.get(Endpoint, endpoint_name)
        if stored is None:
            return None
        endpoint = stored.value
        fleets = [endpoint.fleet, *endpoint.retiring, endpoint.update.fleet if endpoint.update else None]
        for fleet in fleets:
            if fleet is not None and fleet.fleet_id == ref.fleet_id:
                captured = fleet.capture is not None and fleet.capture.outputs
                return fleet.capture.destination if captured and fleet.capture is not None else None
        return None

    def _captured(
        self, judgement: Judgement, ref: ArmRef, destination: str, now_s: float
    ) -> Iterator[Captured]:
        source = ObjectSource(self._objects, bucket_and_prefix(destination)[0])
        # Records have whole seconds: the one in which the trial began counts by its assignments.
        records = read_window(
            source,
            destination,
            judgement.pair.endpoint,
            ref.variant,
            int(judgement.started_at_s),
            now_s + 1.0,
            on_bad=lambda _: None,
        )
        return islice(records, MOST_RECORDS)

    def _labelled(
        self,
        judgement: Judgement,
        ref: ArmRef,
        stages: Mapping[int, Stage],
        records: Iterator[Captured],
        before_s: float,
    ) -> _Arm:
        """Gather an arm's labelled examples."""
        arm, question = _Arm(), Question()
        joined = join_labels(
            (one for one in records if one.at_s < before_s), self._outcomes, judgement.pair.endpoint
        )
        while batch := list(islice(joined, BATCH)):
            placed = self._placed(judgement, ref, stages, batch)
            for (record, label), stage in zip(batch, placed, strict=True):
                if stage is None:
                    continue
                arm.mature += 1
                examples = None if label is None else examples_of(record, label, question)
                if examples is not None:
                    arm.examples += examples
                    arm.labelled[stage] += 1
        return arm

    def _placed(
        self,
        judgement: Judgement,
        ref: ArmRef,
        stages: Mapping[int, Stage],
        batch: list[tuple[Captured, Value | None]],
    ) -> list[int | None]:
        """Say the stage of each record that was assigned to the arm at random; None of all others."""
        found = self._assignments.find(judgement.pair.endpoint, {record.event_id for record, _ in batch})
        placed: list[int | None] = []
        for record, _ in batch:
            one = found.get(record.event_id)
            stage = None if one is None else stages.get(one.stage)
            fits = (
                one is not None
                and stage is not None
                and one.stage >= judgement.first_stage
                and one.source in RANDOMISED
                and ref.is_of(one)
                and judgement.pair.share(stage) is not None
            )
            placed.append(stage.number if fits and stage is not None else None)
        return placed


def _labelled_tallies(
    judgement: Judgement, stages: Mapping[int, Stage], control: _Arm, treatment: _Arm
) -> Tallies:
    found = []
    for number in sorted({*control.labelled, *treatment.labelled}):
        share = judgement.pair.share(stages[number])
        assert share is not None  # only such stages were placed
        found.append(Tally(number, share, 0, 0, control.labelled[number], treatment.labelled[number]))
    return tallies_of(found)


def _answers(metric: str, arm: _Arm) -> Answers:
    """Bring examples into the form of a metric; those that do not have it are left out."""
    if metric == "squared_error":
        numbers = [
            (one.label, one.prediction.score)
            for one in arm.examples
            if isinstance(one.label, float) and one.prediction.score is not None
        ]
        return Answers([label for label, _ in numbers], [score for _, score in numbers])
    question = Question()
    rows = [(one, decision) for one in arm.examples if (decision := decided(one, question)) is not None]
    scores = [one.prediction.score for one, _ in rows if one.prediction.score is not None]
    if metric in ("auc", "log_loss") and len(scores) < len(rows):
        rows, scores = [], []
    return Answers(
        [float(one.label == 1.0) for one, _ in rows],
        [float(decision) for _, decision in rows],
        scores if len(scores) == len(rows) else [],
    )
