"""Endpoints: what is wished, what is told, and who may change what when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from understudy.core.alarms import Alarm, AlarmState
from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.errors import ValidationException
from understudy.core.ports import Put
from understudy.operations.sagemaker.endpoints import UNDELETABLE

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/ep"


@pytest.fixture
def ready(aws: Any) -> Any:
    """A model and a configuration are there."""
    aws.model()
    aws.config()
    return aws


def put_status(aws: Any, status: EndpointStatus) -> None:
    stored = aws.records.get(Endpoint, "ep")
    aws.records.commit([Put(replace(stored.value, status=status), stored.version)])


def test_create_tells_only_the_wish_until_it_serves(ready: Any) -> None:
    answer = ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="config")
    assert answer == {"EndpointArn": ARN}
    assert ready.nudges == 1
    described = ready("DescribeEndpoint", EndpointName="ep")
    created_at_s = described["CreationTime"]
    assert described == {
        "EndpointName": "ep",
        "EndpointArn": ARN,
        "EndpointConfigName": "config",
        "EndpointStatus": "Creating",
        "CreationTime": created_at_s,
        "LastModifiedTime": created_at_s,
    }
    ready.settle()
    described = ready("DescribeEndpoint", EndpointName="ep")
    assert described.pop("LastModifiedTime") > created_at_s
    assert described == {
        "EndpointName": "ep",
        "EndpointArn": ARN,
        "EndpointConfigName": "config",
        "EndpointStatus": "InService",
        "CreationTime": created_at_s,
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic",
                "DeployedImages": [
                    {
                        "SpecifiedImage": "xgboost:1.7",
                        "ResolvedImage": "xgboost:1.7@sha256:0",
                        "ResolutionTime": 5.0,
                    }
                ],
                "CurrentWeight": 1.0,
                "DesiredWeight": 1.0,
                "CurrentInstanceCount": 1,
                "DesiredInstanceCount": 1,
            }
        ],
    }
    assert [event.kind for event in ready.records.events(ARN, 0, 10)] == ["CreateRequested"]


def test_a_pipeline_has_an_image_per_container(aws: Any) -> None:
    aws.model(Containers=[{"Image": "a:1"}, {"Image": "b:1"}])
    aws.config()
    aws.endpoint()
    (variant,) = aws("DescribeEndpoint", EndpointName="ep")["ProductionVariants"]
    assert [image["SpecifiedImage"] for image in variant["DeployedImages"]] == ["a:1", "b:1"]
    (made,) = aws.stored().fleet.variants
    assert [container.hostname for container in made.containers] == ["container-1", "container-2"]


def test_create_refuses(ready: Any) -> None:
    with pytest.raises(ValidationException) as caught:
        ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="absent")
    absent = ready.place.arn("endpoint-config", "absent")
    assert caught.value.message == f'Could not find endpoint configuration "{absent}".'
    ready.endpoint()
    with pytest.raises(ValidationException) as caught:
        ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="config")
    assert caught.value.message == f'Cannot create already existing endpoint "{ARN}".'
    ready("DeleteModel", ModelName="churn")
    with pytest.raises(ValidationException, match="Could not find model"):
        ready("CreateEndpoint", EndpointName="other", EndpointConfigName="config")
    assert ready.nudges == 1


@pytest.mark.parametrize("operation", ["DescribeEndpoint", "DeleteEndpoint"])
def test_a_missing_endpoint(aws: Any, operation: str) -> None:
    with pytest.raises(ValidationException) as caught:
        aws(operation, EndpointName="ep")
    assert caught.value.message == f'Could not find endpoint "{ARN}".'
    assert (caught.value.code, caught.value.status) == ("ValidationException", 400)


def test_a_failed_create_tells_why_and_can_be_deleted(ready: Any) -> None:
    ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="config")
    ready.settle(fail="x" * 2000)
    described = ready("DescribeEndpoint", EndpointName="ep")
    assert described["EndpointStatus"] == "Failed"
    assert len(described["FailureReason"]) == 1024
    assert "ProductionVariants" not in described
    with pytest.raises(ValidationException, match="in status Failed: delete it"):
        ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config")
    ready("DeleteEndpoint", EndpointName="ep")
    ready.settle()
    assert ready.records.get(Endpoint, "ep") is None


def test_deleting_model_and_config_leaves_the_endpoint_alone(ready: Any) -> None:
    ready.endpoint()
    before = ready("DescribeEndpoint", EndpointName="ep")
    ready("DeleteModel", ModelName="churn")
    ready("DeleteEndpointConfig", EndpointConfigName="config")
    assert ready("DescribeEndpoint", EndpointName="ep") == before
    (variant,) = ready.stored().fleet.variants
    assert variant.containers[0].model_data_url == "s3://models/churn.tar.gz"


def test_delete(ready: Any) -> None:
    ready.endpoint()
    assert ready("DeleteEndpoint", EndpointName="ep") == {}
    assert ready.nudges == 2
    described = ready("DescribeEndpoint", EndpointName="ep")
    assert described["EndpointStatus"] == "Deleting"
    for again in ("DeleteEndpoint",):
        with pytest.raises(ValidationException) as caught:
            ready(again, EndpointName="ep")
        assert caught.value.message == f'Cannot update in-progress endpoint "{ARN}".'
    with pytest.raises(ValidationException, match="already existing"):
        ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="config")
    ready.settle()
    with pytest.raises(ValidationException, match="Could not find endpoint"):
        ready("DescribeEndpoint", EndpointName="ep")
    ready.endpoint()


@pytest.mark.parametrize("status", EndpointStatus)
def test_what_each_status_allows(ready: Any, status: EndpointStatus) -> None:
    ready.endpoint()
    put_status(ready, status)
    wish = [{"VariantName": "AllTraffic", "DesiredWeight": 2.0}]
    for operation, request in (
        ("UpdateEndpoint", {"EndpointConfigName": "config"}),
        ("UpdateEndpointWeightsAndCapacities", {"DesiredWeightsAndCapacities": wish}),
    ):
        remedy = status is EndpointStatus.UPDATE_ROLLBACK_FAILED and operation == "UpdateEndpoint"
        if status is EndpointStatus.IN_SERVICE or remedy:
            ready(operation, EndpointName="ep", **request)
            put_status(ready, status)
        else:
            with pytest.raises(ValidationException, match=r"^Cannot update .*endpoint/ep"):
                ready(operation, EndpointName="ep", **request)
            assert ready.stored().status is status
    if status in UNDELETABLE:
        with pytest.raises(ValidationException, match=r"^Cannot update in-progress endpoint"):
            ready("DeleteEndpoint", EndpointName="ep")
    else:
        ready("DeleteEndpoint", EndpointName="ep")
        assert ready.stored().status is EndpointStatus.DELETING


def test_list(ready: Any) -> None:
    for name in ("b", "a", "c"):
        ready.endpoint(name)
    ready("DeleteEndpoint", EndpointName="a")

    def names(**request: Any) -> list[str]:
        return [one["EndpointName"] for one in ready("ListEndpoints", **request)["Endpoints"]]

    assert names() == ["c", "a", "b"]
    assert names(StatusEquals="Deleting") == ["a"]
    assert names(SortBy="Status", SortOrder="Ascending") == ["a", "b", "c"]
    assert names(SortBy="Status", SortOrder="Ascending", MaxResults=2) == ["a", "b"]
    assert names(SortBy="Name") == ["c", "b", "a"]
    one = ready("ListEndpoints", NameContains="a")["Endpoints"][0]
    assert one["EndpointStatus"] == "Deleting"
    assert one["LastModifiedTime"] > one["CreationTime"]


def test_a_page_by_status_resumes(ready: Any) -> None:
    for name in ("b", "a", "c"):
        ready.endpoint(name)
    first = ready("ListEndpoints", SortBy="Status", MaxResults=2)
    rest = ready("ListEndpoints", SortBy="Status", MaxResults=2, NextToken=first["NextToken"])
    assert [one["EndpointName"] for one in first["Endpoints"] + rest["Endpoints"]] == ["c", "b", "a"]
    assert "NextToken" not in rest


# --- deployment configurations on create -----------------------------------------------------------------


def blue_green(kind: str, **routing: Any) -> dict[str, Any]:
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 0, **routing},
            "TerminationWaitInSeconds": 0,
        }
    }


SIZE = {"Type": "INSTANCE_COUNT", "Value": 1}


BATCH = {"MaximumBatchSize": {"Type": "CAPACITY_PERCENT", "Value": 50}, "WaitIntervalInSeconds": 0}
ALARMS = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]}}


def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


@pytest.mark.parametrize(
    ("deployment", "text"),
    [
        (blue_green("ALL_AT_ONCE", CanarySize=SIZE), "CanarySize can't be used"),
        (blue_green("CANARY"), "CanarySize is required"),
        (blue_green("LINEAR"), "LinearStepSize is required"),
        (blue_green("LINEAR", CanarySize=percent(20)), "CanarySize can't be used"),
        (blue_green("CANARY", CanarySize=percent(51)), "less than or equal to 50% of the variant's total"),
        (blue_green("LINEAR", LinearStepSize=percent(9)), "10% to 50% of the variant's total"),
        (blue_green("LINEAR", LinearStepSize=percent(51)), "10% to 50% of the variant's total"),
        ({"RollingUpdatePolicy": {**BATCH, "MaximumBatchSize": percent(4)}}, "5% to 50%"),
        ({"RollingUpdatePolicy": {**BATCH, "RollbackMaximumBatchSize": percent(101)}}, "100%"),
        ({**blue_green("ALL_AT_ONCE"), "RollingUpdatePolicy": BATCH}, "Only one update policy"),
        ({"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "a"}] * 2}}, "more than once"),
        ({"AutoRollbackConfiguration": {"Alarms": [{}]}}, "needs an AlarmName"),
        (
            {"RollingUpdatePolicy": {**BATCH, "WaitIntervalInSeconds": 600,
             "MaximumExecutionTimeoutInSeconds": 600}},
            "MaximumExecutionTimeoutInSeconds should be larger than the total waiting time",
        ),
    ],
)  # fmt: skip
def test_deployments_that_contradict_themselves(ready: Any, deployment: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationException, match=text):
        ready("CreateEndpoint", EndpointName="ep", EndpointConfigName="config", DeploymentConfig=deployment)
    ready.endpoint()
    with pytest.raises(ValidationException, match=text):
        ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", DeploymentConfig=deployment)
    assert ready.stored().status is EndpointStatus.IN_SERVICE


@pytest.mark.parametrize(
    ("deployment", "text"),
    [
        (blue_green("CANARY", CanarySize=SIZE), "CanarySize 1: Value must be less than or equal to 50%"),
        (blue_green("LINEAR", LinearStepSize=SIZE), "LinearStepSize 1: Value must be 10% to 50%"),
        ({"RollingUpdatePolicy": {**BATCH, "MaximumBatchSize": SIZE}}, "MaximumBatchSize 1: Value must be"),
    ],
)
def test_sizes_in_instances_are_held_against_the_fleet(
    ready: Any, deployment: dict[str, Any], text: str
) -> None:
    ready.config("three", ready.variant(InitialInstanceCount=3))
    ready.endpoint()
    with pytest.raises(ValidationException, match=text):
        ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", DeploymentConfig=deployment)
    ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="three", DeploymentConfig=deployment)
    ready.settle()
    assert ready.stored().config_name == "three" and ready.stored().failure_reason is None


def test_fleets_are_exchanged_step_by_step_only_for_the_same_variants(ready: Any) -> None:
    ready.config("other", ready.variant("Other"))
    ready.config("two", ready.variant(), ready.variant("Other"))
    ready.endpoint()
    canary = blue_green("CANARY", CanarySize=percent(10))
    for config in ("other", "two"):
        with pytest.raises(ValidationException, match=r"variant names .* must be the same"):
            ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName=config, DeploymentConfig=canary)
    ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="two")
    ready.settle()
    rolling = {"RollingUpdatePolicy": BATCH}
    with pytest.raises(ValidationException, match="multiple variants"):
        ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="two", DeploymentConfig=rolling)
    ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="two", DeploymentConfig=canary)


RULE = {
    "Namespace": "Mine",
    "MetricName": "Errors",
    "Statistic": "Sum",
    "Period": 60,
    "EvaluationPeriods": 1,
    "Threshold": 1.0,
    "ComparisonOperator": "GreaterThanThreshold",
}


def test_an_alarm_that_is_missing_or_tripped_is_refused_before_anything_is_deployed(ready: Any) -> None:
    ready.endpoint()
    update = {"EndpointName": "ep", "EndpointConfigName": "config", "DeploymentConfig": ALARMS}
    with pytest.raises(ValidationException, match=r"CloudWatch alarm errors .* does not exist"):
        ready("UpdateEndpoint", **update)
    ready.records.commit([Put(Alarm("errors", "arn", RULE, False, 1.0, AlarmState.ALARM, "too many"), 0)])
    with pytest.raises(ValidationException, match=r"alarm errors .* in ALARM state already: too many"):
        ready("UpdateEndpoint", **update)
    assert ready.stored().status is EndpointStatus.IN_SERVICE and ready.stored().next_fleet == 2
    ready.records.commit([Put(Alarm("errors", "arn", RULE, False, 1.0, AlarmState.INSUFFICIENT_DATA), 1)])
    ready("UpdateEndpoint", **update)
    assert ready("DescribeEndpoint", EndpointName="ep")["LastDeploymentConfig"] == ALARMS
    told = ready.records.events(ready.stored().arn, 0, 100, kinds=["GuardrailFinding"])
    assert [event.detail["code"] for event in told] == ["unknown-metric"], "advice in the audit trail"


def test_a_deployment_may_name_alarms_before_they_exist_when_the_endpoint_is_created(ready: Any) -> None:
    ready.endpoint(DeploymentConfig=ALARMS)
    assert ready("DescribeEndpoint", EndpointName="ep")["LastDeploymentConfig"] == ALARMS
    with pytest.raises(ValidationException, match="does not exist"):
        ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", RetainDeploymentConfig=True)


def test_the_linear_example_of_the_documentation_is_taken(ready: Any) -> None:
    ready.endpoint()
    linear = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {
                "Type": "LINEAR",
                "LinearStepSize": percent(20),
                "WaitIntervalInSeconds": 300,
            },
            "TerminationWaitInSeconds": 600,
            "MaximumExecutionTimeoutInSeconds": 1800,
        }
    }
    ready("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", DeploymentConfig=linear)
    ready.settle()
    assert ready.stored().failure_reason is None and ready.stored().fleet.fleet_id == "f2"


def test_a_deployment_given_at_creation_is_told(ready: Any) -> None:
    deployment = blue_green("ALL_AT_ONCE")
    ready.endpoint(DeploymentConfig=deployment)
    assert ready("DescribeEndpoint", EndpointName="ep")["LastDeploymentConfig"] == deployment
