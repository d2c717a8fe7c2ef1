"""Real workers for tests: a spec file, a subprocess, a Unix socket and a client that speaks wire.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from understudy.worker import wire

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "src" / "understudy" / "worker" / "__main__.py"
CHURN = ROOT.parent / "shared" / "data" / "churn"
ENVIRONMENTS = ROOT / ".cache" / "test-envs"
DEADLINE_S = 150.0


class WireClient:
    """A router's side of one connection, blocking."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE_S)
        self.sock.connect(address)
        self.splitter = wire.FrameSplitter()
        self.frames: list[tuple[int, bytes]] = []
        self.next_id = 1

    def send(self, *requests: tuple[wire.RequestHead, bytes]) -> list[int]:
        """Send requests in one frame; returns their ids."""
        ids = list(range(self.next_id, self.next_id + len(requests)))
        self.next_id += len(requests)
        self.sock.sendall(
            wire.encode_requests(
                (number, wire.encode_request_head(head), body)
                for number, (head, body) in zip(ids, requests, strict=True)
            )
        )
        return ids

    def frame(self) -> tuple[int, bytes]:
        """Read the next frame."""
        while not self.frames:
            data = self.sock.recv(1 << 20)
            if not data:
                raise ConnectionError("the worker closed the connection")
            self.frames.extend(self.splitter.feed(data))
        return self.frames.pop(0)

    def collect(self, ids: list[int]) -> list[wire.Response]:
        """Read until each id has its whole answer; returns them in the ids' order."""
        found: dict[int, wire.Response] = {}
        while not set(ids) <= set(found):
            kind, payload = self.frame()
            assert kind == wire.RESPONSES, kind
            found.update({one.request_id: one for one in wire.decode_responses(payload)})
        return [found[number] for number in ids]

    def ask(
        self, body: bytes, content_type: str = "text/csv", accept: str = "", **head: str
    ) -> wire.Response:
        """One request, one answer."""
        request = wire.RequestHead(content_type=content_type, accept=accept, **head)
        return self.collect(self.send((request, body)))[0]

    def stream(
        self, body: bytes, content_type: str = "text/csv", **head: str
    ) -> list[wire.Chunk | wire.Response]:
        """One request that wants a stream; returns its chunks (or its one whole answer)."""
        self.send((wire.RequestHead(content_type=content_type, flags="s", **head), body))
        chunks: list[wire.Chunk | wire.Response] = []
        while True:
            kind, payload = self.frame()
            if kind == wire.RESPONSES:
                return [*wire.decode_responses(payload)]
            chunk = wire.decode_chunk(payload)
            chunks.append(chunk)
            if chunk.flags & wire.CHUNK_LAST:
                return chunks

    def ping(self) -> None:
        """PING and wait for the PONG."""
        self.sock.sendall(wire.PING_FRAME)
        kind, payload = self.frame()
        assert (kind, payload) == (wire.PONG, b"")

    def waits_when_paused(self, request_id: int) -> None:
        """Pause a stream and make sure that no more comes of it than was on its way."""
        # What the thread had handed to the loop before it saw the PAUSE leaves after the first PONG.
        for frames in (wire.encode_pause(request_id) + wire.PING_FRAME, wire.PING_FRAME):
            self.sock.sendall(frames)
            while self.frame()[0] != wire.PONG:
                pass
        on_its_way = 0
        for _ in range(50):
            self.sock.sendall(wire.PING_FRAME)
            while self.frame()[0] != wire.PONG:
                on_its_way += 1
        assert on_its_way <= 2, on_its_way

    def close(self) -> None:
        self.sock.close()


@dataclass
class RunningWorker:
    """A worker subprocess and what belongs to it."""

    process: subprocess.Popen[bytes]
    address: str
    status_path: Path
    log_path: Path
    lifeline_write: int
    clients: list[WireClient] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return (
            dict(json.loads(self.status_path.read_text())) if self.status_path.exists() else {"state": "none"}
        )

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, *states: str) -> dict[str, Any]:
        """Poll the status file until one of ``states``."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            status = self.status()
            if status["state"] in states:
                return status
            if self.process.poll() is not None and self.status()["state"] not in states:
                pytest.fail(
                    f"worker ended with {self.process.returncode}: {self.status()} {self.log()[-4000:]}"
                )
            time.sleep(0.01)
        pytest.fail(f"worker never got to {states}: {self.status()} {self.log()[-4000:]}")

    def client(self) -> WireClient:
        client = WireClient(self.address)
        self.clients.append(client)
        return client

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def container(model_dir: Path, **changes: Any) -> dict[str, Any]:
    """One container of a spec."""
    return {
        "hostname": "primary", "python": sys.executable, "model_dir": str(model_dir), "code_dir": None,
        "environment": {}, "loader": "auto", "command": None, "image": "", "packages": [],
    } | changes  # fmt: skip


StartWorker = Callable[..., RunningWorker]


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start a worker for one or more containers; everything is ended at the end of the test."""
    yield from _starting(tmp_path)


@pytest.fixture(scope="module")
def start_module_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartWorker]:
    """The same, for workers that live as long as a module's tests."""
    yield from _starting(tmp_path_factory.mktemp("workers"))


def _starting(tmp_path: Path) -> Iterator[StartWorker]:
    workers: list[RunningWorker] = []

    def start(
        *containers: dict[str, Any], python: str | None = None, wait: bool = True, **changes: Any
    ) -> RunningWorker:
        number = len(workers)
        directory = tmp_path / f"w{number}"
        directory.mkdir()
        address = str(directory / "s")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(64)
        lifeline_read, lifeline_write = os.pipe()
        spec = {
            "instance_id": f"i{number}", "title": f"understudy worker E/V/{number}", "endpoint_name": "E",
            "variant_name": "V", "region": "eu-central-1", "account_id": "123456789012",
            "listen_fd": listener.fileno(), "lifeline_fd": lifeline_read,
            "status_path": str(directory / "status"),
            "vcpus": 2, "memory_bytes": 1 << 30, "direct": False, "shadow": False,
            "limits": {"max_body_bytes": 6 << 20}, "containers": list(containers),
        } | changes  # fmt: skip
        spec_path = directory / "spec.json"
        spec_path.write_text(json.dumps(spec))
        log_path = directory / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [python or containers[0]["python"], "-u", str(WORKER), "--spec", str(spec_path),
                 "--title", spec["title"]],
                stdout=log, stderr=log, pass_fds=[listener.fileno(), lifeline_read], cwd=directory,
                env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
            )  # fmt: skip
        listener.close()
        os.close(lifeline_read)
        worker = RunningWorker(process, address, directory / "status", log_path, lifeline_write)
        workers.append(worker)
        if wait:
            worker.wait_for("ready")
        return worker

    yield start
    for worker in workers:
        for client in worker.clients:
            client.close()
        if worker.process.poll() is None:
            worker.process.kill()
        worker.process.wait(DEADLINE_S)
        os.close(worker.lifeline_write)


def _environment(name: str, packages: list[str]) -> str:
    """Build (once, kept in .cache) an environment with uv; skip only where the install itself fails."""
    directory = ENVIRONMENTS / name
    python = directory / "bin" / "python"
    if not (directory / "complete").exists():
        uv = str(Path(sys.executable).parent / "uv")
        ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
        for command in (
            [uv, "venv", "-q", "--allow-existing", "--python", sys.executable, str(directory)],
            [uv, "pip", "install", "-q", "--python", str(python), *packages],
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode != 0:
                pytest.skip(f"uv can't install {' '.join(packages)}: {done.stderr[-500:]}")
        (directory / "complete").touch()
    return str(python)


XGBOOST = {
    "0.90": ("xgboost-0.90", ["xgboost==0.90", "setuptools<80", "numpy", "scipy"]),
    "1.7.6": ("xgboost-1.7.6", ["xgboost==1.7.6", "numpy<2"]),
    "3.2.0": ("xgboost-cpu-3.2.0-sklearn", ["xgboost-cpu==3.2.0", "scikit-learn"]),
}


@pytest.fixture(scope="session")
def xgboost_python() -> Callable[[str], str]:
    """Interpreter of an environment with that XGBoost."""
    return lambda version: _environment(*XGBOOST[version])


@pytest.fixture(scope="session")
def onnx_python() -> str:
    """Interpreter of an environment with onnxruntime and skl2onnx."""
    return _environment("onnx", ["onnxruntime", "skl2onnx", "scikit-learn"])


@pytest.fixture(scope="session")
def sklearn_python() -> str:
    """Interpreter of an environment with scikit-learn, pandas and skops."""
    return _environment("sklearn", ["scikit-learn", "pandas", "skops"])


@pytest.fixture(scope="session")
def make_container() -> Callable[..., dict[str, Any]]:
    return container


@pytest.fixture(scope="session")
def churn_rows() -> list[bytes]:
    """The churn example's test rows, CSV, 69 features."""
    path = CHURN / "csv" / "test-dataset-input-cols.csv"
    if not path.exists():
        pytest.skip("needs ../shared/data beside the checkout")
    return path.read_bytes().split()


@pytest.fixture(scope="session")
def churn_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpack one of AWS's churn models; returns its directory."""
    import tarfile

    def unpack(name: str) -> Path:
        archive = CHURN / "models" / name
        if not archive.exists():
            pytest.skip("needs ../shared/data beside the checkout")
        directory = tmp_path_factory.mktemp(name.split(".")[0])
        with tarfile.open(archive) as tar:
            tar.extractall(directory, filter="data")
        return directory

    return unpack
