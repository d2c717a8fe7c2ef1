"""Updates of serving endpoints: configurations, weights, counts, and two callers at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from understudy.core.endpoints import EndpointStatus
from understudy.core.errors import ApiError, Conflict, ResourceLimitExceeded, ValidationException
from understudy.operations.sagemaker.wording import until_agreed


@pytest.fixture
def serving(aws: Any) -> Any:
    """An endpoint with two variants, and a second configuration to go to."""
    aws.model()
    aws.model("next", PrimaryContainer={"Image": "xgboost:3"})
    aws.config("config", aws.variant("blue", InitialVariantWeight=3.0), aws.variant("green"))
    aws.config(
        "config2",
        aws.variant("blue", ModelName="next", InitialVariantWeight=0.0, InitialInstanceCount=2),
        aws.variant("new", ModelName="next"),
    )
    aws.endpoint()
    return aws


def weigh(aws: Any, *wishes: dict[str, Any]) -> None:
    aws("UpdateEndpointWeightsAndCapacities", EndpointName="ep", DesiredWeightsAndCapacities=list(wishes))


def told(aws: Any) -> dict[str, tuple[float, float, int, int]]:
    return {
        one["VariantName"]: (
            one["CurrentWeight"],
            one["DesiredWeight"],
            one["CurrentInstanceCount"],
            one["DesiredInstanceCount"],
        )
        for one in aws("DescribeEndpoint", EndpointName="ep")["ProductionVariants"]
    }


def test_an_update_tells_old_and_new_until_it_is_done(serving: Any) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/ep"
    answer = serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2")
    assert answer == {"EndpointArn": arn}
    described = serving("DescribeEndpoint", EndpointName="ep")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("Updating", "config")
    pending = described["PendingDeploymentSummary"]
    assert pending["EndpointConfigName"] == "config2"
    assert pending["StartTime"] > described["CreationTime"]
    assert [(one["VariantName"], one["DesiredWeight"]) for one in pending["ProductionVariants"]] == [
        ("blue", 0.0),
        ("new", 1.0),
    ]
    assert pending["ProductionVariants"][0]["VariantStatus"][0]["Status"] == "Creating"
    assert told(serving) == {"blue": (3.0, 3.0, 1, 1), "green": (1.0, 1.0, 1, 1)}
    serving.settle()
    described = serving("DescribeEndpoint", EndpointName="ep")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", "config2")
    assert "PendingDeploymentSummary" not in described
    assert told(serving) == {"blue": (0.0, 0.0, 2, 2), "new": (1.0, 1.0, 1, 1)}
    assert serving.stored().fleet.fleet_id == "f2"


def test_fleet_numbers_are_never_used_again(serving: Any) -> None:
    for number in (2, 3):
        serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2")
        serving.settle(fail="no such package")
        assert serving.stored().next_fleet == number + 1
    described = serving("DescribeEndpoint", EndpointName="ep")
    assert described["EndpointStatus"] == "InService"
    assert "no such package" in described["FailureReason"]
    assert serving.stored().fleet.fleet_id == "f1"
    serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config")
    assert "FailureReason" not in serving("DescribeEndpoint", EndpointName="ep")
    serving.settle()
    assert serving.stored().fleet.fleet_id == "f4"


def test_update_refuses_what_is_missing(serving: Any) -> None:
    with pytest.raises(ValidationException, match=r'^Could not find endpoint ".*endpoint/other"'):
        serving("UpdateEndpoint", EndpointName="other", EndpointConfigName="config2")
    with pytest.raises(ValidationException, match=r"^Could not find endpoint configuration"):
        serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="absent")
    serving("DeleteModel", ModelName="next")
    with pytest.raises(ValidationException, match=r'^Could not find model ".*model/next"'):
        serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2")
    assert serving.stored().status is EndpointStatus.IN_SERVICE


@pytest.mark.parametrize(
    ("excluded", "weight", "count"),
    [([], 0.5, 3), (["DesiredWeight"], 0.0, 3), (["DesiredInstanceCount"], 0.5, 2)],
)
def test_retained_properties(serving: Any, excluded: list[str], weight: float, count: int) -> None:
    weigh(serving, {"VariantName": "blue", "DesiredWeight": 0.5, "DesiredInstanceCount": 3})
    serving.settle()
    serving(
        "UpdateEndpoint",
        EndpointName="ep",
        EndpointConfigName="config2",
        RetainAllVariantProperties=True,
        ExcludeRetainedVariantProperties=[{"VariantPropertyType": one} for one in excluded],
    )
    serving.settle()
    assert told(serving) == {"blue": (weight, weight, count, count), "new": (1.0, 1.0, 1, 1)}


def test_properties_are_reset_unless_retained(serving: Any) -> None:
    weigh(serving, {"VariantName": "blue", "DesiredWeight": 0.5, "DesiredInstanceCount": 3})
    serving.settle()
    serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config")
    serving.settle()
    assert told(serving) == {"blue": (3.0, 3.0, 1, 1), "green": (1.0, 1.0, 1, 1)}


def test_the_last_deployment_can_be_used_again(serving: Any) -> None:
    deployment = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 7},
            "TerminationWaitInSeconds": 0,
        }
    }
    serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2", DeploymentConfig=deployment)
    serving.settle()
    assert serving("DescribeEndpoint", EndpointName="ep")["LastDeploymentConfig"] == deployment
    serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", RetainDeploymentConfig=True)
    assert serving.stored().update.deployment_config == deployment
    serving.settle()
    serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2")
    assert serving.stored().update.deployment_config == {}


# --- weights and capacities --------------------------------------------------------------------------------


def test_weights_and_counts(serving: Any) -> None:
    weigh(
        serving,
        {"VariantName": "blue", "DesiredWeight": 0.0},
        {"VariantName": "green", "DesiredInstanceCount": 2},
    )
    assert serving("DescribeEndpoint", EndpointName="ep")["EndpointStatus"] == "Updating"
    assert told(serving) == {"blue": (3.0, 0.0, 1, 1), "green": (1.0, 1.0, 1, 2)}
    serving.settle()
    assert serving("DescribeEndpoint", EndpointName="ep")["EndpointStatus"] == "InService"
    assert told(serving) == {"blue": (0.0, 0.0, 1, 1), "green": (1.0, 1.0, 2, 2)}
    (event,) = [
        one for one in serving.records.events(serving.stored().arn, 0, 99) if one.kind == "WeightsRequested"
    ]
    assert event.detail["from"]["blue"] == {"weight": 3.0, "instances": 1}
    assert event.detail["to"]["blue"] == {"weight": 0.0, "instances": 1}


@pytest.mark.parametrize(
    ("wishes", "text"),
    [
        ([{"VariantName": "red", "DesiredWeight": 1.0}], 'Could not find variant "red"'),
        ([{"VariantName": "blue"}], "DesiredWeight or DesiredInstanceCount is required"),
        ([{"VariantName": "blue", "DesiredInstanceCount": 0}], "at least 1"),
        ([{"VariantName": "blue", "DesiredWeight": float("nan")}], "finite"),
        (
            [
                {"VariantName": "blue", "DesiredWeight": 1e308},
                {"VariantName": "green", "DesiredWeight": 1e308},
            ],
            "finite",
        ),
        (
            [{"VariantName": "blue", "DesiredWeight": 1.0}, {"VariantName": "blue", "DesiredWeight": 2.0}],
            "more than once",
        ),
        (
            [{"VariantName": "blue", "DesiredWeight": 1.0, "ServerlessUpdateConfig": {"MaxConcurrency": 1}}],
            "ServerlessUpdateConfig is not supported",
        ),
    ],
)
def test_wishes_that_are_refused(serving: Any, wishes: list[dict[str, Any]], text: str) -> None:
    before = serving.stored()
    with pytest.raises(ValidationException, match=text):
        weigh(serving, *wishes)
    assert serving.stored() == before


def test_too_many_instances_are_refused(serving: Any) -> None:
    serving.config("huge", serving.variant(InitialInstanceCount=10**9))
    with pytest.raises(ResourceLimitExceeded, match="500"):
        serving("CreateEndpoint", EndpointName="new", EndpointConfigName="huge")
    with pytest.raises(ResourceLimitExceeded):
        serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="huge")
    with pytest.raises(ResourceLimitExceeded):
        weigh(serving, {"VariantName": "blue", "DesiredInstanceCount": 500})
    weigh(serving, {"VariantName": "blue", "DesiredInstanceCount": 499})


# --- two at once -------------------------------------------------------------------------------------------


def test_of_many_changes_at_once_exactly_one_is_accepted(serving: Any) -> None:
    nudges = serving.nudges

    def update(number: int) -> str:
        try:
            if number % 2:
                serving("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config2")
            else:
                weigh(serving, {"VariantName": "blue", "DesiredWeight": float(number)})
        except ValidationException as error:
            return error.message
        return "accepted"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(update, range(8)))
    refusal = f'Cannot update in-progress endpoint "{serving.stored().arn}".'
    assert sorted(outcomes) == sorted(["accepted"] + [refusal] * 7)
    assert serving.nudges == nudges + 1
    serving.settle()
    assert serving.stored().status is EndpointStatus.IN_SERVICE


def test_of_many_creates_at_once_exactly_one_is_made(serving: Any) -> None:
    def create(_: int) -> bool:
        try:
            serving("CreateEndpoint", EndpointName="one", EndpointConfigName="config")
        except ValidationException as error:
            assert "Cannot create already existing endpoint" in error.message
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_a_record_that_never_holds_still_is_a_503() -> None:
    def attempt() -> None:
        raise Conflict("endpoint ep")

    with pytest.raises(ApiError) as caught:
        until_agreed(attempt)
    assert caught.value.status == 503
