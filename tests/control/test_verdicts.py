"""The loop that judges, over made-up traffic: what it decides, what it keeps, what makes it invalid."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.core.judgements import Judgement
from understudy.core.ports import Delete, Query
from understudy.core.stages import Arm, Source
from understudy.operations.understudy.calls import OwnRequest
from understudy.operations.understudy.verdicts import post_plan, post_verdict, put_policy, replay

_path = Path(__file__).parents[1] / "capture" / "judging_world.py"
_spec = importlib.util.spec_from_file_location("judging_world", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["judging_world"] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)
World, BLUE, GREEN, NAME = (
    _module.World, _module.BLUE, _module.GREEN, _module.NAME
)  # fmt: skip
ERRORS_ONLY: dict[str, Any] = _module.ERRORS_ONLY
CANARY = (BLUE, GREEN)


def canary(world: Any) -> int:
    """A canary of 10 % begins after some time of the old fleet alone."""
    before = world.stage(BLUE)
    for _ in range(60):
        world.count(before, BLUE, 10)
        world.clock.at_s += 1.0
    number: int = world.stage(*CANARY)
    return number


def test_a_broken_canary_is_rolled_back_within_40_seconds() -> None:
    seconds, failed = [], []
    for seed in range(15):
        world = World(seed=seed)
        stage = canary(world)
        began_s = world.clock.at_s
        while not world.records.find(Judgement, Query(status="ROLLBACK")):
            world.second(stage, CANARY, 10, (0.01, 0.20))
            assert world.clock.at_s < began_s + 300.0
        seconds.append(world.clock.at_s - began_s)
        failed.append(next(one["events"]["treatment"] for one in world.verdict()["evidence"]))
        told = world.verdict()
        assert told["verdict"] == "ROLLBACK" and told["decided_at"] is not None
        assert world.metric("HarmEvidenceLog10", "green")[-1] >= 2.0
    assert sorted(seconds)[7] <= 40.0 and sorted(failed)[7] <= 6


def test_an_equal_canary_is_promoted_in_time_and_events_tell() -> None:
    world = World(seed=9)
    stage = canary(world)
    world.policy(ERRORS_ONLY)
    for _ in range(1500):
        world.second(stage, CANARY, 20, (0.01, 0.01))
        if world.judgement().decision == "PROMOTE":
            break
    assert world.judgement().decision == "PROMOTE"
    events = [event for event in world.records.events(None, 0, 100) if event.kind == "VerdictChanged"]
    assert [(one.detail["from"], one.detail["to"]) for one in events] == [("HOLD", "PROMOTE")]
    assert events[0].detail["treatment"] == "A/green/f2"


def test_three_requests_a_minute_stay_on_hold() -> None:
    world = World()
    stage = canary(world)
    for minute in range(60):
        world.count(stage, BLUE, 3)
        if minute % 3 == 0:
            world.count(stage, GREEN, 1)
        world.loop.tick()
        world.clock.at_s += 60.0
    told = world.verdict()
    assert told["verdict"] == "HOLD" and told["decided_at"] is None
    assert "ship" in told["would_change"]


def test_targeted_requests_are_excluded_and_counted() -> None:
    """Hard cases sent to one arm by name decide nothing."""
    world = World()
    world.policy(ERRORS_ONLY)
    stage = canary(world)
    for _ in range(120):
        world.count(stage, GREEN, 5, 5, source=Source.TARGET)
        world.second(stage, CANARY, 10, (0.01, 0.01))
    told = world.verdict()
    assert told["verdict"] == "HOLD"
    assert told["validity"]["excluded_targeted"] == 600
    assert told["requests"] == 1200


def test_an_arm_whose_failures_are_not_counted_is_invalid() -> None:
    world = World()
    world.policy(ERRORS_ONLY)
    stage = world.stage(Arm("A", "blue", "f1", 1.0), Arm("A", "green", "f2", 1.0))
    arms = (Arm("A", "blue", "f1", 1.0), Arm("A", "green", "f2", 1.0))
    for _ in range(400):
        treated = sum(world.dice.random() < 0.5 for _ in range(20))
        unlogged = sum(world.dice.random() < 0.2 for _ in range(treated))
        world.count(stage, arms[0], 20 - treated)
        world.count(stage, arms[1], treated - unlogged)
        world.loop.tick()
        world.clock.at_s += 1.0
    told = world.verdict()
    assert told["verdict"] == "INVALID" and "sample ratio" in told["reason"]


def test_a_redeploy_of_one_arm_begins_anew() -> None:
    """Both variants get a new fleet in the middle of the test."""
    world = World()
    world.policy(ERRORS_ONLY)
    arms = (Arm("A", "c1", "f1", 1.0), Arm("B", "c1", "f1", 1.0))
    stage = world.stage(*arms)
    for _ in range(300):
        world.second(stage, arms, 10, (0.02, 0.01))
    before = world.verdict()
    arms = (Arm("A", "c2", "f2", 1.0), Arm("B", "c2", "f2", 1.0))
    stage = world.stage(*arms)
    world.second(stage, arms, 10, (0.0, 0.0))
    after = world.verdict()
    assert before["requests"] == 3000 and after["requests"] == 10
    assert after["verdict"] == "HOLD" and after["treatment"]["config"] == "c2"


def test_a_ramp_is_kept_by_stage() -> None:
    """The seed's trap: weights shift while the base rate rises; nothing is promoted, nothing rolled back."""
    world = World()
    world.policy({**ERRORS_ONLY, "guardrails": [{"metric": "error_rate", "every_request": False}]})
    for step, weight in enumerate((1.0, 3.0, 9.0)):
        arms = (Arm("A", "c", "f1", 1.0), Arm("B", "c", "f1", weight))
        stage = world.stage(*arms)
        for _ in range(200):
            world.second(stage, arms, 10, (0.01 * 2**step,) * 2)
    told = world.verdict()
    assert told["verdict"] in ("HOLD", "PROMOTE")
    assert [round(one["pi"], 2) for one in told["evidence"][0]["stages"]] == [0.5, 0.75, 0.9]
    assert sum(one["requests"] for one in told["evidence"][0]["stages"]) == 6000


def test_a_killed_controller_counts_nothing_twice() -> None:
    """With a restart after every second, evidence, verdict and replay are the same to the bit."""
    worlds = [World(seed=3), World(seed=3)]
    for world in worlds:
        world.policy(ERRORS_ONLY)
        stage = canary(world)
        for second in range(80):
            world.second(stage, CANARY, 10, (0.02, 0.10))
            if world is worlds[1]:
                world.restart()
                if second % 7 == 0:
                    world.loop.tick()
    steady, restarted = (world.judgement() for world in worlds)
    assert restarted.evidence == steady.evidence
    assert restarted.requests == steady.requests == 800
    assert worlds[0].verdict()["replay"] == worlds[1].verdict()["replay"]


def test_evidence_of_harm_never_falls() -> None:
    world = World()
    stage = canary(world)
    for second in range(120):
        world.second(stage, CANARY, 10, (0.01, 0.3 if second < 30 else 0.0))
    harm = world.metric("HarmEvidenceLog10")
    assert harm == sorted(harm) and harm[-1] > 0.5
    assert world.metric("HarmEvidenceLog10", "green") == harm
    assert len(world.metric("PromoteEvidenceLog10", "green")) == len(harm)


def test_effects_are_published_with_their_intervals() -> None:
    world = World()
    stage = canary(world)
    for _ in range(60):
        world.second(stage, CANARY, 10, (0.01, 0.3))
    told = {
        name: world.metric(name, "green", Metric="error_rate")
        for name in ("Effect", "EffectLow", "EffectHigh")
    }
    (row,) = (one for one in world.verdict()["evidence"] if one["metric"] == "error_rate")
    assert told["Effect"][-1] == row["effect"]
    assert [told["EffectLow"][-1], told["EffectHigh"][-1]] == row["interval"]
    assert len(told["EffectLow"]) <= len(world.metric("HarmEvidenceLog10"))


def test_what_a_verdict_was_decided_from_decides_it_again() -> None:
    world = World()
    stage = canary(world)
    for _ in range(60):
        world.second(stage, CANARY, 10, (0.01, 0.30))
    told = world.verdict()
    replay_id = told["replay"].removeprefix("verdict replay ")
    again = replay(world.services(), OwnRequest({"replay": replay_id}))
    assert again["identical"]
    same = set(again) & set(told)
    assert {name: again[name] for name in same} == {name: told[name] for name in same}
    # The decision's own inputs are kept with its event, even if nobody ever asked.
    (event,) = [one for one in world.records.events(None, 0, 100) if one.kind == "VerdictChanged"]
    assert replay(world.services(), OwnRequest({"replay": event.detail["replay"]}))["identical"]
    assert json.loads(json.dumps(told)) == told


def test_a_changed_policy_begins_its_evidence_anew() -> None:
    world = World()
    world.policy(ERRORS_ONLY)
    stage = canary(world)
    for _ in range(100):
        world.second(stage, CANARY, 10, (0.0, 0.0))
    put_policy(
        world.services(),
        OwnRequest({"endpoint": NAME}, body={"guardrails": [{"metric": "error_rate", "margin": 5.0}]}),
    )
    world.second(stage, CANARY, 10, (0.0, 0.0))
    told = world.verdict()
    assert told["requests"] == 10 and told["verdict"] == "HOLD"


def test_another_policy_can_be_asked_about_everything_that_was_logged() -> None:
    world = World()
    stage = canary(world)
    for _ in range(100):
        world.second(stage, CANARY, 10, (0.01, 0.01))
    told = post_verdict(world.services(), OwnRequest({"endpoint": NAME}, body={"policy": ERRORS_ONLY}))
    assert told["ad_hoc"] and told["requests"] == 1000
    assert [one["metric"] for one in told["evidence"]] == ["error_rate"]
    live = next(one for one in world.verdict()["evidence"] if one["metric"] == "error_rate")
    assert told["evidence"][0]["events"] == live["events"]


def test_latency_thresholds_come_from_answers_that_are_not_counted() -> None:
    world = World()
    stage = canary(world)  # 600 answers of the control alone
    for _ in range(400):
        world.second(stage, CANARY, 20, (0.0, 0.0))
    row = next(one for one in world.verdict()["evidence"] if one["metric"] == "latency_p99")
    assert 2000 < row["threshold_us"] < 8000
    counted = sum(one["requests"] for one in row["stages"])
    assert 0 < counted <= 400 * 20 - 60 * 20  # the warm-up of a minute is left out


def test_a_rollout_that_ended_is_told_until_the_next() -> None:
    world = World()
    world.policy(ERRORS_ONLY)
    stage = canary(world)
    for _ in range(60):
        world.second(stage, CANARY, 10, (0.01, 0.5))
    world.stage(BLUE)  # rolled back
    for _ in range(100):
        world.loop.tick()
        world.clock.at_s += 1.0
    told = world.verdict()
    assert told["verdict"] == "ROLLBACK" and told["ended"]
    published = len(world.metric("HarmEvidenceLog10"))
    third = (BLUE, Arm("A", "better", "f3", 1.0))
    stage = world.stage(*third)
    world.second(stage, third, 10, (0.0, 0.0))
    told = world.verdict()
    assert told["verdict"] == "HOLD" and not told["ended"] and told["treatment"]["config"] == "better"
    assert len(world.metric("HarmEvidenceLog10")) == published + 1


def test_judgements_go_with_their_endpoint() -> None:
    world = World()
    stage = canary(world)
    world.second(stage, CANARY, 10, (0.0, 0.0))
    world.verdict()
    world.records.commit([Delete(_module.Endpoint, NAME, 1)])
    world.log.end(NAME, world.clock.at_s)
    world.loop.tick()
    assert world.records.find(Judgement, Query()) == []


# --- users and outcomes ------------------------------------------------------------------------------

CONVERSION = {
    "kind": "experiment",
    "primary": {"metric": "conversion", "mde": 1.3},
    "guardrails": [{"metric": "error_rate"}],
    "label_window_s": 60,
    "minimum_requests": 100,
}


def report(world: Any, name: str, ids: list[str], subject: str = "id") -> None:
    from understudy.core.outcomes import Outcome

    if ids:
        reports = [Outcome(one, name, 1.0, world.clock.at_s, subject=subject) for one in ids]
        world.outcomes.add(NAME, reports, world.clock.at_s)


def converting(world: Any, rates: tuple[float, float], delays_s: tuple[float, float], seconds: int) -> None:
    """Two variants, half and half; each request converts with its arm's rate and delay."""
    arms = (Arm("A", "c", "f1", 1.0), Arm("B", "c", "f1", 1.0))
    stage = world.stage(*arms)
    coming: list[tuple[float, str]] = []
    for second in range(seconds):
        for place in range(20):
            treated = world.dice.random() < 0.5
            id_ = f"{second}-{place}"
            world.expose(stage, arms[treated], id_)
            world.count(stage, arms[treated], 1)
            if world.dice.random() < rates[treated]:
                coming.append((world.clock.at_s + world.dice.expovariate(1 / delays_s[treated]), id_))
        arrived = [id_ for at_s, id_ in coming if at_s <= world.clock.at_s]
        coming = [one for one in coming if one[0] > world.clock.at_s]
        report(world, "conversion", arrived)
        world.loop.tick()
        world.clock.at_s += 1.0


def test_a_better_variant_is_promoted_on_matured_outcomes() -> None:
    world = World()
    world.policy(CONVERSION)
    converting(world, (0.2, 0.35), (5.0, 5.0), 300)
    told = world.verdict()
    row = told["evidence"][0]
    assert row["metric"] == "conversion" and row["effect"] > 1.3
    exposures = sum(one["requests"] for one in row["stages"])
    assert exposures == pytest.approx((300 - 61) * 20, abs=40)  # the last minute waits for its labels
    assert told["control"]["variant"] == "A" and told["kind"] == "variants"


def test_labels_that_come_faster_in_one_arm_promote_nothing() -> None:
    promoted = 0
    for seed in range(4):
        world = World(seed=seed)
        world.policy(CONVERSION)
        converting(world, (0.2, 0.2), (20.0, 5.0), 200)
        promoted += world.judgement().decision == "PROMOTE"
    assert promoted == 0


def test_outcomes_without_an_assignment_log_are_hinted_at() -> None:
    world = World()
    world.policy(CONVERSION)
    arms = (Arm("A", "c", "f1", 1.0), Arm("B", "c", "f1", 1.0))
    stage = world.stage(*arms)
    report(world, "conversion", ["1", "2"])
    world.second(stage, arms, 10, (0.0, 0.0))
    (hint,) = world.verdict()["hints"]
    assert "outcomes of conversion come" in hint and "understudy:assignments=all" in hint
    world.policy(ERRORS_ONLY)
    world.second(stage, arms, 10, (0.0, 0.0))
    assert world.verdict()["hints"] == []


def test_users_count_once_on_a_sticky_endpoint() -> None:
    """One user with very many failing requests is one user."""
    worlds = [World(seed=1), World(seed=1)]
    arms = (Arm("A", "c", "f1", 1.0), Arm("B", "c", "f1", 1.0))
    for world in worlds:
        world.policy(ERRORS_ONLY)
        stage = world.stage(*arms, sticky="session-id")
        for second in range(60):
            for user in range(5):
                treated = world.dice.random() < 0.5
                world.expose(stage, arms[treated], f"{second}-{user}", unit=f"user-{second}-{user}")
                world.count(stage, arms[treated], 1, source=Source.UNIT)
            for place in range(20):
                world.expose(stage, arms[1], f"bot-{second}-{place}", unit="bot", status=500)
            world.count(stage, arms[1], 20, 20, source=Source.UNIT)
            world.loop.tick()
            if world is worlds[1] and second % 9 == 0:
                world.restart()
            world.clock.at_s += 1.0
        told = world.verdict()
        assert told["verdict"] == "HOLD"
        assert told["evidence"][0]["events"] == {"control": 0, "treatment": 1}
        assert sum(one["requests"] for one in told["evidence"][0]["stages"]) == 301
    assert worlds[0].judgement().evidence == worlds[1].judgement().evidence


# --- plans -------------------------------------------------------------------------------------------


def test_a_plan_is_made_from_the_endpoints_own_traffic() -> None:
    world = World()
    stage = world.stage(BLUE)
    for _ in range(120):
        world.count(stage, BLUE, 10, 0)
        world.clock.at_s += 1.0
    world.count(stage, BLUE, 10, 10)
    told = post_plan(world.services(), OwnRequest({"endpoint": NAME}, body={"share": 0.1}))
    assert told["rates"]["error_rate"] == pytest.approx(10 / 1210)
    assert told["requests_per_minute"] == pytest.approx(600, rel=0.05)
    ship = next(one for one in told["needs"] if (one["metric"], one["question"]) == ("error_rate", "ship"))
    assert 1_000 < ship["requests"] < 50_000 and ship["minutes"] < ship["minutes_p80"]
