"""What the autopilot does about verdicts: shift weights along a ramp, or take a treatment's weight away.

Owns the tag's words, the record :class:`Autopilot` (what it asked for last, so that it sees what others
changed) and :func:`decide_autopilot`, a pure function.  Refuses to act on HOLD and INVALID, to fight a
person, and to act while the endpoint is being changed by anybody.

One commit changes the endpoint's weights and the record, so a crash leaves both or neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet
from understudy.core.judgements import ROLLOUT, Pair
from understudy.core.policies import Ramp
from understudy.core.rollout_terms import FORWARD

AUTOPILOT = "autopilot"  # the tag's name without its prefix
PROMOTE, ROLLBACK, BOTH, BANDIT = "promote", "rollback", "both", "bandit"
MODES = (PROMOTE, ROLLBACK, BOTH, BANDIT)


@dataclass(frozen=True)
class Autopilot:
    """What an endpoint's autopilot remembers.

    Attributes:
        name: The endpoint's.
        mode: One of ``MODES``.
        endpoint_created_at_s: Identity of the endpoint; another one of its name begins anew.
        fleet_id: The fleet whose weights it knows; another one begins anew.
        weights: By production variant, as it found them or asked for them last.
        began_at_s: When it began, or an endpoint's new fleet did.
        changed_at_s: When it changed weights last; ``began_at_s`` before.
        paused: Why it does nothing until the tag is set again; None: it is at work.
        waits_for: What the bandit lacks; told once.
    """

    KIND: ClassVar[str] = "autopilot"
    name: str
    mode: str
    endpoint_created_at_s: float
    fleet_id: str
    weights: dict[str, float]
    began_at_s: float
    changed_at_s: float
    created_at_s: float
    modified_at_s: float
    paused: str | None = None
    waits_for: str | None = None


@dataclass(frozen=True)
class JudgedPair:
    """What is known of one pair of arms that serve now.

    Attributes:
        decision: The verdict's.
        reason: The verdict's.
        replay: The verdict's id.
        promote_log10: How much speaks for the treatment.
        ramp: The policy's.
        exposed: Randomised requests (users) of the treatment in the stage that is open.
        stage_began_at_s: When that stage began.
    """

    pair: Pair
    decision: str
    reason: str
    replay: str
    promote_log10: float
    ramp: Ramp
    exposed: int
    stage_began_at_s: float


@dataclass(frozen=True)
class Step:
    """One thing to do about a verdict.

    Attributes:
        weights: By variant, those to change; None asks the update under way to go back.
        reason: For the audit trail.
        because: The pair whose verdict it is.
    """

    weights: dict[str, float] | None
    reason: str
    because: JudgedPair


def weights_of(fleet: Fleet) -> dict[str, float]:
    """Return the wished weights of the production variants."""
    return {one.name: one.desired_weight for one in fleet.variants if not one.shadow}


def changed_by_others(autopilot: Autopilot, fleet: Fleet) -> str | None:
    """Say which weight somebody else changed since the autopilot looked last; None when nobody did."""
    for name, weight in weights_of(fleet).items():
        known = autopilot.weights.get(name)
        if known != weight:
            return f"the weight of {name} was changed to {weight:g} by hand"
    return None


def is_of(autopilot: Autopilot, endpoint: Endpoint, mode: str) -> bool:
    """Tell whether a record is about this endpoint, fleet and mode, or must begin anew."""
    return (
        autopilot.mode == mode
        and autopilot.endpoint_created_at_s == endpoint.created_at_s
        and endpoint.fleet is not None
        and autopilot.fleet_id == endpoint.fleet.fleet_id
    )


def decide_autopilot(
    mode: str, endpoint: Endpoint, judged: Sequence[JudgedPair], now_s: float
) -> Step | None:
    """Say what to do now about the verdicts of an endpoint.

    Args:
        mode: ``promote``, ``rollback`` or ``both``.
        judged: Of the arms that serve.

    Returns:
        None when there is nothing to do: that is always so on HOLD, KEEP and INVALID.
    """
    if mode in (ROLLBACK, BOTH):
        for one in judged:
            step = _roll_back(endpoint, one) if one.decision == "ROLLBACK" else None
            if step is not None:
                return step
    if mode in (PROMOTE, BOTH) and is_idle(endpoint) and endpoint.fleet is not None:
        proven = [one for one in judged if one.decision == "PROMOTE" and one.pair.kind != ROLLOUT]
        if proven:
            # Of several, the one that most speaks for: only one at a time can take the control's place.
            best = max(proven, key=lambda one: (one.promote_log10, one.pair.name))
            return _raise_share(weights_of(endpoint.fleet), best, now_s)
    return None


def is_idle(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint serves and nothing changes it."""
    return endpoint.status is EndpointStatus.IN_SERVICE and endpoint.update is None


def _roll_back(endpoint: Endpoint, one: JudgedPair) -> Step | None:
    update, treatment = endpoint.update, one.pair.treatment
    if one.pair.kind == ROLLOUT:
        if (
            update is None
            or update.kind != "update"
            or update.fleet is None
            or update.fleet.fleet_id != treatment.fleet_id
            or update.phase not in FORWARD
            or update.stop_reason is not None
        ):
            return None
        return Step(None, one.reason, one)
    if not is_idle(endpoint) or endpoint.fleet is None:
        return None
    weights = weights_of(endpoint.fleet)
    if not weights.get(treatment.variant, 0.0) > 0.0:
        return None
    wished = {**weights, treatment.variant: 0.0}
    if not any(weight > 0.0 for weight in wished.values()):
        wished[one.pair.control.variant] = weights[treatment.variant]  # somebody must answer
    return Step(_changed(weights, wished), one.reason, one)


def _raise_share(weights: Mapping[str, float], one: JudgedPair, now_s: float) -> Step | None:
    """Take the ramp's next step, when the treatment has been exposed long enough at this one."""
    control, treatment = one.pair.control.variant, one.pair.treatment.variant
    both = weights.get(control, 0.0) + weights.get(treatment, 0.0)
    if not both > 0.0:
        return None
    percent = weights.get(treatment, 0.0) / both * 100.0
    following = [step for step in one.ramp.percents if step > percent + 1e-6]
    if not following:
        return None
    if one.exposed < one.ramp.minimum_requests or now_s < one.stage_began_at_s + one.ramp.minimum_s:
        return None
    share = following[0] / 100.0
    wished = {**weights, control: both * (1.0 - share), treatment: both * share}
    return Step(_changed(weights, wished), f"{percent:.3g} % to {following[0]:g} %: {one.reason}", one)


def _changed(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: weight for name, weight in after.items() if before.get(name) != weight}


def told_weights(weights: Mapping[str, float]) -> dict[str, Any]:
    """Render weights for the audit trail."""
    return dict(sorted(weights.items()))
