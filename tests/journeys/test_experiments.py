"""Managed shadow tests on a clock 30,240 times as fast: seven days pass in 20 s, and nobody notices.

Callers send all the time: every answer must be production's, before, during and after each test.
"""

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

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from understudy.sdk.servers import read_server

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]

SCALE = 30_240.0
DAY = timedelta(days=1)
ROLE = "arn:aws:iam::123456789012:role/understudy"
PATIENCE_S = 120.0

INFERENCE = """\
def model_fn(model_dir):
    return {mark!r}
def transform_fn(model, body, content_type, accept):
    return model, "text/csv"
"""


@pytest.fixture(scope="module")
def server_options() -> list[str]:
    return ["--time-scale", f"{SCALE:g}"]


@pytest.fixture(scope="module")
def lab(server: Any) -> Lab:
    lab = Lab(server)
    lab.s3.create_bucket(Bucket="experiments")
    for mark in ("old", "new"):
        lab.create_model(mark, INFERENCE.format(mark=mark))
    lab.create_model("broken", "import no_such_module\n")
    return lab


class Lab:
    """Clients of the server, and short ways to what every test does."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.sm, self.s3 = server.client("sagemaker"), server.client("s3")
        self.facts = read_server(server.data_dir)

    def now(self) -> datetime:
        """The server's clock."""
        return datetime.fromtimestamp(self.facts.now_s(), UTC)

    def create_model(self, name: str, text: str) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            info = tarfile.TarInfo("code/inference.py")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        self.s3.put_object(Bucket="experiments", Key=f"{name}.tar.gz", Body=buffer.getvalue())
        container = {"Image": "python:3", "ModelDataUrl": f"s3://experiments/{name}.tar.gz"}
        self.sm.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)

    def endpoint(self, name: str) -> None:
        self.sm.create_endpoint_config(
            EndpointConfigName=f"{name}-config",
            ProductionVariants=[
                {
                    "VariantName": "AllTraffic",
                    "ModelName": "old",
                    "InstanceType": "ml.m5.large",
                    "InitialInstanceCount": 1,
                }
            ],
        )
        self.sm.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-config")
        self.sm.get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )

    def create(self, name: str, endpoint: str, model: str = "new", percent: int = 100, **more: Any) -> None:
        self.sm.create_inference_experiment(
            Name=name,
            Type="ShadowMode",
            RoleArn=ROLE,
            EndpointName=endpoint,
            ModelVariants=[model_variant("AllTraffic", "old"), model_variant("Shadow-01", model)],
            ShadowModeConfig=mode(percent),
            **more,
        )

    def told(self, name: str) -> dict[str, Any]:
        return dict(self.sm.describe_inference_experiment(Name=name))

    def until(self, name: str, *statuses: str) -> dict[str, Any]:
        """Wait for a status; every other end is a failure."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            told = self.told(name)
            if told["Status"] in statuses:
                return told
            assert told["Status"] not in ("Completed", "Cancelled"), told
            assert time.monotonic() < deadline_s, told
            time.sleep(0.05)

    def serving(self, endpoint: str) -> dict[str, Any]:
        return dict(self.sm.describe_endpoint(EndpointName=endpoint))


def mode(percent: int) -> dict[str, Any]:
    return {
        "SourceModelVariantName": "AllTraffic",
        "ShadowModelVariants": [{"ShadowModelVariantName": "Shadow-01", "SamplingPercentage": percent}],
    }


def model_variant(name: str, model: str, kind: str = "ml.m5.large", count: int = 1) -> dict[str, Any]:
    return {
        "VariantName": name,
        "ModelName": model,
        "InfrastructureConfig": {
            "InfrastructureType": "RealTimeInference",
            "RealTimeInferenceConfig": {"InstanceType": kind, "InstanceCount": count},
        },
    }


class Callers:
    """Somebody who sends one request after the other and remembers every answer."""

    def __init__(self, server: Any, endpoint: str) -> None:
        # No retries: a request that fails, fails.
        self._runtime = server.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Callers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.03):
            try:
                answer = self._runtime.invoke_endpoint(
                    EndpointName=self._endpoint, ContentType="text/csv", Body=b"1,2,3"
                )
                self.answers[answer["InvokedProductionVariant"], answer["Body"].read().decode()] += 1
            except ClientError as error:
                self.failures.append(str(error))

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, what
            time.sleep(0.05)


OLD = ("AllTraffic", "old")


@contextlib.contextmanager
def callers(lab: Lab, endpoint: str) -> Iterator[Callers]:
    """Send all through a story; not one request may fail."""
    with Callers(lab.server, endpoint) as sending:
        yield sending
    assert sending.failures == []


def invocations(lab: Lab, endpoint: str, variant: str) -> float:
    """All that CloudWatch has counted for a variant in the last ten (fast) weeks."""
    end = lab.now() + DAY
    points = lab.server.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SageMaker",
        MetricName="Invocations",
        Dimensions=[
            {"Name": "EndpointName", "Value": endpoint},
            {"Name": "VariantName", "Value": variant},
        ],
        StartTime=end - 70 * DAY,
        EndTime=end,
        Period=86_400,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))


def test_seven_days_pass_and_the_endpoint_is_as_before(lab: Lab) -> None:
    lab.endpoint("week")
    before = lab.serving("week")
    with callers(lab, "week") as sending:
        lab.create("seven-days", "week")
        told = lab.until("seven-days", "Running")
        assert told["Schedule"]["EndTime"] - told["Schedule"]["StartTime"] == 7 * DAY
        during = lab.serving("week")
        assert [one["VariantName"] for one in during["ShadowProductionVariants"]] == ["Shadow-01"]
        sending.until(lambda: invocations(lab, "week", "Shadow-01") > 20, "the shadow gets no copies")
        told = lab.until("seven-days", "Completed")
        assert told["CompletionTime"] >= told["Schedule"]["EndTime"]
    assert set(sending.answers) == {OLD}
    after = lab.serving("week")
    for member in ("EndpointConfigName", "EndpointStatus"):
        assert after[member] == before[member]
    assert "ShadowProductionVariants" not in after
    assert [one["Status"] for one in told["ModelVariants"]] == ["InService", "Deleted"]
    listed = lab.sm.list_endpoint_configs(NameContains="seven-days")["EndpointConfigs"]
    assert listed == []


def test_schedule_update_early_start_sampling_and_promotion(lab: Lab) -> None:
    lab.endpoint("story")
    with callers(lab, "story") as sending:
        start = lab.now() + 20 * DAY
        lab.create(
            "story",
            "story",
            percent=100,
            Schedule={"StartTime": start, "EndTime": start + 29 * DAY},
            DataStorageConfig={"Destination": "s3://experiments/captured"},
        )
        assert lab.until("story", "Created")["EndpointMetadata"]["EndpointConfigName"] == "story-config"
        lab.sm.update_inference_experiment(
            Name="story",
            Description="smaller",
            ModelVariants=[model_variant("Shadow-01", "new", "ml.c5.xlarge", 2)],
        )
        lab.sm.start_inference_experiment(Name="story")
        told = lab.until("story", "Running")
        length = told["Schedule"]["EndTime"] - told["Schedule"]["StartTime"]
        assert length == 30 * DAY, "an early start ends after 30 days at the latest"
        (shadow,) = lab.serving("story")["ShadowProductionVariants"]
        assert shadow["CurrentInstanceCount"] == 2 and shadow["CurrentWeight"] == 1.0
        sending.until(lambda: invocations(lab, "story", "Shadow-01") > 20, "the shadow gets no copies")

        lab.sm.update_inference_experiment(Name="story", ShadowModeConfig=mode(0))
        lab.until("story", "Running")
        time.sleep(1.5)  # what was under way is counted
        copied = invocations(lab, "story", "Shadow-01")
        seen = sum(sending.answers.values())
        sending.until(lambda: sum(sending.answers.values()) > seen + 100, "nobody sends")
        time.sleep(1.5)
        assert invocations(lab, "story", "Shadow-01") == copied, "a sampling of 0 copies nothing"
        with pytest.raises(lab.sm.exceptions.ConflictException):
            lab.sm.update_inference_experiment(
                Name="story", DataStorageConfig={"Destination": "s3://experiments/other"}
            )

        def captured() -> set[str]:
            found = lab.s3.list_objects_v2(Bucket="experiments", Prefix="captured/story/").get("Contents", [])
            return {item["Key"].split("/")[2] for item in found}

        sending.until(lambda: captured() >= {"AllTraffic", "Shadow-01"}, "nothing was captured")
        assert set(sending.answers) == {OLD}
        lab.sm.stop_inference_experiment(
            Name="story",
            ModelVariantActions={"AllTraffic": "Remove", "Shadow-01": "Promote"},
            DesiredModelVariants=[model_variant("Shadow-01", "new")],
            DesiredState="Completed",
            Reason="better",
        )
        assert lab.until("story", "Completed")["StatusReason"] == "better"
        sending.until(lambda: len(sending.answers) == 2, "the promoted variant answers nobody")
    assert set(sending.answers) == {OLD, ("Shadow-01", "new")}
    after = lab.serving("story")
    assert [(one["VariantName"], one["CurrentInstanceCount"]) for one in after["ProductionVariants"]] == [
        ("Shadow-01", 1)
    ]
    assert "ShadowProductionVariants" not in after and "DataCaptureConfig" not in after


def test_a_model_that_cannot_start_cancels_its_test(lab: Lab) -> None:
    lab.endpoint("careful")
    with callers(lab, "careful") as sending:
        lab.create("careful", "careful", model="broken")
        told = lab.until("careful", "Cancelled")
    assert "no_such_module" in told["StatusReason"]
    assert set(sending.answers) == {OLD}
    assert lab.serving("careful")["EndpointConfigName"] == "careful-config"


def test_a_new_endpoint_and_a_killed_controller(lab: Lab) -> None:
    lab.create("fresh", "fresh")
    lab.until("fresh", "Running", "Starting")
    status = json.loads(subprocess_output(lab, "status", "--json"))
    pid = next(one["pid"] for one in status["processes"] if one["role"] == "controller")
    with callers(lab, "fresh") as sending:
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(ClientError):
                if lab.told("fresh")["Status"] == "Running":
                    break
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        lab.sm.stop_inference_experiment(
            Name="fresh", ModelVariantActions={"AllTraffic": "Retain", "Shadow-01": "Remove"}
        )
        lab.until("fresh", "Cancelled")
    assert set(sending.answers) == {OLD}
    after = lab.serving("fresh")
    assert [one["VariantName"] for one in after["ProductionVariants"]] == ["AllTraffic"]
    assert "ShadowProductionVariants" not in after
    lab.sm.delete_inference_experiment(Name="fresh")
    assert lab.serving("fresh")["EndpointStatus"] == "InService"


def subprocess_output(lab: Lab, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "understudy.cli", *arguments],
        env={**os.environ, **lab.server.environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shell_leads_a_test_from_start_to_promotion(lab: Lab) -> None:
    lab.endpoint("shell")
    said = subprocess_output(
        lab, "shadow", "start", "by-hand", "--endpoint", "shell", "--model", "new", "--duration", "30d"
    )
    assert "by-hand is Running" in said
    with callers(lab, "shell") as sending:
        sending.until(lambda: invocations(lab, "shell", "shadow") > 5, "the shadow gets no copies")
        told = json.loads(subprocess_output(lab, "shadow", "status", "by-hand", "--json"))
        assert told["Metrics"]["Invocations"]["shadow"] > 0
        assert told["Metrics"]["Model latency, average ms"]["AllTraffic"] > 0
        assert "by-hand" in subprocess_output(lab, "shadow", "status")
        assert "Invocations" in subprocess_output(lab, "shadow", "status", "by-hand")
        said = subprocess_output(lab, "shadow", "promote", "by-hand", "--size", "ml.m5.large:2", "--json")
        assert json.loads(said)["Status"] == "Completed"
    (variant,) = lab.serving("shell")["ProductionVariants"]
    assert (variant["VariantName"], variant["CurrentInstanceCount"]) == ("shadow", 2)
    assert set(sending.answers) <= {OLD, ("shadow", "new")}
