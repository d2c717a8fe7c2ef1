"""Constraints of the shapes: every one that can be broken is, over HTTP, because boto3 checks almost none."""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import Shape, ShapeResolver, StructureShape

from understudy.aws.catalog import SIGNING_NAMES, Catalog
from understudy.aws.validation import compile_pattern, validate
from understudy.core.errors import ApiError

HOSTING = ("CreateModel", "CreateEndpointConfig", "CreateEndpoint", "UpdateEndpointWeightsAndCapacities")

VALID: dict[str, dict[str, Any]] = {
    "CreateModel": {
        "ModelName": "m",
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/understudy",
        "PrimaryContainer": {"Image": "xgboost:1.7", "ModelDataUrl": "s3://b/k", "Environment": {"A": "b"}},
        "Tags": [{"Key": "k", "Value": "v"}],
        "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
    },
    "CreateEndpointConfig": {
        "EndpointConfigName": "c",
        "ProductionVariants": [
            {
                "VariantName": "v",
                "ModelName": "m",
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": 0.0,
            }
        ],
        "DataCaptureConfig": {
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://b/k",
            "CaptureOptions": [{"CaptureMode": "Input"}],
        },
    },
    "CreateEndpoint": {
        "EndpointName": "e",
        "EndpointConfigName": "c",
        "DeploymentConfig": {
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "WaitIntervalInSeconds": 60,
                    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
                },
                "TerminationWaitInSeconds": 0,
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "a"}]},
        },
    },
    "UpdateEndpointWeightsAndCapacities": {
        "EndpointName": "e",
        "DesiredWeightsAndCapacities": [
            {"VariantName": "v", "DesiredWeight": 0.0, "DesiredInstanceCount": 0}
        ],
    },
}


def breakages(shape: Shape, value: Any, put: Any) -> Iterator[tuple[str, Any]]:
    """Yield (constraint's wording, whole request) for every constraint at and below a value.

    Args:
        put: Returns the whole request with this value replaced.
    """
    metadata = shape.metadata
    kind = shape.type_name
    if kind == "string":
        if metadata.get("max", 10**9) < 100_000:
            yield "length less than or equal to", put("a" * (metadata["max"] + 1))
        if metadata.get("min", 0) > 0:
            yield "length greater than or equal to", put("")
        if "pattern" in metadata and compile_pattern(metadata["pattern"]).fullmatch("\x00") is None:
            yield "regular expression pattern", put("\x00")
        if shape.enum:
            yield "enum value set", put("local")
    elif kind in ("integer", "long", "float", "double"):
        if "max" in metadata:
            yield "value less than or equal to", put(metadata["max"] + 1)
        if "min" in metadata:
            yield "value greater than or equal to", put(metadata["min"] - 1)
    elif kind == "structure":
        for name in shape.required_members:
            yield "must not be null", put({key: item for key, item in value.items() if key != name})
        yield "Unknown member", put({**value, "Mispelt": 1})
        for name, item in value.items():
            yield from breakages(shape.members[name], item, lambda new, name=name: put({**value, name: new}))
    elif kind == "list":
        if "max" in metadata:
            yield "length less than or equal to", put(value[:1] * (metadata["max"] + 1))
        if metadata.get("min", 0) > 0:
            yield "length greater than or equal to", put([])
        yield "must not be null", put([None])
        yield from breakages(shape.member, value[0], lambda new: put([new]))
    elif kind == "map":
        if "max" in metadata:
            yield "length less than or equal to", put({f"K{n}": "v" for n in range(metadata["max"] + 1)})
        for key, item in value.items():
            yield from breakages(shape.key, key, lambda new, item=item: put({new: item}))
            yield from breakages(shape.value, item, lambda new, key=key: put({key: new}))


@pytest.mark.parametrize("operation", HOSTING)
def test_every_broken_constraint_is_a_modelled_400(serve: Any, catalog: Catalog, operation: str) -> None:
    accepted: list[dict[str, Any]] = []

    def take(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        accepted.append(request)
        return {}

    server = serve({("sagemaker", operation): take}, auth="none")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def post(request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        headers = {
            "X-Amz-Target": f"SageMaker.{operation}",
            "Content-Type": "application/x-amz-json-1.1",
        }
        connection.request("POST", "/", json.dumps(request), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    model = catalog.operation("sagemaker", operation)
    assert model is not None
    valid = VALID[operation]
    assert post(valid) == (200, {})
    assert accepted == [valid]
    count = 0
    for wording, request in breakages(model.input_shape, copy.deepcopy(valid), lambda new: new):
        status, answer = post(request)
        assert (status, answer["__type"]) == (400, "ValidationException"), (wording, answer)
        assert wording in answer["message"], (wording, answer)
        assert "validation error" in answer["message"]
        count += 1
    connection.close()
    assert count >= 8
    assert accepted == [valid]


def message_of(catalog: Catalog, operation: str, request: dict[str, Any], service: str = "sagemaker") -> str:
    model = catalog.operation(service, operation)
    assert model is not None
    with pytest.raises(ApiError) as caught:
        validate(service, model.input_shape, request)
    assert caught.value.status == 400
    return caught.value.message


def test_the_wording_is_amazons(catalog: Catalog) -> None:
    request = copy.deepcopy(VALID["CreateEndpointConfig"])
    variant = request["ProductionVariants"][0]
    variant |= {"ModelName": "bad name", "InitialVariantWeight": -1.0}
    message = message_of(catalog, "CreateEndpointConfig", request)
    pattern = catalog.service("sagemaker").shape_for("ModelName").metadata["pattern"]
    assert message == (
        "2 validation errors detected: "
        "Value 'bad name' at 'productionVariants.1.member.modelName' failed to satisfy constraint: "
        f"Member must satisfy regular expression pattern: {pattern}; "
        "Value '-1.0' at 'productionVariants.1.member.initialVariantWeight' failed to satisfy constraint: "
        "Member must have value greater than or equal to 0"
    )
    missing = message_of(catalog, "CreateEndpoint", {"EndpointName": "e"})
    assert missing == (
        "1 validation error detected: Value null at 'endpointConfigName' failed to satisfy constraint: "
        "Member must not be null"
    )
    model = {**VALID["CreateModel"], "VpcConfig": {"SecurityGroupIds": ["sg 1"], "Subnets": ["s"]}}
    assert message_of(catalog, "CreateModel", model).startswith(
        "1 validation error detected: Value '[sg 1]' at 'vpcConfig.securityGroupIds' failed to satisfy"
        " constraint: Member must satisfy constraint: [Member must have length less than or equal to 32, "
    )
    model = {**VALID["CreateModel"], "PrimaryContainer": {"Environment": {"A": "x" * 100_000}}}
    assert (
        "at 'primaryContainer.environment' failed to satisfy constraint: Map value must satisfy"
        in message_of(catalog, "CreateModel", model)
    )


def test_zero_is_a_value(catalog: Catalog) -> None:
    for operation, request in VALID.items():
        model = catalog.operation("sagemaker", operation)
        assert model is not None
        validate("sagemaker", model.input_shape, request)


def test_every_pattern_compiles(catalog: Catalog) -> None:
    count = 0
    for service in SIGNING_NAMES:
        model = catalog.service(service)
        for name in model.shape_names:
            pattern = model.shape_for(name).metadata.get("pattern")
            if pattern is not None:
                compile_pattern(pattern)
                count += 1
    assert count > 600


def test_patterns_written_for_utf16(catalog: Catalog) -> None:
    """ResourceId of application-autoscaling allows everything but controls, surrogate pairs included."""
    shape = catalog.service("application-autoscaling").shape_for("ResourceIdMaxLen1600")
    pattern = compile_pattern(shape.metadata["pattern"])
    assert pattern.fullmatch("endpoint/e/variant/v")
    assert pattern.fullmatch("\U0001f600")
    assert not pattern.fullmatch("\x00")


def test_patterns_that_would_hang_are_stopped(catalog: Catalog) -> None:
    for name in ("ClusterSchedulerPriorityClassName", "ComputeQuotaTargetTeamName"):
        shape = catalog.service("sagemaker").shape_for(name)
        holder = {"type": "structure", "members": {"Name": {"shape": name}}}
        resolver = ShapeResolver({name: {"type": "string", **{k: shape.metadata[k] for k in shape.metadata}}})
        structure = StructureShape("Holder", holder, resolver)
        with pytest.raises(ApiError):
            validate("sagemaker", structure, {"Name": "a" * 39 + "!"})


def test_secrets_are_not_shown(catalog: Catalog) -> None:
    message = message_of(catalog, "AssumeRoleWithWebIdentity", {"WebIdentityToken": "hush" * 10_000}, "sts")
    assert "hush" not in message
    assert "webIdentityToken" in message


@pytest.mark.parametrize(
    ("service", "operation", "code"),
    [
        ("sagemaker", "CreateEndpoint", "ValidationException"),
        ("cloudwatch", "PutMetricAlarm", "ValidationError"),
        ("logs", "CreateLogGroup", "InvalidParameterException"),
        ("iam", "GetRole", "ValidationError"),
        ("sts", "AssumeRole", "ValidationError"),
        ("s3", "PutBucketPolicy", "InvalidArgument"),
    ],
)
def test_each_service_has_its_code(catalog: Catalog, service: str, operation: str, code: str) -> None:
    model = catalog.operation(service, operation)
    assert model is not None
    with pytest.raises(ApiError) as caught:
        validate(service, model.input_shape, {})
    assert caught.value.code == code
