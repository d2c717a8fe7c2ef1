"""Kinds of models, each deployed and invoked through boto3: what a user brings, answered by itself."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from botocore.exceptions import ClientError

sklearn_datasets = pytest.importorskip("sklearn.datasets")

pytestmark = [pytest.mark.journey, pytest.mark.timeout(400)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
PATIENCE_S = 240.0

SERVE = """\
#!/usr/bin/env python
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200 if self.path == "/ping" else 404, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"teapot":
            return self.answer(418, b"short and stout")
        self.answer(200, self.path.encode() + b" " + body[::-1])
address = ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""

STEP = """\
def model_fn(d):
    return None
def input_fn(body, content_type):
    return body if isinstance(body, str) else body.decode()
def predict_fn(text, model):
    return "{name}(" + text + ")"
def output_fn(text, accept):
    return text, "text/plain"
"""

STREAM = """\
def model_fn(d):
    return None
def input_fn(body, content_type):
    return int(body)
def predict_fn(count, model):
    for number in range(count):
        yield b"part %d;" % number
"""


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Deployer:
    """Creates a model, its config and its endpoint under one name, and waits for it."""

    def __init__(self, server: Any) -> None:
        self.sagemaker = server.client("sagemaker")
        self.runtime = server.client("sagemaker-runtime")
        self.s3 = server.client("s3")
        self.s3.create_bucket(Bucket="kinds")

    def upload(self, key: str, files: dict[str, bytes]) -> str:
        self.s3.put_object(Bucket="kinds", Key=key, Body=archive(files))
        return f"s3://kinds/{key}"

    def deploy(self, name: str, **model: Any) -> dict[str, Any]:
        self.sagemaker.create_model(ModelName=name, ExecutionRoleArn=ROLE, **model)
        variant = {
            "VariantName": "v",
            "ModelName": name,
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
        }
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            described: dict[str, Any] = self.sagemaker.describe_endpoint(EndpointName=name)
            if described["EndpointStatus"] != "Creating":
                assert described["EndpointStatus"] == "InService", described.get("FailureReason")
                return described
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    def invoke(self, name: str, body: bytes, content_type: str, **options: Any) -> bytes:
        answer = self.runtime.invoke_endpoint(
            EndpointName=name, Body=body, ContentType=content_type, **options
        )
        content: bytes = answer["Body"].read()
        return content


@pytest.fixture(scope="module")
def deployer(server: Any) -> Iterator[Deployer]:
    yield Deployer(server)


@pytest.fixture(scope="module")
def iris() -> tuple[Any, Any]:
    features, labels = sklearn_datasets.load_iris(return_X_y=True)
    return features, labels


def csv(rows: Any) -> bytes:
    return "\n".join(",".join(repr(float(value)) for value in row) for row in rows).encode()


def test_scikit_learn_in_several_content_types(deployer: Deployer, iris: tuple[Any, Any]) -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = iris
    model = LogisticRegression(max_iter=500).fit(features, labels)
    url = deployer.upload("iris.tar.gz", {"model.pkl": pickle.dumps(model)})
    deployer.deploy("iris", PrimaryContainer={"Image": "sklearn", "ModelDataUrl": url})
    expected = [int(label) for label in model.predict(features[::10])]
    rows = features[::10]
    answer = deployer.invoke("iris", csv(rows), "text/csv", Accept="application/json")
    assert np.array(json.loads(answer)).ravel().tolist() == expected
    answer = deployer.invoke(
        "iris", json.dumps(rows.tolist()).encode(), "application/json", Accept="text/csv"
    )
    assert [int(float(x)) for x in answer.replace(b"\n", b",").strip(b",").split(b",")] == expected
    lines = b"\n".join(json.dumps(row.tolist()).encode() for row in rows)
    answer = deployer.invoke("iris", lines, "application/jsonlines", Accept="application/json")
    assert np.array(json.loads(answer)).ravel().tolist() == expected
    buffer = io.BytesIO()
    np.save(buffer, rows)
    answer = deployer.invoke("iris", buffer.getvalue(), "application/x-npy", Accept="application/x-npy")
    assert np.load(io.BytesIO(answer)).ravel().tolist() == expected
    with pytest.raises(ClientError) as refused:
        deployer.invoke("iris", b"?", "image/png")
    assert refused.value.response["OriginalStatusCode"] == 415
    with pytest.raises(ClientError) as refused:
        deployer.invoke("iris", b"1,2,x,4", "text/csv")
    assert refused.value.response["OriginalStatusCode"] == 400


def test_a_program_that_serves_itself(deployer: Deployer) -> None:
    url = deployer.upload("serve.tar.gz", {"serve": SERVE.encode()})
    deployer.deploy("serve", PrimaryContainer={"Image": "python:3", "ModelDataUrl": url})
    assert deployer.invoke("serve", b"abc", "text/plain") == b"/invocations cba"
    with pytest.raises(ClientError) as refused:
        deployer.invoke("serve", b"teapot", "text/plain")
    error = refused.value.response
    assert (error["OriginalStatusCode"], error["OriginalMessage"]) == (418, "short and stout")
    assert (
        'Received client error (418) from primary with message "short and stout"' in error["Error"]["Message"]
    )


def test_a_command_named_by_the_environment(deployer: Deployer) -> None:
    url = deployer.upload("named.tar.gz", {"bin/run.py": SERVE.encode()})
    container = {
        "Image": "python:3",
        "ModelDataUrl": url,
        "Environment": {"UNDERSTUDY_COMMAND": "python bin/run.py"},
    }
    deployer.deploy("named", PrimaryContainer=container)
    assert deployer.invoke("named", b"xy", "text/plain") == b"/invocations yx"


def test_containers_in_series(deployer: Deployer) -> None:
    containers = []
    for name in ("first", "second"):
        url = deployer.upload(f"{name}.tar.gz", {"code/inference.py": STEP.format(name=name).encode()})
        containers.append({"Image": "python:3", "ModelDataUrl": url})
    described = deployer.deploy("series", Containers=containers)
    assert len(described["ProductionVariants"][0]["DeployedImages"]) == 2
    assert deployer.invoke("series", b"x", "text/plain") == b"second(first(x))"


def test_one_of_several_containers_called_directly(deployer: Deployer) -> None:
    containers = []
    for name in ("left", "right"):
        url = deployer.upload(f"{name}.tar.gz", {"code/inference.py": STEP.format(name=name).encode()})
        containers.append({"Image": "python:3", "ModelDataUrl": url, "ContainerHostname": name})
    deployer.deploy("direct", Containers=containers, InferenceExecutionConfig={"Mode": "Direct"})
    for name in ("left", "right"):
        answer = deployer.invoke("direct", b"x", "text/plain", TargetContainerHostname=name)
        assert answer == f"{name}(x)".encode()


def test_an_answer_in_parts(deployer: Deployer) -> None:
    url = deployer.upload("stream.tar.gz", {"code/inference.py": STREAM.encode()})
    deployer.deploy("stream", PrimaryContainer={"Image": "python:3", "ModelDataUrl": url})
    answer = deployer.runtime.invoke_endpoint_with_response_stream(
        EndpointName="stream", Body=b"5", ContentType="text/plain"
    )
    parts = [event["PayloadPart"]["Bytes"] for event in answer["Body"]]
    assert b"".join(parts) == b"part 0;part 1;part 2;part 3;part 4;"
    assert deployer.invoke("stream", b"2", "text/plain") == b"part 0;part 1;"


def test_an_uncompressed_prefix_with_code_of_its_own(deployer: Deployer) -> None:
    deployer.s3.put_object(
        Bucket="kinds", Key="plain/code/inference.py", Body=STEP.format(name="plain").encode()
    )
    source = {
        "S3DataSource": {"S3Uri": "s3://kinds/plain/", "S3DataType": "S3Prefix", "CompressionType": "None"}
    }
    deployer.deploy("plain", PrimaryContainer={"Image": "python:3", "ModelDataSource": source})
    assert deployer.invoke("plain", b"x", "text/plain") == b"plain(x)"


def test_requirements_are_installed_for_the_model_alone(deployer: Deployer) -> None:
    code = "import colorama\n" + STEP.format(name="needs")
    files = {"code/inference.py": code.encode(), "code/requirements.txt": b"colorama==0.4.6\n"}
    url = deployer.upload("needs.tar.gz", files)
    deployer.deploy("needs", PrimaryContainer={"Image": "python:3", "ModelDataUrl": url})
    assert deployer.invoke("needs", b"x", "text/plain") == b"needs(x)"


XGBOOST = """\
import json, sys
import numpy as np
import xgboost
rng = np.random.RandomState(7)
x = rng.rand(300, 5).astype(np.float32)
y = (x[:, 0] + x[:, 1] > 1).astype(int)
settings = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
booster = xgboost.train(settings, xgboost.DMatrix(x, y), 10)
booster.save_model(sys.argv[1])
rows = x[:8]
expected = [repr(float(p)) for p in booster.predict(xgboost.DMatrix(rows))]
print(json.dumps({"rows": rows.tolist(), "expected": expected}))
"""


def test_todays_xgboost_answers_as_xgboost_does(deployer: Deployer, tmp_path: Path) -> None:
    """One of its formats: tests/worker/test_xgboost_model.py has the others."""
    import subprocess

    environment = Path(__file__).parents[2] / ".venv-oracle3"
    python = environment / "bin" / "python"
    if not python.exists():
        pytest.skip("needs .venv-oracle3: run `make sdks`")
    path = tmp_path / "model.ubj"
    done = subprocess.run(
        [python, "-W", "ignore", "-c", XGBOOST, path], capture_output=True, text=True, check=True, timeout=120
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    url = deployer.upload("xgb.tar.gz", {"model.ubj": path.read_bytes()})
    described = deployer.deploy("xgb", PrimaryContainer={"Image": "xgboost:3.2", "ModelDataUrl": url})
    image = described["ProductionVariants"][0]["DeployedImages"][0]
    assert "xgboost" in image["ResolvedImage"] and image["SpecifiedImage"] == "xgboost:3.2"
    for row, expected in zip(seen["rows"], seen["expected"], strict=True):
        assert deployer.invoke("xgb", csv([row]), "text/csv").strip().decode() == expected
    answers = deployer.invoke("xgb", csv(seen["rows"]), "text/csv").decode()
    assert answers.replace("\n", ",").strip(",").split(",") == seen["expected"]
