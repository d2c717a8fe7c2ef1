"""Managed shadow tests: every state, what may change when, and the endpoint before, during and after."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from understudy.control.experiments import ExperimentLoop
from understudy.core.endpoints import Endpoint, EndpointConfig, EndpointStatus, FleetVariant
from understudy.core.errors import (
    ApiError,
    ConflictException,
    ResourceInUse,
    ResourceLimitExceeded,
    ResourceNotFound,
    ValidationException,
)

HOUR_S, DAY_S = 3_600.0, 86_400.0
ROLE = "arn:aws:iam::123456789012:role/understudy"


def at(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def model_variant(name: str, model: str, kind: str = "ml.m5.large", count: int = 1) -> dict[str, Any]:
    return {
        "ModelName": model,
        "VariantName": name,
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": {"InstanceType": kind, "InstanceCount": count},
        },
    }


PRODUCTION, SHADOW = (
    model_variant("AllTraffic", "churn"),
    model_variant("Shadow-01", "churn2", "ml.m5.xlarge", 2),
)


def mode(percent: int = 100, source: str = "AllTraffic", shadow: str = "Shadow-01") -> dict[str, Any]:
    return {
        "SourceModelVariantName": source,
        "ShadowModelVariants": [{"ShadowModelVariantName": shadow, "SamplingPercentage": percent}],
    }


class Lab:
    """A caller with two models, an endpoint ``ep`` of the first, and short ways to a test of the second."""

    def __init__(self, aws: Any) -> None:
        self.aws = aws
        aws.model("churn")
        aws.model("churn2")
        aws.config("before")
        aws.endpoint("ep", "before")

    def tick(self) -> None:
        """One round of the tests' loop, with none of the endpoints' after it."""
        ExperimentLoop(self.aws.records, self.aws.clock, self.aws.place).tick(reread=True)

    @property
    def now_s(self) -> float:
        return float(self.aws.clock.at_s)

    def wait(self, seconds: float) -> None:
        self.aws.clock.at_s += seconds
        self.aws.lead()

    def create(self, name: str = "exp", **changed: Any) -> dict[str, Any]:
        request = {
            "Name": name,
            "Type": "ShadowMode",
            "RoleArn": ROLE,
            "EndpointName": "ep",
            "ModelVariants": [PRODUCTION, SHADOW],
            "ShadowModeConfig": mode(),
            **changed,
        }
        return dict(
            self.aws("CreateInferenceExperiment", **{k: v for k, v in request.items() if v is not None})
        )

    def running(self, name: str = "exp", **changed: Any) -> None:
        self.create(name, **changed)
        self.aws.lead()
        assert self.status(name) == "Running"

    def scheduled(self, name: str = "exp", starts_in_s: float = DAY_S, **changed: Any) -> None:
        self.create(name, Schedule={"StartTime": at(self.now_s + starts_in_s)}, **changed)
        self.aws.lead()
        assert self.status(name) == "Created"

    def stop(self, name: str = "exp", **changed: Any) -> None:
        request = {"ModelVariantActions": {"AllTraffic": "Retain", "Shadow-01": "Remove"}, **changed}
        self.aws("StopInferenceExperiment", Name=name, **request)

    def told(self, name: str = "exp") -> dict[str, Any]:
        return dict(self.aws("DescribeInferenceExperiment", Name=name))

    def status(self, name: str = "exp") -> str:
        return str(self.told(name)["Status"])

    def variants(self) -> list[tuple[str, bool, str, int, float]]:
        """(name, is it a shadow, instance type, count, weight) of what serves."""
        fleet = self.aws.stored().fleet
        return [
            (v.name, v.shadow, v.instance_type, v.current_count, v.current_weight) for v in fleet.variants
        ]

    def config(self) -> dict[str, Any]:
        """The configuration that the endpoint says it serves."""
        name = self.aws("DescribeEndpoint", EndpointName="ep")["EndpointConfigName"]
        return dict(self.aws("DescribeEndpointConfig", EndpointConfigName=name))

    def configs(self) -> set[str]:
        listed = self.aws("ListEndpointConfigs", MaxResults=100)["EndpointConfigs"]
        return {one["EndpointConfigName"] for one in listed}


@pytest.fixture
def lab(aws: Any) -> Lab:
    return Lab(aws)


BEFORE = [("AllTraffic", False, "ml.m5.large", 1, 1.0)]


# --- a whole life ------------------------------------------------------------------------------------


def test_a_test_without_schedule_starts_at_once_and_ends_after_seven_days(lab: Lab) -> None:
    answer = lab.create()
    created_s = lab.now_s
    assert answer["InferenceExperimentArn"].endswith(":inference-experiment/exp")
    assert lab.status() == "Creating"
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Running"
    assert created_s - 5 < told["Schedule"]["StartTime"] <= created_s + 5
    assert told["Schedule"]["EndTime"] - told["Schedule"]["StartTime"] == 7 * DAY_S
    assert [one["Status"] for one in told["ModelVariants"]] == ["InService", "InService"]
    assert lab.variants() == [
        ("AllTraffic", False, "ml.m5.large", 1, 1.0),
        ("Shadow-01", True, "ml.m5.xlarge", 2, 1.0),
    ]
    serving = lab.config()
    assert serving["EndpointConfigName"] == told["EndpointMetadata"]["EndpointConfigName"]
    assert serving["ShadowProductionVariants"][0]["ModelName"] == "churn2"
    assert "DataCaptureConfig" not in serving

    lab.wait(7 * DAY_S - 100)
    assert lab.status() == "Running"
    lab.wait(200)
    told = lab.told()
    assert told["Status"] == "Completed" and "StatusReason" not in told
    assert told["CompletionTime"] >= told["Schedule"]["EndTime"]
    assert [one["Status"] for one in told["ModelVariants"]] == ["InService", "Deleted"]
    assert told["EndpointMetadata"] == {
        "EndpointName": "ep",
        "EndpointConfigName": "before",
        "EndpointStatus": "InService",
    }
    assert lab.variants() == BEFORE
    assert lab.configs() == {"before"}, "the test's own configuration goes with it"
    kinds = [event.kind for event in lab.aws.records.events(told["Arn"], 0, 100)]
    assert kinds == [
        "ExperimentRequested",
        "ExperimentStarting",
        "ExperimentDeploying",
        "ExperimentRunning",
        "ExperimentStopping",
        "ExperimentEnding",
        "ExperimentCompleted",
    ]


def test_the_endpoint_gets_back_what_was_changed_since_its_configuration(lab: Lab) -> None:
    lab.aws(
        "UpdateEndpointWeightsAndCapacities",
        EndpointName="ep",
        DesiredWeightsAndCapacities=[
            {"VariantName": "AllTraffic", "DesiredWeight": 0.25, "DesiredInstanceCount": 3}
        ],
    )
    lab.aws.settle()
    lab.running(ModelVariants=[SHADOW])
    assert lab.variants()[0] == ("AllTraffic", False, "ml.m5.large", 3, 1.0), "sizes not told stay"
    lab.aws("DeleteEndpointConfig", EndpointConfigName="before")
    lab.aws("DeleteModel", ModelName="churn")
    lab.stop(DesiredState="Completed", Reason="seen enough")
    lab.aws.lead()
    assert lab.variants() == [("AllTraffic", False, "ml.m5.large", 3, 0.25)]
    assert lab.told()["StatusReason"] == "seen enough"
    assert lab.aws.stored().config_name == "before"


def test_a_scheduled_test_waits_and_leaves_its_endpoint_alone_until_it_starts(lab: Lab) -> None:
    lab.scheduled()
    assert lab.variants() == BEFORE
    assert [one["Status"] for one in lab.told()["ModelVariants"]] == ["InService", "Creating"]
    lab.aws("DeleteModel", ModelName="churn2")  # its containers were copied
    lab.wait(DAY_S + 10)
    assert lab.status() == "Running"


def test_an_endpoint_that_does_not_exist_is_made_and_kept(lab: Lab) -> None:
    lab.create(EndpointName="new", Schedule={"StartTime": at(lab.now_s + DAY_S)})
    assert lab.status() == "Creating"
    assert [one["Status"] for one in lab.told()["ModelVariants"]] == ["Creating", "Creating"]
    lab.aws.lead("new")
    assert lab.status() == "Created"
    made = lab.aws.stored("new")
    assert [variant.name for variant in made.fleet.variants] == ["AllTraffic"]
    lab.aws("StartInferenceExperiment", Name="exp")
    lab.aws.lead("new")
    assert lab.status() == "Running"
    assert [variant.name for variant in lab.aws.stored("new").fleet.variants] == ["AllTraffic", "Shadow-01"]
    lab.stop()
    lab.aws.lead("new")
    after = lab.aws.stored("new")
    assert [variant.name for variant in after.fleet.variants] == ["AllTraffic"]
    assert after.config_name == made.config_name and after.status is EndpointStatus.IN_SERVICE
    lab.aws("DeleteInferenceExperiment", Name="exp")
    assert lab.aws.stored("new").status is EndpointStatus.IN_SERVICE


def test_a_new_endpoint_that_fails_cancels_its_test(lab: Lab) -> None:
    lab.create(EndpointName="new")
    lab.aws.lead("new", fail="no such file")
    told = lab.told()
    assert told["Status"] == "Cancelled" and "no such file" in told["StatusReason"]
    assert told["EndpointMetadata"]["EndpointStatus"] == "Failed"


def test_a_shadow_that_cannot_start_cancels_its_test_and_harms_nothing(lab: Lab) -> None:
    lab.create()
    lab.aws.lead(fail="out of memory")
    told = lab.told()
    assert told["Status"] == "Cancelled" and "out of memory" in told["StatusReason"]
    assert lab.variants() == BEFORE and lab.aws.stored().config_name == "before"
    assert lab.configs() == {"before"}


# --- promotion and its three sizes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, ("ml.m5.xlarge", 2)),  # the shadow's own
        (
            {"DesiredModelVariants": [model_variant("Shadow-01", "churn2")]},
            ("ml.m5.large", 1),
        ),  # production's
        (
            {"DesiredModelVariants": [model_variant("Shadow-01", "churn2", "ml.c5.xlarge", 4)]},
            ("ml.c5.xlarge", 4),
        ),
    ],
)
def test_promotion(lab: Lab, sizes: dict[str, Any], expected: tuple[str, int]) -> None:
    storage = {"Destination": "s3://models/captured"}
    lab.running(ShadowModeConfig=mode(50), DataStorageConfig=storage)
    lab.stop(
        ModelVariantActions={"AllTraffic": "Remove", "Shadow-01": "Promote"},
        DesiredState="Completed",
        Reason="better",
        **sizes,
    )
    assert lab.status() == "Stopping"
    assert [one["Status"] for one in lab.told()["ModelVariants"]] == ["Deleting", "Updating"]
    lab.aws.lead()
    told = lab.told()
    assert (told["Status"], told["StatusReason"]) == ("Completed", "better")
    assert [one["Status"] for one in told["ModelVariants"]] == ["Deleted", "InService"]
    assert lab.variants() == [("Shadow-01", False, *expected, 1.0)]
    promoted = lab.config()
    assert "ShadowProductionVariants" not in promoted and "DataCaptureConfig" not in promoted
    (variant,) = promoted["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == expected
    assert variant["ModelName"] == "churn2"
    assert lab.configs() == {"before", promoted["EndpointConfigName"]}


def test_a_promotion_that_fails_gives_the_endpoint_back(lab: Lab) -> None:
    lab.running()
    lab.stop(ModelVariantActions={"Shadow-01": "Promote"}, DesiredState="Completed")
    lab.tick()
    lab.aws.settle(fail="the disk is full")
    assert [one[0] for one in lab.variants()] == ["AllTraffic", "Shadow-01"]
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Cancelled" and "the disk is full" in told["StatusReason"]
    assert lab.variants() == BEFORE


def test_an_endpoint_that_cannot_be_given_back_is_told(lab: Lab) -> None:
    lab.running()
    lab.stop()
    lab.tick()
    lab.aws.settle(fail="the disk is full")
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Cancelled"
    assert "still serves the test's variants" in told["StatusReason"]
    assert "the disk is full" in told["StatusReason"]
    assert lab.aws.stored().config_name in lab.configs(), "what serves keeps its configuration"


def test_both_variants_can_be_kept(lab: Lab) -> None:
    lab.running()
    serving = lab.variants()
    lab.stop(ModelVariantActions={"AllTraffic": "Retain", "Shadow-01": "Retain"})
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Cancelled", "ended early without a DesiredState"
    assert [one["Status"] for one in told["ModelVariants"]] == ["InService", "InService"]
    assert lab.variants() == serving
    assert told["EndpointMetadata"]["EndpointConfigName"] in lab.configs()


def test_both_variants_can_be_kept_in_another_size(lab: Lab) -> None:
    lab.running()
    lab.stop(
        ModelVariantActions={"AllTraffic": "Retain", "Shadow-01": "Retain"},
        DesiredModelVariants=[model_variant("AllTraffic", "churn", "ml.m5.large", 2)],
    )
    lab.aws.lead()
    assert [(one[0], one[3]) for one in lab.variants()] == [("AllTraffic", 2), ("Shadow-01", 2)]
    assert lab.config()["ProductionVariants"][0]["InitialInstanceCount"] == 2


# --- capture -----------------------------------------------------------------------------------------


def test_a_test_can_capture_and_its_capture_ends_with_it(lab: Lab) -> None:
    storage = {
        "Destination": "s3://models/captured/",
        "ContentType": {"CsvContentTypes": ["text/csv"]},
    }
    lab.running(DataStorageConfig=storage, Tags=[{"Key": "understudy:capture", "Value": "durable"}])
    capture = lab.aws.stored().fleet.capture
    assert (capture.destination, capture.sampling_percent) == ("s3://models/captured", 100.0)
    assert capture.inputs and capture.outputs and capture.durable and capture.csv_types == ("text/csv",)
    assert lab.told()["DataStorageConfig"] == storage
    lab.stop()
    lab.aws.lead()
    assert lab.aws.stored().fleet.capture is None


def test_a_capture_that_the_endpoint_has_goes_on_during_a_test_without_its_own(lab: Lab) -> None:
    wished = {
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": "s3://models/monitor",
        "CaptureOptions": [{"CaptureMode": "Input"}],
    }
    lab.aws.config("monitored", DataCaptureConfig=wished)
    lab.aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="monitored")
    lab.aws.settle()
    monitored = lab.aws.stored().fleet.capture
    lab.running()
    assert lab.aws.stored().fleet.capture == monitored
    assert lab.config()["DataCaptureConfig"]["DestinationS3Uri"] == "s3://models/monitor"
    lab.stop(ModelVariantActions={"Shadow-01": "Promote"})
    lab.aws.lead()
    assert lab.aws.stored().fleet.capture == monitored


# --- updates -----------------------------------------------------------------------------------------


def test_before_its_start_all_of_a_test_can_change(lab: Lab) -> None:
    lab.scheduled()
    lab.aws.model("churn3")
    start, end = lab.now_s + 2 * DAY_S, lab.now_s + 3 * DAY_S
    lab.aws(
        "UpdateInferenceExperiment",
        Name="exp",
        Description="another candidate",
        Schedule={"StartTime": at(start), "EndTime": at(end)},
        ModelVariants=[model_variant("Other", "churn3")],
        ShadowModeConfig=mode(7, shadow="Other"),
        DataStorageConfig={"Destination": "s3://models/captured"},
    )
    told = lab.told()
    assert told["Status"] == "Created" and told["Description"] == "another candidate"
    assert (told["Schedule"]["StartTime"], told["Schedule"]["EndTime"]) == (start, end)
    assert [one["ModelName"] for one in told["ModelVariants"]] == ["churn", "churn3"]
    lab.aws.lead()
    assert lab.status() == "Created"
    lab.wait(2 * DAY_S)
    assert lab.status() == "Running"
    assert lab.variants()[1] == ("Other", True, "ml.m5.large", 1, 0.07)
    assert lab.aws.stored().fleet.capture is not None
    lab.wait(DAY_S)
    assert lab.status() == "Completed"


def test_only_the_start_or_only_the_end_can_move(lab: Lab) -> None:
    lab.scheduled()
    before = lab.told()["Schedule"]
    lab.aws("UpdateInferenceExperiment", Name="exp", Schedule={"EndTime": at(before["EndTime"] + HOUR_S)})
    assert lab.told()["Schedule"] == {"StartTime": before["StartTime"], "EndTime": before["EndTime"] + HOUR_S}
    lab.aws("UpdateInferenceExperiment", Name="exp", Schedule={"StartTime": at(before["StartTime"] + HOUR_S)})
    assert lab.told()["Schedule"] == {
        "StartTime": before["StartTime"] + HOUR_S,
        "EndTime": before["EndTime"] + HOUR_S,
    }


def test_a_running_test_changes_its_sampling_without_a_new_fleet(lab: Lab) -> None:
    lab.running(ShadowModeConfig=mode(50))
    fleet_id = lab.aws.stored().fleet.fleet_id
    lab.aws("UpdateInferenceExperiment", Name="exp", ShadowModeConfig=mode(0), Description="quiet")
    assert lab.status() == "Updating"
    assert [one["Status"] for one in lab.told()["ModelVariants"]] == ["InService", "Updating"]
    with pytest.raises(ConflictException):
        lab.aws("UpdateInferenceExperiment", Name="exp", ShadowModeConfig=mode(1))
    lab.aws.lead()
    assert lab.status() == "Running"
    assert lab.variants()[1][4] == 0.0 and lab.variants()[0][4] == 1.0
    assert lab.aws.stored().fleet.fleet_id == fleet_id
    assert lab.told()["ShadowModeConfig"] == mode(0) and lab.told()["Description"] == "quiet"


def test_a_running_test_can_end_later_or_sooner(lab: Lab) -> None:
    lab.running()
    schedule = lab.told()["Schedule"]
    start_s = schedule["StartTime"]
    end = {"StartTime": at(start_s), "EndTime": at(start_s + 2 * DAY_S)}
    lab.aws("UpdateInferenceExperiment", Name="exp", Schedule=end)
    lab.wait(DAY_S)
    assert lab.status() == "Running"
    for wrong in (start_s + 0.5 * DAY_S, start_s + 30 * DAY_S + 1):
        with pytest.raises(ValidationException):
            lab.aws("UpdateInferenceExperiment", Name="exp", Schedule={"EndTime": at(wrong)})
    lab.wait(DAY_S)
    assert lab.status() == "Completed"


@pytest.mark.parametrize(
    "change",
    [
        {"ModelVariants": [model_variant("Shadow-01", "churn2", "ml.m5.large")]},
        {"ShadowModeConfig": mode(shadow="Other")},
        {"DataStorageConfig": {"Destination": "s3://models/captured"}},
        {"Schedule": {"StartTime": at(1_800_000_000.0)}},
    ],
)
def test_a_running_test_refuses_other_changes(lab: Lab, change: dict[str, Any]) -> None:
    lab.running()
    before = lab.told()
    with pytest.raises(ConflictException):
        lab.aws("UpdateInferenceExperiment", Name="exp", **change)
    assert lab.told() == before
    lab.aws("UpdateInferenceExperiment", Name="exp", ModelVariants=[PRODUCTION, SHADOW])  # as they are


# --- start early -------------------------------------------------------------------------------------


def test_an_early_start_keeps_the_end_up_to_thirty_days(lab: Lab) -> None:
    lab.scheduled(starts_in_s=10 * DAY_S)
    end_s = lab.told()["Schedule"]["EndTime"]
    lab.aws("StartInferenceExperiment", Name="exp")
    assert lab.status() == "Starting"
    told = lab.told()["Schedule"]
    assert told["EndTime"] == end_s and told["StartTime"] <= lab.now_s
    lab.aws.lead()
    with pytest.raises(ConflictException):
        lab.aws("StartInferenceExperiment", Name="exp")
    lab.stop()
    lab.aws.lead()
    start_s = lab.now_s + 5 * DAY_S
    lab.create("late", Schedule={"StartTime": at(start_s), "EndTime": at(start_s + 30 * DAY_S)})
    lab.aws.lead()
    lab.aws("StartInferenceExperiment", Name="late")
    told = lab.told("late")["Schedule"]
    assert told["EndTime"] - told["StartTime"] == 30 * DAY_S


# --- refusals ----------------------------------------------------------------------------------------


def no_schedule(now_s: float, start_s: float | None, end_s: float | None) -> dict[str, Any]:
    members = {"StartTime": start_s, "EndTime": end_s}
    return {name: at(now_s + offset) for name, offset in members.items() if offset is not None}


@pytest.mark.parametrize(
    ("start_s", "end_s", "words"),
    [
        (HOUR_S, 2 * HOUR_S - 60, "at least 1 hour"),
        (HOUR_S, 30 * DAY_S + 2 * HOUR_S, "30 days"),
        (None, 31 * DAY_S, "30 days"),
        (None, 59 * 60, "at least 1 hour"),
        (DAY_S, HOUR_S, "later than"),
        (-DAY_S, DAY_S, "past"),
    ],
)
def test_schedules(lab: Lab, start_s: float | None, end_s: float | None, words: str) -> None:
    with pytest.raises(ValidationException, match=words):
        lab.create(Schedule=no_schedule(lab.now_s, start_s, end_s))


def test_the_longest_and_the_shortest_schedule(lab: Lab) -> None:
    start_s = lab.now_s + DAY_S
    lab.create("long", Schedule={"StartTime": at(start_s), "EndTime": at(start_s + 30 * DAY_S)})
    start_s += 31 * DAY_S
    lab.create("short", Schedule={"StartTime": at(start_s), "EndTime": at(start_s + HOUR_S)})


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"ModelVariants": [PRODUCTION]}, ValidationException, "Shadow-01"),
        ({"ModelVariants": [SHADOW, SHADOW]}, ValidationException, "more than once"),
        ({"ModelVariants": [SHADOW, model_variant("Third", "churn")]}, ValidationException, "Third"),
        ({"ShadowModeConfig": mode(source="Shadow-01")}, ValidationException, "name"),
        ({"ShadowModeConfig": mode(-1)}, ValidationException, "greater than or equal to 0"),
        (
            {"ModelVariants": [SHADOW, model_variant("AllTraffic", "churn2")]},
            ValidationException,
            "runs model churn",
        ),
        ({"ModelVariants": [PRODUCTION, model_variant("Shadow-01", "none")]}, ValidationException, "none"),
        (
            {"ModelVariants": [model_variant("Shadow-01", "churn2", count=0)]},
            ValidationException,
            "at least 1",
        ),
        (
            {"ModelVariants": [model_variant("Shadow-01", "churn2", count=501)]},
            ResourceLimitExceeded,
            "501",
        ),
        (
            {
                "ModelVariants": [model_variant("Other", "churn"), SHADOW],
                "ShadowModeConfig": mode(source="Other"),
            },
            ValidationException,
            "Other",
        ),
        ({"EndpointName": "none", "ModelVariants": [SHADOW]}, ValidationException, "no such endpoint"),
        ({"KmsKey": "key"}, ValidationException, "KmsKey is not supported"),
        (
            {"DataStorageConfig": {"Destination": "s3://models/x", "KmsKey": "key"}},
            ValidationException,
            "DataStorageConfig.KmsKey is not supported",
        ),
        (
            {"DataStorageConfig": {"Destination": "https://example.org/x"}},
            ValidationException,
            "DataStorageConfig.Destination must be s3://",
        ),
        ({"DataStorageConfig": {"Destination": "s3://nobucket/x"}}, ValidationException, "nobucket"),
        ({"Tags": [{"Key": "understudy:shadows", "Value": "many"}]}, ValidationException, "understudy:"),
    ],
)
def test_requests_that_contradict_themselves(
    lab: Lab, changed: dict[str, Any], error: type[ApiError], words: str
) -> None:
    with pytest.raises(error, match=words):
        lab.create(**changed)
    assert lab.aws("ListInferenceExperiments") == {"InferenceExperiments": []}
    assert lab.aws.records.get(Endpoint, "none") is None


def test_names_and_endpoints_have_one_test_at_a_time(lab: Lab) -> None:
    lab.running()
    with pytest.raises(ResourceInUse):
        lab.create(EndpointName="other")
    with pytest.raises(ValidationException, match="exp uses endpoint ep"):
        lab.create("second")
    later = lab.told()["Schedule"]["EndTime"] + HOUR_S
    lab.create("second", Schedule={"StartTime": at(later)})
    lab.aws.lead()
    with pytest.raises(ConflictException, match="exp uses endpoint ep"):
        lab.aws("StartInferenceExperiment", Name="second")
    with pytest.raises(ValidationException, match="second uses endpoint ep"):
        lab.aws("UpdateInferenceExperiment", Name="exp", Schedule={"EndTime": at(later + 2 * HOUR_S)})


def test_an_endpoint_with_several_production_variants_has_no_shadow_test(lab: Lab) -> None:
    lab.aws.config("two", lab.aws.variant("AllTraffic"), lab.aws.variant("B"))
    lab.aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="two")
    lab.aws.settle()
    with pytest.raises(ValidationException, match="exactly one production variant"):
        lab.create()


def test_an_endpoint_that_came_to_have_several_cancels_the_test(lab: Lab) -> None:
    lab.scheduled()
    lab.aws.config("two", lab.aws.variant("AllTraffic"), lab.aws.variant("B"))
    lab.aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="two")
    lab.wait(DAY_S + 10)
    assert lab.status() == "Cancelled"
    assert "exactly one production variant" in lab.told()["StatusReason"]
    assert lab.aws.stored().config_name == "two"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"ModelVariantActions": {"AllTraffic": "Remove", "Shadow-01": "Remove"}}, "can't be carried out"),
        ({"ModelVariantActions": {"AllTraffic": "Retain", "Shadow-01": "Promote"}}, "can't be carried out"),
        ({"ModelVariantActions": {"AllTraffic": "Promote"}}, "can't be carried out"),
        ({"ModelVariantActions": {"Nobody": "Retain"}}, "Nobody"),
        ({"DesiredModelVariants": [SHADOW]}, "Shadow-01 is not one of AllTraffic"),
        (
            {
                "ModelVariantActions": {"Shadow-01": "Promote"},
                "DesiredModelVariants": [model_variant("Shadow-01", "churn")],
            },
            "churn2",
        ),
        ({"DesiredModelVariants": [PRODUCTION, PRODUCTION]}, "more than once"),
        ({"DesiredModelVariants": [model_variant("AllTraffic", "churn", count=0)]}, "at least 1"),
    ],
)
def test_ends_that_leave_no_clear_production(lab: Lab, request_: dict[str, Any], words: str) -> None:
    lab.running()
    with pytest.raises(ValidationException, match=words):
        lab.stop(**request_)
    assert lab.status() == "Running"


def test_what_is_asked_in_the_wrong_state(lab: Lab) -> None:
    for operation in ("Describe", "Start", "Delete"):
        with pytest.raises(ResourceNotFound, match="Could not find inference experiment"):
            lab.aws(f"{operation}InferenceExperiment", Name="none")
    lab.create()
    for operation in ("Start", "Delete", "Update"):
        with pytest.raises(ConflictException, match="Creating"):
            lab.aws(f"{operation}InferenceExperiment", Name="exp")
    with pytest.raises(ConflictException):
        lab.stop()
    lab.aws.lead()
    with pytest.raises(ConflictException, match="Running"):
        lab.aws("DeleteInferenceExperiment", Name="exp")
    lab.stop()
    with pytest.raises(ConflictException, match="Stopping"):
        lab.stop()
    lab.aws.lead()
    with pytest.raises(ConflictException, match="Cancelled"):
        lab.stop()
    arn = lab.told()["Arn"]
    assert lab.aws("DeleteInferenceExperiment", Name="exp") == {"InferenceExperimentArn": arn}
    lab.create()  # the name is free again


def test_a_scheduled_test_can_be_called_off_but_not_promoted(lab: Lab) -> None:
    lab.scheduled()
    with pytest.raises(ConflictException, match="promote the shadow variant"):
        lab.stop(ModelVariantActions={"Shadow-01": "Promote"})
    lab.stop(Reason="no time")
    lab.aws.lead()
    told = lab.told()
    assert (told["Status"], told["StatusReason"]) == ("Cancelled", "no time")
    assert lab.variants() == BEFORE


# --- other people's hands ----------------------------------------------------------------------------


def test_an_endpoint_updated_by_others_is_left_as_it_is(lab: Lab) -> None:
    lab.running()
    lab.aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="before")
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Cancelled" and "by another request" in told["StatusReason"]
    assert lab.variants() == BEFORE and lab.configs() == {"before"}


def test_an_endpoint_deleted_by_others_ends_the_test(lab: Lab) -> None:
    lab.running()
    lab.aws("DeleteEndpoint", EndpointName="ep")
    lab.aws.lead()
    told = lab.told()
    assert told["Status"] == "Cancelled" and "deleted" in told["StatusReason"]
    assert told["EndpointMetadata"] == {"EndpointName": "ep"}


def test_another_endpoint_of_that_name_is_not_the_tests(lab: Lab) -> None:
    lab.scheduled()
    lab.aws("DeleteEndpoint", EndpointName="ep")
    lab.aws.settle()
    lab.aws.endpoint("ep", "before")
    lab.aws.lead()
    assert lab.status() == "Cancelled"
    assert lab.variants() == BEFORE


def test_a_test_stopped_while_it_starts_gives_the_endpoint_back(lab: Lab) -> None:
    lab.create()
    for _ in range(2):
        lab.tick()
    assert lab.status() == "Starting" and lab.aws.stored().status is EndpointStatus.UPDATING
    lab.stop()
    lab.tick()
    assert lab.status() == "Stopping"
    lab.aws.lead()
    assert lab.status() == "Cancelled"
    assert lab.variants() == BEFORE and lab.configs() == {"before"}


# --- lists and tags ----------------------------------------------------------------------------------


def test_lists_by_status_and_in_pages(lab: Lab) -> None:
    lab.running("first", Description="one")
    later = lab.told("first")["Schedule"]["EndTime"]
    for number in range(3):
        start_s = later + number * 8 * DAY_S
        lab.create(f"later-{number}", Schedule={"StartTime": at(start_s)})
    lab.aws.lead()
    (running,) = lab.aws("ListInferenceExperiments", StatusEquals="Running")["InferenceExperiments"]
    assert (running["Name"], running["Description"], running["RoleArn"]) == ("first", "one", ROLE)
    page = lab.aws("ListInferenceExperiments", MaxResults=3, SortBy="Name", SortOrder="Ascending")
    assert [one["Name"] for one in page["InferenceExperiments"]] == ["first", "later-0", "later-1"]
    rest = lab.aws(
        "ListInferenceExperiments",
        MaxResults=3,
        SortBy="Name",
        SortOrder="Ascending",
        NextToken=page["NextToken"],
    )
    assert [one["Name"] for one in rest["InferenceExperiments"]] == ["later-2"] and "NextToken" not in rest


def test_tags(lab: Lab) -> None:
    arn = lab.create(Tags=[{"Key": "team", "Value": "a"}])["InferenceExperimentArn"]
    assert lab.aws("ListTags", ResourceArn=arn) == {"Tags": [{"Key": "team", "Value": "a"}]}
    lab.aws.lead()
    lab.stop()
    lab.aws.lead()
    lab.aws("DeleteInferenceExperiment", Name="exp")
    with pytest.raises(ResourceNotFound):
        lab.aws("ListTags", ResourceArn=arn)


def test_names_of_configurations_fit_whatever_the_test_is_called(lab: Lab) -> None:
    lab.running("a" * 40 + "-" * 30 + "b" * 50)
    name = lab.aws.stored().config_name
    assert len(name) <= 63 and not name.endswith("-")
    stored = lab.aws.records.get(EndpointConfig, name)
    assert stored is not None and stored.value.arn.endswith(f"endpoint-config/{name}")
    assert all(isinstance(variant, FleetVariant) for variant in lab.aws.stored().fleet.variants)
