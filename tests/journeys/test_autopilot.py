"""The autopilot end to end: a broken variant loses its traffic while the controller is killed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import read_server

ROLE = "arn:aws:iam::123456789012:role/understudy"
NAME, BUCKET = "piloted", "autopilot"
MODEL = """\
import random
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    if random.random() < RATE:
        raise RuntimeError("broken")
    return body, "text/csv"
"""
TAG = [{"Key": "understudy:autopilot", "Value": "rollback"}]

pytestmark = [pytest.mark.journey, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def endpoint(server: Any) -> Iterator[str]:
    """A good variant, one that fails every fourth request, and a shadow that answers as the good one."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    for name, rate in (("sound", 0.0), ("broken", 0.25)):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            content = MODEL.replace("RATE", str(rate)).encode()
            info = tarfile.TarInfo("code/inference.py")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        s3.put_object(Bucket=BUCKET, Key=f"{name}.tar.gz", Body=packed.getvalue())
        sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": "python:3", "ModelDataUrl": f"s3://{BUCKET}/{name}.tar.gz"},
        )
    common = {"InstanceType": "ml.m5.large", "InitialInstanceCount": 1}
    sagemaker.create_endpoint_config(
        EndpointConfigName=NAME,
        ProductionVariants=[
            {"VariantName": "sound", "ModelName": "sound", "InitialVariantWeight": 3.0, **common},
            {"VariantName": "broken", "ModelName": "broken", "InitialVariantWeight": 1.0, **common},
        ],
        ShadowProductionVariants=[
            {"VariantName": "shadow", "ModelName": "sound", "InitialVariantWeight": 4.0, **common}
        ],
        DataCaptureConfig={
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": f"s3://{BUCKET}/capture",
            "CaptureOptions": [{"CaptureMode": "Output"}],
        },
        Tags=[{"Key": "understudy:shadows", "Value": "many"}],
    )
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME, Tags=TAG)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 250}
    )
    yield NAME
    sagemaker.delete_endpoint(EndpointName=NAME)


def until(check: Callable[[], Any], patience_s: float = 240.0) -> Any:
    deadline_s = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(
            ClientError, click.ClickException
        ):  # a controller that was killed is away for a moment
            found = check()
            if found:
                return found
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.1)


def weights(server: Any) -> dict[str, float] | None:
    """The weights that serve; None while they are being changed."""
    found = server.client("sagemaker").describe_endpoint(EndpointName=NAME)
    if found["EndpointStatus"] != "InService":
        return None
    return {one["VariantName"]: one["CurrentWeight"] for one in found["ProductionVariants"]}


def test_a_broken_variant_loses_its_traffic_and_a_person_gets_their_way(server: Any, endpoint: str) -> None:
    sagemaker = server.client("sagemaker")
    stop = threading.Event()

    def traffic() -> None:
        runtime = server.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
        while not stop.is_set():
            with contextlib.suppress(ClientError):
                runtime.invoke_endpoint(EndpointName=NAME, Body=b"0.7", ContentType="text/csv")
            stop.wait(0.005)

    def events() -> list[dict[str, Any]]:
        told = call_server(read_server(server.data_dir), "GET", endpoint_path(NAME, "events"))
        found: list[dict[str, Any]] = told["events"]
        return found

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        time.sleep(0.5)
        (controller,) = [
            one for one in psutil.Process(server.pid).children() if "controller" in " ".join(one.cmdline())
        ]
        os.kill(controller.pid, signal.SIGKILL)
        until(lambda: (weights(server) or {}).get("broken") == 0.0)
        (step,) = [one for one in events() if one["kind"] == "WeightsRequested"]
        assert step["by"] == "autopilot" and step["reason"].startswith("ROLLBACK: ")
        told = call_server(
            read_server(server.data_dir), "GET", f"/understudy/v1/verdicts/{step['detail']['verdict']}"
        )
        assert told["verdict"] == "ROLLBACK" and told["identical"]

        def set_by_hand() -> bool:
            sagemaker.update_endpoint_weights_and_capacities(
                EndpointName=NAME,
                DesiredWeightsAndCapacities=[{"VariantName": "broken", "DesiredWeight": 1.0}],
            )
            return True

        until(set_by_hand)
        until(lambda: [one for one in events() if one["kind"] == "AutopilotPaused"])
        until(lambda: (weights(server) or {}).get("broken") == 1.0)
        sagemaker.add_tags(
            ResourceArn=sagemaker.describe_endpoint(EndpointName=NAME)["EndpointArn"], Tags=TAG
        )
        until(lambda: (weights(server) or {}).get("broken") == 0.0)
        steps = [one for one in events() if one["kind"] == "WeightsRequested"]
        assert [one["by"] == "autopilot" for one in steps] == [True, False, True]
    finally:
        stop.set()
        thread.join()


def test_a_shadow_that_agrees_is_promoted_without_labels(server: Any, endpoint: str) -> None:
    def told() -> dict[str, Any] | None:
        query = {"control": "sound", "treatment": "shadow"}
        found = call_server(read_server(server.data_dir), "GET", endpoint_path(NAME, "verdict"), query=query)
        return found if found["shadow"]["pairs"] > 100 else None

    found = until(told)
    assert found["kind"] == "shadow" and found["shadow"]["agreement"] == 1.0
    assert found["shadow"]["labelled"] == 0 and found["verdict"] in ("HOLD", "PROMOTE", "INVALID")
