"""The controller killed at a sample of its failpoints, forward and back, and routers and workers at random.

All of them: ``make soak`` (``bench/soak_rollouts.py``)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from bench.rollout_world import (
    RawLoad,
    Served,
    at_rest,
    blue_green,
    percent,
    rolling,
    until,
    update_and_judge,
)

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".cache" / "test-environments"
CANARY = blue_green("CANARY", 30, CanarySize=percent(20))
PAUSE_S = 0.01  # between requests: what restarts meanwhile needs the processors, too


@pytest.mark.parametrize(
    ("failpoint", "deployment", "back"),
    [
        ("TrafficShifting/mid-effect:2", CANARY, 0),
        ("StartInstance/after-effect", rolling(30), 1),
    ],
)
def test_a_killed_controller_goes_on_where_it_was(
    tmp_path: Path, failpoint: str, deployment: dict[str, Any], back: int
) -> None:
    served = Served(tmp_path, failpoint=f"{failpoint}", environments=ENVIRONMENTS)
    try:
        # The create may have met it already: armed anew.
        (served.data_dir / "run" / "failpoints.json").unlink(missing_ok=True)
        update_and_judge(served, deployment, back=back, pause_s=PAUSE_S)
        deaths = (served.data_dir / "run" / "failpoints.json").read_text()
        assert failpoint.partition(":")[0] in deaths, "the failpoint was never reached"
    finally:
        served.stop()


def test_an_unknown_failpoint_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0"]
    environment = {**os.environ, "UNDERSTUDY_FAILPOINT": "NoSuchThing/before-intent"}
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data")],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 1 and "there is no failpoint 'NoSuchThing/before-intent'" in done.stderr


def test_damaged_credentials_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "credentials.json").touch()
    done = subprocess.run(
        [sys.executable, "-m", "understudy.cli", "serve", "--port", "0", "--data-dir", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "credentials.json is damaged" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_routers_and_workers_may_die_during_a_rollout_and_boto3_sees_nothing(tmp_path: Path) -> None:
    served = Served(tmp_path, environments=ENVIRONMENTS)
    try:
        failures: list[str] = []
        seen: list[str] = []
        stop = threading.Event()

        def call() -> None:
            runtime = served.client("sagemaker-runtime")
            while not stop.wait(PAUSE_S):
                try:
                    seen.append(runtime.invoke_endpoint(EndpointName="e", Body=b"x")["Body"].read().decode())
                except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
                    failures.append(repr(error))

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        served.sagemaker.update_endpoint(
            EndpointName="e",
            EndpointConfigName="v2",
            DeploymentConfig=blue_green("LINEAR", 60, LinearStepSize=percent(50)),
        )
        for title in (
            "understudy router 0",
            "understudy worker e/",
            "understudy router 1",
            "understudy worker e/",
        ):
            time.sleep(0.8)
            # One at a time: with both routers gone, or both instances of a fleet, nobody could answer.
            until(lambda: len(served.named("understudy router")) == 2, "both routers")
            until(lambda title=title: served.named(title), title)  # type: ignore[misc]
            with contextlib.suppress(ProcessLookupError):
                os.kill(served.named(title)[-1], signal.SIGKILL)
        found = at_rest(served.sagemaker)
        stop.set()
        for caller in callers:
            caller.join()
        assert failures == []
        assert set(seen) <= {"v1", "v2"} and found["EndpointStatus"] == "InService"
        until(lambda: served.leftovers().get("worker") == 2, "two instances again")
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("how", "deployment"),
    [("killed", CANARY), ("stopped", rolling(30))],
    ids=["killed-canary", "stopped-rolling"],
)
def test_a_server_that_ends_within_a_bake_goes_on_with_it(
    tmp_path: Path, how: str, deployment: dict[str, Any]
) -> None:
    served = Served(tmp_path, environments=ENVIRONMENTS)
    try:
        served.sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName="v2", DeploymentConfig=deployment
        )
        until(lambda: served.events()[-1]["kind"] == "BakingStarted", "a bake")
        if how == "stopped":
            served.stop()
        else:
            served.kill_everything()
        served.start()
        found = at_rest(served.sagemaker)
        assert found["EndpointStatus"] == "InService" and found["EndpointConfigName"] == "v2"
        kinds = [one["kind"] for one in served.events()]
        assert kinds.count("BakingStarted") == kinds.count("TrafficShifting") == 2
        until(lambda: served.leftovers().get("worker") == 2, "two instances again")
    finally:
        served.stop()


def test_a_rolling_update_gives_back_by_batches_what_it_had_taken(tmp_path: Path) -> None:
    failpoint = "TrafficReturning/mid-effect"
    one = {"Type": "INSTANCE_COUNT", "Value": 1}
    deployment = rolling(60, 25)
    deployment["RollingUpdatePolicy"]["RollbackMaximumBatchSize"] = one
    served = Served(tmp_path, environments=ENVIRONMENTS, instances=4, failpoint=failpoint)
    try:
        with RawLoad(served.port, pause_s=PAUSE_S) as load:
            served.sagemaker.update_endpoint(
                EndpointName="e", EndpointConfigName="v2", DeploymentConfig=deployment
            )
            until(lambda: [e["kind"] for e in served.events()].count("BakingStarted") == 2, "the second bake")
            served.roll_back()
            found = at_rest(served.sagemaker)
        assert load.failures == []
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "v1")
        kinds = [e["kind"] for e in served.events()]
        assert kinds.count("RollbackBatchStarted") == kinds.count("TrafficReturning") == 1
        assert failpoint in (served.data_dir / "run" / "failpoints.json").read_text()
        until(lambda: served.leftovers().get("worker") == 4, "four instances again")
    finally:
        served.stop()
