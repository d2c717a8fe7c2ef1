"""The A/B walk with the AWS CLI and nothing but the environment of ``understudy env``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

AWS = Path(__file__).parent / "programs" / "aws_calls.py"
ENDPOINT = "cli-walk"
PATIENCE_S = 120.0

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(600)]


@pytest.fixture
def aws(server: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Run the AWS CLI and return its JSON (or text, for commands that print none).

    Its code is loaded once for all calls: half of each call's time.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, str(AWS)], env=server.environment, cwd=tmp_path, stdin=pipe, stdout=pipe, text=True
    ) as calls:
        assert calls.stdin is not None and calls.stdout is not None

        def run(*arguments: str) -> Any:
            command = [*arguments, *(["--output", "json"] if arguments[0] != "s3" else [])]
            print(json.dumps(command), file=calls.stdin, flush=True)
            code, output, error = json.loads(calls.stdout.readline())
            assert code == 0, f"aws {' '.join(arguments)}: {error}"
            return json.loads(output) if output.startswith(("{", "[")) else output

        yield run
        calls.stdin.close()


def variant(number: int) -> dict[str, Any]:
    return {
        "VariantName": f"Variant{number}",
        "ModelName": f"cli-{number}",
        "InstanceType": "ml.m5.xlarge",
        "InitialInstanceCount": 1,
        "InitialVariantWeight": 0.5,
    }


def wait_in_service(aws: Callable[..., Any]) -> dict[str, Any]:
    """Poll like the CLI's own waiter, whose delay of 30 s can't be set."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        described: dict[str, Any] = aws("sagemaker", "describe-endpoint", "--endpoint-name", ENDPOINT)
        if described["EndpointStatus"] not in ("Creating", "Updating"):
            assert described["EndpointStatus"] == "InService", described
            return described
        assert time.monotonic() < deadline_s, described


def test_the_walk_on_the_command_line(
    server: Any, aws: Callable[..., Any], churn: Any, tmp_path: Path
) -> None:
    rows = churn.rows.read_text().splitlines()
    assert aws("sts", "get-caller-identity")["Account"] == "123456789012"
    aws("s3", "mb", "s3://cli-models")
    for number, path in enumerate(churn.models, start=1):
        aws("s3", "cp", str(path), f"s3://cli-models/m{number}/model.tar.gz")
        container = {
            "Image": f"xgboost:0.90-{number}",
            "ModelDataUrl": f"s3://cli-models/m{number}/model.tar.gz",
        }
        role = ["--execution-role-arn", "arn:aws:iam::123456789012:role/understudy"]
        model = ["--model-name", f"cli-{number}", "--primary-container", json.dumps(container)]
        aws("sagemaker", "create-model", *model, *role)
    assert "m1/" in aws("s3", "ls", "s3://cli-models/")
    config = ["--endpoint-config-name", "cli-both", "--production-variants"]
    aws("sagemaker", "create-endpoint-config", *config, json.dumps([variant(1), variant(2)]))
    names = ["--endpoint-name", ENDPOINT, "--endpoint-config-name", "cli-both"]
    aws("sagemaker", "create-endpoint", *names)
    described = wait_in_service(aws)
    assert [item["CurrentWeight"] for item in described["ProductionVariants"]] == [0.5, 0.5]

    sent = {"Variant1": 0, "Variant2": 0}

    def invoke(row: int, *options: str) -> str:
        body = tmp_path / "row.csv"
        body.write_text(rows[row])
        command = ["--endpoint-name", ENDPOINT, "--content-type", "text/csv", "--body", f"fileb://{body}"]
        answer = aws("sagemaker-runtime", "invoke-endpoint", *command, *options, "out.txt")
        name: str = answer["InvokedProductionVariant"]
        assert (tmp_path / "out.txt").read_text().strip() == churn.expected[name][row]
        sent[name] += 1
        return name

    for row in range(3):
        invoke(row)
        assert invoke(row, "--target-variant", "Variant1") == "Variant1"
        assert invoke(row, "--target-variant", "Variant2") == "Variant2"

    for weight, weight2 in ((0.25, 0.75), (0.0, 1.0)):
        weights = [
            {"VariantName": "Variant1", "DesiredWeight": weight},
            {"VariantName": "Variant2", "DesiredWeight": weight2},
        ]
        desired = ["--endpoint-name", ENDPOINT, "--desired-weights-and-capacities", json.dumps(weights)]
        aws("sagemaker", "update-endpoint-weights-and-capacities", *desired)
        described = wait_in_service(aws)
        assert [item["CurrentWeight"] for item in described["ProductionVariants"]] == [weight, weight2]
        assert described["EndpointConfigName"] == "cli-both"
    assert {invoke(row) for row in range(5)} == {"Variant2"}

    deadline_s = time.monotonic() + 20.0
    while (seen := {name: invocations(aws, name) for name in sent}) != sent:
        assert time.monotonic() < deadline_s, (seen, sent)

    config = ["--endpoint-config-name", "cli-new", "--production-variants", json.dumps([variant(2)])]
    aws("sagemaker", "create-endpoint-config", *config)
    names = ["--endpoint-name", ENDPOINT, "--endpoint-config-name", "cli-new"]
    aws("sagemaker", "update-endpoint", *names)
    described = wait_in_service(aws)
    assert [item["VariantName"] for item in described["ProductionVariants"]] == ["Variant2"]
    invoke(7)

    aws("logs", "describe-log-streams", "--log-group-name", f"/aws/sagemaker/Endpoints/{ENDPOINT}")
    aws("sagemaker", "delete-endpoint", "--endpoint-name", ENDPOINT)
    sagemaker = server.client("sagemaker")
    waiter = sagemaker.get_waiter("endpoint_deleted")
    waiter.wait(EndpointName=ENDPOINT, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    for name in ("cli-both", "cli-new"):
        aws("sagemaker", "delete-endpoint-config", "--endpoint-config-name", name)
    for number in (1, 2):
        aws("sagemaker", "delete-model", "--model-name", f"cli-{number}")
    assert aws("sagemaker", "list-models")["Models"] == []
    aws("s3", "rb", "s3://cli-models", "--force")


def invocations(aws: Callable[..., Any], name: str) -> int:
    now = datetime.now(UTC)
    answer = aws(
        *("cloudwatch", "get-metric-statistics", "--namespace", "AWS/SageMaker"),
        *("--metric-name", "Invocations", "--statistics", "Sum", "--period", "60"),
        *("--start-time", (now - timedelta(hours=1)).isoformat()),
        *("--end-time", (now + timedelta(minutes=2)).isoformat()),
        *("--dimensions", f"Name=EndpointName,Value={ENDPOINT}", f"Name=VariantName,Value={name}"),
    )
    return round(sum(point["Sum"] for point in answer["Datapoints"]))
