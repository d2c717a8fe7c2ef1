"""Builders for tests of where models run; also used by ``tests/contracts/test_runtime.py``."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from understudy.core.models import Container
from understudy.core.names import Place
from understudy.core.ports import InstanceSpec, InstanceState, InstanceStatus
from understudy.runtimes.artifacts import Artifacts
from understudy.runtimes.containers import ContainerPreparation
from understudy.runtimes.cpu_groups import CpuGroups
from understudy.runtimes.environments import Environments
from understudy.runtimes.images import Images
from understudy.runtimes.local import LocalRuntime
from understudy.stores.logs import FileLogs
from understudy.stores.memory_objects import MemoryObjects
from understudy.system import RealClock, RealEntropy

STANDIN = Path(__file__).with_name("standin_worker.py")


def eventually(look: Callable[[], Any], what: str = "", deadline_s: float = 30.0) -> Any:
    """Poll until ``look`` returns something true, and return that."""
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"did not come about within {deadline_s} s: {what}")


def archive(**files: bytes) -> bytes:
    """Pack a tar.gz of names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Bench:
    """A LocalRuntime over a directory, and everything below it."""

    def __init__(self, directory: Path, worker_main: Path = STANDIN, **environ: str) -> None:
        self.directory = directory
        self.worker_main = worker_main
        self.environ = {**os.environ, **environ}
        self.clock, self.entropy = RealClock(), RealEntropy()
        self.objects = MemoryObjects(self.clock)
        self.objects.create_bucket("models")
        self.files = directory / "files"
        self.files.mkdir()
        self.logs = FileLogs(directory / "logs", self.clock)
        self.lifeline_read, self.lifeline_write = os.pipe()
        self.runtime = self.new_runtime()
        self.numbers = 0

    def new_preparation(self) -> ContainerPreparation:
        return ContainerPreparation(
            Images([self.directory / "images.toml"]),
            Artifacts(self.directory / "artifacts", self.objects, allowed_roots=[self.files]),
            Environments(self.directory / "environments", environ=self.environ),
        )

    def new_runtime(self, shadow_cpu_percent: int = 0, cpu_groups: CpuGroups | None = None) -> LocalRuntime:
        return LocalRuntime(
            self.directory / "run",
            preparation=self.new_preparation(),
            logs=self.logs,
            clock=self.clock,
            entropy=self.entropy,
            place=Place(),
            lifeline_fd=self.lifeline_read,
            worker_main=self.worker_main,
            shadow_cpu_percent=shadow_cpu_percent,
            cpu_groups=cpu_groups,
        )

    def spec(
        self,
        *,
        startup_timeout_s: int = 60,
        shadow: bool = False,
        cpu_percent: int = 0,
        patient: bool = False,
        **environment: str,
    ) -> InstanceSpec:
        self.numbers += 1
        return make_spec(
            f"churn/Blue/f1/{self.numbers}-1",
            Container("python", environment=environment),
            startup_timeout_s=startup_timeout_s,
            shadow=shadow,
            cpu_percent=cpu_percent,
            patient=patient,
        )

    def state(self, instance_id: str) -> InstanceState | None:
        return next((s for s in self.runtime.observe() if s.instance_id == instance_id), None)

    def wait(self, instance_id: str, *statuses: InstanceStatus, deadline_s: float = 60.0) -> InstanceState:
        def look() -> InstanceState | None:
            state = self.state(instance_id)
            return state if state is not None and state.status in statuses else None

        try:
            found: InstanceState = eventually(look, f"{instance_id} {statuses}", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state(instance_id)}") from None
        return found

    def ask(self, state: InstanceState) -> dict[str, Any]:
        """Let a stand-in tell what it was started with."""
        with self.connect(state.address) as connection:
            connection.sendall(b"spec")
            data = b""
            while more := connection.recv(65536):
                data += more
        found: dict[str, Any] = json.loads(data)
        return found

    def connect(self, address: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        descriptor = os.open(self.directory / "run", os.O_RDONLY)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{address}")
        finally:
            os.close(descriptor)
        connection.settimeout(30)
        return connection

    def log_text(self) -> str:
        return "".join(p.read_text("utf-8", "replace") for p in (self.directory / "logs").rglob("*.log"))

    def close(self) -> None:
        for state in self.runtime.observe():
            self.runtime.stop(state.instance_id, 0.0)
        eventually(lambda: not self.runtime.observe(), "all are stopped")
        self.runtime.close()
        os.close(self.lifeline_write)
        os.close(self.lifeline_read)


def make_spec(
    instance_id: str,
    *containers: Container,
    startup_timeout_s: int = 60,
    shadow: bool = False,
    memory_bytes: int = 2 * 1024**3,
    cpu_percent: int = 0,
    patient: bool = False,
) -> InstanceSpec:
    endpoint, variant, _, number = instance_id.split("/")
    return InstanceSpec(
        instance_id=instance_id,
        endpoint_name=endpoint,
        variant_name=variant,
        title=f"understudy worker {endpoint}/{variant}/{number.partition('-')[0]}",
        containers=containers,
        direct=False,
        instance_type="ml.m5.large",
        vcpus=2,
        memory_bytes=memory_bytes,
        startup_timeout_s=startup_timeout_s,
        download_timeout_s=60,
        shadow=shadow,
        cpu_percent=cpu_percent,
        patient=patient,
    )
