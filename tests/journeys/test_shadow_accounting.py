"""Shadows and capture of a real server, counted: one outcome per request, also over a dead controller."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import tarfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
PATIENCE_S = 60.0
REQUESTS = 200
SHADOW_OUTCOMES = {"mirrored", "sampling", "queue", "breaker", "size", "shutdown"}
CAPTURE_OUTCOMES = {"captured", "sampling", "queue", "disk", "shutdown"}

ECHO = """\
def model_fn(model_dir):
    return {mark!r}
def transform_fn(model, body, content_type, accept):
    return model, "text/csv"
"""

_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def archive(mark: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        text = ECHO.format(mark=mark).encode()
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return buffer.getvalue()


def outcomes(server: Any, family: str, endpoint: str) -> dict[str, dict[str, int]]:
    """Read one family of ``/metrics``: by variant, the count of each outcome."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(server.url + "/metrics", timeout=10.0) as response:
        text = response.read().decode()
    found: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        sample = _SAMPLE.match(line)
        if sample is None or sample[1] != family:
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', sample[2]))
        if labels["endpoint"] == endpoint:
            found.setdefault(labels["variant"], {})[labels.get("outcome", "")] = int(float(sample[3]))
    return found


def total(server: Any, family: str, endpoint: str) -> dict[str, int]:
    return {name: sum(counts.values()) for name, counts in outcomes(server, family, endpoint).items()}


def lines(server: Any, endpoint: str, variant: str) -> list[dict[str, Any]]:
    """Read every captured record of a variant, as any reader of JSON Lines would."""
    s3 = server.client("s3")
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(
        Bucket="kept", Prefix=f"here/{endpoint}/{variant}/"
    ):
        for one in page.get("Contents", []):
            if one["Key"].endswith(".jsonl"):
                body = s3.get_object(Bucket="kept", Key=one["Key"])["Body"].read()
                found += [json.loads(line) for line in body.splitlines()]
    return found


def deployed(server: Any, name: str) -> Any:
    """Deploy one production variant beside two shadows, everything captured."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    for bucket in ("models", "kept"):
        s3.create_bucket(Bucket=bucket)
    for mark in ("live", "half", "all"):
        s3.put_object(Bucket="models", Key=f"{name}/{mark}.tar.gz", Body=archive(mark))
        sagemaker.create_model(
            ModelName=f"{name}-{mark}",
            ExecutionRoleArn=ROLE,
            PrimaryContainer={"Image": "python:3", "ModelDataUrl": f"s3://models/{name}/{mark}.tar.gz"},
        )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant(name, "live", 1.0)],
        ShadowProductionVariants=[variant(name, "half", 0.5), variant(name, "all", 3.0)],
        DataCaptureConfig={
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://kept/here",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        },
        Tags=[{"Key": "understudy:shadows", "Value": "many"}],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    until(
        lambda: sagemaker.describe_endpoint(EndpointName=name)["EndpointStatus"] != "Creating",
        "CreateEndpoint hangs",
    )
    return sagemaker.describe_endpoint(EndpointName=name)


def variant(name: str, mark: str, weight: float) -> dict[str, Any]:
    return {
        "VariantName": mark,
        "ModelName": f"{name}-{mark}",
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": weight,
    }


def controller_of(server: Any) -> int | None:
    """Find the controller's process."""
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "understudy controller" in " ".join(child.cmdline()):
                return int(child.pid)
    return None


def test_every_request_has_one_outcome_per_shadow_and_per_record(server: Any) -> None:
    name = "accounted"
    described = deployed(server, name)
    assert described["EndpointStatus"] == "InService", described
    assert described["DataCaptureConfig"]["CaptureStatus"] == "Started"
    assert [one["VariantName"] for one in described["ShadowProductionVariants"]] == ["half", "all"]

    runtime = server.client("sagemaker-runtime")
    for number in range(REQUESTS):
        answer = runtime.invoke_endpoint(
            EndpointName=name, ContentType="text/csv", Body=f"{number},1", InferenceId=str(number)
        )
        assert (answer["InvokedProductionVariant"], answer["Body"].read()) == ("live", b"live")
    with pytest.raises(runtime.exceptions.ValidationError):
        runtime.invoke_endpoint(EndpointName=name, Body=b"1", TargetVariant="all")

    shadows, records = "understudy_shadow_requests_total", "understudy_capture_records_total"
    until(
        lambda: total(server, shadows, name) == {"half": REQUESTS, "all": REQUESTS}, "shadows are not counted"
    )
    counted = outcomes(server, shadows, name)
    assert all(counts.keys() == SHADOW_OUTCOMES for counts in counted.values())
    assert counted["all"]["sampling"] == 0
    assert 60 < counted["half"]["sampling"] < 140, "200 draws at a half: beyond is less likely than 1e-8"

    mirrored = {"live": REQUESTS, **{mark: counted[mark]["mirrored"] for mark in ("half", "all")}}
    until(lambda: total(server, "understudy_invocations_total", name) == mirrored, "invocations differ")
    until(lambda: total(server, records, name) == mirrored, "records are not counted")
    kept = outcomes(server, records, name)
    assert all(counts.keys() == CAPTURE_OUTCOMES for counts in kept.values())

    events: dict[str, dict[str, str]] = {}
    for mark in mirrored:
        found = lines(server, name, mark)
        assert len(found) == kept[mark]["captured"]
        assert {line["captureData"]["endpointOutput"]["data"] for line in found} == {mark}
        events[mark] = {
            line["eventMetadata"]["eventId"]: line["captureData"]["endpointInput"]["data"] for line in found
        }
        assert len(events[mark]) == len(found), "an eventId came twice"
    assert Counter(events["live"].values()) == Counter(f"{number},1" for number in range(REQUESTS))
    for mark in ("half", "all"):
        assert events[mark].items() <= events["live"].items(), "one eventId, one request"

    killed = controller_of(server)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    until(lambda: controller_of(server) not in (None, killed), "no new controller")

    def told_again() -> bool:
        try:
            return bool(outcomes(server, shadows, name)) and bool(outcomes(server, records, name))
        except OSError:
            return False

    until(told_again, "the new controller tells no totals")
    assert outcomes(server, shadows, name) == counted
    assert outcomes(server, records, name) == kept
    server.client("sagemaker").delete_endpoint(EndpointName=name)
