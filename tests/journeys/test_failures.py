"""What can't run says so within seconds, naming the file or line; what serves goes on serving."""

from __future__ import annotations

import io
import tarfile
import time
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
PATIENCE_S = 60.0

GOOD = "def model_fn(d):\n    return 1\ndef predict_fn(data, model):\n    return data\n"


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def outcome(server: Any, body: bytes | None, image: str = "python:3", **container: Any) -> dict[str, Any]:
    """Deploy a model and return DescribeEndpoint once it is no longer Creating."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    name = f"m-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket="failures")
    s3.put_object(Bucket="failures", Key=f"{name}.tar.gz", Body=body or b"")
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": image, "ModelDataUrl": f"s3://failures/{name}.tar.gz", **container},
    )
    if body is None:
        s3.delete_object(Bucket="failures", Key=f"{name}.tar.gz")
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "v", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        ],
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        described: dict[str, Any] = sagemaker.describe_endpoint(EndpointName=name)
        if described["EndpointStatus"] != "Creating":
            return described
        assert time.monotonic() < deadline_s, "CreateEndpoint hangs"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("files", "needles"),
    [
        ({"code/inference.py": "def model_fn(d):\n    return (1\n"}, ["SyntaxError", "inference.py:2"]),
        ({"code/inference.py": "import no_such_module\n"}, ["no_such_module", "inference.py:1"]),
        (
            {"code/inference.py": "def model_fn(d):\n    x = 1\n    return open(d + '/weights.bin')\n"},
            ["weights.bin", "inference.py:3"],
        ),
        ({"code/inference.py": "def modelfn(d):\n    return 1\n"}, ["model_fn"]),
        ({"readme.txt": "no model here"}, ["inference.py"]),
        ({"code/inference.py": "import os\nos._exit(7)\n"}, ["7"]),
    ],
    ids=["syntax", "import", "missing file", "missing handler", "no model", "exits"],
)
def test_wrong_code_is_named(server: Any, files: dict[str, str], needles: list[str]) -> None:
    described = outcome(server, archive(files))
    assert described["EndpointStatus"] == "Failed", described
    for needle in needles:
        assert needle in described["FailureReason"], described["FailureReason"]
    assert "Traceback" not in described["FailureReason"]


def test_an_archive_that_is_none_is_named(server: Any) -> None:
    described = outcome(server, b"this is no archive")
    assert described["EndpointStatus"] == "Failed" and ".tar.gz" in described["FailureReason"]


def test_a_vanished_archive_is_named(server: Any) -> None:
    described = outcome(server, None)
    assert described["EndpointStatus"] == "Failed" and "s3://failures/" in described["FailureReason"]


def test_an_unknown_image_lists_the_known_ones(server: Any) -> None:
    described = outcome(server, archive({"code/inference.py": GOOD}), image="my-own-image:7")
    assert described["EndpointStatus"] == "Failed"
    assert "my-own-image:7" in described["FailureReason"] and "xgboost:1.7-1" in described["FailureReason"]


def test_an_environment_that_cannot_be_built_says_which_package(server: Any) -> None:
    files = {"code/inference.py": GOOD, "code/requirements.txt": "no-such-package-of-ours==9.9.9\n"}
    described = outcome(server, archive(files))
    assert described["EndpointStatus"] == "Failed"
    assert "no-such-package-of-ours" in described["FailureReason"]


def test_a_failed_endpoint_can_be_deleted_and_made_again(server: Any) -> None:
    sagemaker = server.client("sagemaker")
    name = outcome(server, archive({"readme.txt": "nothing"}))["EndpointName"]
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 1})
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    with pytest.raises(Exception, match="Failed"):
        sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 1})


INVOKE = """\
import time
def model_fn(d):
    return 1
def input_fn(body, content_type):
    if content_type != "text/plain":
        raise ValueError("only text/plain")
    return body if isinstance(body, str) else body.decode()
def predict_fn(data, model):
    if data == "boom":
        raise RuntimeError("the model is out of cheese")
    if data == "exit":
        import os
        os._exit(9)
    return data.upper()
def output_fn(prediction, accept):
    return prediction, "text/plain"
"""


def test_errors_of_the_model_reach_the_caller_as_on_aws(server: Any) -> None:
    described = outcome(server, archive({"code/inference.py": INVOKE}))
    assert described["EndpointStatus"] == "InService", described
    name = described["EndpointName"]
    runtime = server.client("sagemaker-runtime")

    def invoke(body: bytes, **options: Any) -> Any:
        return runtime.invoke_endpoint(EndpointName=name, Body=body, ContentType="text/plain", **options)

    assert invoke(b"ok")["Body"].read() == b"OK"
    with pytest.raises(runtime.exceptions.ModelError) as failed:
        invoke(b"boom")
    error = failed.value.response
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error["OriginalStatusCode"] == 500 and "out of cheese" in error["OriginalMessage"]
    assert error["Error"]["Message"].startswith('Received server error (500) from primary with message "')
    assert f"logEventViewer:group=/aws/sagemaker/Endpoints/{name}" in error["Error"]["Message"]
    with pytest.raises(runtime.exceptions.ModelError):
        invoke(b"exit")
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            assert invoke(b"again")["Body"].read() == b"AGAIN"
            break
        except ClientError as unavailable:
            assert unavailable.response["Error"]["Code"] in ("ServiceUnavailable", "ModelError")
            assert time.monotonic() < deadline_s
    for options, status in (
        ({"TargetVariant": "nobody"}, 400),
        ({"Body": b"x" * 6_291_457}, 400),
    ):
        with pytest.raises(runtime.exceptions.ValidationError) as refused:
            runtime.invoke_endpoint(**{"EndpointName": name, "Body": b"x", **options})
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    logs = server.client("logs").filter_log_events(logGroupName=f"/aws/sagemaker/Endpoints/{name}")
    assert any("out of cheese" in event["message"] for event in logs["events"])
