"""Metrics of PutMetricData in verdicts: which data count, once, and what keeps them from being believed."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.capture.judging import Judge
from understudy.core.judgements import Judgement
from understudy.core.metrics import Datum, SeriesKey, Summary, dimensions_of
from understudy.core.policies import parse_policy
from understudy.core.ports import Query
from understudy.core.stages import Arm
from understudy.stores.evidence import SqliteEvidence
from understudy.stores.memory_assignments import MemoryAssignments
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.series import SqliteSeries

_path = Path(__file__).parents[1] / "capture" / "judging_world.py"
_spec = importlib.util.spec_from_file_location("judging_world", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["judging_world"] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)
World, NAME = _module.World, _module.NAME

METRIC: dict[str, Any] = {
    "metric": "bad_answer",
    "measure": "rate",
    "source": "cloudwatch",
    "namespace": "Shop",
    "metric_name": "BadAnswer",
    "dimensions": {"Region": "eu"},
    "resolution_s": 1,
    "delay_s": 2,
}
POLICY = {"kind": "deploy", "guardrails": [METRIC]}
BY_MINUTE = {"kind": "deploy", "guardrails": [{**METRIC, "resolution_s": 60, "delay_s": 5}]}
ARMS = (Arm("A", "c", "f1", 1.0), Arm("B", "c", "f1", 1.0))


def put(
    world: Any, arm: Arm, values: Summary, at_s: float | None = None, *, step_s: int = 1, **dimensions: str
) -> None:
    """Record as PutMetricData does."""
    named = {"EndpointName": NAME, "VariantName": arm.variant, "Region": "eu", **dimensions}
    whole_s = int(world.clock.at_s if at_s is None else at_s)
    key = SeriesKey("Shop", "BadAnswer", dimensions_of(named))
    world.series.record([Datum(key, whole_s - whole_s % step_s, "None", values)])


def ones(values: int, events: int) -> Summary:
    """Return so many values, of which so many are 1."""
    return Summary.repeated(0.0, float(values - events)) + Summary.repeated(1.0, float(events))


def second(
    world: Any,
    stage: int,
    rates: tuple[float, float],
    *,
    arms: tuple[Arm, Arm] = ARMS,
    requests: int = 40,
    unlogged: float = 0.0,
    share: float = 0.5,
    **options: Any,
) -> None:
    """Serve a second: each request has a value, of which the treatment's ones may be missing."""
    treated = sum(world.dice.random() < share for _ in range(requests))
    for arm, count, rate, lost in (
        (arms[0], requests - treated, rates[0], 0.0),
        (arms[1], treated, rates[1], unlogged),
    ):
        world.count(stage, arm, count)
        events = sum(world.dice.random() < rate for _ in range(count))
        missing = sum(world.dice.random() < lost for _ in range(events))
        if count - missing:
            put(world, arm, ones(count - missing, events - missing), **options)
    world.loop.tick()
    world.clock.at_s += 1.0


def wait(world: Any, seconds: int = 4) -> None:
    """Let the data become old enough."""
    for _ in range(seconds):
        world.loop.tick()
        world.clock.at_s += 1.0


def begin(policy: dict[str, Any] = POLICY, seed: int = 7) -> tuple[Any, int]:
    """Begin a test of two variants."""
    world = World(seed=seed)
    world.policy(policy)
    return world, world.stage(*ARMS)


def row(world: Any) -> dict[str, Any]:
    """Return the metric's evidence."""
    found: dict[str, Any] = world.verdict()["evidence"][0]
    return found


def counted(world: Any) -> int:
    """Return the values that are counted of both arms."""
    return sum(one["requests"] for one in row(world)["stages"])


# --- what is decided -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "verdict"), [((0.02, 0.02), "PROMOTE"), ((0.02, 0.08), "ROLLBACK"), ((0.02, 0.002), "PROMOTE")]
)
def test_what_is_proven_of_a_custom_metric(rates: tuple[float, float], verdict: str) -> None:
    world, stage = begin()
    for _ in range(1500):
        second(world, stage, rates)
        if world.judgement().decision != "HOLD":
            break
    told = world.verdict()
    assert told["verdict"] == verdict and "bad_answer" in told["reason"]
    if verdict == "ROLLBACK":
        assert world.metric("HarmEvidenceLog10") == []  # of variant A, the control
        assert told["evidence"][0]["E_harm"] >= 100


def test_every_value_is_counted_once_by_its_time() -> None:
    """Restarts between any two seconds, and data that come late, lose and double nothing."""
    world, stage = begin()
    total = events = 0
    dice = random.Random(3)
    before = -1.0
    for _ in range(150):
        late = dice.choice((0, 0, 1, 30, 100))
        some, bad = dice.randint(0, 3), 0
        for arm in ARMS:
            bad = dice.randint(0, some)
            put(world, arm, ones(some, bad), max(_module.NOW_S, world.clock.at_s - late))
            world.count(stage, arm, some)
            total, events = total + some, events + bad
        world.loop.tick()
        if dice.random() < 0.3:
            world.restart()
        world.clock.at_s += 1.0
        counts = counted(world)
        assert before <= counts <= total
        before = counts
    wait(world)
    assert counted(world) == total
    assert sum(row(world)["events"].values()) == events


def test_a_second_in_which_shares_change_belongs_to_no_stage() -> None:
    world, stage = begin()
    world.clock.at_s += 0.5
    for _ in range(5):
        second(world, stage, (0.1, 0.1))
    # At half past the second: what comes within it is of either stage.
    arms = (Arm("A", "c", "f1", 3.0), Arm("B", "c", "f1", 1.0))
    put(world, ARMS[0], ones(20, 20))
    stage = world.stage(*arms)
    for arm in arms:
        put(world, arm, ones(20, 20))
    world.clock.at_s += 1.0
    for _ in range(5):
        second(world, stage, (0.1, 0.1), arms=arms, share=0.25)
    wait(world)
    stages = row(world)["stages"]
    assert [(one["pi"], one["requests"]) for one in stages] == [(0.5, 200), (0.25, 200)]


def test_minutes_count_whole_and_when_they_are_over() -> None:
    """StorageResolution 60 keeps minutes: the first is the endpoint's own, one with a change is left out."""
    world = World()
    world.clock.at_s = _module.NOW_S // 60 * 60 + 20.0
    stage = world.stage(*ARMS)
    wait(world, 3)
    world.policy(BY_MINUTE)
    for _ in range(37):
        second(world, stage, (0.1, 0.1), step_s=60)
    assert counted(world) == 0 and "minute" in world.verdict()["hints"][0]
    wait(world, 7)
    assert counted(world) == 37 * 40
    arms = (Arm("A", "c", "f1", 3.0), Arm("B", "c", "f1", 1.0))
    stage = world.stage(*arms)
    for _ in range(53):
        second(world, stage, (0.9, 0.9), arms=arms, share=0.25, step_s=60)
    second(world, stage, (0.1, 0.1), arms=arms, share=0.25, step_s=60)
    wait(world, 70)
    assert [(one["pi"], one["requests"]) for one in row(world)["stages"]] == [(0.5, 37 * 40), (0.25, 40)]


def test_another_policy_counts_what_comes_after_it() -> None:
    world, stage = begin()
    for _ in range(10):
        second(world, stage, (0.1, 0.1))
    wait(world)
    assert counted(world) == 400
    world.policy({"kind": "deploy", "guardrails": [{**METRIC, "margin": 1.5}]})
    for _ in range(10):
        second(world, stage, (0.1, 0.1))
    wait(world)
    assert counted(world) == 400


def test_data_that_come_after_hours_are_left_out_and_nothing_is_counted_again() -> None:
    world, stage = begin()
    began_s = world.clock.at_s
    for _ in range(5):
        second(world, stage, (0.1, 0.1))
    for _ in range(40):  # long after: the window moves on with what comes
        world.clock.at_s += 300.0
        second(world, stage, (0.1, 0.1))
        world.restart()
    wait(world)
    assert counted(world) == 45 * 40
    put(world, ARMS[0], ones(7, 7), began_s + 2.0)
    put(world, ARMS[0], ones(9, 9), world.clock.at_s - 600.0)
    wait(world)
    assert counted(world) == 45 * 40 + 9


def test_two_fleets_are_told_apart_by_their_configurations() -> None:
    world = World()
    world.policy(POLICY)
    blue, green = Arm("A", "blue", "f1", 9.0), Arm("A", "green", "f2", 1.0)
    world.stage(blue)
    wait(world)
    stage = world.stage(blue, green)
    for _ in range(60):
        for arm, count, bad in ((blue, 18, 0), (green, 2, 1)):
            world.count(stage, arm, count)
            put(world, arm, ones(count, bad), EndpointConfigName=arm.config_name)
        world.loop.tick()
        world.clock.at_s += 1.0
    told = world.verdict()
    assert told["verdict"] == "ROLLBACK" and told["evidence"][0]["events"]["control"] == 0
    assert world.metric("HarmEvidenceLog10", "green")[-1] >= 2.0


# --- what is not believed --------------------------------------------------------------------------------


def test_an_arm_whose_bad_requests_have_no_value_is_never_promoted() -> None:
    for seed in range(3):
        world, stage = begin(seed=seed)
        for _ in range(250):
            second(world, stage, (0.1, 0.3), unlogged=1.0)
            decision = world.judgement().decision
            assert decision in ("HOLD", "INVALID")
            if decision == "INVALID":
                break
        told = world.verdict()
        assert told["verdict"] == "INVALID" and "sample ratio" in told["reason"]


def test_values_of_one_arm_that_are_late_are_waited_for() -> None:
    world, stage = begin()
    for _ in range(20):
        second(world, stage, (0.02, 0.02), requests=20)
    wait(world)
    world.count(stage, ARMS[1], 15)
    world.count(stage, ARMS[0], 15)
    put(world, ARMS[0], ones(15, 0))
    wait(world, 2)
    assert world.verdict()["verdict"] == "HOLD"
    for _ in range(8):
        world.count(stage, ARMS[1], 10)
        world.count(stage, ARMS[0], 10)
        put(world, ARMS[0], ones(10, 0))
        wait(world, 1)
    wait(world)
    told = world.verdict()
    assert told["verdict"] == "HOLD" and "missing" in told["reason"]
    put(world, ARMS[1], ones(95, 0))
    wait(world)
    assert "missing" not in world.verdict()["reason"]


def test_several_values_of_a_request_are_not_independent() -> None:
    world, stage = begin()
    for _ in range(30):
        for arm in ARMS:
            world.count(stage, arm, 10)
            put(world, arm, ones(50, 25 if arm is ARMS[1] else 5))
        wait(world, 1)
    told = world.verdict()
    assert told["verdict"] == "HOLD" and "independent" in told["reason"]
    assert world.judgement().decision == "HOLD"


@pytest.mark.parametrize(
    "values",
    [
        Summary.of([0.5]),
        Summary.of([0.0, 1.0, 3.0]),
        Summary.of([-1.0]),
        Summary(2.5, 1.0, 0.0, 1.0),
        Summary(10.0, 12.0, 0.0, 1.0),
    ],
)
def test_other_numbers_than_0_and_1_make_it_invalid(values: Summary) -> None:
    world, stage = begin()
    second(world, stage, (0.1, 0.1))
    put(world, ARMS[1], values)
    wait(world)
    told = world.verdict()
    assert told["verdict"] == "INVALID" and "not 0 or 1" in told["reason"]
    assert told["validity"]["unfit_values"] > 0


def test_users_are_not_named_by_data() -> None:
    world = World()
    world.policy(POLICY)
    stage = world.stage(*ARMS, sticky="session-id")
    for _ in range(10):
        second(world, stage, (0.0, 0.5))
    wait(world)
    told = world.verdict()
    assert told["verdict"] == "HOLD" and counted(world) == 0 and "units" in told["hints"][0]


def test_the_metric_that_is_missing_is_named() -> None:
    world, stage = begin()
    for arm in ARMS:
        world.count(stage, arm, 10)
    wait(world)
    (hint,) = world.verdict()["hints"]
    assert "BadAnswer in Shop" in hint and "VariantName=A" in hint and "Region=eu" in hint


# --- on disk ---------------------------------------------------------------------------------------------


def test_seconds_and_minutes_on_disk_come_to_the_same(tmp_path: Path) -> None:
    """Totals are read from minutes and, at the edges of stages, from seconds."""
    world, _ = begin()
    world.log, world.series = SqliteEvidence(tmp_path / "e.db"), SqliteSeries(tmp_path / "s.db")
    judge = Judge(world.log, world.log, MemoryAssignments(), MemoryOutcomes(), world.series)
    world.clock.at_s += 0.5
    world.restart()
    stage = world.stage(*ARMS)
    for at in range(330):
        world.clock.at_s += 1.0
        for arm in ARMS:
            put(world, arm, ones(2, 1))
            world.count(stage, arm, 2)
        if at % 50 == 0:
            world.loop.tick()
        if at == 200:
            stage = world.stage(ARMS[0], Arm("B", "c", "f1", 3.0))
    wait(world)
    # One second is of two stages.
    assert counted(world) == (330 - 1) * 4
    (stored,) = world.records.find(Judgement, Query())
    begun = judge.begin(stored.value.pair, parse_policy(POLICY), world.clock.at_s)
    assert begun is not None
    again, _ = judge.catch_up(begun, world.clock.at_s)
    assert sum(one.control_requests for one in again.evidence.metrics[0].counts) == (330 - 1) * 2
