"""Endpoint configurations: rules between members, what is refused and what is echoed."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.errors import ValidationException
from understudy.operations.sagemaker.unsupported import UNSUPPORTED

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/config"


def capture(**members: Any) -> dict[str, Any]:
    return {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://b/c",
        "CaptureOptions": [{"CaptureMode": "Input"}],
        **members,
    }


def test_create_describe_delete(aws: Any) -> None:
    aws.model()
    plain, zero = aws.variant("blue"), aws.variant("green", InitialVariantWeight=0.0, VolumeSizeInGB=30)
    harmless = {"DataCaptureConfig": capture(EnableCapture=False), "EnableNetworkIsolation": True}
    assert aws.config("config", plain, zero, **harmless) == ARN
    described = aws("DescribeEndpointConfig", EndpointConfigName="config")
    assert described.pop("CreationTime") > 1_700_000_000
    assert described == {
        "EndpointConfigName": "config",
        "EndpointConfigArn": ARN,
        "ProductionVariants": [{**plain, "InitialVariantWeight": 1.0}, zero],
        **harmless,
    }
    with pytest.raises(ValidationException) as caught:
        aws.config()
    assert caught.value.message == f'Cannot create already existing endpoint configuration "{ARN}".'
    listed = aws("ListEndpointConfigs", NameContains="CONF")["EndpointConfigs"]
    assert [one["EndpointConfigArn"] for one in listed] == [ARN]
    aws("DeleteEndpointConfig", EndpointConfigName="config")
    for operation in ("DescribeEndpointConfig", "DeleteEndpointConfig"):
        with pytest.raises(ValidationException) as caught:
            aws(operation, EndpointConfigName="config")
        assert caught.value.message == f'Could not find endpoint configuration "{ARN}".'


def test_the_model_must_be_there(aws: Any) -> None:
    with pytest.raises(ValidationException) as caught:
        aws.config()
    assert (
        caught.value.message == 'Could not find model "arn:aws:sagemaker:us-east-1:123456789012:model/churn".'
    )


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ({"InstanceType": None}, "InstanceType is required"),
        ({"InitialInstanceCount": None}, "InitialInstanceCount is required"),
        ({"ModelName": None}, "ModelName is required"),
        ({"InitialVariantWeight": float("inf")}, "finite"),
        ({"InitialVariantWeight": float("nan")}, "finite"),
        (
            {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}},
            "ServerlessConfig is not supported",
        ),
        ({"ManagedInstanceScaling": {"Status": "ENABLED"}}, "ManagedInstanceScaling is not supported"),
        ({"RoutingConfig": {"RoutingStrategy": "KV_AWARE"}}, "RoutingConfig is not supported"),
        ({"CoreDumpConfig": {"DestinationS3Uri": "s3://b/c"}}, "CoreDumpConfig is not supported"),
        ({"EnableSSMAccess": True}, "EnableSSMAccess is not supported"),
        ({"AcceleratorType": "ml.eia1.large"}, "AcceleratorType is not supported"),
    ],
)
def test_variants_that_are_refused(aws: Any, member: dict[str, Any], text: str) -> None:
    aws.model()
    variant = {name: value for name, value in aws.variant(**member).items() if value is not None}
    with pytest.raises(ValidationException, match=text):
        aws.config("config", aws.variant("fine"), variant)
    assert aws("ListEndpointConfigs")["EndpointConfigs"] == []


def test_variant_names_are_unique(aws: Any) -> None:
    aws.model()
    with pytest.raises(ValidationException, match="unique"):
        aws.config("config", aws.variant("a"), aws.variant("b"), aws.variant("a"))


@pytest.mark.parametrize(
    "request_",
    [
        {"KmsKeyId": "key"},
        {"AsyncInferenceConfig": {"OutputConfig": {}}},
        {"ExplainerConfig": {"ClarifyExplainerConfig": {"ShapConfig": {"ShapBaselineConfig": {}}}}},
        {
            "CrossRegionTrafficConfig": {
                "MaxInvocationsPerSecondPerInstance": 1,
                "MaxCrossRegionPercentPerEndpoint": 1,
            }
        },
    ],
)
def test_members_that_are_not_there_yet_are_named(aws: Any, request_: dict[str, Any]) -> None:
    aws.model()
    (member,) = request_
    assert member in UNSUPPORTED["endpoint configuration"]
    with pytest.raises(ValidationException, match=f"^{member} is not supported yet"):
        aws.config("config", **request_)


def test_harmless_members_are_echoed(aws: Any) -> None:
    aws.model()
    variant = aws.variant(
        RoutingConfig={"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"},
        ManagedInstanceScaling={"Status": "DISABLED"},
        ContainerStartupHealthCheckTimeoutInSeconds=60,
        ModelDataDownloadTimeoutInSeconds=61,
        InferenceAmiVersion="al2-ami-sagemaker-inference-gpu-2",
        EnableSSMAccess=False,
        InitialVariantWeight=2,
    )
    aws.config("config", variant, MetricsConfig={"EnableEnhancedMetrics": True}, Tags=[])
    described = aws("DescribeEndpointConfig", EndpointConfigName="config")
    assert described["ProductionVariants"] == [variant]
    assert described["MetricsConfig"] == {"EnableEnhancedMetrics": True}
    aws.endpoint()
    (made,) = aws.stored().fleet.variants
    assert (made.startup_timeout_s, made.download_timeout_s, made.desired_weight) == (60, 61, 2.0)


def test_a_sum_of_weights_of_zero_is_accepted(aws: Any) -> None:
    aws.model()
    aws.config("config", aws.variant(InitialVariantWeight=0.0))
    aws.endpoint()
    (variant,) = aws("DescribeEndpoint", EndpointName="ep")["ProductionVariants"]
    assert (variant["CurrentWeight"], variant["DesiredWeight"]) == (0.0, 0.0)
