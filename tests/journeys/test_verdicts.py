"""Verdicts end to end: a broken variant is found while a controller is killed; an alarm on evidence."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from understudy.cli.own_calls import call_server, endpoint_path
from understudy.sdk.servers import read_server

ROLE = "arn:aws:iam::123456789012:role/understudy"
NAME, BUCKET = "guarded", "verdicts"
MODEL = """\
import random
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    if random.random() < RATE:
        raise RuntimeError("broken")
    return body, "text/plain"
"""

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def endpoint(server: Any) -> Iterator[str]:
    """A good variant with 90 % of the traffic and one that fails every fifth request."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    for name, rate in (("good", 0.0), ("bad", 0.2)):
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
            PrimaryContainer={
                "Image": "python:3",
                "ModelDataUrl": f"s3://{BUCKET}/{name}.tar.gz",
            },
        )
    sagemaker.create_endpoint_config(
        EndpointConfigName=NAME,
        ProductionVariants=[
            {
                "VariantName": name,
                "ModelName": name,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
                "InitialVariantWeight": weight,
            }
            for name, weight in (("good", 9.0), ("bad", 1.0))
        ],
    )
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=NAME, WaiterConfig={"Delay": 1, "MaxAttempts": 250}
    )
    yield NAME
    sagemaker.delete_endpoint(EndpointName=NAME)


@pytest.fixture(scope="module")
def ask(server: Any, endpoint: str) -> Callable[..., dict[str, Any]]:
    def call(method: str, rest: str, **options: Any) -> dict[str, Any]:
        return call_server(read_server(server.data_dir), method, endpoint_path(endpoint, rest), **options)

    return call


def until(check: Callable[[], Any], patience_s: float = 200.0) -> Any:
    deadline_s = time.monotonic() + patience_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline_s, "it did not come"
        time.sleep(0.1)


def send(server: Any, count: int, seen: Counter[tuple[str, bool]], **members: Any) -> None:
    runtime = server.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
    for _ in range(count):
        try:
            answer = runtime.invoke_endpoint(EndpointName=NAME, Body=b"x", **members)
            seen[answer["InvokedProductionVariant"], True] += 1
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ModelError"
            seen["bad", False] += 1


def test_a_broken_variant_is_found(server: Any, ask: Callable[..., dict[str, Any]]) -> None:
    """What callers saw is counted, the controller killed in the middle; the alarm on evidence rings."""
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="harm",
        Namespace="Understudy/Verdicts",
        MetricName="HarmEvidenceLog10",
        Dimensions=[{"Name": "EndpointName", "Value": NAME}, {"Name": "VariantName", "Value": "bad"}],
        Statistic="Maximum",
        Period=10,
        EvaluationPeriods=1,
        Threshold=2.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )
    seen: Counter[tuple[str, bool]] = Counter()
    threads = [threading.Thread(target=send, args=(server, 300, seen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    (controller,) = [
        one for one in psutil.Process(server.pid).children() if "controller" in " ".join(one.cmdline())
    ]
    os.kill(controller.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    send(server, 20, seen, TargetVariant="bad")

    def counted() -> dict[str, Any] | None:
        try:
            told = ask("GET", "verdict")
        except click.ClickException as error:
            assert "restarting" in error.message or "does not answer" in error.message
            return None
        whole = told["requests"] + told["validity"]["excluded_targeted"]
        return told if whole == sum(seen.values()) else None

    told = until(counted)
    assert told["verdict"] == "ROLLBACK", told
    assert (told["control"]["variant"], told["treatment"]["variant"]) == ("good", "bad")
    assert told["validity"]["excluded_targeted"] == 20
    errors = next(one for one in told["evidence"] if one["metric"] == "error_rate")
    assert errors["events"]["control"] == 0
    assert errors["events"]["treatment"] <= sum(count for (_, fine), count in seen.items() if not fine)
    assert errors["stages"][0]["pi"] == pytest.approx(0.1)
    assert told["decided_at"] is not None and told["side_by_side"]

    def alarmed() -> bool:
        (alarm,) = cloudwatch.describe_alarms(AlarmNames=["harm"])["MetricAlarms"]
        return bool(alarm["StateValue"] == "ALARM")

    until(alarmed)
    points = cloudwatch.get_metric_statistics(
        Namespace="Understudy/Verdicts",
        MetricName="HarmEvidenceLog10",
        Dimensions=[
            {"Name": "EndpointName", "Value": NAME},
            {"Name": "VariantName", "Value": "bad"},
            {"Name": "EndpointConfigName", "Value": NAME},
        ],
        StartTime=datetime.now(UTC) - timedelta(minutes=5),
        EndTime=datetime.now(UTC) + timedelta(minutes=1),
        Period=1,
        Statistics=["Maximum"],
    )["Datapoints"]
    harm = [point["Maximum"] for point in sorted(points, key=lambda point: point["Timestamp"])]
    assert harm == sorted(harm) and harm[-1] >= 2.0


def test_the_shell_tells_it_by_its_exit_code(server: Any, endpoint: str) -> None:
    def understudy(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "understudy.cli", *arguments, "--data-dir", str(server.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = understudy("verdict", NAME, "--watch", "--json")
    assert done.returncode == 12, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] == "ROLLBACK"
    done = understudy(*told["replay"].split(), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["identical"], done.stderr
    assert understudy("verdict", "nowhere").returncode == 1
    assert understudy("verdict", NAME, "--control", "nobody").returncode == 1
    done = understudy("plan", NAME, "--share", "0.1")
    assert done.returncode == 0 and "error_rate" in done.stdout, done.stderr


def test_another_policy_over_the_same_requests(server: Any, endpoint: str, tmp_path: Any) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('kind = "deploy"\nname = "errors"\n[[guardrails]]\nmetric = "error_rate"\n')
    command = [sys.executable, "-m", "understudy.cli", "verdict", NAME, "--policy", str(policy), "--json"]
    done = subprocess.run(
        [*command, "--data-dir", str(server.data_dir)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 12, done.stderr
    told = json.loads(done.stdout)
    assert told["policy"] == "errors" and told["ad_hoc"]
    policy.write_text('kind = "deploy"\nmargins = 2\n')
    done = subprocess.run(
        [*command, "--data-dir", str(server.data_dir)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "margins" in done.stderr


def test_an_alarm_on_evidence_rolls_an_update_back(server: Any, endpoint: str) -> None:
    """A canary of the broken model: harm is proven, the alarm rings, the endpoint keeps the old model."""
    sagemaker, cloudwatch = server.client("sagemaker"), server.client("cloudwatch")
    for config, model in (("old", "good"), ("new", "bad")):
        sagemaker.create_endpoint_config(
            EndpointConfigName=f"canary-{config}",
            ProductionVariants=[
                {
                    "VariantName": "A",
                    "ModelName": model,
                    "InstanceType": "ml.m5.large",
                    "InitialInstanceCount": 2,
                }
            ],
        )
    sagemaker.create_endpoint(EndpointName="canary", EndpointConfigName="canary-old")
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName="canary", WaiterConfig={"Delay": 1, "MaxAttempts": 250})
    cloudwatch.put_metric_alarm(
        AlarmName="canary-harm",
        Namespace="Understudy/Verdicts",
        MetricName="HarmEvidenceLog10",
        Dimensions=[
            {"Name": "EndpointName", "Value": "canary"},
            {"Name": "VariantName", "Value": "A"},
            {"Name": "EndpointConfigName", "Value": "canary-new"},
        ],
        Statistic="Maximum",
        Period=10,
        EvaluationPeriods=1,
        Threshold=2.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )
    sagemaker.update_endpoint(
        EndpointName="canary",
        EndpointConfigName="canary-new",
        DeploymentConfig={
            "BlueGreenUpdatePolicy": {
                "TrafficRoutingConfiguration": {
                    "Type": "CANARY",
                    "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50},
                    "WaitIntervalInSeconds": 300,
                }
            },
            "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "canary-harm"}]},
        },
    )
    stop = threading.Event()

    def traffic() -> None:
        runtime = server.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
        while not stop.is_set():
            with contextlib.suppress(ClientError):
                runtime.invoke_endpoint(EndpointName="canary", Body=b"x")
            stop.wait(0.01)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:

        def rolled_back() -> dict[str, Any] | None:
            found: dict[str, Any] = sagemaker.describe_endpoint(EndpointName="canary")
            return found if found["EndpointStatus"] == "InService" else None

        found = until(rolled_back, 240.0)
    finally:
        stop.set()
        thread.join()
    assert found["EndpointConfigName"] == "canary-old" and "canary-harm" in found["FailureReason"]
    told = call_server(read_server(server.data_dir), "GET", endpoint_path("canary", "verdict"))
    assert (told["verdict"], told["kind"]) == ("ROLLBACK", "rollout")
    assert told["treatment"]["config"] == "canary-new" and told["control"]["config"] == "canary-old"
    sagemaker.delete_endpoint(EndpointName="canary")


def serve(server: Any, name: str, variants: tuple[tuple[str, str], ...], **config: Any) -> None:
    """Create an endpoint of variants with equal weights and wait until it serves."""
    sagemaker = server.client("sagemaker")
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": variant,
                "ModelName": model,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
            }
            for variant, model in variants
        ],
        **config,
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    waiter = sagemaker.get_waiter("endpoint_in_service")
    waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 250})


def test_a_metric_of_putmetricdata_is_judged_each_value_once(server: Any, endpoint: str) -> None:
    """A service tells which answers were useless, as they come; the controller is killed in between."""
    name = "measured"
    serve(server, name, (("A", "good"), ("B", "good")))

    def ask(method: str, rest: str, **options: Any) -> dict[str, Any]:
        return call_server(read_server(server.data_dir), method, endpoint_path(name, rest), **options)

    rule = {"metric": "useless", "measure": "rate", "source": "cloudwatch", "namespace": "Shop"}
    rule |= {"resolution_s": 1, "delay_s": 3}
    ask("PUT", "policy", body={"kind": "deploy", "guardrails": [rule]})
    runtime, cloudwatch = server.client("sagemaker-runtime"), server.client("cloudwatch")
    sent: Counter[tuple[str, bool]] = Counter()
    for part in range(20):
        data = []
        for number in range(20):
            variant = runtime.invoke_endpoint(EndpointName=name, Body=b"x")["InvokedProductionVariant"]
            useless = variant == "B" and number % 3 == 0
            sent[variant, useless] += 1
            dimensions = [
                {"Name": "EndpointName", "Value": name},
                {"Name": "VariantName", "Value": variant},
            ]
            data.append(
                {
                    "MetricName": "useless",
                    "Dimensions": dimensions,
                    "Timestamp": datetime.now(UTC),
                    "Value": float(useless),
                    "StorageResolution": 1,
                }
            )
        cloudwatch.put_metric_data(Namespace="Shop", MetricData=data)
        if part == 10:
            (controller,) = [
                one
                for one in psutil.Process(server.pid).children()
                if "controller" in " ".join(one.cmdline())
            ]
            os.kill(controller.pid, signal.SIGKILL)

            def answers() -> bool:
                with contextlib.suppress(ClientError):
                    cloudwatch.list_metrics(Namespace="Shop")
                    return True
                return False

            until(answers)

    def counted() -> dict[str, Any] | None:
        told = ask("GET", "verdict")
        found = told["evidence"][0]
        return told if sum(one["requests"] for one in found["stages"]) >= 400 else None

    told = until(counted)
    (found,) = told["evidence"]
    assert sum(one["requests"] for one in found["stages"]) == sum(sent.values()) == told["requests"]
    assert found["events"] == {"control": 0, "treatment": sent["B", True]}
    assert told["verdict"] == "ROLLBACK" and "useless" in told["reason"]
    server.client("sagemaker").delete_endpoint(EndpointName=name)


def test_a_shadow_that_fails_is_told_without_being_asked_for(server: Any, endpoint: str) -> None:
    name = "shadowed"
    shadow = {
        "VariantName": "S",
        "ModelName": "bad",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 1.0,
    }
    capture = {
        "InitialSamplingPercentage": 100,
        "DestinationS3Uri": f"s3://{BUCKET}/capture",
        "CaptureOptions": [{"CaptureMode": "Output"}],
    }
    serve(server, name, (("A", "good"),), ShadowProductionVariants=[shadow], DataCaptureConfig=capture)
    runtime, cloudwatch = server.client("sagemaker-runtime"), server.client("cloudwatch")
    for _ in range(300):
        runtime.invoke_endpoint(EndpointName=name, Body=b"x")

    def events() -> list[dict[str, Any]]:
        told = call_server(read_server(server.data_dir), "GET", endpoint_path(name, "events"))
        return [one for one in told["events"] if one["kind"] == "VerdictChanged"]

    def decided() -> bool:
        return any(one["to"] in ("ROLLBACK", "INVALID") for one in events())

    until(decided)
    assert {one["detail"]["kind"] for one in events()} == {"shadow"}

    def agreed() -> str | None:
        told = call_server(read_server(server.data_dir), "GET", endpoint_path(name, "verdict"))
        return told["verdict"] if told["verdict"] == events()[-1]["to"] else None

    verdict = until(agreed)
    dimensions = [{"Name": "EndpointName", "Value": name}, {"Name": "VariantName", "Value": "S"}]

    def harm() -> list[float]:
        points = cloudwatch.get_metric_statistics(
            Namespace="Understudy/Verdicts",
            MetricName="HarmEvidenceLog10",
            Dimensions=dimensions,
            StartTime=datetime.now(UTC) - timedelta(minutes=15),
            EndTime=datetime.now(UTC) + timedelta(minutes=1),
            Period=60,
            Statistics=["Maximum"],
        )["Datapoints"]
        return [point["Maximum"] for point in points]

    # A slow machine sheds copies: then the shadow is not judged by what is left.
    least = 2.0 if verdict == "ROLLBACK" else 0.0
    until(lambda: max(harm(), default=-1.0) >= least)
    server.client("sagemaker").delete_endpoint(EndpointName=name)
