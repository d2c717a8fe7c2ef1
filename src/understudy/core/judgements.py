"""Which two arms of an endpoint are judged against each other, and the state of each judgement.

Owns :class:`Pair` and :func:`pairs_of` (who is compared with whom), and the records: :class:`Judgement`
(evidence so far and how far the logs were read: one commit, so nothing counts twice), :class:`EndpointPolicy`
(what must be proven) and :class:`VerdictInputs` (what a verdict was decided from, to decide it again).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from understudy.core.stages import Stage

ROLLOUT, VARIANTS = "rollout", "variants"


@dataclass(frozen=True)
class ArmRef:
    """One arm: a variant of one fleet."""

    variant: str
    config_name: str
    fleet_id: str

    def is_of(self, arm: Any) -> bool:
        """Tell whether something with these three attributes is of this arm."""
        return bool(
            arm.variant == self.variant
            and arm.fleet_id == self.fleet_id
            and arm.config_name == self.config_name
        )

    def __str__(self) -> str:
        return f"{self.variant}/{self.config_name}/{self.fleet_id}"


@dataclass(frozen=True)
class Pair:
    """Who is judged against whom.

    Attributes:
        kind: ``rollout`` (one variant, the new fleet against the old) or ``variants`` (of one fleet).
    """

    endpoint: str
    kind: str
    control: ArmRef
    treatment: ArmRef

    @property
    def name(self) -> str:
        """Name the judgement; the next rollout of a variant has the same."""
        if self.kind == ROLLOUT:
            return f"{self.endpoint}/{ROLLOUT}/{self.treatment.variant}"
        return f"{self.endpoint}/{VARIANTS}/{self.control.variant}/{self.treatment.variant}"

    @property
    def identity(self) -> str:
        """Name what evidence is about: with another fleet or configuration it begins anew."""
        return f"{self.control}|{self.treatment}"

    def share(self, stage: Stage) -> float | None:
        """Say the treatment's share of what both arms get; None where one of them gets nothing."""
        control = next((arm.weight for arm in stage.arms if self.control.is_of(arm)), 0.0)
        treatment = next((arm.weight for arm in stage.arms if self.treatment.is_of(arm)), 0.0)
        if not control > 0.0 or not treatment > 0.0:
            return None
        share = treatment / (control + treatment)
        return share if 0.0 < share < 1.0 else None


def pairs_of(stage: Stage) -> list[Pair]:
    """Say who is judged against whom in a stage.

    While two fleets serve, each variant of the new one against the same variant of the old one; otherwise the
    first variant of the configuration is the control of all others.

    >>> old, new = Arm("A", "c1", "f1", 9.0), Arm("A", "c2", "f2", 1.0)
    >>> [(one.kind, str(one.treatment)) for one in pairs_of(Stage("e", 1, 0.0, (new, old)))]
    [('rollout', 'A/c2/f2')]
    """
    fleets = sorted({arm.fleet_id for arm in stage.arms}, key=_fleet_order)
    refs = [ArmRef(arm.variant, arm.config_name, arm.fleet_id) for arm in stage.arms]
    if len(fleets) > 1:
        old, new = fleets[0], fleets[-1]
        before = {ref.variant: ref for ref in refs if ref.fleet_id == old}
        return [
            Pair(stage.endpoint, ROLLOUT, before[ref.variant], ref)
            for ref in refs
            if ref.fleet_id == new and ref.variant in before
        ]
    return [Pair(stage.endpoint, VARIANTS, refs[0], ref) for ref in refs[1:]]


def _fleet_order(fleet_id: str) -> tuple[int, str]:
    number = fleet_id.removeprefix("f")
    return (int(number) if number.isdigit() else 0, fleet_id)


def first_stage_of(pair: Pair, stages: Sequence[Stage]) -> Stage | None:
    """Find where a pair's last time together began.

    Args:
        stages: Of the endpoint, oldest first.
    """
    found: Stage | None = None
    for stage in reversed(stages):
        both = any(map(pair.control.is_of, stage.arms)) and any(map(pair.treatment.is_of, stage.arms))
        if both:
            found = stage
        elif found is not None:
            break
    return found


@dataclass(frozen=True)
class Judgement:
    """The state of one judgement.

    Attributes:
        name: Of its pair.
        first_stage: Number of the stage in which both arms were first there.
        started_at_s: When that began; warm-ups count from it.
        policy, evidence: As JSON, see ``core.policies`` and ``analysis.evidence``.
        batches: Given to the evidence so far.
        counted_to: Last row of the log of counts that was used.
        exposed_to: Last row of the log of assignments whose outcome was looked at.
        users_to: Last row of the log of assignments by which users were counted (sticky endpoints).
        before_us: Control's latencies before use, a ``core.metrics.Summary`` as JSON, for thresholds.
        requests: Randomised requests of both arms that were counted.
        excluded_targeted: Requests whose caller named the variant.
        unlogged: Requests whose stage is not known.
        label_maturity: Share of mature exposures that have their label; None without labels.
        label_exposures: Those exposures.
        measured: What was counted of metrics of PutMetricData, as JSON, see ``capture.measured``.
        repeated_units: Users keep their variant, and only requests could be counted.
        decision: The verdict's.
        decided_at: When it was reached, ISO 8601.
        ended_at_s: One of the arms is gone; nothing more will come.
    """

    KIND: ClassVar[str] = "judgement"
    name: str
    pair: Pair
    first_stage: int
    started_at_s: float
    policy: dict[str, Any]
    evidence: dict[str, Any]
    created_at_s: float
    modified_at_s: float
    batches: int = 0
    counted_to: int = 0
    exposed_to: int = 0
    users_to: int = 0
    before_us: Any = None
    measured: dict[str, Any] = field(default_factory=dict)
    requests: int = 0
    excluded_targeted: int = 0
    unlogged: int = 0
    label_maturity: float | None = None
    label_exposures: int | None = None
    repeated_units: bool = False
    decision: str = "HOLD"
    decided_at: str | None = None
    ended_at_s: float | None = None

    @property
    def status(self) -> str:
        """The decision, for queries."""
        return self.decision


@dataclass(frozen=True)
class ShadowJudgement(Judgement):
    """The state of a shadow's judgement: measured anew from time to time, not counted on.

    What was proven once stays so: the largest evidence is kept.
    """

    KIND: ClassVar[str] = "shadow-judgement"


@dataclass(frozen=True)
class EndpointPolicy:
    """What must be proven of changes to an endpoint, as its owner says.

    Attributes:
        name: The endpoint's.
        policy: See ``core.policies``.
    """

    KIND: ClassVar[str] = "verdict-policy"
    name: str
    policy: dict[str, Any]
    created_at_s: float
    modified_at_s: float


@dataclass(frozen=True)
class VerdictInputs:
    """Everything that one verdict was decided from.

    Attributes:
        name: The verdict's replay id, a hash of ``inputs``.
        judgement: Name of the judgement.
        kept: It was a change of decision and is not forgotten.
    """

    KIND: ClassVar[str] = "verdict-inputs"
    name: str
    judgement: str
    inputs: dict[str, Any]
    decision: str
    created_at_s: float
    modified_at_s: float
    kept: bool = False

    @property
    def status(self) -> str:
        """The endpoint, for queries."""
        return self.judgement.partition("/")[0]


@dataclass
class UnitBook:
    """Users seen so far, by the arm that each was first given; of sticky endpoints.

    Attributes:
        seen: Stage, whether treated, whether one of its requests failed.
        position: Last row of the log of assignments that was taken.
    """

    seen: dict[str, tuple[int, bool, bool]] = field(default_factory=dict)
    position: int = 0

    def note(self, unit: str, stage: int, treated: bool, failed: bool) -> tuple[int, bool, int, int] | None:
        """Take one request of a user.

        Returns:
            Stage and arm to count in, new users and new users with a failure; None when nothing changes.
        """
        before = self.seen.get(unit)
        if before is None:
            self.seen[unit] = (stage, treated, failed)
            return stage, treated, 1, int(failed)
        first_stage, first_treated, had_failed = before
        # Who was moved to the other arm says nothing more of either.
        if not failed or had_failed or treated != first_treated:
            return None
        self.seen[unit] = (first_stage, first_treated, True)
        return first_stage, first_treated, 0, 1
