"""A shadow that burns every processor it gets stays below its ceiling, and still answers its copies."""

from __future__ import annotations

import contextlib
import io
import os
import re
import tarfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import BotoCoreError, ClientError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
CEILING_PERCENT = 40
WATCHED_S = 4.0
SEEN_S = 0.1
PATIENCE_S = 60.0

ECHO = """\
def model_fn(model_dir):
    return "live"
def transform_fn(model, body, content_type, accept):
    return model, "text/csv"
"""
BURNING = """\
import subprocess, sys, threading
def burn():
    while True:
        pass
def model_fn(model_dir):
    for _ in range(2):
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
    threading.Thread(target=burn, daemon=True).start()
    return "shadow"
def transform_fn(model, body, content_type, accept):
    return model, "text/csv"
"""


def until(condition: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)
    return found


def make_model(server: Any, name: str, code: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(code.encode())
        tar.addfile(info, io.BytesIO(code.encode()))
    server.client("s3").put_object(Bucket="ceilings", Key=f"{name}.tar.gz", Body=buffer.getvalue())
    server.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": f"s3://ceilings/{name}.tar.gz"},
    )


def variant(model: str) -> dict[str, Any]:
    return {
        "VariantName": model,
        "ModelName": model,
        "InitialInstanceCount": 1,
        "InstanceType": "ml.m5.large",
        "InitialVariantWeight": 1.0,
    }


def tree_of(server: Any, title: str) -> list[psutil.Process]:
    for child in psutil.Process(server.pid).children(recursive=True):
        if " ".join(child.cmdline()).startswith(title):
            return [child, *child.children(recursive=True)]
    return []


def used_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def counted(server: Any, endpoint: str) -> tuple[int, int, int]:
    """Return how many requests have an outcome, how many were copied, how many copies were answered."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(server.url + "/metrics", timeout=10.0) as response:
        text = response.read().decode()
    found: dict[tuple[str, str], int] = {}
    for name, labels, value in re.findall(r"^(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if (told.get("endpoint"), told.get("variant")) == (endpoint, "burning"):
            found[name.removeprefix("understudy_"), told.get("outcome", "")] = int(float(value))
    return (
        sum(count for (name, _), count in found.items() if name == "shadow_requests_total"),
        found.get(("shadow_requests_total", "mirrored"), 0),
        found.get(("invocations_total", ""), 0) - found.get(("model_errors_total", ""), 0),
    )


def test_a_burning_shadow_stays_below_its_ceiling_and_answers(server: Any) -> None:
    server.client("s3").create_bucket(Bucket="ceilings")
    make_model(server, "echoing", ECHO)
    make_model(server, "burning", BURNING)
    sagemaker, runtime = server.client("sagemaker"), server.client("sagemaker-runtime")
    config: dict[str, Any] = {
        "EndpointConfigName": "ceiling",
        "ProductionVariants": [variant("echoing")],
        "ShadowProductionVariants": [variant("burning")],
    }
    for wrong in ("0", "4", "6401", "40.5", "a lot", ""):
        with pytest.raises(ClientError, match=r"understudy:shadow-cpu-percent=5\.\.\.6400"):
            sagemaker.create_endpoint_config(
                **config, Tags=[{"Key": "understudy:shadow-cpu-percent", "Value": wrong}]
            )
    sagemaker.create_endpoint_config(
        **config, Tags=[{"Key": "understudy:shadow-cpu-percent", "Value": str(CEILING_PERCENT)}]
    )
    sagemaker.create_endpoint(EndpointName="ceiling", EndpointConfigName="ceiling")
    until(
        lambda: sagemaker.describe_endpoint(EndpointName="ceiling")["EndpointStatus"] != "Creating",
        "CreateEndpoint hangs",
    )
    assert sagemaker.describe_endpoint(EndpointName="ceiling")["EndpointStatus"] == "InService"

    family = until(
        lambda: len(tree := tree_of(server, "understudy worker ceiling/burning/")) == 3 and tree, "it burns"
    )
    before_s, started_s, requests = used_s(family), time.monotonic(), 0
    burnt_s = watched_s = 0.0
    # Where others keep the machine busy it gets next to nothing: the watch goes on until it is seen.
    while watched_s < WATCHED_S or (burnt_s < SEEN_S and watched_s < PATIENCE_S):
        answer = runtime.invoke_endpoint(EndpointName="ceiling", ContentType="text/csv", Body=b"1")
        assert answer["Body"].read() == b"live"
        requests += 1
        burnt_s, watched_s = used_s(family) - before_s, time.monotonic() - started_s
    assert burnt_s < watched_s * CEILING_PERCENT / 100.0 * 1.25 + 0.2, f"{burnt_s / watched_s:.2f} processors"
    assert burnt_s >= SEEN_S, "the measurement must see it burn"

    def all_told() -> bool:
        told, copies, answers = counted(server, "ceiling")
        return told == requests and copies == answers > 0

    until(all_told, "each request has an outcome, each copy an answer")
    sagemaker.delete_endpoint(EndpointName="ceiling")
    pids = [process.pid for process in family]
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the family ends")


def test_a_killed_controller_leaves_no_shadow_stopped(server: Any) -> None:
    """Whichever way the ceiling is held: after a kill -9 in the middle of it the shadow goes on."""
    sagemaker = server.client("sagemaker")
    sagemaker.create_endpoint(EndpointName="ceiling-again", EndpointConfigName="ceiling")
    until(
        lambda: sagemaker.describe_endpoint(EndpointName="ceiling-again")["EndpointStatus"] == "InService",
        "CreateEndpoint hangs",
    )
    family = until(lambda: tree_of(server, "understudy worker ceiling-again/burning/"), "it burns")
    for process in family:
        process.suspend()
    controller = next(
        child
        for child in psutil.Process(server.pid).children()
        if "understudy controller" in " ".join(child.cmdline())
    )
    os.kill(controller.pid, 9)
    until(lambda: family[0].status() != psutil.STATUS_STOPPED, "the worker stays stopped")
    for process in family[1:]:  # where a control group holds the ceiling nobody looks after these
        process.resume()

    def answers() -> bool:
        with contextlib.suppress(ClientError, BotoCoreError):
            described = sagemaker.describe_endpoint(EndpointName="ceiling-again")
            return bool(described["EndpointStatus"] == "InService")
        return False

    until(answers, "the new controller")
    sagemaker.delete_endpoint(EndpointName="ceiling-again")
