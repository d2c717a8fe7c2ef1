"""Models: the rules between members, AWS's wording, and listings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from understudy.core.errors import ValidationException

ARN = "arn:aws:sagemaker:us-east-1:123456789012:model/churn"
IMAGE = {"Image": "xgboost:1.7"}


def test_create_describe_delete(aws: Any) -> None:
    role = "arn:aws:iam::123456789012:role/understudy"
    container = {"Image": "xgboost:1.7", "ModelDataUrl": "s3://models/churn.tar.gz", "Environment": {"A": ""}}
    vpc = {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}
    assert aws.model(PrimaryContainer=container, ExecutionRoleArn=role, VpcConfig=vpc) == ARN
    described = aws("DescribeModel", ModelName="churn")
    assert described.pop("CreationTime") > 1_700_000_000
    assert described == {
        "ModelName": "churn",
        "ModelArn": ARN,
        "PrimaryContainer": container,
        "ExecutionRoleArn": role,
        "VpcConfig": vpc,
        "EnableNetworkIsolation": False,
    }
    aws("DeleteModel", ModelName="churn")
    for operation in ("DescribeModel", "DeleteModel"):
        with pytest.raises(ValidationException) as caught:
            aws(operation, ModelName="churn")
        assert caught.value.message == f'Could not find model "{ARN}".'
        assert (caught.value.code, caught.value.status) == ("ValidationException", 400)
    aws.model()


def test_describe_has_no_empty_structures(aws: Any) -> None:
    aws.model(PrimaryContainer={**IMAGE, "Environment": {}}, Containers=[])
    assert aws("DescribeModel", ModelName="churn")["PrimaryContainer"] == IMAGE


def test_a_name_is_taken_once(aws: Any) -> None:
    aws.model()
    with pytest.raises(ValidationException) as caught:
        aws.model(PrimaryContainer=IMAGE)
    assert caught.value.message == f'Cannot create already existing model "{ARN}".'


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"ExecutionRoleArn": "arn:aws:iam::123456789012:role/u"}, "Either PrimaryContainer or Containers"),
        ({"PrimaryContainer": IMAGE, "Containers": [IMAGE]}, "not both"),
        ({"PrimaryContainer": {"Environment": {}}}, r"PrimaryContainer\.Image is required"),
        ({"Containers": [IMAGE, {}]}, r"Containers\.2\.member\.Image is required"),
        ({"PrimaryContainer": {"ModelPackageName": "p"}}, r"ModelPackageName is not supported yet"),
        ({"PrimaryContainer": {**IMAGE, "Mode": "MultiModel"}}, r"Mode is not supported yet"),
        (
            {"PrimaryContainer": {**IMAGE, "ModelDataUrl": "s3://models/absent.tar.gz"}},
            r"^Could not find model data at s3://models/absent\.tar\.gz\.$",
        ),
        (
            {"PrimaryContainer": {**IMAGE, "ModelDataUrl": "s3://nobody/churn.tar.gz"}},
            "Could not find model data",
        ),
        (
            {"Containers": [{**IMAGE, "ContainerHostname": "a"}, {**IMAGE, "ContainerHostname": "a"}]},
            "must be unique",
        ),
        ({"Containers": [{**IMAGE, "ContainerHostname": "a"}, IMAGE]}, "Every container needs"),
        (
            {"Containers": [IMAGE, IMAGE], "InferenceExecutionConfig": {"Mode": "Direct"}},
            "ContainerHostname in Direct mode",
        ),
        (
            {
                "PrimaryContainer": {
                    **IMAGE,
                    "ModelDataUrl": "s3://models/churn.tar.gz",
                    "ModelDataSource": {
                        "S3DataSource": {
                            "S3Uri": "s3://models/churn.tar.gz",
                            "S3DataType": "S3Object",
                            "CompressionType": "Gzip",
                        }
                    },
                }
            },
            "exclude each other",
        ),
    ],
)
def test_refusals(aws: Any, request_: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationException, match=text):
        aws("CreateModel", ModelName="churn", **request_)
    assert aws("ListModels")["Models"] == []


def test_an_uncompressed_prefix_needs_one_object_below_it(aws: Any) -> None:
    def source(uri: str) -> dict[str, Any]:
        where = {"S3Uri": uri, "S3DataType": "S3Prefix", "CompressionType": "None"}
        return {"PrimaryContainer": {**IMAGE, "ModelDataSource": {"S3DataSource": where}}}

    with pytest.raises(ValidationException, match="Could not find model data"):
        aws.model(**source("s3://models/unpacked/"))
    aws.objects.put("models", "unpacked/model.json", [b"{}"])
    aws.model(**source("s3://models/unpacked/"))


def test_empty_members_are_not_echoed(aws: Any) -> None:
    aws.model(PrimaryContainer=IMAGE, Containers=[], Tags=[])
    described = aws("DescribeModel", ModelName="churn")
    assert "Containers" not in described
    assert "Tags" not in described


def names(answer: dict[str, Any]) -> list[str]:
    return [one["ModelName"] for one in answer["Models"]]


def test_lists_are_newest_first_and_paged(aws: Any) -> None:
    created = [f"m{number:02}" for number in range(25)]
    for name in created:
        aws.model(name)
    first = aws("ListModels")
    assert names(first) == created[:14:-1]
    found, token, pages = [], first["NextToken"], 1
    found += names(first)
    while token is not None:
        page = aws("ListModels", NextToken=token)
        found += names(page)
        token = page.get("NextToken")
        pages += 1
    assert (found, pages) == (created[::-1], 3)
    assert names(aws("ListModels", MaxResults=25, SortOrder="Ascending")) == created
    assert "NextToken" not in aws("ListModels", MaxResults=25)
    assert names(aws("ListModels", SortBy="Name", SortOrder="Ascending", MaxResults=2)) == ["m00", "m01"]
    assert names(aws("ListModels", NameContains="M1", SortBy="Name", MaxResults=1)) == ["m19"]


def test_lists_by_time(aws: Any) -> None:
    for name in ("a", "b", "c"):
        aws.model(name)
    at = datetime.fromtimestamp(aws("DescribeModel", ModelName="b")["CreationTime"], UTC)
    assert names(aws("ListModels", CreationTimeAfter=at)) == ["c", "b"]
    assert names(aws("ListModels", CreationTimeBefore=at)) == ["a"]


@pytest.mark.parametrize(
    "token", ["", "x", "e30=", "WzFd", "é", "WyJtb2RlbCBjcmVhdGVkIGRvd24iLE5hTiwiYSJd", "W" * 8192]
)
def test_a_foreign_token_is_refused(aws: Any, token: str) -> None:
    with pytest.raises(ValidationException, match="NextToken"):
        aws("ListModels", NextToken=token)


def test_a_token_belongs_to_its_order(aws: Any) -> None:
    for name in ("a", "b"):
        aws.model(name)
    token = aws("ListModels", MaxResults=1)["NextToken"]
    assert names(aws("ListModels", NextToken=token)) == ["a"]
    for other in ({"SortBy": "Name"}, {"SortOrder": "Ascending"}):
        with pytest.raises(ValidationException, match="NextToken"):
            aws("ListModels", NextToken=token, **other)
    with pytest.raises(ValidationException, match="NextToken"):
        aws("ListEndpoints", NextToken=token)
