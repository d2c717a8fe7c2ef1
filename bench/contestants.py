"""Who is measured: every peer at each of its settings, and how each is started.

Owns the commands.  Refuses silence: a peer that can't run raises :class:`NotInstalled` with the reason.
Main names: :data:`PEERS`, :func:`start_peer`.
"""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import environments
from bench.environments import NotInstalled, environment_of
from bench.loadgen.plans import Item, read_plan
from bench.processes import Running, free_port, start, wait_until
from bench.work import Work

START_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Peer:
    """One peer at one setting.

    Attributes:
        name: For the table.
        folder: In ``bench/peers``.
        group: Settings of the same system: the better of them counts.
        command: Given the interpreter, the port and a folder to write to, the command line.
        path, kind: Of its requests: see :meth:`bench.work.Work.plan`.
        needs: Program that must be on PATH.
        advice: How to get it.
        is_limit: No server of models: no ratio is claimed.
    """

    name: str
    folder: str
    group: str
    command: Callable[[str, int, Path], list[str]]
    path: str = "/invocations"
    kind: str = "csv"
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""
    advice: str = ""
    is_limit: bool = False


def _uvicorn(workers: int) -> Callable[[str, int, Path], list[str]]:
    def command(python: str, port: int, _folder: Path) -> list[str]:
        line = [python, "-m", "uvicorn", "app:app", "--port", str(port), "--workers", str(workers)]
        return [*line, "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]

    return command


def _granian(python: str, port: int, _folder: Path) -> list[str]:
    line = [python, "-m", "granian", "--interface", "rsgi", "--loop", "uvloop", "--port", str(port)]
    return [*line, "--workers", "1", "--no-access-log", "app:app"]


def _mosec(python: str, port: int, folder: Path) -> list[str]:
    line = [python, str(environments.PEERS / "mosec" / "serve.py"), "--address", "127.0.0.1"]
    line += ["--port", str(port), "--path", str(folder / "mosec")]
    return [*line, "--timeout", "60000", "--capacity", "4096"]


def _script(peer: str, name: str, *arguments: str) -> Callable[[str, int, Path], list[str]]:
    return lambda python, _port, _folder: [python, str(environments.PEERS / peer / name), *arguments]


def _bentoml(python: str, port: int, _folder: Path) -> list[str]:
    here = str(environments.PEERS / "bentoml")
    line = [python, "-m", "bentoml", "serve", "service:Churn", "--port", str(port), "--host", "127.0.0.1"]
    return [*line, "--working-dir", here]


def _mlserver(batch: int, wait_s: float) -> Callable[[str, int, Path], list[str]]:
    def command(python: str, port: int, folder: Path) -> list[str]:
        settings = {
            "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
            "parallel_workers": 0, "debug": False, "metrics_endpoint": None,
        }  # fmt: skip
        model = {
            "name": "churn", "implementation": "churn_runtime.Churn",
            "max_batch_size": batch, "max_batch_time": wait_s,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [python, "-m", "mlserver.cli.main", "start", str(folder)]

    return command


_NGINX = "apt-get install nginx-light"
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_RAY_APP = _script("ray_serve", "serve_app.py")
_V2 = "/v2/models/churn/infer"

PEERS: tuple[Peer, ...] = (
    Peer("FastAPI + uvicorn, 1 worker", "fastapi", "FastAPI 1", _uvicorn(1)),
    Peer("FastAPI + uvicorn, 2 workers", "fastapi", "FastAPI 2", _uvicorn(2)),
    Peer("granian RSGI", "granian", "granian", _granian),
    Peer("mosec, no batching", "mosec", "mosec", _mosec, "/inference",
         environment={"BATCH": "1", "WAIT_MS": "0"}),
    Peer("mosec, batch 64 wait 1 ms", "mosec", "mosec", _mosec, "/inference",
         environment={"BATCH": "64", "WAIT_MS": "1"}),
    Peer("LitServe", "litserve", "LitServe", _script("litserve", "serve.py"), "/predict", "array",
         {"FAST_QUEUE": "0"}),
    Peer("LitServe, fast queue", "litserve", "LitServe", _script("litserve", "serve.py"), "/predict", "array",
         {"FAST_QUEUE": "1"}),
    Peer("MLServer", "mlserver", "MLServer", _mlserver(0, 0.0), _V2, "v2"),
    Peer("MLServer, batch 64 wait 1 ms", "mlserver", "MLServer", _mlserver(64, 0.001), _V2, "v2"),
    Peer("BentoML", "bentoml", "BentoML", _bentoml, "/predict", "text", {"BENTOML_DO_NOT_TRACK": "1"}),
    Peer("Ray Serve, its own proxy", "ray_serve", "Ray Serve", _RAY_APP, "/", "csv", _RAY),
    Peer("Ray Serve, HAProxy", "ray_serve", "Ray Serve HAProxy", _RAY_APP, "/", "csv",
         {**_RAY, "RAY_SERVE_ENABLE_HA_PROXY": "1"}),
    Peer("nginx split_clients, 2 uvicorn", "nginx", "nginx split", _script("nginx", "serve.py", "split"),
         needs="nginx", advice=_NGINX),
    Peer("nginx mirror, 2 uvicorn", "nginx", "nginx mirror", _script("nginx", "serve.py", "mirror"),
         needs="nginx", advice=_NGINX),
    Peer("nginx return 200 (limit)", "nginx", "nginx return", _script("nginx", "serve.py", "return"), "/",
         "any", needs="nginx", advice=_NGINX, is_limit=True),
)  # fmt: skip


@dataclass
class Started:
    """A server to send requests to.

    Attributes:
        plan: File of its requests.
    """

    running: Running
    host: str
    port: int
    plan: Path
    _folder: tempfile.TemporaryDirectory[str]
    sign: dict[str, Any] | None = None

    def stop(self) -> None:
        """End it and everything of it."""
        self.running.stop()
        self._folder.cleanup()


def start_peer(peer: Peer, work: Work) -> Started:
    """Start a peer and wait for its first right answer.

    Raises:
        NotInstalled: it can't be had here.
        StartFailed: it does not answer rightly.
    """
    if peer.needs and shutil.which(peer.needs) is None:
        raise NotInstalled(f"not installed: {peer.needs} is not on PATH ({peer.advice})")
    python = environment_of(peer.folder)
    port = free_port()
    folder = tempfile.TemporaryDirectory(prefix="bench-peer-", ignore_cleanup_errors=True)
    place = Path(folder.name)
    here = environments.PEERS / peer.folder
    environment = {
        "PYTHONPATH": f"{environments.PEERS / 'shared'}:{here}",
        "MODEL_PATH": str(work.model),
        "PORT": str(port),
        "PYTHONDONTWRITEBYTECODE": "1",
        **peer.environment,
    }
    plan = work.plan(peer.kind, peer.path)
    command = peer.command(str(python), port, place)
    running = start(command, folder=place, log=place / "log", environment=environment)
    started = Started(running, "127.0.0.1", port, plan, folder)
    try:
        first = read_plan(plan, f"127.0.0.1:{port}")[0]
        wait_until(lambda: answers_rightly("127.0.0.1", port, first), running, START_PATIENCE_S)
    except BaseException:
        started.stop()
        raise
    return started


def answers_rightly(host: str, port: int, item: Item) -> bool:
    """Tell whether a server gives the right answer to a request."""
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("POST", item.request.path, item.request.body.encode(), item.request.headers)
        response = connection.getresponse()
        return response.status == 200 and item.is_right(response.read())
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
