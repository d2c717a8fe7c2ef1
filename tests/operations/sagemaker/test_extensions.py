"""Tags ``understudy:...``: which there are, on what, and that they stay what they were."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.endpoints import EndpointConfig
from understudy.core.errors import ValidationException

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
