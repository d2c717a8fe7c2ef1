"""Shadow variants and capture, from the configuration to what an endpoint tells of them."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.errors import ValidationException
from understudy.core.rollout_routes import route_of

MANY = [{"Key": "understudy:shadows", "Value": "many"}]


def capture(**members: Any) -> dict[str, Any]:
    return {
        "InitialSamplingPercentage": 50,
        "DestinationS3Uri": "s3://kept/here/",
        "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
        **members,
    }


def told(aws: Any, member: str = "ShadowProductionVariants") -> list[tuple[str, float, float, int, int]]:
    described = aws("DescribeEndpoint", EndpointName="ep")
    return [
        (
            one["VariantName"],
            one["CurrentWeight"],
            one["DesiredWeight"],
            one["CurrentInstanceCount"],
            one["DesiredInstanceCount"],
        )
        for one in described.get(member, [])
    ]


# --- configurations -------------------------------------------------------------------------------


def test_a_shadow_is_echoed_with_its_default_weight(aws: Any) -> None:
    aws.model()
    shadow = aws.variant("shadow", InitialInstanceCount=2)
    aws.config(ShadowProductionVariants=[shadow])
    described = aws("DescribeEndpointConfig", EndpointConfigName="config")
    assert described["ShadowProductionVariants"] == [{**shadow, "InitialVariantWeight": 1.0}]


@pytest.mark.parametrize(("production", "shadows"), [(2, 1), (1, 2), (2, 2)])
def test_one_of_each_unless_the_tag_says_many(aws: Any, production: int, shadows: int) -> None:
    aws.model()
    variants = [aws.variant(f"p{number}") for number in range(production)]
    members = {"ShadowProductionVariants": [aws.variant(f"s{number}") for number in range(shadows)]}
    with pytest.raises(ValidationException) as caught:
        aws.config("config", *variants, **members)
    assert caught.value.message.startswith(
        "If you use ShadowProductionVariants, you can only specify one variant for ProductionVariants "
        "and one variant for ShadowProductionVariants."
    )
    assert "understudy:shadows=many" in caught.value.message
    aws.config("config", *variants, **members, Tags=MANY)
    aws.endpoint()
    assert len(told(aws, "ProductionVariants")) == production and len(told(aws)) == shadows


def test_several_production_variants_alone_need_no_tag(aws: Any) -> None:
    aws.model()
    aws.config("config", aws.variant("a"), aws.variant("b"))


def test_names_are_unique_across_both_lists(aws: Any) -> None:
    aws.model()
    with pytest.raises(ValidationException, match="unique within an endpoint configuration: same"):
        aws.config("config", aws.variant("same"), ShadowProductionVariants=[aws.variant("same")])


@pytest.mark.parametrize(
    ("member", "text"),
    [
        ({"ModelName": "other"}, 'Could not find model ".*model/other"'),
        ({"InstanceType": None}, r"^ShadowProductionVariants\.1\.member\.InstanceType is required"),
        ({"InitialVariantWeight": float("nan")}, "finite"),
        (
            {"ServerlessConfig": {"MemorySizeInMB": 1024, "MaxConcurrency": 1}},
            r"^ShadowProductionVariants\.1\.member\.ServerlessConfig is not supported",
        ),
    ],
)
def test_shadows_are_held_to_the_rules_of_variants(aws: Any, member: dict[str, Any], text: str) -> None:
    aws.model()
    shadow = {name: value for name, value in aws.variant("s", **member).items() if value is not None}
    with pytest.raises(ValidationException, match=text):
        aws.config(ShadowProductionVariants=[shadow])


# --- endpoints ------------------------------------------------------------------------------------


def test_an_endpoint_tells_its_shadows_and_shares_follow_weights(aws: Any) -> None:
    aws.model()
    aws.config("config", aws.variant(InitialVariantWeight=2.0), ShadowProductionVariants=[aws.variant("s")])
    aws.endpoint()
    assert told(aws) == [("s", 1.0, 1.0, 1, 1)]
    assert told(aws, "ProductionVariants") == [("AllTraffic", 2.0, 2.0, 1, 1)]
    (image,) = aws("DescribeEndpoint", EndpointName="ep")["ShadowProductionVariants"][0]["DeployedImages"]
    assert image["SpecifiedImage"] == "xgboost:1.7"
    route = route_of(aws.stored(), [])
    assert route is not None and [(one.name, one.share) for one in route.shadows] == [("s", 0.5)]


def test_shadows_come_change_and_go_by_update(aws: Any) -> None:
    aws.model()
    aws.config("bare")
    aws.config("shadowed", ShadowProductionVariants=[aws.variant("s", InitialVariantWeight=0.5)])
    aws.config("other", ShadowProductionVariants=[aws.variant("t")])
    aws.endpoint(config="bare")
    for config, expected in (("shadowed", [("s", 0.5)]), ("other", [("t", 1.0)]), ("bare", [])):
        aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName=config)
        pending = aws("DescribeEndpoint", EndpointName="ep")["PendingDeploymentSummary"]
        names = [one["VariantName"] for one in pending.get("ShadowProductionVariants", [])]
        assert names == [name for name, _ in expected]
        aws.settle()
        assert [(name, weight) for name, weight, *_ in told(aws)] == expected


def test_an_update_whose_shadow_fails_is_undone(aws: Any) -> None:
    aws.model()
    aws.config("bare")
    aws.config("shadowed", ShadowProductionVariants=[aws.variant("s")])
    aws.endpoint(config="bare")
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="shadowed")
    aws.settle(fail="no such file")
    described = aws("DescribeEndpoint", EndpointName="ep")
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", "bare")
    assert "no such file" in described["FailureReason"] and told(aws) == []


def test_weights_and_capacities_of_shadows(aws: Any) -> None:
    aws.model()
    aws.config(ShadowProductionVariants=[aws.variant("s")])
    aws.endpoint()
    wish = {"VariantName": "s", "DesiredWeight": 0.0, "DesiredInstanceCount": 2}
    aws("UpdateEndpointWeightsAndCapacities", EndpointName="ep", DesiredWeightsAndCapacities=[wish])
    aws.settle()
    assert told(aws) == [("s", 0.0, 0.0, 2, 2)]
    assert told(aws, "ProductionVariants") == [("AllTraffic", 1.0, 1.0, 1, 1)]
    # What was changed is kept by an update that asks for it, and reset by one that does not.
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config", RetainAllVariantProperties=True)
    aws.settle()
    assert told(aws) == [("s", 0.0, 0.0, 2, 2)]
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="config")
    aws.settle()
    assert told(aws) == [("s", 1.0, 1.0, 1, 1)]


# --- capture --------------------------------------------------------------------------------------


def test_capture_is_echoed_and_told(aws: Any) -> None:
    aws.model()
    aws.objects.create_bucket("kept")
    types = {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]}
    wished = capture(CaptureContentTypeHeader=types)
    aws.config(DataCaptureConfig=wished)
    described = aws("DescribeEndpointConfig", EndpointConfigName="config")
    assert described["DataCaptureConfig"] == {"EnableCapture": True, **wished}
    aws.endpoint()
    assert aws("DescribeEndpoint", EndpointName="ep")["DataCaptureConfig"] == {
        "EnableCapture": True,
        "CaptureStatus": "Started",
        "CurrentSamplingPercentage": 50,
        "DestinationS3Uri": "s3://kept/here/",
    }
    route = route_of(aws.stored(), [])
    assert route is not None and route.capture is not None
    assert (route.capture.destination, route.capture.durable) == ("s3://kept/here", False)
    aws.config("durable", DataCaptureConfig=wished, Tags=[{"Key": "understudy:capture", "Value": "durable"}])
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="durable")
    aws.settle()
    route = route_of(aws.stored(), [])
    assert route is not None and route.capture is not None and route.capture.durable


def test_capture_is_stopped_and_dropped_by_update_whatever_is_retained(aws: Any) -> None:
    aws.model()
    aws.objects.create_bucket("kept")
    aws.config("on", DataCaptureConfig=capture())
    aws.config("off", DataCaptureConfig=capture(EnableCapture=False, DestinationS3Uri="s3://gone/x"))
    aws.config("bare")
    aws.endpoint(config="on")
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="off", RetainAllVariantProperties=True)
    aws.settle()
    described = aws("DescribeEndpoint", EndpointName="ep")["DataCaptureConfig"]
    assert (described["EnableCapture"], described["CaptureStatus"]) == (False, "Stopped")
    route = route_of(aws.stored(), [])
    assert route is not None and route.capture is None
    aws("UpdateEndpoint", EndpointName="ep", EndpointConfigName="bare")
    aws.settle()
    assert "DataCaptureConfig" not in aws("DescribeEndpoint", EndpointName="ep")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"KmsKeyId": "alias/key"}, r"^DataCaptureConfig\.KmsKeyId is not supported yet"),
        ({"DestinationS3Uri": "s3://missing/x"}, "bucket missing does not exist; create it first"),
        ({"DestinationS3Uri": "https://kept.s3.amazonaws.com/x"}, "must be s3://BUCKET/PREFIX"),
        ({"DestinationS3Uri": "s3:///x"}, "must be s3://BUCKET/PREFIX"),
        ({"DestinationS3Uri": "s3://kept/x\0y"}, "must be s3://BUCKET/PREFIX"),
        ({"DestinationS3Uri": "s3://.scratch/x"}, "can't be the name of a bucket"),
        ({"DestinationS3Uri": "s3://../x"}, "can't be the name of a bucket"),
    ],
)
def test_captures_that_are_refused(aws: Any, members: dict[str, Any], text: str) -> None:
    aws.model()
    aws.objects.create_bucket("kept")
    with pytest.raises(ValidationException, match=text):
        aws.config(DataCaptureConfig=capture(**members))
    assert aws("ListEndpointConfigs")["EndpointConfigs"] == []
