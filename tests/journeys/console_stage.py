"""A stage for the console: endpoints, a shadow test and steady traffic on a running server, by plain boto3.

Shared by the browser journeys and by ``make screenshots``.  Models are short scripts, so nothing is built.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from playwright.sync_api import Error

from understudy.sdk.servers import read_server

ROLE = "arn:aws:iam::123456789012:role/understudy"
BUCKET = "models"
PATIENCE_S = 90.0

# A score per row: a weighted sum through a sigmoid; the second model weighs differently and is slower.
SCORING = """\
import json, math, sys, time
WEIGHTS, BIAS, SLOW_S = {weights!r}, {bias!r}, {slow_s!r}
def model_fn(model_dir):
    print("model {name} is loaded", flush=True)
    return WEIGHTS
def transform_fn(model, body, content_type, accept):
    text = body if isinstance(body, str) else bytes(body).decode()
    scores = []
    for line in text.strip().splitlines():
        cells = [float(cell) for cell in line.split(",")]
        if cells[0] > 99:
            print("ERROR refused a row whose first cell is", cells[0], file=sys.stderr, flush=True)
            raise ValueError("the first cell is above 99")
        total = BIAS + sum(weight * cell for weight, cell in zip(model, cells))
        scores.append(1 / (1 + math.exp(-total)))
    time.sleep(SLOW_S * (1 + abs(math.sin(sum(scores) * 50))))
    label = "churn" if max(scores) > 0.5 else "stay"
    return json.dumps({{"scores": scores, "label": label}}), "application/json"
"""
MODELS = {
    "churn-v1": {"weights": [0.8, -0.5, 0.3], "bias": -0.1, "slow_s": 0.004},
    "churn-v2": {"weights": [0.9, -0.45, 0.35], "bias": -0.15, "slow_s": 0.006},
}
ROWS = [f"{(n * 37 % 100) / 25:.2f},{(n * 53 % 100) / 30:.2f},{(n * 71 % 100) / 20:.2f}" for n in range(200)]


def launch(playwright: Any) -> Any:
    """Start Playwright's own Chromium, else the system's; None where there is neither."""
    options = {"args": ["--no-sandbox"] if os.geteuid() == 0 else []}
    try:
        return playwright.chromium.launch(**options)
    except Error:
        path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        return None if path is None else playwright.chromium.launch(executable_path=path, **options)


def variant(name: str, model: str) -> dict[str, Any]:
    """One of an inference experiment's ModelVariants."""
    size = {"InstanceType": "ml.m5.large", "InstanceCount": 1}
    infrastructure = {"InfrastructureType": "RealTimeInference", "RealTimeInferenceConfig": size}
    return {"VariantName": name, "ModelName": model, "InfrastructureConfig": infrastructure}


class Stage:
    """Clients of a server, and short ways to what stories need."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.sm, self.s3 = server.client("sagemaker"), server.client("s3")

    def now(self) -> float:
        """The server's clock, Unix seconds."""
        return read_server(self.server.data_dir).now_s()

    def models(self) -> None:
        """Create both models."""
        self.s3.create_bucket(Bucket=BUCKET)
        for name, facts in MODELS.items():
            self.model(name, SCORING.format(name=name, **facts))

    def model(self, name: str, script: str) -> None:
        """Create a model of one script."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            entry = tarfile.TarInfo("code/inference.py")
            entry.size = len(script.encode())
            archive.addfile(entry, io.BytesIO(script.encode()))
        self.s3.put_object(Bucket=BUCKET, Key=f"{name}.tar.gz", Body=buffer.getvalue())
        container = {"Image": "python:3", "ModelDataUrl": f"s3://{BUCKET}/{name}.tar.gz"}
        self.sm.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container)

    def endpoint(self, name: str, variants: dict[str, tuple[str, float]], *, capture: bool = False) -> None:
        """Create an endpoint and wait for it.

        Args:
            variants: (model, weight) by name.
        """
        request: dict[str, Any] = {
            "EndpointConfigName": f"{name}-config",
            "ProductionVariants": [
                {
                    "VariantName": variant,
                    "ModelName": model,
                    "InstanceType": "ml.m5.large",
                    "InitialInstanceCount": 1,
                    "InitialVariantWeight": weight,
                }
                for variant, (model, weight) in variants.items()
            ],
        }
        if capture:
            request["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": 100,
                "DestinationS3Uri": f"s3://{BUCKET}/captured",
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {
                    "CsvContentTypes": ["text/csv"],
                    "JsonContentTypes": ["application/json"],
                },
            }
        self.sm.create_endpoint_config(**request)
        self.sm.create_endpoint(EndpointName=name, EndpointConfigName=f"{name}-config")
        self.wait_for(name)

    def wait_for(self, name: str) -> None:
        """Wait until an endpoint serves."""
        waiter = self.sm.get_waiter("endpoint_in_service")
        waiter.wait(EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": int(PATIENCE_S)})

    def test_status(self, name: str, *wanted: str) -> str:
        """Wait for a status of a shadow test."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            status = str(self.sm.describe_inference_experiment(Name=name)["Status"])
            if status in wanted or time.monotonic() > deadline_s:
                return status
            time.sleep(0.1)

    @contextmanager
    def traffic(self, endpoint: str, *, per_s: float = 40.0, errors: bool = False) -> Iterator[None]:
        """Send rows until the block ends; a request in fifty fails where errors are asked for."""
        ended = threading.Event()
        config = Config(retries={"total_max_attempts": 1})
        client = self.server.client("sagemaker-runtime", config=config)

        def send() -> None:
            number = 0
            while not ended.wait(1.0 / per_s):
                row = "100,0,0" if errors and number % 50 == 49 else ROWS[number % len(ROWS)]
                with suppress(BotoCoreError, ClientError):  # failures are part of the scene
                    client.invoke_endpoint(
                        EndpointName=endpoint, ContentType="text/csv", Body=row, InferenceId=f"row-{number}"
                    )
                number += 1

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
