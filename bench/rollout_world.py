"""What the journeys of rollouts share: stamping models, a raw keep-alive client, and waits.

A stamping model answers the name of its own configuration, so that an answer proves which one gave it.
"""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

ROLE = "arn:aws:iam::123456789012:role/understudy"
INFERENCE = """\
import os
def model_fn(model_dir):
    return open(os.path.join(model_dir, "stamp.txt")).read().strip()
def input_fn(body, content_type):
    return body
def predict_fn(body, stamp):
    if stamp.startswith("bad"):
        raise ValueError("this version is bad")
    return stamp
def output_fn(stamp, accept):
    return stamp, "text/plain"
"""


def stamp_model(client: Callable[..., Any], stamp: str) -> None:
    """Make a model that answers ``stamp``; one whose stamp begins with "bad" fails every request."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in (("stamp.txt", stamp), ("code/inference.py", INFERENCE)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    s3 = client("s3")
    s3.create_bucket(Bucket="stamps")
    s3.put_object(Bucket="stamps", Key=f"{stamp}.tar.gz", Body=archive.getvalue())
    client("sagemaker").create_model(
        ModelName=stamp,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": f"s3://stamps/{stamp}.tar.gz"},
    )


def stamp_config(
    client: Callable[..., Any],
    stamp: str,
    *,
    instances: int = 2,
    variants: dict[str, float] | None = None,
    shadow: str | None = None,
) -> None:
    """Make a configuration of the same name whose variants all run the stamp's model."""

    def variant(name: str, model: str, weight: float) -> dict[str, Any]:
        return {
            "VariantName": name,
            "ModelName": model,
            "InitialInstanceCount": instances,
            "InstanceType": "ml.m5.large",
            "InitialVariantWeight": weight,
        }

    shadows = {"ShadowProductionVariants": [variant("shadow", shadow, 1.0)]} if shadow else {}
    client("sagemaker").create_endpoint_config(
        EndpointConfigName=stamp,
        ProductionVariants=[
            variant(name, stamp, weight) for name, weight in (variants or {"main": 1.0}).items()
        ],
        **shadows,
    )


def until(condition: Callable[[], Any], what: str, patience_s: float = 90.0) -> Any:
    """Poll until something is true; errors of a server that restarts count as "not yet"."""
    deadline_s = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(ClientError, OSError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
        time.sleep(0.02)


def at_rest(sagemaker: Any, name: str = "e") -> dict[str, Any]:
    """Wait until nothing changes the endpoint; return what DescribeEndpoint says."""

    def reached() -> Any:
        found = sagemaker.describe_endpoint(EndpointName=name)
        return found if found["EndpointStatus"] in ("InService", "Failed", "UpdateRollbackFailed") else None

    described: dict[str, Any] = until(reached, "the end of the update")
    return described


class RawLoad:
    """Constant load over keep-alive connections without any retry; every failure is kept.

    Args:
        port: Of a server that wants no signatures.
        pause_s: Between the requests of a connection.

    Attributes:
        seen: (variant, stamp) of each answer.
        failures: Whatever was not 200, and connections that broke.
    """

    def __init__(
        self, port: int, *, endpoint: str = "e", connections: int = 4, pause_s: float = 0.002
    ) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.answers: list[tuple[float, str, str]] = []
        self.latencies_s: list[tuple[float, float]] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._request = (
            f"POST /endpoints/{endpoint}/invocations HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
            "Content-Length: 1\r\n\r\nx"
        ).encode()
        self._pause_s = pause_s
        self._port = port
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection,
                    connection.makefile("rb") as file,
                ):
                    self._talk(connection, file)
            except (OSError, ValueError, IndexError) as error:
                self._note(f"{time.monotonic():.3f} connection: {error!r}")

    def _note(self, failure: str) -> None:
        with self._lock:
            self.failures.append(failure)

    def _talk(self, connection: socket.socket, file: Any) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            connection.sendall(self._request)
            status, headers, body = read_answer(file)
            now_s = time.monotonic()
            variant = headers.get("x-amzn-invoked-production-variant", "")
            with self._lock:
                self.latencies_s.append((now_s, now_s - began_s))
                if status == 200:
                    self.seen[variant, body] += 1
                    self.answers.append((now_s, variant, body))
                else:
                    self.failures.append(f"{now_s:.3f} {status} {body[:300]}")
            if headers.get("connection") == "close":
                return
            time.sleep(self._pause_s)

    def __enter__(self) -> RawLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def read_answer(file: Any) -> tuple[int, dict[str, str], str]:
    """Read one HTTP answer: status, headers by lower-case name, body."""
    first = file.readline()
    if not first:
        raise ConnectionError("closed instead of an answer")
    status = int(first.split()[1])
    headers: dict[str, str] = {}
    while (line := file.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    body = file.read(int(headers.get("content-length", "0")))
    return status, headers, body.decode("utf-8", "replace")


def blue_green(kind: str, wait_s: int = 60, *, termination_s: int = 0, **routing: Any) -> dict[str, Any]:
    """Write a BlueGreenUpdatePolicy."""
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": wait_s, **routing},
            "TerminationWaitInSeconds": termination_s,
        }
    }


def percent(value: int) -> dict[str, Any]:
    """Write a CapacitySize in percent."""
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def rolling(wait_s: int = 60, value: int = 50) -> dict[str, Any]:
    """Write a RollingUpdatePolicy."""
    return {"RollingUpdatePolicy": {"MaximumBatchSize": percent(value), "WaitIntervalInSeconds": wait_s}}


def guarded(deployment: dict[str, Any], *alarms: str) -> dict[str, Any]:
    """Add an AutoRollbackConfiguration."""
    names = [{"AlarmName": name} for name in alarms]
    return {**deployment, "AutoRollbackConfiguration": {"Alarms": names}}
