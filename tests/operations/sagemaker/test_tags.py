"""Tags: with a resource, after it was made, and after it is gone."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.errors import ResourceNotFound, ValidationException
from understudy.core.models import Tags
from understudy.core.ports import Put


def tags(**values: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


@pytest.fixture
def arns(aws: Any) -> list[str]:
    """One resource of each kind, tagged at creation."""
    image = {"Image": "i"}
    model = aws.model(PrimaryContainer=image, Tags=tags(b="1", a=""))
    config = aws.config("config", Tags=tags(b="1", a=""))
    return [model, config, aws.endpoint(Tags=tags(b="1", a=""))]


def test_tags_of_every_kind(aws: Any, arns: list[str]) -> None:
    for arn in arns:
        assert aws("ListTags", ResourceArn=arn) == {"Tags": tags(a="", b="1")}
        assert aws("AddTags", ResourceArn=arn, Tags=tags(c="3", a="new")) == {
            "Tags": tags(a="new", b="1", c="3")
        }
        assert aws("DeleteTags", ResourceArn=arn, TagKeys=["a", "absent"]) == {}
        assert aws("ListTags", ResourceArn=arn, MaxResults=50) == {"Tags": tags(b="1", c="3")}
        aws("DeleteTags", ResourceArn=arn, TagKeys=["b", "c"])
        assert aws("ListTags", ResourceArn=arn) == {"Tags": []}
        assert aws.records.get(Tags, arn) is None


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ([{"Key": "aws:x", "Value": ""}], "reserved"),
        ([{"Key": "AWS:x", "Value": ""}], "reserved"),
        ([{"Key": "k", "Value": "1"}, {"Key": "k", "Value": "2"}], "Duplicate"),
    ],
)
def test_tags_that_are_refused(aws: Any, bad: list[dict[str, str]], text: str) -> None:
    with pytest.raises(ValidationException, match=text):
        aws.model(PrimaryContainer={"Image": "i"}, Tags=bad)
    assert aws("ListModels")["Models"] == []
    arn = aws.model()
    with pytest.raises(ValidationException, match=text):
        aws("AddTags", ResourceArn=arn, Tags=bad)


def test_fifty_at_most(aws: Any) -> None:
    arn = aws.model(PrimaryContainer={"Image": "i"}, Tags=tags(**{f"k{number}": "" for number in range(50)}))
    aws("AddTags", ResourceArn=arn, Tags=tags(k0="changed"))
    with pytest.raises(ValidationException, match="51 tags"):
        aws("AddTags", ResourceArn=arn, Tags=tags(one_more=""))
    assert len(aws("ListTags", ResourceArn=arn)["Tags"]) == 50


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:sagemaker:us-east-1:123456789012:model/absent",
        "arn:aws:sagemaker:us-east-1:123456789012:endpoint/absent",
        "arn:aws:sagemaker:eu-west-1:123456789012:model/churn",
        "arn:aws:sagemaker:us-east-1:999999999999:model/churn",
        "arn:aws:sagemaker:us-east-1:123456789012:training-job/churn",
        "arn:aws:sagemaker:us-east-1:123456789012:model",
    ],
)
def test_only_what_is_there_has_tags(aws: Any, arn: str) -> None:
    aws.model()
    for operation, request in (
        ("ListTags", {}),
        ("AddTags", {"Tags": tags(a="")}),
        ("DeleteTags", {"TagKeys": ["a"]}),
    ):
        with pytest.raises(ResourceNotFound, match="Could not find"):
            aws(operation, ResourceArn=arn, **request)


def test_tags_go_with_their_resource(aws: Any) -> None:
    arn = aws.model(PrimaryContainer={"Image": "i"}, Tags=tags(old=""))
    aws("DeleteModel", ModelName="churn")
    assert aws.records.get(Tags, arn) is None
    aws.model()
    assert aws("ListTags", ResourceArn=arn) == {"Tags": []}


@pytest.mark.parametrize("new", [[], tags(new="")])
def test_tags_left_by_a_race_do_not_come_back(aws: Any, new: list[dict[str, str]]) -> None:
    arn = aws.place.arn("model", "churn")
    aws.records.commit([Put(Tags(arn, {"stale": ""}, 1.0, 1.0), 0)])
    aws.model(PrimaryContainer={"Image": "i"}, Tags=new)
    assert aws("ListTags", ResourceArn=arn) == {"Tags": new}


def test_there_is_one_page(aws: Any) -> None:
    with pytest.raises(ValidationException, match="NextToken"):
        aws("ListTags", ResourceArn=aws.model(), NextToken="x")
