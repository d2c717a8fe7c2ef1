"""The power is cut: what was acknowledged before is there after.

The data directory is a file system of its own in an image file, which needs root and a loop device.  At
random moments all processes are halted and the image is copied: what the kernel has not written yet is lost,
as it would be.  Each copy is mounted in the place of the original and a server is started on it.
Main function: :func:`power`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from bench.rollout_world import ROLE, Served, at_rest, until
from bench.soak_rollout_kills import ENVIRONMENTS, POLICIES

IMAGE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Promise:
    """One acknowledged call, and how to see that it was kept."""

    what: str
    kept: Callable[[], bool]


def power(options: argparse.Namespace) -> int:
    """Cut the power at random moments; return how many promises were broken."""
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as name:
        place = Path(name)
        image, data_dir = place / "disk.img", place / "data"
        data_dir.mkdir()
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
        mounted = subprocess.run(
            ["mount", "-o", "loop", str(image), str(data_dir)], capture_output=True, text=True, check=False
        )
        if mounted.returncode:
            print(json.dumps({"part": "power", "skipped": mounted.stderr.strip()}), flush=True)
            return 0
        try:
            shutil.rmtree(data_dir / "lost+found")
            return _cut(place, dice, options.power)
        finally:
            subprocess.run(["umount", str(data_dir)], check=True)


def _cut(place: Path, dice: random.Random, moments: int) -> int:
    served = Served(place, environments=ENVIRONMENTS)
    caller = _Caller(served, dice)
    copies = []
    try:
        with caller:
            for number in range(moments):
                time.sleep(dice.uniform(0.5, 4.0))
                copies.append(_copy(served, caller, place / f"cut{number}.img"))
    finally:
        served.stop()
    broken = 0
    for number, (copy, promises, updates) in enumerate(copies):
        subprocess.run(["umount", str(served.data_dir)], check=True)
        subprocess.run(["mount", "-o", "loop", str(copy), str(served.data_dir)], check=True)
        served.start()
        try:
            missing = [one.what for one in promises if not _is_kept(one)]
            found = at_rest(served.sagemaker)
            told = [one["to"] for one in served.all_events() if one["kind"] == "UpdateRequested"]
            missing += [] if told[: len(updates)] == updates else [f"updates {updates}, not {told}"]
            # The answer to the last wish may have been on its way when the power went.
            missing += [] if found["EndpointConfigName"] == (told or ["v1"])[-1] else ["the last update"]
            missing += [] if found["EndpointStatus"] == "InService" else [str(found)]
            until(lambda: served.leftovers().get("worker") == 2, "two instances, and no more")
        finally:
            served.stop()
        broken += len(missing)
        facts = {"calls": len(promises), "updates": len(updates), "missing": missing[:5]}
        print(json.dumps({"part": "power", "number": number, **facts}), flush=True)
    return broken


def _is_kept(promise: Promise) -> bool:
    try:
        return promise.kept()
    except ClientError:
        return False


def _copy(served: Served, caller: _Caller, copy: Path) -> tuple[Path, list[Promise], list[str]]:
    """Halt everything, note what was acknowledged, and take the disk as it is."""
    pids = [served.process.pid, *(pid for pid, _ in served.family())]
    image = copy.parent / "disk.img"
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        with caller.lock:
            promises, updates = list(caller.promises), list(caller.updates)
        # The kernel may be writing by itself: twice the same is one moment.
        while True:
            subprocess.run(["cp", "--sparse=always", str(image), str(copy)], check=True)
            if subprocess.run(["cmp", "-s", str(image), str(copy)], check=False).returncode == 0:
                return copy, promises, updates
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class _Caller:
    """Makes calls of every kind one after the other, and keeps what was acknowledged."""

    def __init__(self, served: Served, dice: random.Random) -> None:
        self.served = served
        self.lock = threading.Lock()
        self.promises: list[Promise] = []
        self.updates: list[str] = []
        self._dice = dice
        self._stop = threading.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert self._problem is None, self._problem

    def _run(self) -> None:
        try:
            number = 0
            while not self._stop.is_set():
                number += 1
                for call in (self._object, self._model, self._alarm):
                    promise = call(number)
                    with self.lock:
                        self.promises.append(promise)
                self._update()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits for this one
            self._problem = error

    def _object(self, number: int) -> Promise:
        body = f"{number}".encode() * 100
        self.served.client("s3").put_object(Bucket="stamps", Key=f"object-{number}", Body=body)

        def kept() -> bool:
            found = self.served.client("s3").get_object(Bucket="stamps", Key=f"object-{number}")
            return bool(found["Body"].read() == body)

        return Promise(f"object {number}", kept)

    def _model(self, number: int) -> Promise:
        name = f"model-{number}"
        container: dict[str, Any] = {"Image": "python:3", "ModelDataUrl": "s3://stamps/v1.tar.gz"}
        self.served.client("sagemaker").create_model(
            ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer=container
        )
        return Promise(name, lambda: bool(self.served.sagemaker.describe_model(ModelName=name)))

    def _alarm(self, number: int) -> Promise:
        name = f"alarm-{number}"
        cloudwatch = self.served.client("cloudwatch")
        cloudwatch.put_metric_alarm(
            AlarmName=name, Namespace="n", MetricName="m", Statistic="Sum", Period=60, EvaluationPeriods=1,
            Threshold=1.0, ComparisonOperator="GreaterThanThreshold",
        )  # fmt: skip
        return Promise(
            name,
            lambda: bool(self.served.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"]),
        )

    def _update(self) -> None:
        """A rollout, whenever none is under way: the power goes at any moment of one."""
        found = self.served.sagemaker.describe_endpoint(EndpointName="e")
        if found["EndpointStatus"] != "InService":
            return
        to = "v2" if found["EndpointConfigName"] == "v1" else "v1"
        policy = POLICIES[self._dice.choice(sorted(POLICIES))]
        self.served.sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName=to, DeploymentConfig=policy
        )
        with self.lock:
            self.updates.append(to)
