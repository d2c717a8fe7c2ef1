"""What belongs to a stage, and the evidence in a router's deltas."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.metrics import Summary
from understudy.core.routing import EndpointRoute, GreenRoute, VariantRoute
from understudy.core.stages import RANDOMISED, Arm, Counts, Source, Stage, arms_of, counts_of


def item(**members: Any) -> dict[str, Any]:
    latency = Summary.of([100.0, 300.0]).to_json()
    place = {"endpoint": "e", "variant": "A", "config": "c1", "fleet": "f1", "stage": 3, "source": "weight"}
    counts = {"invocations": 9, "errors_4xx": 4, "errors_5xx": 2, "caller_errors": 1, "abandoned": 1}
    return {**place, **counts, "at_s": 1_700_000_000, "model_latency_us": latency, **members}


def test_arms_of_one_fleet_have_the_weights_as_given() -> None:
    route = EndpointRoute(
        "e", (VariantRoute("A", 3.0, "c1", fleet_id="f1"), VariantRoute("B", 0.0, "c1", fleet_id="f1"))
    )
    assert arms_of(route) == (Arm("A", "c1", "f1", 3.0), Arm("B", "c1", "f1", 0.0))


def test_arms_of_two_fleets_have_their_shares_of_all_requests() -> None:
    blue = (VariantRoute("A", 3.0, "c1", fleet_id="f1"), VariantRoute("B", 1.0, "c1", fleet_id="f1"))
    green = GreenRoute(0.2, (VariantRoute("A", 7.0, "c2", fleet_id="f2"),))
    arms = arms_of(EndpointRoute("e", blue, green=green))
    stage = Stage("e", 1, 0.0, arms)
    assert [stage.share(arm) for arm in arms] == pytest.approx([0.6, 0.2, 0.2])
    assert [(arm.config_name, arm.fleet_id) for arm in arms] == [("c1", "f1"), ("c1", "f1"), ("c2", "f2")]
    dead = EndpointRoute("e", (VariantRoute("A", 0.0, "c1"),), green=GreenRoute(0.5, ()))
    assert [arm.weight for arm in arms_of(dead)] == [0.0]


def test_without_weights_nobody_has_a_share() -> None:
    arm = Arm("A", "c", "f1", 0.0)
    assert Stage("e", 1, 0.0, (arm,)).share(arm) == 0.0


def test_failures_are_all_errors_that_are_not_the_callers() -> None:
    (counts,) = counts_of([item()])
    assert (counts.requests, counts.failures, counts.caller_errors, counts.abandoned) == (9, 4, 1, 1)
    assert (counts.stage, counts.variant, counts.source) == (3, "A", Source.WEIGHT)
    assert counts.model_latency_us.count == 2


def test_shadows_outcomes_and_silence_are_no_evidence() -> None:
    others = [
        item(source="", stage=0),
        {"endpoint": "e", "variant": "A", "at_s": 1, "capture": {"queue": 3}},
        {"endpoint": "", "variant": "", "refused": {"AccessDenied": 1}},
        item(invocations=0, errors_4xx=0, errors_5xx=0, caller_errors=0, abandoned=0),
    ]
    assert counts_of(others) == []


@pytest.mark.parametrize(
    "members",
    [
        {"invocations": -1},
        {"invocations": 5},
        {"invocations": 9.0},
        {"errors_5xx": True},
        {"caller_errors": 7},
        {"source": "guess"},
        {"stage": "3"},
    ],
)
def test_what_contradicts_itself_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        counts_of([item(**members)])


def test_counts_add_up() -> None:
    one, two = (counts_of([item(at_s=at_s)])[0] for at_s in (10, 12))
    both = one.plus(two)
    assert (both.requests, both.failures, both.abandoned, both.at_s) == (18, 8, 2, 12)
    assert both.model_latency_us == Summary.of([100.0, 300.0, 100.0, 300.0])


def test_targets_are_not_randomised() -> None:
    assert Source.TARGET not in RANDOMISED
    assert {Source.WEIGHT, Source.UNIT} == RANDOMISED
    assert Counts("e", 1, 0, "A", "c", "f", Source.UNIT, 1).source in RANDOMISED
