"""Canary, linear, rolling and all at once under constant load without retries: no request fails, none is
misrouted, alarms bring everything back, and what DescribeEndpoint and the audit trail say is true."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bench.rollout_world import (
    RawLoad,
    at_rest,
    blue_green,
    guarded,
    percent,
    rolling,
    stamp_config,
    stamp_model,
    step_after,
    until,
)
from botocore.exceptions import ClientError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

SCALE = 30


@pytest.fixture(scope="module")
def server(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    place = tmp_path_factory.mktemp("rollouts")
    with serving(place, "--auth", "none", "--routers", "2", "--time-scale", str(SCALE)) as running:
        for stamp in ("v1", "v2", "bad"):
            stamp_model(running.client, stamp)
            stamp_config(running.client, stamp)
        running.client("sagemaker").create_endpoint(EndpointName="e", EndpointConfigName="v1")
        at_rest(running.client("sagemaker"))
        yield running


@pytest.fixture
def sagemaker(server: Any) -> Any:
    """The client, with the endpoint back at v1."""
    client = server.client("sagemaker")
    found = at_rest(client)
    if found["EndpointConfigName"] != "v1" or found["EndpointStatus"] != "InService":
        client.update_endpoint(EndpointName="e", EndpointConfigName="v1")
        at_rest(client)
    return client


def load(server: Any) -> RawLoad:
    return RawLoad(int(server.url.rpartition(":")[2]), pause_s=0.01)


def events(server: Any) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "understudy.cli", "events", "e", "--json"]
    command += ["--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines()]


def last_rollout(server: Any) -> list[dict[str, Any]]:
    """The events since the newest UpdateRequested."""
    told = events(server)
    at = max(number for number, one in enumerate(told) if one["kind"] == "UpdateRequested")
    return told[at:]


def alarm(server: Any, name: str, state: str) -> None:
    cloudwatch = server.client("cloudwatch")
    if not cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"]:
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SageMaker",
            MetricName="Invocation5XXErrors",
            Dimensions=[{"Name": "EndpointName", "Value": "nobody"}],
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1e9,
            ComparisonOperator="GreaterThanThreshold",
            TreatMissingData="ignore",
        )
    cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason=f"set to {state}")


def pending(sagemaker: Any) -> dict[str, Any]:
    found = sagemaker.describe_endpoint(EndpointName="e")
    variants = found.get("PendingDeploymentSummary", {}).get("ProductionVariants", [{}])
    return dict(variants[0].get("VariantStatus", [{}])[0])


KINDS = {
    "all at once": (blue_green("ALL_AT_ONCE", 30, termination_s=30), [100.0]),
    "canary": (blue_green("CANARY", 60, CanarySize={"Type": "INSTANCE_COUNT", "Value": 1}), [50.0, 100.0]),
    "linear": (blue_green("LINEAR", 60, LinearStepSize=percent(33)), [33.0, 66.0, 100.0]),
    "rolling": (rolling(60), [50.0, 100.0]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_takes_the_traffic_step_by_step_and_fails_no_request(
    server: Any, sagemaker: Any, kind: str
) -> None:
    deployment, shares = KINDS[kind]
    alarm(server, "errors", "OK")
    with load(server) as traffic:
        sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName="v2", DeploymentConfig=guarded(deployment, "errors")
        )
        seen = set()
        until(
            lambda: (
                seen.add(pending(sagemaker).get("Status"))
                or sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"] == "InService"
            ),
            "the end",
        )
        time.sleep(0.2)
    assert traffic.failures == []
    assert {stamp for _, stamp in traffic.seen} == {"v1", "v2"}
    assert {variant for variant, _ in traffic.seen} == {"main"}
    assert "Baking" in seen
    described = sagemaker.describe_endpoint(EndpointName="e")
    assert described["EndpointConfigName"] == "v2" and "FailureReason" not in described
    told = last_rollout(server)
    assert [one["detail"]["share_percent"] for one in told if one["kind"] == "TrafficShifting"] == shares
    bakes = [one for one in told if one["kind"] == "BakingStarted"]
    after = [step_after(told, one)["at_s"] - one["at_s"] for one in bakes]
    assert len(bakes) == len(shares) and min(after) >= bakes[0]["detail"]["seconds"]
    assert told[0]["from"] == "v1" and told[0]["to"] == "v2" and "assumed-role" in told[0]["by"]
    # While half of the traffic was on either, both answered their half.
    share = traffic_share(traffic, told, shares[0], "v2")
    assert abs(share - shares[0] / 100.0) < 0.15


def traffic_share(traffic: RawLoad, told: list[dict[str, Any]], percents: float, stamp: str) -> float:
    """The part of a stamp's answers while a share was baking, by the first and last answers of both."""
    first = next(at for at, _, body in traffic.answers if body == stamp)
    bake = next(one for one in told if one["kind"] == "BakingStarted")
    end_s = first + bake["detail"]["seconds"] / SCALE
    within = [body for at, _, body in traffic.answers if first <= at <= end_s]
    return sum(body == stamp for body in within) / len(within)


@pytest.mark.parametrize("kind", ["all at once", "canary", "linear", "rolling"])
def test_an_alarm_brings_all_traffic_back_without_a_failed_request(
    server: Any, sagemaker: Any, kind: str
) -> None:
    deployment, _ = KINDS[kind]
    alarm(server, "errors", "OK")
    statuses = []
    with load(server) as traffic:
        sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName="v2", DeploymentConfig=guarded(deployment, "errors")
        )
        until(lambda: pending(sagemaker).get("Status") == "Baking", "a bake")
        alarm(server, "errors", "ALARM")

        def back() -> bool:
            status = sagemaker.describe_endpoint(EndpointName="e")["EndpointStatus"]
            statuses.append(status)
            return status == "InService"

        until(back, "the rollback")
        back_s = time.monotonic()
        until(lambda: sum(began_s > back_s for began_s, _ in traffic.sent) > 20, "requests after it")
    assert traffic.failures == []
    assert set(statuses) <= {"Updating", "InService"}
    described = sagemaker.describe_endpoint(EndpointName="e")
    assert described["EndpointConfigName"] == "v1"
    assert "errors" in described["FailureReason"] and "set to ALARM" in described["FailureReason"]
    assert {body for began_s, body in traffic.sent if began_s > back_s} == {"v1"}
    kinds = [one["kind"] for one in last_rollout(server)]
    assert kinds[-3:] == ["RollbackStarted", "TrafficReturned", "UpdateRolledBack"]
    with pytest.raises(ClientError, match="in ALARM state already"):
        sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="v2", RetainDeploymentConfig=True)


def test_a_version_that_fails_its_requests_is_rolled_back_by_its_own_alarm(
    server: Any, sagemaker: Any
) -> None:
    server.client("cloudwatch").put_metric_alarm(
        AlarmName="green-errors",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[
            {"Name": "EndpointName", "Value": "e"},
            {"Name": "VariantName", "Value": "main"},
            {"Name": "EndpointConfigName", "Value": "bad"},
        ],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0.01,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    canary = blue_green("CANARY", 600, CanarySize=percent(10))
    with load(server) as traffic:
        sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName="bad", DeploymentConfig=guarded(canary, "green-errors")
        )
        described = at_rest(sagemaker)
    assert described["EndpointConfigName"] == "v1" and "green-errors" in described["FailureReason"]
    assert all(" 424 " in failure for failure in traffic.failures)
    assert 0 < len(traffic.failures) <= 0.11 * sum(traffic.seen.values()) + 10


def test_what_comes_while_an_update_is_under_way_gets_a_clean_refusal(server: Any, sagemaker: Any) -> None:
    deployment = blue_green("CANARY", 3600, CanarySize=percent(20))
    sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="v2", DeploymentConfig=deployment)
    until(lambda: pending(sagemaker).get("Status") == "Baking", "a bake")
    weights = [{"VariantName": "main", "DesiredWeight": 2.0}]
    for call in (
        lambda: sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="v1"),
        lambda: sagemaker.delete_endpoint(EndpointName="e"),
        lambda: sagemaker.update_endpoint_weights_and_capacities(
            EndpointName="e", DesiredWeightsAndCapacities=weights
        ),
    ):
        with pytest.raises(ClientError, match="in-progress endpoint") as refused:
            call()
        assert refused.value.response["Error"]["Code"] == "ValidationException"
    command = [sys.executable, "-m", "understudy.cli", "rollout"]
    place = ["--data-dir", str(server.data_dir)]
    watching = subprocess.Popen([*command, "watch", "e", "--json", *place], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert first["rollout"]["phase"] == "baking" and first["rollout"]["share_percent"] == 20.0
    assert first["rollout"]["left_s"] > 0.0
    subprocess.run([*command, "rollback", "e", "--reason", "a try", *place], check=True, timeout=60)
    described = at_rest(sagemaker)
    assert described["FailureReason"] == "A rollback was asked for: a try"
    assert described["EndpointConfigName"] == "v1"
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 1 and json.loads(rest.splitlines()[-1])["rollout"] is None
    again = subprocess.run(
        [*command, "rollback", "e", *place], capture_output=True, text=True, timeout=60, check=False
    )
    assert again.returncode == 1 and "no update under way" in again.stderr
