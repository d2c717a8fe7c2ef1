"""From a configuration to a fleet: both kinds of variants, capture, and what an update retains."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.core.endpoints import EndpointConfig
from understudy.core.fleets import capture_of, fleet_of, models_of, retain_properties
from understudy.core.models import Model
from understudy.core.routing import CaptureRoute


def member(name: str, weight: float = 1.0, count: int = 1) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": f"model-{name}",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": count,
        "InitialVariantWeight": weight,
    }


def config(
    production: list[dict[str, Any]],
    shadows: list[dict[str, Any]],
    data_capture: dict[str, Any] | None = None,
    **extensions: str,
) -> EndpointConfig:
    request: dict[str, Any] = {"ProductionVariants": production}
    if shadows:
        request["ShadowProductionVariants"] = shadows
    if data_capture is not None:
        request["DataCaptureConfig"] = data_capture
    return EndpointConfig("c", "arn", request, 0.0, 0.0, extensions)


def fleet(made: EndpointConfig, number: int = 1) -> Any:
    models = {
        name: Model(name, "arn", {"PrimaryContainer": {"Image": "xgboost"}}, 0.0, 0.0)
        for name in models_of(made)
    }
    return fleet_of(made, models, number)


def capture(*modes: str, **members: Any) -> dict[str, Any]:
    return {
        "InitialSamplingPercentage": 20,
        "DestinationS3Uri": "s3://b/p/",
        "CaptureOptions": [{"CaptureMode": mode} for mode in modes],
        **members,
    }


def test_production_comes_first_and_shadows_are_marked() -> None:
    made = config([member("a", 2.0)], [member("s", 0.5, 3)])
    assert models_of(made) == ["model-a", "model-s"]
    built = fleet(made, 7)
    assert (built.fleet_id, built.config_name, built.capture, built.data_capture) == ("f7", "c", None, None)
    assert [(v.name, v.shadow, v.desired_weight, v.desired_count) for v in built.variants] == [
        ("a", False, 2.0, 1),
        ("s", True, 0.5, 3),
    ]


@pytest.mark.parametrize(
    ("modes", "inputs", "outputs"),
    [
        (("Input",), True, False),
        (("Output",), False, True),
        (("Input", "Output"), True, True),
        (("InputAndOutput",), True, True),
    ],
)
def test_capture_as_routers_see_it(modes: tuple[str, ...], inputs: bool, outputs: bool) -> None:
    types = {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json", "a/b"]}
    made = config([member("a")], [], capture(*modes, CaptureContentTypeHeader=types), capture="durable")
    assert capture_of(made) == CaptureRoute(
        "s3://b/p", 20.0, inputs, outputs, ("text/csv",), ("application/json", "a/b"), durable=True
    )
    assert fleet(made).data_capture == made.request["DataCaptureConfig"]


def test_capture_that_is_switched_off_is_told_but_not_done() -> None:
    made = config([member("a")], [], capture("Input", EnableCapture=False))
    assert fleet(made).capture is None and fleet(made).data_capture["EnableCapture"] is False


def test_a_variant_keeps_its_properties_only_while_it_keeps_its_part() -> None:
    serving = fleet(config([member("a", 4.0, 4)], [member("s", 0.25, 5)]))
    same = retain_properties(fleet(config([member("a")], [member("s")])), serving, set())
    assert [(v.desired_weight, v.current_weight, v.desired_count) for v in same.variants] == [
        (4.0, 4.0, 4),
        (0.25, 0.25, 5),
    ]
    promoted = retain_properties(fleet(config([member("s")], [])), serving, set())
    assert [(v.desired_weight, v.desired_count) for v in promoted.variants] == [(1.0, 1)]
    reset = retain_properties(
        fleet(config([member("a")], [member("s")])), serving, {"DesiredWeight", "DataCaptureConfig"}
    )
    assert [(v.desired_weight, v.desired_count) for v in reset.variants] == [(1.0, 4), (1.0, 5)]
