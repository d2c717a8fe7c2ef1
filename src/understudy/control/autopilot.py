"""The loop that acts on verdicts where an endpoint's owner asked for it by tag.

Owns the order: what is to be done is committed with what it was decided from and with the autopilot's own
record, and then carried out by the endpoint loop, as an UpdateEndpointWeightsAndCapacities would be.  Killed
at any moment, it goes on from what is on disk and does nothing twice.  Main class: :class:`AutopilotLoop`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy.analysis.allocation import MOST_VARIANTS, StageCounts, pooled_counts, top_two_shares
from understudy.capture.judging import Judged
from understudy.control.verdicts import LiveJudgement
from understudy.core.autopilot import (
    AUTOPILOT,
    BANDIT,
    Autopilot,
    JudgedPair,
    Step,
    changed_by_others,
    decide_autopilot,
    is_idle,
    is_of,
    told_weights,
    weights_of,
)
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet
from understudy.core.errors import Conflict
from understudy.core.fleets import told_variants, wish_variants
from understudy.core.judgements import VARIANTS, ArmRef, VerdictInputs
from understudy.core.names import Place
from understudy.core.policies import Measure
from understudy.core.ports import Clock, Delete, Event, Put, Query, Records, Stages, Stored
from understudy.core.stages import Stage

log = logging.getLogger(__name__)

BY = "autopilot"
# Stages are kept and weighed one by one: a change of weights must be worth one.
LEAST_CHANGE = 0.01
_AGE_PART = 0.1


class AutopilotLoop:
    """One per controller; runs in the thread that judges.

    Args:
        nudge: Tells the endpoint loop that a record changed.
    """

    def __init__(
        self, records: Records, stages: Stages, clock: Clock, place: Place, nudge: Callable[[], None]
    ) -> None:
        self._records = records
        self._stages = stages
        self._clock = clock
        self._place = place
        self._nudge = nudge

    def tick(self, live: Sequence[LiveJudgement]) -> bool:
        """Do what the verdicts ask for; tell whether anything was."""
        acted = False
        for stored in self._records.find(Endpoint, Query()):
            if AUTOPILOT not in stored.value.extensions:
                continue
            ours = [one for one in live if one.judged.judgement.pair.endpoint == stored.value.name]
            try:
                acted = self._look_at(stored, ours) or acted
            except Conflict:
                continue  # somebody changed it at this moment: the next round sees what they did
        for remembered in self._records.find(Autopilot, Query()):
            self._forget(remembered)
        if acted:
            self._nudge()
        return acted

    def _forget(self, remembered: Stored[Autopilot]) -> None:
        """Let go of what is known of an endpoint that has no autopilot any more."""
        name = remembered.value.name
        endpoint = self._records.get(Endpoint, name)
        if endpoint is not None and AUTOPILOT in endpoint.value.extensions:
            return
        changes: list[Put | Delete | Event] = [Delete(Autopilot, name, remembered.version)]
        if endpoint is not None:
            changes.append(self._event(name, "AutopilotEnded", {"reason": "its tag was removed"}))
        try:
            self._records.commit(changes)
        except Conflict:
            return

    def _look_at(self, stored: Stored[Endpoint], live: Sequence[LiveJudgement]) -> bool:
        endpoint = stored.value
        mode, fleet = endpoint.extensions[AUTOPILOT], endpoint.fleet
        if fleet is None or endpoint.status is EndpointStatus.DELETING:
            return False
        remembered = self._records.get(Autopilot, endpoint.name)
        if remembered is None or not is_of(remembered.value, endpoint, mode):
            self._begin(endpoint, fleet, mode, remembered)
            return False
        autopilot = remembered.value
        if autopilot.paused is not None:
            return False
        why = changed_by_others(autopilot, fleet)
        if why is not None:
            paused = replace(autopilot, paused=why, modified_at_s=self._clock.now_s())
            detail = {"reason": f"{why}; set the tag again to go on", "to": told_weights(weights_of(fleet))}
            self._records.commit(
                [
                    Put(paused, remembered.version),
                    self._event(endpoint.name, "AutopilotPaused", detail),
                ]
            )
            log.info("autopilot of %s is paused: %s", endpoint.name, why)
            return False
        if mode == BANDIT:
            return self._share_out(stored, remembered, live)
        judged = [judged_pair(one) for one in live]
        step = decide_autopilot(mode, endpoint, judged, self._clock.now_s())
        if step is None:
            return False
        inputs = next(one.judged for one in live if one.judged.judgement.pair == step.because.pair)
        if step.weights is None:
            self._go_back(stored, step, inputs)
        else:
            detail = {"reason": f"{step.because.decision}: {step.reason}", "verdict": step.because.replay}
            self._set_weights(stored, remembered, step.weights, detail, [inputs])
        return True

    def _begin(
        self, endpoint: Endpoint, fleet: Fleet, mode: str, remembered: Stored[Autopilot] | None
    ) -> None:
        now_s = self._clock.now_s()
        weights = weights_of(fleet)
        begun = Autopilot(
            endpoint.name, mode, endpoint.created_at_s, fleet.fleet_id, weights, now_s, now_s, now_s, now_s
        )
        detail = {"mode": mode, "to": told_weights(weights)}
        self._records.commit(
            [
                Put(begun, 0 if remembered is None else remembered.version),
                self._event(endpoint.name, "AutopilotBegan", detail),
            ]
        )

    def _event(self, endpoint: str, kind: str, detail: dict[str, Any]) -> Event:
        return Event(self._place.arn("endpoint", endpoint), kind, self._clock.now_s(), {**detail, "by": BY})

    # --- acting --------------------------------------------------------------------------------------

    def _go_back(self, stored: Stored[Endpoint], step: Step, judged: Judged) -> None:
        """Ask the update under way to be given up, as a person could."""
        endpoint, update = stored.value, stored.value.update
        assert update is not None and update.fleet is not None  # core.autopilot looked
        why = f"The autopilot asked for a rollback: {step.reason}"
        asked = replace(endpoint, update=replace(update, stop_reason=why))
        detail = {
            "from": update.fleet.config_name,
            "to": endpoint.config_name,
            "reason": why,
            "verdict": step.because.replay,
        }
        self._records.commit(
            [
                Put(asked, stored.version),
                self._event(endpoint.name, "RollbackRequested", detail),
                *self._kept(judged),
            ]
        )
        log.info("autopilot of %s rolls back: %s", endpoint.name, step.reason)

    def _set_weights(
        self,
        stored: Stored[Endpoint],
        remembered: Stored[Autopilot],
        weights: dict[str, float],
        detail: dict[str, Any],
        judged: Sequence[Judged],
    ) -> None:
        """Wish for other weights; the record says which, so that nobody else's are taken for them."""
        endpoint, now_s = stored.value, self._clock.now_s()
        assert endpoint.fleet is not None  # is_idle
        variants = tuple(
            one if one.shadow else replace(one, desired_weight=weights.get(one.name, one.desired_weight))
            for one in endpoint.fleet.variants
        )
        fleet = replace(endpoint.fleet, variants=variants)
        wished = replace(
            wish_variants(endpoint, fleet, now_s),
            status=EndpointStatus.UPDATING,
            modified_at_s=now_s,
            failure_reason=None,
        )
        asked = replace(
            remembered.value,
            weights=weights_of(fleet),
            changed_at_s=now_s,
            modified_at_s=now_s,
            waits_for=None,
        )
        told = {"from": told_variants(endpoint.fleet), "to": told_variants(fleet), **detail}
        changes: list[Put | Delete | Event] = [
            Put(wished, stored.version),
            Put(asked, remembered.version),
            self._event(endpoint.name, "WeightsRequested", told),
        ]
        for one in judged:
            changes += self._kept(one)
        self._records.commit(changes)
        log.info("autopilot of %s: weights %s, %s", endpoint.name, weights, detail["reason"])

    def _kept(self, judged: Judged) -> list[Put]:
        """Keep what a step was decided from, for as long as the endpoint is there."""
        verdict, now_s = judged.verdict(), self._clock.now_s()
        held = self._records.get(VerdictInputs, verdict.replay)
        if held is not None:
            return [] if held.value.kept else [Put(replace(held.value, kept=True), held.version)]
        inputs = judged.inputs()
        decision = str(verdict.decision)
        return [
            Put(
                VerdictInputs(
                    verdict.replay, judged.judgement.name, inputs, decision, now_s, now_s, kept=True
                ),
                0,
            )
        ]

    # --- the bandit ----------------------------------------------------------------------------------

    def _share_out(
        self, stored: Stored[Endpoint], remembered: Stored[Autopilot], live: Sequence[LiveJudgement]
    ) -> bool:
        """Give each variant the share that it deserves by what is known, seldom enough."""
        endpoint, autopilot = stored.value, remembered.value
        now_s = self._clock.now_s()
        ours = [one for one in live if one.judged.judgement.pair.kind == VARIANTS]
        if not is_idle(endpoint) or endpoint.fleet is None:
            return False
        lack = _lack(endpoint.fleet, ours)
        if lack != autopilot.waits_for:
            noted = replace(autopilot, waits_for=lack, modified_at_s=now_s)
            detail: dict[str, Any] = {"reason": lack or "it has what it needs"}
            self._records.commit(
                [
                    Put(noted, remembered.version),
                    self._event(endpoint.name, "AutopilotWaits" if lack else "AutopilotGoesOn", detail),
                ]
            )
            return False
        if lack is not None or any(one.judged.judgement.decision == "INVALID" for one in ours):
            return False
        every_s = max(ours[0].judged.policy.bandit.every_s, _AGE_PART * (now_s - autopilot.began_at_s))
        if now_s < autopilot.changed_at_s + every_s:
            return False
        weights = weights_of(endpoint.fleet)
        stages = {stage.number: stage for stage in self._stages.find(endpoint.name)}
        wished = bandit_weights(weights, [one.judged for one in ours], stages)
        total = sum(weights.values())
        if all(abs(wished[name] - weight) < LEAST_CHANGE * total for name, weight in weights.items()):
            return False
        shares = ", ".join(f"{name} {weight / total:.1%}" for name, weight in wished.items())
        detail = {
            "reason": f"top-two Thompson sampling: {shares}",
            "verdict": [one.judged.verdict().replay for one in ours],
        }
        self._set_weights(stored, remembered, wished, detail, [one.judged for one in ours])
        return True


def judged_pair(live: LiveJudgement) -> JudgedPair:
    """Bring a judgement into the form that the autopilot decides from."""
    verdict = live.judged.verdict()
    assigned = next((one for one in live.judged.evidence.checks if one.name == "assigned"), None)
    tallies = () if assigned is None else assigned.counts
    return JudgedPair(
        pair=live.judged.judgement.pair,
        decision=str(verdict.decision),
        reason=verdict.reason,
        replay=verdict.replay,
        promote_log10=verdict.promote_log10,
        ramp=live.judged.policy.ramp,
        exposed=sum(one.treatment_requests for one in tallies if one.stage == live.stage.number),
        stage_began_at_s=live.stage.started_at_s,
    )


def _lack(fleet: Fleet, live: Sequence[LiveJudgement]) -> str | None:
    """Say what the bandit lacks; None when it has all."""
    count = len(weights_of(fleet))
    if not 2 <= count <= MOST_VARIANTS:
        return f"a bandit is for 2 to {MOST_VARIANTS} production variants, not {count}"
    if len(live) != count - 1:
        return "its variants are not judged yet"
    primary = live[0].judged.policy.primary
    if primary is None or primary.measure is not Measure.RATE:
        return "a bandit needs a policy whose primary metric is a rate, e.g. conversion"
    return None


def bandit_weights(
    weights: dict[str, float], judged: Sequence[Judged], stages: Mapping[int, Stage]
) -> dict[str, float]:
    """Return the weights that a bandit gives, adding up to what they did.

    A variant whose harm is proven gets nothing; the control is what harm is measured against.
    """
    policy = judged[0].policy
    assert policy.primary is not None  # _lack
    counts: dict[str, list[StageCounts]] = {name: [] for name in weights}
    harmful = set()
    for one in judged:
        pair, tallies = one.judgement.pair, one.evidence.metrics[0].counts
        if one.judgement.decision == "ROLLBACK":
            harmful.add(pair.treatment.variant)
        control, treatment = (
            [
                StageCounts(
                    _share(stages, tally.stage, ref),
                    getattr(tally, f"{arm}_events"),
                    getattr(tally, f"{arm}_requests"),
                )
                for tally in tallies
            ]
            for arm, ref in (("control", pair.control), ("treatment", pair.treatment))
        )
        counts[pair.treatment.variant] = treatment
        # Each pair has the control's counts of the stages in which both served.
        counts[pair.control.variant] = max(counts[pair.control.variant], control, key=_requests)
    running = [name for name in weights if name not in harmful]
    total = sum(weights.values())
    if len(running) == 1:
        return {name: total if name in running else 0.0 for name in weights}
    pooled = [pooled_counts(counts[name], better=policy.primary.better) for name in running]
    shares = top_two_shares(
        [won for won, _ in pooled], [all_ for _, all_ in pooled], floor=policy.bandit.floor
    )
    given = dict(zip(running, shares, strict=True))
    return {name: total * round(given.get(name, 0.0), 4) for name in weights}


def _share(stages: Mapping[int, Stage], number: int, ref: ArmRef) -> float:
    stage = stages[number]
    return next(stage.share(arm) for arm in stage.arms if ref.is_of(arm))


def _requests(counts: Sequence[StageCounts]) -> int:
    return sum(one.requests for one in counts)
