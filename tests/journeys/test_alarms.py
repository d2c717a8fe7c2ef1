"""A failing variant, an alarm on its 5XX errors, a webhook: OK -> ALARM -> OK through plain boto3."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
PATIENCE_S = 60.0
MODEL = (
    "def model_fn(d):\n    return 1\n"
    "def input_fn(body, content_type):\n    return body\n"
    "def predict_fn(data, model):\n"
    "    if b'bad' in bytes(data, 'utf-8') if isinstance(data, str) else b'bad' in data:\n"
    "        raise RuntimeError('bad request of the test')\n"
    "    return 'fine'\n"
    "def output_fn(prediction, accept):\n    return prediction, 'text/plain'\n"
)


class Hook(BaseHTTPRequestHandler):
    """Keeps what it is sent; /moved redirects, /broken fails twice and then takes it."""

    received: list[tuple[str, dict[str, Any]]]
    asked: list[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(self.path)
        status = 200
        if self.path == "/moved":
            status = 302
        elif self.path == "/broken" and self.asked.count("/broken") < 2:
            status = 503
        if status == 200:
            self.received.append((self.path, body))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hook() -> Iterator[ThreadingHTTPServer]:
    Hook.received, Hook.asked = [], []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture(scope="module")
def server_options(hook: ThreadingHTTPServer) -> list[str]:
    return ["--time-scale", "20", "--alarm-webhooks", f"http://127.0.0.1:{hook.server_port}/*"]


def until(holds: Callable[[], Any], meanwhile: Callable[[], object] = lambda: None) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline_s, "it never came true"
        meanwhile()
        time.sleep(0.02)
    return found


def deploy(server: Any, name: str) -> None:
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(MODEL.encode())
        tar.addfile(info, io.BytesIO(MODEL.encode()))
    s3.create_bucket(Bucket="alarms")
    s3.put_object(Bucket="alarms", Key="model.tar.gz", Body=buffer.getvalue())
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": "s3://alarms/model.tar.gz"},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "v", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        ],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})


def test_a_failing_variant_rings_and_calms_down(server: Any, hook: ThreadingHTTPServer) -> None:
    deploy(server, "churn")
    cloudwatch, runtime = server.client("cloudwatch"), server.client("sagemaker-runtime")
    address = f"http://127.0.0.1:{hook.server_port}"
    topic = "arn:aws:sns:us-east-1:123456789012:on-call"
    cloudwatch.put_metric_alarm(
        AlarmName="errors of churn",
        AlarmDescription="5XX errors above 10 %",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": "churn"}, {"Name": "VariantName", "Value": "v"}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0.1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
        AlarmActions=[f"{address}/alarm", f"{address}/moved", topic],
        OKActions=[f"{address}/ok"],
        Tags=[{"Key": "severity", "Value": "page"}],
    )
    cloudwatch.get_waiter("alarm_exists").wait(
        AlarmNames=["errors of churn"], WaiterConfig={"Delay": 1, "MaxAttempts": 5}
    )

    def alarm() -> dict[str, Any]:
        (found,) = cloudwatch.describe_alarms(AlarmNames=["errors of churn"])["MetricAlarms"]
        return dict(found)

    def send(body: str) -> None:
        try:
            runtime.invoke_endpoint(EndpointName="churn", Body=body, ContentType="text/plain")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ModelError", error

    until(lambda: alarm()["StateValue"] == "OK", lambda: send("good"))
    until(lambda: alarm()["StateValue"] == "ALARM", lambda: send("bad"))
    ringing = alarm()
    assert ringing["StateReason"].startswith("Threshold Crossed: 1 datapoint [")
    assert ringing["StateReason"].endswith("was greater than the threshold (0.1).")
    data = json.loads(ringing["StateReasonData"])
    assert data["evaluatedDatapoints"][0]["value"] > 0.1 and data["period"] == 60
    until(lambda: alarm()["StateValue"] == "OK", lambda: send("good"))

    until(lambda: {path for path, _ in Hook.received} >= {"/alarm", "/ok"})
    message = next(body for path, body in Hook.received if path == "/alarm")
    assert (message["AlarmName"], message["NewStateValue"]) == ("errors of churn", "ALARM")
    assert (message["Severity"], message["EndpointName"]) == ("page", "churn")
    assert message["Trigger"]["MetricName"] == "Invocation5XXErrors"
    assert message["Link"].startswith(f"{server.url}/console/alarms/")
    assert "/elsewhere" not in Hook.asked

    def history(kind: str) -> list[str]:
        pages = cloudwatch.get_paginator("describe_alarm_history").paginate(
            AlarmName="errors of churn", HistoryItemType=kind, PaginationConfig={"PageSize": 2}
        )
        return [item["HistorySummary"] for page in pages for item in page["AlarmHistoryItems"]]

    states = history("StateUpdate")
    assert states[:3] == [
        "Alarm updated from ALARM to OK",
        "Alarm updated from OK to ALARM",
        "Alarm updated from INSUFFICIENT_DATA to OK",
    ]
    assert history("ConfigurationUpdate") == ['Alarm "errors of churn" created']
    actions = until(lambda: found if len(found := history("Action")) >= 4 else None)
    assert f"Successfully executed action {address}/alarm" in actions
    assert any("/moved" in one and "redirects are not followed" in one for one in actions)
    assert any(topic in one and "Not delivered" in one for one in actions)


def test_a_broken_receiver_is_tried_again(server: Any, hook: ThreadingHTTPServer) -> None:
    cloudwatch = server.client("cloudwatch")
    cloudwatch.put_metric_alarm(
        AlarmName="by hand",
        Namespace="Mine",
        MetricName="Nothing",
        Statistic="Sum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="ignore",
        AlarmActions=[f"http://127.0.0.1:{hook.server_port}/broken"],
    )
    cloudwatch.put_composite_alarm(AlarmName="both", AlarmRule='ALARM("by hand") AND TRUE')
    cloudwatch.get_waiter("composite_alarm_exists").wait(
        AlarmNames=["both"], AlarmTypes=["CompositeAlarm"], WaiterConfig={"Delay": 1, "MaxAttempts": 5}
    )
    cloudwatch.set_alarm_state(AlarmName="by hand", StateValue="ALARM", StateReason="a drill")

    def composite() -> dict[str, Any]:
        (found,) = cloudwatch.describe_alarms(AlarmTypes=["CompositeAlarm"])["CompositeAlarms"]
        return dict(found)

    until(lambda: composite()["StateValue"] == "ALARM")
    assert "alarm:by hand transitioned to ALARM at" in composite()["StateReason"]
    until(lambda: [body for path, body in Hook.received if path == "/broken"])
    assert Hook.asked.count("/broken") == 2


def test_a_webhook_that_is_not_allowed_names_the_setting(server: Any) -> None:
    with pytest.raises(ClientError, match="alarm_webhooks") as caught:
        server.client("cloudwatch").put_metric_alarm(
            AlarmName="leak",
            Namespace="Mine",
            MetricName="Nothing",
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanThreshold",
            AlarmActions=["http://169.254.169.254/latest/meta-data"],
        )
    assert caught.value.response["Error"]["Code"] == "ValidationError"


def test_the_linter_from_the_shell(server: Any, tmp_path: Path) -> None:
    """AWS's sample alarm, commented as 1 %, on the endpoint that served above."""
    server.client("cloudwatch").put_metric_alarm(
        AlarmName="aws-sample",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=[{"Name": "EndpointName", "Value": "churn"}, {"Name": "VariantName", "Value": "v"}],
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1,  # alarm on 1% 5xx error rate
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )
    deployment = {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "aws-sample"}]},
    }
    file = tmp_path / "update.json"
    file.write_text(json.dumps({"DeploymentConfig": deployment}))
    command = [sys.executable, "-m", "understudy.cli", "guardrail", "lint", "--endpoint", "churn"]
    command += ["--deployment-config", str(file), "--data-dir", str(server.data_dir)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 1, shown.stdout + shown.stderr
    assert "error never-fires" in shown.stdout and "1 % is 0.01" in shown.stdout
    told = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
    report = json.loads(told.stdout)
    assert report["worst"] == "error" and report["alarms"][0]["name"] == "aws-sample"
    command[command.index("churn")] = "no-such-endpoint"
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert missing.returncode == 1 and "Could not find endpoint" in missing.stderr
