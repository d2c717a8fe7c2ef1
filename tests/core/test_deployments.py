"""DeploymentConfig to steps: shares by percent and by instances, batches, and what they add up to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.deployments import DeploymentPlan, Size, check_deployment, check_sizes, plan_of
from understudy.core.endpoints import Fleet, FleetVariant
from understudy.core.errors import ValidationException
from understudy.core.models import Container


def fleet(*counts: int) -> Fleet:
    variants = tuple(
        FleetVariant(f"v{number}", "m", (Container("i"),), desired_count=count)
        for number, count in enumerate(counts)
    )
    return Fleet("f1", "c", variants)


def routed(kind: str, size: dict[str, Any]) -> dict[str, Any]:
    member = "CanarySize" if kind == "CANARY" else "LinearStepSize"
    routing = {"Type": kind, "WaitIntervalInSeconds": 0, member: size}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}


def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def instances(value: int) -> dict[str, Any]:
    return {"Type": "INSTANCE_COUNT", "Value": value}


@pytest.mark.parametrize(
    ("deployment", "counts", "shares"),
    [
        ({}, (1,), [1.0]),
        (routed("CANARY", percent(10)), (1,), [0.1, 1.0]),
        (routed("CANARY", instances(1)), (4,), [0.25, 1.0]),
        (routed("CANARY", instances(1)), (2, 4), [0.25, 1.0]),
        (routed("LINEAR", percent(20)), (1,), [0.2, 0.4, 0.6, 0.8, 1.0]),
        (routed("LINEAR", percent(33)), (3,), [0.33, 0.66, 1.0]),
        (routed("LINEAR", percent(30)), (1,), [0.3, 0.6, 0.9, 1.0]),
        (routed("LINEAR", percent(50)), (1,), [0.5, 1.0]),
        (routed("LINEAR", instances(1)), (3,), [1 / 3, 2 / 3, 1.0]),
        (routed("LINEAR", instances(2)), (5,), [0.4, 0.8, 1.0]),
    ],
)
def test_the_shares_of_the_steps(
    deployment: dict[str, Any], counts: tuple[int, ...], shares: list[float]
) -> None:
    assert list(plan_of(deployment).shares(fleet(*counts))) == pytest.approx(shares)


@given(st.integers(10, 50), st.booleans(), st.lists(st.integers(1, 20), min_size=1, max_size=3))
def test_shares_rise_to_everything_in_steps_no_larger_than_asked(
    value: int, linear: bool, counts: list[int]
) -> None:
    plan = plan_of(routed("LINEAR" if linear else "CANARY", percent(value)))
    shares = plan.shares(fleet(*counts))
    assert shares[-1] == 1.0 and list(shares) == sorted(set(shares))
    assert shares[0] == value / 100.0
    if linear:
        steps = [after - before for before, after in zip((0.0, *shares), shares, strict=False)]
        assert max(steps) <= value / 100.0 + 0.0102


@given(st.integers(1, 50), st.integers(1, 100), st.booleans())
def test_a_batch_is_at_least_one_instance_and_at_most_all(count: int, value: int, by_count: bool) -> None:
    assert 1 <= Size(value, by_count).instances_of(count) <= count


def test_what_is_not_given_has_its_default() -> None:
    assert plan_of({}) == DeploymentPlan()
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 7}}
    plan = plan_of(rolling)
    assert (plan.rollback_size, plan.timeout_s, plan.wait_s, plan.alarms) == (None, None, 7.0, ())


@pytest.mark.parametrize(("count", "allowed"), [(1, False), (2, True), (20, True), (21, False)])
def test_a_batch_in_instances_is_held_against_the_new_fleet(count: int, allowed: bool) -> None:
    rolling = {"RollingUpdatePolicy": {"MaximumBatchSize": instances(1), "WaitIntervalInSeconds": 0}}
    check_deployment(rolling)
    if allowed:
        check_sizes(rolling, fleet(count), fleet(1))
    else:
        with pytest.raises(ValidationException, match="5% to 50% of the variant's total instance count"):
            check_sizes(rolling, fleet(count), fleet(1))
