"""One judgement brought up to date with the logs: the steps shared by the loop and by whoever asks ad hoc.

Owns :class:`Judge`.  It writes nothing: what it returns is to be committed whole, so that positions in the
logs and evidence stay together and nothing counts twice.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from understudy.analysis.evidence import Batch, Evidence, evidence_from_json, start_evidence
from understudy.analysis.routed import Extra, take_rows
from understudy.analysis.verdicts import decide_verdict, verdict_inputs
from understudy.capture.exposures import ExposureReader
from understudy.capture.measured import Counted, MeasuredReader
from understudy.core.judgements import VARIANTS, EndpointPolicy, Judgement, Pair, first_stage_of
from understudy.core.policies import Kind, Policy, default_policy, parse_policy
from understudy.core.ports import Assignments, Outcomes, Series, Stages
from understudy.core.ports import Evidence as EvidenceLog
from understudy.core.stages import KeptCounts, Stage
from understudy.core.verdicts import Validity, Verdict

log = logging.getLogger(__name__)

# What reading or deciding one judgement raises when its record, or what was logged for it, makes no sense.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError)
AT_ONCE = 1000
LEAST_ELAPSED_S = 1.0


@dataclass(frozen=True)
class Judged:
    """A judgement with its evidence and policy as values."""

    judgement: Judgement
    evidence: Evidence
    policy: Policy

    def stored(self) -> Judgement:
        """Return the record to keep."""
        return replace(self.judgement, evidence=self.evidence.to_json(), policy=self.policy.to_json())

    def verdict(self) -> Verdict:
        """Decide; once, as many ask."""
        return self._verdict

    @cached_property
    def _verdict(self) -> Verdict:
        return decide_verdict(self.policy, self.evidence, **self._facts())

    def inputs(self) -> dict[str, Any]:
        """Return what :meth:`verdict` is decided from, to be kept under its ``replay``."""
        return verdict_inputs(self.policy, self.evidence, **self._facts())

    def _facts(self) -> dict[str, Any]:
        one = self.judgement
        elapsed_s = one.modified_at_s - one.started_at_s
        validity = Validity(
            excluded_targeted=one.excluded_targeted,
            warmup_excluded_s=max((rule.warmup_s for rule in self.policy.rules), default=0.0),
            label_maturity=one.label_maturity,
            label_exposures=one.label_exposures,
            repeated_units=one.repeated_units,
            unlogged=one.unlogged,
            unfit_values=sum(Counted.from_json(some).unfit for some in one.measured.values()),
        )
        return {
            "validity": validity,
            "decided_at": one.decided_at,
            "requests_per_minute": one.requests * 60.0 / elapsed_s
            if one.requests and elapsed_s >= LEAST_ELAPSED_S
            else None,
        }


def judged_of(judgement: Judgement) -> Judged:
    """Read a record."""
    return Judged(judgement, evidence_from_json(judgement.evidence), parse_policy(judgement.policy))


def readable(judgement: Judgement) -> Judged | None:
    """Read a record, if it can be read and decided: one that can't must not hide all others."""
    try:
        judged = judged_of(judgement)
        judged.verdict()
    except UNREADABLE:
        log.exception("the judgement %s can't be read", judgement.name)
        return None
    return judged


def decided(judged: Judged, now_s: float) -> tuple[Judged, Verdict]:
    """Decide, and note when the decision was reached."""
    verdict = judged.verdict()
    decision = str(verdict.decision)
    if decision == judged.judgement.decision:
        return judged, verdict
    at = None if decision == "HOLD" else datetime.fromtimestamp(now_s, UTC).isoformat()
    judged = replace(judged, judgement=replace(judged.judgement, decision=decision, decided_at=at))
    return judged, judged.verdict()


def policy_for(pair: Pair, told: EndpointPolicy | None) -> Policy:
    """Return what must be proven of a pair: as the endpoint's owner says, or the default of its kind."""
    if told is not None:
        return parse_policy(told.policy)
    return default_policy(Kind.EXPERIMENT if pair.kind == VARIANTS else Kind.DEPLOY)


class Judge:
    """Reads the logs for judgements."""

    def __init__(
        self,
        stages: Stages,
        log: EvidenceLog,
        assignments: Assignments,
        outcomes: Outcomes,
        series: Series,
    ) -> None:
        self._stages = stages
        self._log = log
        self._exposures = ExposureReader(assignments, outcomes)
        self._measured = MeasuredReader(series)
        self._measured_at: dict[str, int] = {}

    def begin(self, pair: Pair, policy: Policy, now_s: float) -> Judged | None:
        """Begin a judgement; None when the pair was never together."""
        stages = self._stages.find(pair.endpoint)
        first = first_stage_of(pair, stages)
        if first is None:
            return None
        evidence = start_evidence(policy, pair.identity)
        judgement = Judgement(
            name=pair.name,
            pair=pair,
            first_stage=first.number,
            started_at_s=first.started_at_s,
            policy=policy.to_json(),
            evidence={},
            created_at_s=now_s,
            modified_at_s=now_s,
        )
        return Judged(judgement, evidence, policy)

    def forget(self, judgement: str) -> None:
        """Let go of what is remembered of a judgement."""
        self._exposures.forget(judgement)
        self._measured_at.pop(judgement, None)

    def catch_up(
        self, judged: Judged, now_s: float, label_evidence: Extra | None = None
    ) -> tuple[Judged, bool]:
        """Take what is new in the logs, some of it.

        Args:
            label_evidence: Found meanwhile in captured answers and labels.

        Returns:
            The judgement, and whether more was there than was taken.
        """
        judgement, endpoint = judged.judgement, judged.judgement.pair.endpoint
        rows = self._log.read(endpoint, judgement.counted_to, AT_ONCE)
        stages = {stage.number: stage for stage in self._stages.find(endpoint)}
        extra = self._exposures.read(judgement, judged.evidence, judged.policy, stages, now_s)
        if label_evidence is not None:
            extra = _joined(extra, label_evidence)
        extra = self._with_measured(extra, judged, stages, rows, now_s)
        moved = extra.exposed_to != judgement.exposed_to or extra.users_to != judgement.users_to
        if not rows and not moved and label_evidence is None and extra.measured is None:
            return judged, False
        judgement, evidence = take_rows(judgement, judged.evidence, judged.policy, stages, rows, extra)
        judgement = replace(judgement, modified_at_s=now_s)
        return Judged(judgement, evidence, judged.policy), len(rows) == AT_ONCE or moved

    def _with_measured(
        self,
        extra: Extra,
        judged: Judged,
        stages: Mapping[int, Stage],
        rows: Sequence[KeptCounts],
        now_s: float,
    ) -> Extra:
        """Add what is new of metrics of PutMetricData; with new requests, and once a second."""
        name = judged.judgement.name
        if not rows and self._measured_at.get(name) == int(now_s):
            return extra
        self._measured_at[name] = int(now_s)
        more = self._measured.read(judged.judgement, judged.policy, stages, rows, now_s)
        if more.measured == judged.judgement.measured:
            return extra
        batch: Batch = extra.batch
        return replace(
            extra,
            batch=replace(
                batch,
                rates={**batch.rates, **more.batch.rates},
                checks={**batch.checks, **more.batch.checks},
            ),
            measured=more.measured,
        )


def _joined(extra: Extra, more: Extra) -> Extra:
    batch: Batch = extra.batch
    return replace(
        extra,
        batch=replace(
            batch,
            rates={**batch.rates, **more.batch.rates},
            qualities=more.batch.qualities,
            checks={**batch.checks, **more.batch.checks},
        ),
        label_maturity=more.label_maturity,
        label_exposures=more.label_exposures,
    )


def share_now(pair: Pair, stages: Mapping[int, Stage]) -> float | None:
    """Return the treatment's share in the newest stage."""
    return pair.share(stages[max(stages)]) if stages else None
