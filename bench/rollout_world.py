"""What the journeys of rollouts share: stamping models, a raw keep-alive client, and waits.

A stamping model answers the name of its own configuration, so that an answer proves which one gave it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.exceptions import BotoCoreError, ClientError

from bench.environments import OWN_CODE

ROLE = "arn:aws:iam::123456789012:role/understudy"
INFERENCE = """\
import os, time
def model_fn(model_dir):
    stamp = open(os.path.join(model_dir, "stamp.txt")).read().strip()
    gate = os.path.join(model_dir, "gate.txt")
    if stamp.startswith("crash") or (os.path.exists(gate) and os.path.exists(open(gate).read())):
        raise RuntimeError("this version can't be loaded")
    return stamp
def input_fn(body, content_type):
    return body
def predict_fn(body, stamp):
    if stamp.startswith("bad"):
        raise ValueError("this version is bad")
    if stamp.startswith("slow"):
        time.sleep(0.6)
    return stamp
def output_fn(stamp, accept):
    return stamp, "text/plain"
"""


def stamp_model(client: Callable[..., Any], stamp: str, *, gate: Path | None = None) -> None:
    """Make a model that answers ``stamp``.

    One whose stamp begins with "bad" fails every request, with "slow" takes its time, with "crash" can't be
    loaded.

    Args:
        gate: The model can't be loaded while this file exists.
    """
    files = {"stamp.txt": stamp, "code/inference.py": INFERENCE}
    if gate is not None:
        files["gate.txt"] = str(gate)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in files.items():
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


def until(condition: Callable[[], Any], what: str, patience_s: float = 90.0, *, every_s: float = 0.02) -> Any:
    """Poll until something is true; errors of a server that restarts count as "not yet"."""
    deadline_s = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(ClientError, OSError):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
        time.sleep(every_s)


def at_rest(sagemaker: Any, name: str = "e", *, every_s: float = 0.02) -> dict[str, Any]:
    """Wait until nothing changes the endpoint; return what DescribeEndpoint says."""

    def reached() -> Any:
        found = sagemaker.describe_endpoint(EndpointName=name)
        return found if found["EndpointStatus"] in ("InService", "Failed", "UpdateRollbackFailed") else None

    described: dict[str, Any] = until(reached, "the end of the update", every_s=every_s)
    return described


class RawLoad:
    """Constant load over keep-alive connections without any retry; every failure is kept.

    Args:
        port: Of a server that wants no signatures.
        pause_s: Between the requests of a connection.

    Attributes:
        seen: (variant, stamp) of each answer.
        failures: Whatever was not 200, and connections that broke.
        sent: When each answered request was sent, and what came back.
    """

    def __init__(
        self, port: int, *, endpoint: str = "e", connections: int = 4, pause_s: float = 0.002
    ) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.answers: list[tuple[float, str, str]] = []
        self.latencies_s: list[tuple[float, float]] = []
        self.sent: list[tuple[float, str]] = []
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
                self.sent.append((began_s, body))
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


# --- a server that can be killed --------------------------------------------------------------------


class Served:
    """``understudy serve`` without signatures over a directory of its own, with v1 InService as ``e``.

    Args:
        place: An empty directory.
        failpoint: For ``UNDERSTUDY_FAILPOINT``.
        environments: Where model environments are kept between runs.
    """

    def __init__(
        self, place: Path, *, scale: int = 30, failpoint: str = "", environments: Path, instances: int = 2
    ) -> None:
        self.data_dir, self.log = place / "data", place / "serve.log"
        command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0", "--auth", "none"]
        command += ["--routers", "2", "--time-scale", str(scale), "--data-dir", str(self.data_dir)]
        self._command = [*command, "--environments-dir", str(environments)]
        self._environment = {**os.environ, **OWN_CODE, "UNDERSTUDY_FAILPOINT": failpoint}
        self.start()
        try:
            for stamp in ("v1", "v2"):
                stamp_model(self.client, stamp)
                stamp_config(self.client, stamp, instances=instances)
            self.sagemaker.create_endpoint(EndpointName="e", EndpointConfigName="v1")
            found = at_rest(self.sagemaker)
            assert found["EndpointStatus"] == "InService", found
        except BaseException:
            self.process.terminate()
            self.process.wait(60)
            raise

    def start(self) -> None:
        """Start it, for the first time or again."""
        (self.data_dir / "run" / "server.json").unlink(missing_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=output,
                cwd=self.log.parent,
                env=self._environment,
            )
        self.__dict__.pop("sagemaker", None)  # the port is another one
        until(self._is_up, "the server")

    def kill_everything(self) -> None:
        """End all of it at once, as a power cut does to processes."""
        family = [pid for pid, _ in self.family()]
        for pid in (self.process.pid, *family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(psutil.pid_exists(pid) for pid in family), "the end of all")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        facts = json.loads((self.data_dir / "run" / "server.json").read_text())
        self.url = str(facts["endpoint_url"])
        self.port = int(self.url.rpartition(":")[2])
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(self.url + "/healthz", timeout=2.0) as response:
            return bool(json.load(response)["status"] == "ok")

    def client(self, service: str) -> Any:
        """Build a boto3 client with boto3's own retries."""
        keys = json.loads((self.data_dir / "credentials.json").read_text())
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name=keys["region"],
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
        )

    @functools.cached_property
    def sagemaker(self) -> Any:
        """The client of the control plane."""
        return self.client("sagemaker")

    def family(self) -> list[tuple[int, str]]:
        """Every process of the server but itself: pid and title."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found.append((process.pid, " ".join(process.cmdline()).strip()))
        return found

    def named(self, title: str) -> list[int]:
        """Pids of the processes whose title begins so."""
        return [pid for pid, name in self.family() if name.startswith(title)]

    def leftovers(self) -> dict[str, int]:
        """What an endpoint at rest has: processes by kind, and files of instances."""
        counts: Counter[str] = Counter(name.split(" ")[1] for _, name in self.family() if " " in name)
        counts["files"] = sum(1 for _ in (self.data_dir / "run" / "w").iterdir())
        return dict(counts)

    def events(self) -> list[dict[str, Any]]:
        """The audit trail since the newest UpdateRequested."""
        found = self.all_events()
        at = max((n for n, one in enumerate(found) if one["kind"] == "UpdateRequested"), default=0)
        return found[at:]

    def all_events(self) -> list[dict[str, Any]]:
        """The whole audit trail."""
        url = f"{self.url}/understudy/v1/endpoints/e/events"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["sequence"] if found else 0
            with direct.open(f"{url}?after={after}&limit=1000", timeout=10.0) as response:
                page = json.load(response)["events"]
            found += page
            if len(page) < 1000:
                return found

    def bakes(self) -> int:
        """How many bakes of the newest update have begun."""
        return sum(one["kind"] == "BakingStarted" for one in self.events())

    def roll_back(self) -> None:
        """Call the update back."""
        request = urllib.request.Request(
            f"{self.url}/understudy/v1/endpoints/e/rollback", data=b"{}", method="POST"
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        direct.open(request, timeout=10.0).close()

    def stop(self) -> None:
        """End it; nothing of it may be left."""
        family = [pid for pid, _ in self.family()]
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        left = [pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
        assert (code, left) == (0, []), self.log.read_text()[-3000:]


LEGAL_STATUSES = {
    "InService": {"Updating"},
    "Updating": {"InService"},
}


def update_and_judge(
    served: Served, deployment: dict[str, Any], *, back: int, pause_s: float = 0.002
) -> dict[str, Any]:
    """Update ``e`` to the other of v1 and v2 under load, call it back in a bake if so wished, and judge all.

    Args:
        back: In which bake it is called back; 0: in none.
        pause_s: Between the requests of a connection.

    Raises:
        AssertionError: something that must hold did not.
    """
    before = at_rest(served.sagemaker)
    old = before["EndpointConfigName"]
    new = "v2" if old == "v1" else "v1"
    at_first = served.leftovers()
    statuses = ["InService"]
    asked_back = False
    with RawLoad(served.port, pause_s=pause_s) as load:
        until(lambda: load.seen, "answers")
        until(lambda: _accepted(served, new, deployment), "the update to be taken")
        deadline_s = time.monotonic() + 300.0  # the machine may have more to do
        while True:
            with contextlib.suppress(ClientError, OSError, BotoCoreError):
                found = served.sagemaker.describe_endpoint(EndpointName="e")
                if found["EndpointStatus"] != statuses[-1]:
                    statuses.append(found["EndpointStatus"])
                if back and not asked_back and served.bakes() >= back:
                    served.roll_back()
                    asked_back = True
                if found["EndpointStatus"] == "InService" and _is_over(served):
                    break
            assert time.monotonic() < deadline_s, f"no end: {statuses} {served.events()[-3:]}"
            time.sleep(0.1)
        time.sleep(0.1)
    found = at_rest(served.sagemaker)
    events = served.events()
    assert load.failures == [], load.failures[:5]
    assert {stamp for _, stamp in load.seen} <= {old, new}
    for one, after in itertools.pairwise(statuses):
        assert after in LEGAL_STATUSES[one], statuses
    expected = old if asked_back else new
    assert found["EndpointConfigName"] == expected, (found, events)
    assert ("FailureReason" in found) == asked_back == bool(back)
    answers = Counter(_answer(served.port) for _ in range(30))
    assert set(answers) == {expected}, f"mixed at the end: {answers}"
    _judge_bakes(events)
    until(lambda: served.leftovers() == at_first, f"{at_first} again, not {served.leftovers()}", 30.0)
    return {"statuses": statuses, "requests": sum(load.seen.values()), "to": found["EndpointConfigName"]}


def _accepted(served: Served, new: str, deployment: dict[str, Any]) -> bool:
    """Ask for the update; the answer may get lost with the controller, the wish may not."""
    try:
        served.sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName=new, DeploymentConfig=deployment
        )
    except ClientError as error:
        if "in-progress" not in str(error):
            raise
    return True


def _is_over(served: Served) -> bool:
    return served.events()[-1]["kind"] in ("EndpointUpdated", "UpdateRolledBack", "FleetRemoved")


def _judge_bakes(events: list[dict[str, Any]]) -> None:
    """No step of traffic is told twice, and no bake was shorter or begun again."""
    steps = [one["detail"]["step"] for one in events if one["kind"] == "TrafficShifting"]
    assert steps == sorted(set(steps)), steps
    baked = [one["detail"]["step"] for one in events if one["kind"] == "BakingStarted"]
    assert baked == sorted(set(baked)), baked
    for one in events:
        if one["kind"] in ("BakingStarted", "TerminationWaitStarted"):
            after = step_after(events, one)
            forward = after["kind"] not in ("RollbackStarted", "UpdateRolledBack")
            assert not forward or after["at_s"] - one["at_s"] >= one["detail"]["seconds"], (one, after)


STEPS = (
    "TrafficShifting",
    "BatchStarted",
    "BakingStarted",
    "TerminationWaitStarted",
    "TrafficShifted",
    "RollbackStarted",
    "UpdateRolledBack",
)


def step_after(events: list[dict[str, Any]], one: dict[str, Any]) -> dict[str, Any]:
    """The next step of the rollout; between the two the trail may tell of other things."""
    at = events.index(one)
    return next(later for later in events[at + 1 :] if later["kind"] in STEPS)


def _answer(port: int) -> str:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=30) as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        return read_answer(file)[2]
