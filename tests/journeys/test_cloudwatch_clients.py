"""CloudWatch and its Logs through real boto3 and the AWS CLI, over HTTP, on the real stores."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import botocore.exceptions
import pytest
import uvicorn

from understudy.aws.gateway import Gateway
from understudy.core.metrics import Summary, router_data
from understudy.core.names import Place
from understudy.operations import cloudwatch, logs
from understudy.operations.services import Services
from understudy.stores.logs import FileLogs
from understudy.stores.series import SqliteSeries
from understudy.system import RealClock, RealEntropy

pytestmark = pytest.mark.journey

PATIENCE_S = 20.0
GROUP = "/aws/sagemaker/Endpoints/churn"


@dataclass(frozen=True)
class Face:
    """A gateway that listens, and the stores behind it."""

    url: str
    series: SqliteSeries
    logs: FileLogs

    def client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="AKIAEXAMPLE",
            aws_secret_access_key="secret",
        )

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return kept | {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_PAGER": "",
        }

    def cli(self, *arguments: str) -> Any:
        """Run the AWS CLI of the development environment."""
        command = [str(Path(sys.executable).with_name("aws")), *arguments, "--output", "json"]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def printed(self, stream: str, *lines: str) -> None:
        """Let a worker print."""
        with self.logs.path("churn", *stream.split("/")).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        self.logs.index_once(int(time.time() * 1000))


@pytest.fixture
def face(tmp_path: Path) -> Iterator[Face]:
    clock = RealClock()
    series = SqliteSeries(tmp_path / "series.db")
    files = FileLogs(tmp_path / "logs", clock)
    unused = cast(Any, None)
    services = Services(
        records=unused,
        buckets=unused,
        objects=unused,
        series=series,
        logs=files,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=clock,
        entropy=RealEntropy(),
        place=Place(),
        endpoint_url="",
        nudge=lambda: None,
    )
    gateway = Gateway(services, cloudwatch.OPERATIONS | logs.OPERATIONS, lambda: {"AKIAEXAMPLE": "secret"})
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(gateway, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while not server.started and thread.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert server.started
    yield Face(f"http://127.0.0.1:{listening.getsockname()[1]}", series, files)
    server.should_exit = True
    thread.join(PATIENCE_S)
    gateway.close()
    listening.close()
    series.close()


def invocations(face: Face, at_s: int, latencies_us: list[float], errors_5xx: int = 0) -> None:
    """Record what a router measured in one second."""
    item = {
        "endpoint": "churn",
        "variant": "blue",
        "config": "churn-1",
        "at_s": at_s,
        "invocations": len(latencies_us),
        "errors_4xx": 0,
        "errors_5xx": errors_5xx,
        "model_errors": errors_5xx,
        "per_instance": len(latencies_us) / 2,
        "model_latency_us": Summary.of(latencies_us).to_json(),
        "overhead_latency_us": Summary.of([50.0] * len(latencies_us)).to_json(),
    }
    face.series.record(router_data([item]))


DIMENSIONS = [{"Name": "EndpointName", "Value": "churn"}, {"Name": "VariantName", "Value": "blue"}]


def test_an_endpoints_metrics_as_the_notebooks_read_them(face: Face) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    for second in range(20):
        invocations(face, int(now.timestamp()) - second, [1000.0, 2000.0, 3000.0, 10_000.0], errors_5xx=1)
    client = face.client("cloudwatch")
    where = {"Namespace": "AWS/SageMaker", "Dimensions": DIMENSIONS}
    window = {"StartTime": now - timedelta(minutes=5), "EndTime": now + timedelta(minutes=1)}

    def points(metric: str, **more: Any) -> list[dict[str, Any]]:
        answer = client.get_metric_statistics(MetricName=metric, Period=60, **where, **window, **more)
        assert answer["Label"] == metric
        return cast(list[dict[str, Any]], answer["Datapoints"])

    assert sum(point["Sum"] for point in points("Invocations", Statistics=["Sum"])) == 80.0
    assert {point["Average"] for point in points("Invocation5XXErrors", Statistics=["Average"])} == {0.25}
    for point in points("ModelLatency", ExtendedStatistics=["p50", "p99"]):
        assert point["Unit"] == "Microseconds"
        assert point["ExtendedStatistics"] == pytest.approx({"p50": 2000.0, "p99": 10_000.0}, rel=0.01)
        assert point["Timestamp"].tzinfo is not None and point["Timestamp"].second == 0
    by_second = client.get_metric_statistics(
        MetricName="Invocations",
        Period=1,
        Statistics=["Sum"],
        **where,
        StartTime=now - timedelta(seconds=20),
        EndTime=now + timedelta(seconds=1),
    )
    assert [point["Sum"] for point in by_second["Datapoints"]] == [4.0] * 20

    answer = client.get_metric_data(
        MetricDataQueries=[
            {
                "Id": f"m{at}",
                "MetricStat": {"Metric": where | {"MetricName": metric}, "Period": 60, "Stat": "Sum"},
                "ReturnData": False,
            }
            for at, metric in enumerate(("Invocation5XXErrors", "Invocations"))
        ]
        + [{"Id": "rate", "Expression": "100 * m0 / m1", "Label": "errors in percent"}],
        **window,
    )
    (rate,) = answer["MetricDataResults"]
    assert (rate["Id"], rate["Label"], rate["StatusCode"]) == ("rate", "errors in percent", "Complete")
    assert set(rate["Values"]) == {25.0}

    listed = [
        metric
        for page in client.get_paginator("list_metrics").paginate(
            Namespace="AWS/SageMaker", Dimensions=DIMENSIONS
        )
        for metric in page["Metrics"]
    ]
    assert {metric["MetricName"] for metric in listed} >= {
        "Invocations",
        "ModelLatency",
        "InvocationsPerInstance",
    }
    assert len(listed) == 14  # seven by variant, seven by variant and config


def test_own_metrics_through_boto3(face: Face) -> None:
    client = face.client("cloudwatch")
    now = datetime.now(UTC)
    many = [
        {
            "MetricName": f"m{number}",
            "Value": number,
            "Unit": "Count",
            "Timestamp": now,
            "Dimensions": DIMENSIONS,
        }
        for number in range(1000)
    ]
    client.put_metric_data(Namespace="Mine", MetricData=many)  # over 10 KiB: boto3 sends it gzipped
    pages = client.get_paginator("list_metrics").paginate(Namespace="Mine")
    assert [len(page["Metrics"]) for page in pages] == [500, 500]
    queries = [
        {
            "Id": f"q{number}",
            "MetricStat": {
                "Metric": {"Namespace": "Mine", "MetricName": f"m{number}", "Dimensions": DIMENSIONS},
                "Period": 60,
                "Stat": "Average",
            },
        }
        for number in range(500)
    ]
    window = {"StartTime": now - timedelta(minutes=5), "EndTime": now + timedelta(minutes=1)}
    pages = client.get_paginator("get_metric_data").paginate(
        MetricDataQueries=queries, PaginationConfig={"PageSize": 120}, **window
    )
    found = {result["Id"]: result["Values"] for page in pages for result in page["MetricDataResults"]}
    assert found == {f"q{number}": [float(number)] for number in range(500)}


def test_errors_have_the_codes_and_classes_that_boto3_knows(face: Face) -> None:
    client = face.client("cloudwatch")
    with pytest.raises(client.exceptions.InvalidParameterValueException) as value:
        client.put_metric_data(
            Namespace="AWS/SageMaker", MetricData=[{"MetricName": "Invocations", "Value": 1}]
        )
    assert value.value.response["Error"]["Code"] == "InvalidParameterValue"
    assert value.value.response["Error"]["Message"] == "The value AWS/ for parameter Namespace is invalid."
    with pytest.raises(botocore.exceptions.ClientError) as no_number:
        client.put_metric_data(Namespace="Mine", MetricData=[{"MetricName": "m", "Value": math.nan}])
    assert no_number.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert client.list_metrics(Namespace="Mine")["Metrics"] == []
    with pytest.raises(client.exceptions.MissingRequiredParameterException):
        client.put_metric_data(Namespace="Mine")
    window = {"StartTime": datetime(2024, 1, 1, tzinfo=UTC), "EndTime": datetime(2025, 1, 1, tzinfo=UTC)}
    with pytest.raises(
        client.exceptions.InvalidParameterCombinationException, match="exceeds the limit of 1,440"
    ):
        client.get_metric_statistics(
            Namespace="Mine", MetricName="m", Period=60, Statistics=["Sum"], **window
        )
    with pytest.raises(client.exceptions.InvalidNextToken):
        client.get_metric_data(
            MetricDataQueries=[{"Id": "e1", "Expression": "TIME_SERIES(1)"}], NextToken="nope", **window
        )
    with pytest.raises(botocore.exceptions.ClientError) as unknown:
        client.get_metric_data(MetricDataQueries=[{"Id": "e1", "Expression": "NOPE(1)"}], **window)
    assert unknown.value.response["Error"]["Code"] == "ValidationError"
    assert "NOPE" in unknown.value.response["Error"]["Message"]
    assert unknown.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_metrics_through_the_aws_cli(face: Face) -> None:
    face.cli(
        "cloudwatch",
        "put-metric-data",
        "--namespace",
        "Mine",
        "--metric-name",
        "m",
        "--value",
        "7",
        "--unit",
        "Count",
    )
    now = datetime.now(UTC)
    found = face.cli(
        *("cloudwatch", "get-metric-statistics", "--namespace", "Mine", "--metric-name", "m"),
        *("--statistics", "Maximum", "--period", "60"),
        *(
            "--start-time",
            (now - timedelta(minutes=5)).isoformat(),
            "--end-time",
            (now + timedelta(minutes=1)).isoformat(),
        ),
    )
    assert [point["Maximum"] for point in found["Datapoints"]] == [7.0]
    assert face.cli("cloudwatch", "list-metrics", "--namespace", "Mine")["Metrics"] == [
        {"Namespace": "Mine", "MetricName": "m", "Dimensions": []}
    ]


def test_logs_through_boto3_and_the_aws_cli(face: Face) -> None:
    face.printed("blue/i-0", "loading model", "ready")
    face.printed("green/i-0", "ready", "Traceback (most recent call last):", "ValueError: bad row")
    client = face.client("logs")
    groups = [g for page in client.get_paginator("describe_log_groups").paginate() for g in page["logGroups"]]
    assert [group["logGroupName"] for group in groups] == [GROUP]
    streams = client.describe_log_streams(logGroupName=GROUP, orderBy="LastEventTime", descending=True)[
        "logStreams"
    ]
    assert {stream["logStreamName"] for stream in streams} == {"blue/i-0", "green/i-0"}
    head = client.get_log_events(logGroupName=GROUP, logStreamName="blue/i-0", startFromHead=True)
    assert [event["message"] for event in head["events"]] == ["loading model", "ready"]
    again = client.get_log_events(
        logGroupName=GROUP, logStreamName="blue/i-0", nextToken=head["nextForwardToken"]
    )
    assert again["events"] == [] and again["nextForwardToken"] == head["nextForwardToken"]
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=GROUP, filterPattern="ready", PaginationConfig={"PageSize": 1}
    )
    found = [event["logStreamName"] for page in pages for event in page["events"]]
    assert found == ["blue/i-0", "green/i-0"]
    with pytest.raises(
        client.exceptions.ResourceNotFoundException, match="The specified log group does not exist"
    ):
        client.filter_log_events(logGroupName="/aws/sagemaker/Endpoints/nope")
    found = face.cli("logs", "filter-log-events", "--log-group-name", GROUP, "--filter-pattern", '"bad row"')
    assert [event["message"] for event in found["events"]] == ["ValueError: bad row"]


def _cli_with_tail() -> str | None:
    """Find an AWS CLI of version 2: only it has ``aws logs tail``."""
    for candidate in (os.environ.get("UNDERSTUDY_TEST_AWS_CLI_2"), shutil.which("aws"), "/usr/bin/aws"):
        if candidate and Path(candidate).exists():
            done = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=60)
            if done.stdout.startswith("aws-cli/2."):
                return candidate
    return None


def test_aws_logs_tail_follows(face: Face) -> None:
    aws = _cli_with_tail()
    if aws is None:
        pytest.skip("needs AWS CLI version 2 (name it in UNDERSTUDY_TEST_AWS_CLI_2)")
    face.printed("blue/i-0", "first", "second")
    environment = face.environment() | {"PYTHONUNBUFFERED": "1"}
    # Named here too: AWS_ENDPOINT_URL is read from 2.13 on.
    tail = [aws, "--endpoint-url", face.url, "logs", "tail", GROUP, "--since", "5m", "--format", "short"]
    done = subprocess.run(tail, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split(" ", 1)[1] for line in done.stdout.splitlines()] == ["first", "second"]

    following = subprocess.Popen([*tail, "--follow"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert following.stdout is not None
        assert following.stdout.readline().split()[-1] == "first"
        assert following.stdout.readline().split()[-1] == "second"
        face.printed("green/i-0", "third")
        assert following.stdout.readline().split()[-1] == "third"
        face.printed("blue/i-0", "fourth")
        assert following.stdout.readline().split()[-1] == "fourth"
    finally:
        following.terminate()
        following.wait(PATIENCE_S)
        if following.stdout is not None:
            following.stdout.close()
