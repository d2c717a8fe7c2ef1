"""Tags ``understudy:...``: which there are, on what, and that they stay what they were."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.autopilot import Autopilot
from understudy.core.endpoints import Endpoint, EndpointConfig
from understudy.core.errors import ValidationException
from understudy.core.ports import Put

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/config"


def tag(key: str, value: str) -> dict[str, str]:
    return {"Key": key, "Value": value}


def test_known_extensions_are_kept_with_the_configuration_and_listed_as_tags(aws: Any) -> None:
    aws.model()
    tags = [tag("team", "risk"), tag("understudy:capture", "durable"), tag("understudy:shadows", "many")]
    aws.config(Tags=tags)
    stored = aws.records.get(EndpointConfig, "config")
    assert stored.value.extensions == {"capture": "durable", "shadows": "many"}
    assert aws("ListTags", ResourceArn=ARN)["Tags"] == tags


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("understudy:shadow", "many"),
        ("understudy:shadows", "Many"),
        ("understudy:shadows", ""),
        ("understudy:capture", "many"),
        ("Understudy:capture", "durable"),
        ("understudy:", "x"),
    ],
)
def test_unknown_ones_are_refused_with_the_known_ones_listed(aws: Any, key: str, value: str) -> None:
    aws.model()
    with pytest.raises(ValidationException) as caught:
        aws.config(Tags=[tag(key, value)])
    assert f'"{key}"' in caught.value.message
    assert "understudy:shadows=many, understudy:capture=durable" in caught.value.message
    assert aws("ListEndpointConfigs")["EndpointConfigs"] == []


def test_other_resources_have_none(aws: Any) -> None:
    container = {"Image": "xgboost:1.7", "ModelDataUrl": "s3://models/churn.tar.gz"}
    tags = [tag("understudy:shadows", "many")]
    with pytest.raises(ValidationException, match='model tags must not begin with "understudy:"'):
        aws("CreateModel", ModelName="m", PrimaryContainer=container, Tags=tags)
    aws.model()
    aws.config()
    with pytest.raises(
        ValidationException, match="endpoint tags that Understudy knows are understudy:sticky="
    ):
        aws("CreateEndpoint", EndpointName="ep", EndpointConfigName="config", Tags=tags)


def test_extensions_are_settled_at_creation(aws: Any) -> None:
    aws.model()
    kept = tag("understudy:shadows", "many")
    aws.config(Tags=[kept])
    for operation, members in (
        ("AddTags", {"Tags": [tag("understudy:capture", "durable")]}),
        ("AddTags", {"Tags": [tag("understudy:shadows", "one")]}),
        ("DeleteTags", {"TagKeys": ["understudy:shadows"]}),
    ):
        with pytest.raises(ValidationException, match="can only be set when the resource is created"):
            aws(operation, ResourceArn=ARN, **members)
    # Nothing changes: nothing is refused.
    aws("DeleteTags", ResourceArn=ARN, TagKeys=["understudy:capture"])
    assert aws("AddTags", ResourceArn=ARN, Tags=[kept, tag("a", "b")])["Tags"] == [tag("a", "b"), kept]


def test_an_endpoints_extensions_follow_its_tags(aws: Any) -> None:
    aws.model()
    aws.config()
    sticky = tag("understudy:sticky", "custom-attributes.user")
    arn = aws("CreateEndpoint", EndpointName="ep", EndpointConfigName="config", Tags=[sticky])["EndpointArn"]

    def extensions() -> dict[str, str]:
        return dict(aws.records.get(Endpoint, "ep").value.extensions)

    assert extensions() == {"sticky": "custom-attributes.user"}
    aws("AddTags", ResourceArn=arn, Tags=[tag("understudy:assignments", "off"), tag("team", "risk")])
    assert extensions() == {"sticky": "custom-attributes.user", "assignments": "off"}
    for wrong in (tag("understudy:sticky", "ip"), tag("understudy:unknown", "x"), tag("understudy:", "")):
        with pytest.raises(ValidationException, match="endpoint tags that Understudy knows are"):
            aws("AddTags", ResourceArn=arn, Tags=[wrong])
    aws("DeleteTags", ResourceArn=arn, TagKeys=["understudy:sticky", "team"])
    assert extensions() == {"assignments": "off"}
    assert aws("ListTags", ResourceArn=arn)["Tags"] == [tag("understudy:assignments", "off")]


def test_an_autopilots_tag_is_checked_and_setting_it_again_begins_anew(aws: Any) -> None:
    aws.model()
    aws.config()
    arn = aws("CreateEndpoint", EndpointName="ep", EndpointConfigName="config")["EndpointArn"]
    for wrong in ("", "yes", "PROMOTE", "promote,rollback"):
        with pytest.raises(ValidationException, match="promote or rollback or both or bandit"):
            aws("AddTags", ResourceArn=arn, Tags=[tag("understudy:autopilot", wrong)])
    aws("AddTags", ResourceArn=arn, Tags=[tag("understudy:autopilot", "both")])
    assert aws.records.get(Endpoint, "ep").value.extensions == {"autopilot": "both"}
    paused = Autopilot("ep", "both", 1.0, "f1", {}, 1.0, 1.0, 1.0, 1.0, paused="by hand")
    aws.records.commit([Put(paused, 0)])
    aws("AddTags", ResourceArn=arn, Tags=[tag("team", "risk")])
    assert aws.records.get(Autopilot, "ep") is not None
    aws("AddTags", ResourceArn=arn, Tags=[tag("understudy:autopilot", "both")])
    assert aws.records.get(Autopilot, "ep") is None
    aws("DeleteTags", ResourceArn=arn, TagKeys=["understudy:autopilot"])
    assert aws.records.get(Endpoint, "ep").value.extensions == {}


CAPTURE = {
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": "s3://kept/x",
    "CaptureOptions": [{"CaptureMode": "Output"}],
}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "shadow-cpu-percent",
            ["5", "100", "6400"],
            ["0", "4", "6401", "50%", "1e2", "+50", "05", " 50", "\u0665\u0665"],
        ),
        ("noise-percent", ["0", "1", "10"], ["11", "-1", "0.5", ""]),
    ],
)
def test_numbers_are_checked_to_the_letter(aws: Any, name: str, good: list[str], bad: list[str]) -> None:
    aws.model()
    aws.services.buckets.create_bucket("kept")
    for value in bad:
        with pytest.raises(ValidationException, match=f"understudy:{name}="):
            aws.config(Tags=[tag(f"understudy:{name}", value)], DataCaptureConfig=CAPTURE)
    for number, value in enumerate(good):
        aws.config(f"config-{number}", Tags=[tag(f"understudy:{name}", value)], DataCaptureConfig=CAPTURE)
        stored = aws.records.get(EndpointConfig, f"config-{number}")
        assert stored.value.extensions == {name: value}


def test_second_answers_need_capture_of_answers_and_a_free_name(aws: Any) -> None:
    aws.model()
    aws.services.buckets.create_bucket("kept")
    noise = [tag("understudy:noise-percent", "5")]
    for capture in (
        None,
        {**CAPTURE, "EnableCapture": False},
        {**CAPTURE, "CaptureOptions": [{"CaptureMode": "Input"}]},
    ):
        more = {} if capture is None else {"DataCaptureConfig": capture}
        with pytest.raises(ValidationException, match="needs data capture with Output"):
            aws.config(Tags=noise, **more)
