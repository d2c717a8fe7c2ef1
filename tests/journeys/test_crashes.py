"""Killing any process at any time: traffic, weights and records survive; a stamp says who answered."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import psutil
import pytest
from botocore.exceptions import ClientError

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROLE = "arn:aws:iam::123456789012:role/understudy"
INFERENCE = """\
import os
def model_fn(model_dir):
    return open(os.path.join(model_dir, "stamp.txt")).read().strip()
def input_fn(body, content_type):
    return body
def predict_fn(body, stamp):
    if body == b"die" or body == "die":
        os._exit(3)
    return stamp
def output_fn(stamp, accept):
    return stamp, "text/plain"
"""


def until(condition: Callable[[], Any], what: str, patience_s: float = 60.0) -> Any:
    deadline_s = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(ClientError, OSError, psutil.NoSuchProcess):
            found = condition()
            if found:
                return found
        assert time.monotonic() < deadline_s, f"timed out waiting for {what}"
        time.sleep(0.02)


class Server:
    """``understudy serve`` over one data directory, started and killed at will."""

    def __init__(self, place: Path, *options: str) -> None:
        self.data_dir = place / "data"
        self.log = place / "serve.log"
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}

    def start(self) -> None:
        (self.data_dir / "run" / "server.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0"]
        command += ["--data-dir", str(self.data_dir), *self._options]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, cwd=self.log.parent)
        until(self._healthy, "the server")

    def _healthy(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()[-3000:]
        self.facts = json.loads((self.data_dir / "run" / "server.json").read_text())
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(self.facts["endpoint_url"] + "/healthz", timeout=2.0) as response:
            return bool(json.load(response)["status"] == "ok")

    def client(self, service: str, **config: Any) -> Any:
        keys = json.loads((self.data_dir / "credentials.json").read_text())
        return boto3.session.Session().client(
            service,
            endpoint_url=self.facts["endpoint_url"],
            region_name=keys["region"],
            aws_access_key_id=keys["access_key_id"],
            aws_secret_access_key=keys["secret_access_key"],
            config=botocore.config.Config(**config),
        )

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).strip().startswith(title):
                    found.append(process)
        return found

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            family = self.family()
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(60) == 0, self.log.read_text()[-3000:]
            _, left = psutil.wait_procs(family, timeout=5)
            assert not left, left


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "--routers", "2")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def stamping_model(server: Server, stamp: str) -> str:
    """Deploy-able model that answers its stamp."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in (("stamp.txt", stamp), ("code/inference.py", INFERENCE)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    s3 = server.client("s3")
    s3.create_bucket(Bucket="stamps")
    s3.put_object(Bucket="stamps", Key=f"{stamp}.tar.gz", Body=archive.getvalue())
    server.client("sagemaker").create_model(
        ModelName=stamp,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": f"s3://stamps/{stamp}.tar.gz"},
    )
    return stamp


def config(server: Server, name: str, instances: int = 1, **weights: float) -> str:
    """An EndpointConfig whose variants run the models of the same names."""
    server.client("sagemaker").create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": variant,
                "ModelName": variant,
                "InitialInstanceCount": instances,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": weight,
            }
            for variant, weight in weights.items()
        ],
    )
    return name


def in_service(server: Server, name: str = "e") -> dict[str, Any]:
    sagemaker = server.client("sagemaker")

    def reached() -> Any:
        found = sagemaker.describe_endpoint(EndpointName=name)
        assert found["EndpointStatus"] != "Failed", found.get("FailureReason")
        return found if found["EndpointStatus"] == "InService" else None

    described: dict[str, Any] = until(reached, "InService")
    return described


def deploy(server: Server, instances: int = 1, **weights: float) -> None:
    for name in weights:
        stamping_model(server, name)
    server.client("sagemaker").create_endpoint(
        EndpointName="e", EndpointConfigName=config(server, "first", instances, **weights)
    )
    in_service(server)


def answers(server: Server, count: int, **options: Any) -> Counter[str]:
    runtime = server.client("sagemaker-runtime")
    seen: Counter[str] = Counter()
    for _ in range(count):
        answer = runtime.invoke_endpoint(EndpointName="e", Body=b"x", **options)
        stamp = answer["Body"].read().decode()
        assert stamp == answer["InvokedProductionVariant"], "misrouted"
        seen[stamp] += 1
    return seen


class Traffic:
    """Constant load without retries from a few threads; every failure is kept.

    They pause a little: what else is to happen needs the processors, too.
    """

    def __init__(self, server: Server, retries: int = 0) -> None:
        self.seen: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        mode = {"max_attempts": retries, "mode": "standard"} if retries else {"total_max_attempts": 1}
        self._threads = [
            threading.Thread(target=self._run, args=(server.client("sagemaker-runtime", retries=mode),))
            for _ in range(3)
        ]

    def _run(self, runtime: Any) -> None:
        while not self._stop.wait(0.005):
            try:
                answer = runtime.invoke_endpoint(EndpointName="e", Body=b"x")
                stamp = answer["Body"].read().decode()
                if stamp != answer["InvokedProductionVariant"]:
                    self.failures.append(f"misrouted: {stamp}")
                self.seen[stamp] += 1
            except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
                self.failures.append(repr(error))

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_processes_have_names_that_ps_shows(server: Server) -> None:
    deploy(server, blue=1.0)
    assert [len(server.named(f"understudy {name}")) for name in ("controller", "router 0", "router 1")] == [
        1,
        1,
        1,
    ]
    assert len(server.named("understudy worker e/blue/0")) == 1


def test_after_kill_of_everything_all_is_back_with_the_same_weights(server: Server) -> None:
    deploy(server, blue=0.0, green=3.0)
    server.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName="e",
        DesiredWeightsAndCapacities=[
            {"VariantName": "blue", "DesiredWeight": 0.5, "DesiredInstanceCount": 2}
        ],
    )
    before = in_service(server)["ProductionVariants"]
    assert server.process is not None
    family = server.family()
    for process in [psutil.Process(server.process.pid), *family]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    server.process.wait()
    psutil.wait_procs(family, timeout=10)
    server.start()
    after = in_service(server)["ProductionVariants"]
    strip = [{k: v for k, v in variant.items() if k != "DeployedImages"} for variant in before]
    assert [{k: v for k, v in variant.items() if k != "DeployedImages"} for variant in after] == strip
    assert set(answers(server, 40)) == {"blue", "green"}


def test_when_the_supervisor_is_killed_the_rest_goes_too(server: Server) -> None:
    deploy(server, blue=1.0)
    assert server.process is not None
    family = server.family()
    assert len(family) == 4
    server.process.kill()
    server.process.wait()
    _, left = psutil.wait_procs(family, timeout=10)
    assert not left
    server.start()
    in_service(server)
    assert answers(server, 3) == {"blue": 3}


def test_a_worker_of_an_earlier_life_is_ended_not_adopted(server: Server) -> None:
    deploy(server, blue=1.0)
    (stuck,) = server.named("understudy worker e/blue/0")
    stuck.suspend()  # it can't see that its server is gone
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    server.start()
    assert in_service(server)["EndpointStatus"] == "InService"
    psutil.wait_procs([stuck], timeout=10)
    assert not stuck.is_running() or stuck.status() == psutil.STATUS_ZOMBIE
    assert answers(server, 3) == {"blue": 3}
    events = server.client("logs").describe_log_streams(logGroupName="/aws/sagemaker/Endpoints/e")
    assert len(events["logStreams"]) == 2


def test_the_controller_dies_and_no_request_does(server: Server) -> None:
    deploy(server, blue=1.0)
    worker = server.named("understudy worker e/blue/0")[0].pid
    with Traffic(server) as traffic:
        for _ in range(3):
            (controller,) = server.named("understudy controller")
            controller.kill()
            controller.wait(10)
            until(lambda: server.named("understudy controller") and server._healthy(), "a controller")
            assert in_service(server)["EndpointStatus"] == "InService"
    assert traffic.failures == [] and traffic.seen["blue"] > 0
    assert server.named("understudy worker e/blue/0")[0].pid == worker, "the worker is adopted"


def test_a_router_dies_and_callers_that_retry_notice_nothing(server: Server) -> None:
    deploy(server, blue=1.0)
    with Traffic(server, retries=4) as traffic:
        for name in ("understudy router 0", "understudy router 1"):
            (router,) = server.named(name)
            router.kill()
            router.wait(10)
            until(lambda name=name: server.named(name) and server._healthy(), "a router")  # type: ignore[misc]
    assert traffic.failures == []
    # Weights change on every router, the new one included.
    stamping_model(server, "green")
    server.client("sagemaker").update_endpoint(
        EndpointName="e", EndpointConfigName=config(server, "second", green=1.0)
    )
    in_service(server)
    assert answers(server, 20) == {"green": 20}


def test_a_worker_dies_and_another_one_answers(server: Server) -> None:
    deploy(server, instances=2, blue=1.0)
    with Traffic(server) as traffic:
        for _ in range(3):
            for process in server.named("understudy worker e/blue/0"):
                process.kill()
                process.wait(10)
            until(lambda: len(server.named("understudy worker e/blue/")) == 2, "a new worker")
            until(lambda: status_of(server)["instances"] == 2, "two ready instances")
    assert traffic.failures == []


def status_of(server: Server) -> dict[str, Any]:
    command = [sys.executable, "-m", "understudy.cli", "status", "--json", "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    (endpoint,) = json.loads(done.stdout)["endpoints"]
    variant: dict[str, Any] = endpoint["variants"][0]
    return variant


def test_updates_under_load_lose_and_misroute_nothing(server: Server) -> None:
    deploy(server, blue=1.0)
    stamping_model(server, "green")
    sagemaker = server.client("sagemaker")
    config(server, "both", blue=1.0, green=1.0)
    config(server, "new", green=1.0)
    with Traffic(server) as traffic:
        for round_ in range(2):
            sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="both")
            in_service(server)
            for blue, green, count in ((0.0, 1.0, 1), (1e-9, 1e9, 2), (0.5, 0.5, 1)):
                sagemaker.update_endpoint_weights_and_capacities(
                    EndpointName="e",
                    DesiredWeightsAndCapacities=[
                        {"VariantName": "blue", "DesiredWeight": blue, "DesiredInstanceCount": count},
                        {"VariantName": "green", "DesiredWeight": green},
                    ],
                )
                in_service(server)
                if blue == 0.0:
                    assert answers(server, 40) == {"green": 40}
            sagemaker.update_endpoint(
                EndpointName="e", EndpointConfigName="new" if round_ % 2 == 0 else "first"
            )
            in_service(server)
    assert traffic.failures == []
    assert min(traffic.seen["blue"], traffic.seen["green"]) > 0


def test_an_update_to_a_broken_model_fails_no_request(server: Server) -> None:
    deploy(server, blue=1.0)
    sagemaker = server.client("sagemaker")
    stamping_model(server, "broken")
    server.client("s3").delete_object(Bucket="stamps", Key="broken.tar.gz")
    config(server, "broken", broken=1.0)
    with Traffic(server) as traffic:
        sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="broken")
        described = in_service(server)
    assert traffic.failures == []
    assert described["EndpointConfigName"] == "first" and "broken.tar.gz" in described["FailureReason"]


def test_deleting_while_others_ask_is_clean(server: Server) -> None:
    deploy(server, blue=1.0)
    sagemaker = server.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName="e")
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="e", WaiterConfig={"Delay": 1})
    assert server.named("understudy worker") == []
    with pytest.raises(ClientError) as refused:
        answers(server, 1)
    assert refused.value.response["Error"] == {
        "Code": "ValidationError",
        "Message": "Endpoint e of account 123456789012 not found.",
    }
