"""Understudy as a contestant: ``understudy serve`` as a subprocess, endpoints by plain boto3.

Owns starting, deploying and stopping.  Main class: :class:`Understudy`.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from bench.contestants import Started
from bench.environments import CACHE, OWN_CODE
from bench.processes import Running, StartFailed, start, wait_until
from bench.work import Work

START_PATIENCE_S = 60.0
DEPLOY_PATIENCE_S = 300.0
ROLE = "arn:aws:iam::123456789012:role/bench"
BUCKET = "bench-models"
IMAGE = "xgboost:3.2"
SCRIPT_IMAGE = "sagemaker-scikit-learn:1.4-2"

ECHO = '''"""Answers with what it was sent."""


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    return body, content_type
'''

SLOW = '''"""Works for SERVICE_MS milliseconds of CPU, then answers with what it was sent."""

import os
import time

SERVICE_S = float(os.environ["SERVICE_MS"]) / 1000.0


def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    until = time.thread_time() + SERVICE_S
    while time.thread_time() < until:
        pass
    return body, content_type
'''


@dataclass(frozen=True)
class Variant:
    """One variant to deploy."""

    name: str
    model: str
    weight: float = 1.0
    instances: int = 1


class Understudy:
    """A running server.

    Args:
        auth: ``none`` or ``sigv4``.
    Raises:
        StartFailed: it does not come up.
    """

    def __init__(self, *, auth: str = "none") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-understudy-", ignore_cleanup_errors=True)
        place = Path(self._folder.name)
        self.data_dir = place / "data"
        command = [sys.executable, "-m", "understudy.cli", "serve", "--ephemeral", "--port", "0"]
        command += ["--auth", auth, "--data-dir", str(self.data_dir)]
        command += ["--environments-dir", str(CACHE / "understudy-environments")]
        self.running: Running = start(command, folder=place, log=place / "log", environment=OWN_CODE)
        self.url = ""
        try:
            wait_until(self._is_up, self.running, START_PATIENCE_S)
        except BaseException:
            self.stop()
            raise
        self.host, self.port = urlsplit(self.url).hostname or "", urlsplit(self.url).port or 0
        self.credentials: dict[str, str] = json.loads((self.data_dir / "credentials.json").read_text())
        self.auth = auth
        self.sagemaker = self.client("sagemaker")
        self._s3 = self.client("s3")
        self._s3.create_bucket(Bucket=BUCKET)

    def _is_up(self) -> bool:
        try:
            facts = json.loads((self.data_dir / "run" / "server.json").read_text())
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(facts["endpoint_url"] + "/healthz", timeout=2.0) as response:
                self.url = facts["endpoint_url"]
                return bool(json.load(response)["status"] == "ok")
        except (OSError, ValueError):
            return False

    def client(self, service: str) -> Any:
        """Build a boto3 client."""
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name=self.credentials["region"],
            aws_access_key_id=self.credentials["access_key_id"],
            aws_secret_access_key=self.credentials["secret_access_key"],
            config=Config(proxies={}, retries={"max_attempts": 0}, read_timeout=30),
        )

    # --- models --------------------------------------------------------------------------------------

    def create_churn_model(self, name: str, work: Work) -> None:
        """Upload and create the model of the benchmark."""
        self._s3.upload_file(str(work.artifact), BUCKET, f"{name}/model.tar.gz")
        self._create_model(name, IMAGE, {})

    def create_script_model(self, name: str, script: str, environment: dict[str, str] | None = None) -> None:
        """Upload and create a model that is an ``inference.py``."""
        content, packed = script.encode(), io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            entry = tarfile.TarInfo("code/inference.py")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        self._s3.put_object(Bucket=BUCKET, Key=f"{name}/model.tar.gz", Body=packed.getvalue())
        self._create_model(name, SCRIPT_IMAGE, {"SAGEMAKER_PROGRAM": "inference.py", **(environment or {})})

    def _create_model(self, name: str, image: str, environment: dict[str, str]) -> None:
        self.sagemaker.create_model(
            ModelName=name,
            ExecutionRoleArn=ROLE,
            PrimaryContainer={
                "Image": image,
                "ModelDataUrl": f"s3://{BUCKET}/{name}/model.tar.gz",
                "Environment": environment,
            },
        )

    # --- endpoints -----------------------------------------------------------------------------------

    def deploy(
        self,
        name: str,
        *variants: Variant,
        shadow: Variant | None = None,
        shadow_cpu_percent: int = 0,
        captures: bool = False,
    ) -> None:
        """Create an endpoint and wait until it serves.

        Args:
            shadow: Gets a copy of every request.
            shadow_cpu_percent: The shadow's ceiling; 0: none.
            captures: Keep every request and answer.
        Raises:
            StartFailed: it does not get to InService.
        """
        more: dict[str, Any] = {}
        if shadow is not None:
            weight = sum(one.weight for one in variants)  # a share of 100 % of what production gets
            more["ShadowProductionVariants"] = [_rendered(replace(shadow, weight=weight))]
            tags = {}
            if len(variants) > 1:  # more than SageMaker allows
                tags["understudy:shadows"] = "many"
            if shadow_cpu_percent:
                tags["understudy:shadow-cpu-percent"] = str(shadow_cpu_percent)
            more["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        if captures:
            more["DataCaptureConfig"] = {
                "EnableCapture": True,
                "InitialSamplingPercentage": 100,
                "DestinationS3Uri": f"s3://{BUCKET}/captured",
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            }
        self.sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[_rendered(one) for one in variants], **more
        )
        self.sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
        deadline_s = time.monotonic() + DEPLOY_PATIENCE_S
        while True:
            facts = self.sagemaker.describe_endpoint(EndpointName=name)
            if facts["EndpointStatus"] == "InService":
                return
            if facts["EndpointStatus"] == "Failed" or time.monotonic() > deadline_s:
                why = facts.get("FailureReason", facts["EndpointStatus"])
                raise StartFailed(f"endpoint {name}: {why}")
            time.sleep(0.1)

    def delete(self, name: str) -> None:
        """Delete an endpoint and wait until its workers are gone."""
        self.sagemaker.delete_endpoint(EndpointName=name)
        deadline_s = time.monotonic() + DEPLOY_PATIENCE_S
        while time.monotonic() < deadline_s:
            if not self.sagemaker.list_endpoints(NameContains=name)["Endpoints"]:
                break
            time.sleep(0.1)
        self.sagemaker.delete_endpoint_config(EndpointConfigName=name)

    def started(self, plan: Path, *, copies: int = 0) -> Started:
        """Return what loads are aimed at.

        Args:
            copies: Sign the plan so often (no request repeats); 0 sends it unsigned.
        """
        signer = None
        if copies:
            signer = {
                "access_key_id": self.credentials["access_key_id"],
                "secret_access_key": self.credentials["secret_access_key"],
                "region": self.credentials["region"],
                "copies": copies,
            }
        return Started(self.running, self.host, self.port, plan, self._folder, signer)

    def stop(self) -> None:
        """End it; it removes its data."""
        self.running.stop()
        self._folder.cleanup()


def _rendered(variant: Variant) -> dict[str, Any]:
    return {
        "VariantName": variant.name,
        "ModelName": variant.model,
        "InitialInstanceCount": variant.instances,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": variant.weight,
    }
