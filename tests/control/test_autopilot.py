"""The autopilot over made-up traffic: it follows verdicts along a ramp, and never a person's hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from understudy.analysis.allocation import StageCounts, pooled_counts
from understudy.control.autopilot import AutopilotLoop
from understudy.core.autopilot import Autopilot
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.judgements import Judgement, VerdictInputs
from understudy.core.names import Place
from understudy.core.ports import Delete, Put, Query
from understudy.core.stages import Arm

_path = Path(__file__).parents[1] / "capture" / "judging_world.py"
_spec = importlib.util.spec_from_file_location("judging_world_of_autopilot", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["judging_world_of_autopilot"] = _module
_spec.loader.exec_module(_module)
NAME: str = _module.NAME
ERRORS = {"kind": "deploy", "minimum_requests": 50, "guardrails": [{"metric": "error_rate"}]}


class Flight:
    """An endpoint with an autopilot; weights that it wishes are carried out at once."""

    def __init__(self, mode: str, weights: Sequence[float], policy: dict[str, Any], seed: int = 5) -> None:
        self.world = _module.World(seed=seed)
        self.records = self.world.records
        self.world.policy(policy)
        variants = tuple(
            FleetVariant(name, name, (), desired_weight=weight, current_weight=weight)
            for name, weight in zip("ABCD", weights, strict=False)
        )
        self.save(fleet=Fleet("f1", "c", variants), extensions={"autopilot": mode})
        self.restart()
        self.serve()

    def restart(self) -> None:
        self.world.restart()
        self.pilot = AutopilotLoop(self.records, self.world.log, self.world.clock, Place(), lambda: None)

    def save(self, **members: Any) -> None:
        stored = self.records.get(Endpoint, NAME)
        self.records.commit([Put(replace(stored.value, **members), stored.version)])

    def serve(self) -> None:
        """What the endpoint loop does about a wish: routers get the weights, in a new stage."""
        endpoint = self.records.get(Endpoint, NAME).value
        self.arms = tuple(Arm(one.name, "c", "f1", one.desired_weight) for one in endpoint.fleet.variants)
        self.stage = self.world.stage(*self.arms)
        self.save(status=EndpointStatus.IN_SERVICE, update=None)

    def second(self, rates: Sequence[float], requests: int = 20) -> None:
        dice = self.world.dice
        weights = [arm.weight for arm in self.arms]
        given = dice.choices(range(len(self.arms)), weights, k=requests)
        for at, arm in enumerate(self.arms):
            count = given.count(at)
            if count:
                failed = sum(dice.random() < rates[at] for _ in range(count))
                self.world.count(self.stage, arm, count, failed)
        self.world.loop.tick()
        self.pilot.tick(self.world.loop.live())
        self.world.clock.at_s += 1.0
        if self.records.get(Endpoint, NAME).value.update is not None:
            self.serve()

    def percent(self, at: int = 1) -> float:
        weights = [arm.weight for arm in self.arms]
        return 100.0 * weights[at] / sum(weights)

    def events(self, *kinds: str) -> list[Any]:
        return [event for event in self.records.events(None, 0, 1000) if event.kind in kinds]


@pytest.mark.parametrize("killed", [False, True])
def test_a_proven_variant_climbs_the_ramp(killed: bool) -> None:
    """Each step needs PROMOTE and its exposure; a controller killed every second changes nothing of it."""
    flight = Flight("promote", (95.0, 5.0), {**ERRORS, "ramp": [5, 10, 25, 50, 100]})
    seen = [flight.percent()]
    for _ in range(4000):
        flight.second((0.05, 0.01))
        if killed:
            flight.restart()
        if flight.percent() != seen[-1]:
            seen.append(flight.percent())
        if flight.percent() == 100.0:
            break
    assert seen == pytest.approx([5.0, 10.0, 25.0, 50.0, 100.0])
    steps = flight.events("WeightsRequested")
    assert len(steps) == 4
    for step in steps:
        assert step.detail["by"] == "autopilot" and step.detail["reason"].startswith("PROMOTE: ")
        kept = flight.records.get(VerdictInputs, step.detail["verdict"])
        assert kept is not None and kept.value.kept and kept.value.decision == "PROMOTE"
    assert steps[-1].detail["to"]["A"]["weight"] == 0.0
    for before, after in pairwise(steps):
        assert after.at_s - before.at_s >= 10.0


def test_each_step_waits_for_its_exposure() -> None:
    ramp = {"percents": [50, 60, 100], "minimum_requests": 400, "minimum_s": 0}
    flight = Flight("both", (1.0, 1.0), {**ERRORS, "ramp": ramp})
    while flight.percent() < 100.0:
        flight.second((0.10, 0.01))
    (judgement,) = [one.value for one in flight.records.find(Judgement, Query())]
    (assigned,) = [one for one in judgement.evidence["checks"] if one[0] == "assigned"]
    first, second = assigned[1][:2]
    assert first[5] >= 400 and second[5] >= 400


@pytest.mark.parametrize("mode", ["rollback", "both"])
def test_harm_takes_the_weight_away_once(mode: str) -> None:
    flight = Flight(mode, (9.0, 1.0), ERRORS)
    for _ in range(200):
        flight.second((0.01, 0.3))
    assert flight.percent() == 0.0
    (step,) = flight.events("WeightsRequested")
    assert step.detail["reason"].startswith("ROLLBACK: ") and step.detail["to"]["A"]["weight"] == 9.0
    assert not flight.events("AutopilotPaused")


def test_modes_act_on_their_own_verdicts_only() -> None:
    for mode, rates in (("promote", (0.01, 0.3)), ("rollback", (0.10, 0.01))):
        flight = Flight(mode, (1.0, 1.0), ERRORS)
        for _ in range(150):
            flight.second(rates)
        (judgement,) = [one.value for one in flight.records.find(Judgement, Query())]
        assert judgement.decision in ("PROMOTE", "ROLLBACK")
        assert not flight.events("WeightsRequested")


def test_nothing_is_done_on_hold_or_invalid() -> None:
    flight = Flight("both", (1.0, 1.0), ERRORS)
    for _ in range(100):
        flight.second((0.001, 0.001), requests=1)
    assert flight.world.judgement().decision == "HOLD"
    for _ in range(200):  # the treatment's requests are not all logged
        flight.world.count(flight.stage, flight.arms[0], 20)
        flight.world.count(flight.stage, flight.arms[1], 10)
        flight.second((0.001, 0.001), requests=1)
    assert flight.world.judgement().decision == "INVALID"
    assert not flight.events("WeightsRequested")


def test_a_weight_set_by_hand_pauses_it_until_the_tag_is_set_again() -> None:
    flight = Flight("both", (9.0, 1.0), ERRORS)
    for _ in range(5):
        flight.second((0.01, 0.01))
    fleet = flight.records.get(Endpoint, NAME).value.fleet
    variants = tuple(replace(one, desired_weight=5.0) for one in fleet.variants)
    flight.save(fleet=replace(fleet, variants=variants))
    flight.serve()
    for _ in range(100):
        flight.second((0.01, 0.4))
        flight.restart()
    assert flight.world.judgement().decision == "ROLLBACK"
    assert flight.percent() == 50.0 and not flight.events("WeightsRequested")
    (paused,) = flight.events("AutopilotPaused")
    assert "by hand" in paused.detail["reason"]
    remembered = flight.records.get(Autopilot, NAME)
    flight.records.commit([Delete(Autopilot, NAME, remembered.version)])  # as AddTags does
    for _ in range(5):
        flight.second((0.01, 0.4))
    assert flight.percent() == 0.0
    assert [one.detail["mode"] for one in flight.events("AutopilotBegan")] == ["both", "both"]


def test_a_harmful_update_is_asked_to_go_back_once() -> None:
    flight = Flight("rollback", (1.0,), ERRORS)
    green = Fleet("f2", "c2", (FleetVariant("A", "new", ()),))
    update = PendingUpdate("update", 0.0, green, phase="baking", share=0.5)
    flight.save(update=update, status=EndpointStatus.UPDATING)
    arms = (Arm("A", "c", "f1", 0.5), Arm("A", "c2", "f2", 0.5))
    stage = flight.world.stage(*arms)
    for _ in range(60):
        flight.world.second(stage, arms, 20, (0.01, 0.3))
        flight.pilot.tick(flight.world.loop.live())
    (asked,) = flight.events("RollbackRequested")
    assert (asked.detail["from"], asked.detail["to"]) == ("c2", "c")
    assert asked.detail["verdict"] and asked.detail["by"] == "autopilot"
    assert "autopilot" in flight.records.get(Endpoint, NAME).value.update.stop_reason


def test_without_the_tag_nothing_is_done_or_remembered() -> None:
    flight = Flight("both", (9.0, 1.0), ERRORS)
    flight.second((0.01, 0.01))
    flight.save(extensions={})
    for _ in range(100):
        flight.second((0.01, 0.4))
    assert flight.percent() == 10.0
    assert flight.records.get(Autopilot, NAME) is None
    assert len(flight.events("AutopilotEnded")) == 1


# --- the bandit --------------------------------------------------------------------------------------

CLICKS = {
    "kind": "experiment",
    "primary": {"metric": "error_rate", "mde": 1.3},
    "guardrails": [{"metric": "latency_p99"}],
    "bandit": {"every_s": 20, "floor": 0.05},
}


def test_a_bandit_finds_the_best_of_three_in_few_stages() -> None:
    flight = Flight("bandit", (1.0, 1.0, 1.0), CLICKS)
    for _ in range(300):
        flight.second((0.20, 0.05, 0.20))
    assert flight.percent(1) > 40.0 and min(flight.percent(0), flight.percent(2)) >= 4.9
    steps = flight.events("WeightsRequested")
    assert 1 <= len(steps) <= 30
    assert all(len(step.detail["verdict"]) == 2 for step in steps)
    changed = [step.at_s for step in steps]
    assert all(later - earlier >= 20.0 for earlier, later in pairwise(changed))


def test_a_bandit_without_a_rate_says_what_it_lacks_once() -> None:
    flight = Flight("bandit", (1.0, 1.0), ERRORS)
    for _ in range(50):
        flight.second((0.2, 0.05))
    (waits,) = flight.events("AutopilotWaits")
    assert "primary metric is a rate" in waits.detail["reason"]
    assert flight.percent() == 50.0


def test_pooled_counts_are_not_misled_by_when_a_variant_had_its_traffic() -> None:
    """Both fail twice as often in the second stage; one had nearly all of its requests there."""
    early = [StageCounts(0.9, 90, 9000), StageCounts(0.1, 20, 1000)]
    late = [StageCounts(0.1, 10, 1000), StageCounts(0.9, 180, 9000)]
    one, other = (pooled_counts(stages, better="lower") for stages in (early, late))
    assert one[0] / one[1] == pytest.approx(other[0] / other[1], abs=1e-3) == pytest.approx(0.985, abs=1e-3)
    assert pooled_counts([]) == (0, 0)


def test_a_judgement_that_cannot_be_read_stops_no_other_and_is_counted_again() -> None:
    flight = Flight("both", (1.0, 1.0, 1.0), ERRORS)
    for _ in range(30):
        flight.second((0.05, 0.05, 0.05))
    broken, sound = flight.records.find(Judgement, Query())
    flight.records.commit([Put(replace(broken.value, evidence={"metrics": 7}), broken.version)])
    flight.restart()
    flight.second((0.05, 0.05, 0.05))
    again, other = flight.records.find(Judgement, Query())
    assert other.value.requests > sound.value.requests
    assert again.value.requests >= broken.value.requests
