"""A real server in a real process for the journeys, and what they compare answers with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from understudy.sdk.environment import client_variables, exec_environment, interfering_variables
from understudy.sdk.servers import ServerNotFound, read_server

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # bench/ lies beside src/, not in the package
# Servers and commands that the journeys start run the code beside these tests, whatever else is installed.
os.environ["PYTHONPATH"] = str(ROOT / "src")
CHURN = ROOT.parent / "shared" / "data" / "churn"
PROGRAMS = Path(__file__).parent / "programs"
# Model environments are built once for all runs of the tests.
ENVIRONMENTS = ROOT / ".cache" / "test-environments"
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 60.0


@dataclass(frozen=True)
class RunningServer:
    """A server to talk to.

    Attributes:
        environment: A whole environment as after ``eval "$(understudy env)"``.
        exec_environment: The one that ``understudy exec`` makes.
    """

    url: str
    data_dir: Path
    pid: int
    log: Path
    environment: dict[str, str]
    exec_environment: dict[str, str]

    def client(self, service: str, **options: Any) -> Any:
        """Build a boto3 client of this server."""
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name=self.environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            **options,
        )


@pytest.fixture(scope="module")
def server_options() -> list[str]:
    """Further options of ``understudy serve``; a module of tests may have its own."""
    return []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, server_options: list[str]) -> Iterator[RunningServer]:
    """``understudy serve`` on a free port, stopped by SIGTERM; nothing of it may be left."""
    with _serving(tmp_path_factory.mktemp("server"), *server_options) as running:
        yield running


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The same without signatures, for raw clients that send very much; two routers."""
    with _serving(tmp_path_factory.mktemp("open"), "--auth", "none", "--routers", "2") as running:
        yield running


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    """For modules with a server of their own: ``with serving(place, "--option", ...) as running``."""
    return _serving


@contextmanager
def _serving(place: Path, *options: str) -> Iterator[RunningServer]:
    data_dir, log = place / "data", place / "serve.log"
    ENVIRONMENTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "understudy.cli", "serve", "--port", "0", "--data-dir", str(data_dir)]
    command += ["--environments-dir", str(ENVIRONMENTS), *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=place)
    try:
        yield _wait_until_it_answers(process, data_dir, log)
    finally:
        family = _family(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        _, left = psutil.wait_procs(family, timeout=5.0)
    assert code == 0, f"the server ended with {code}:\n{_tail(log)}"
    assert not left, f"processes outlived the server: {left}"


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_until_it_answers(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> RunningServer:
    deadline_s = time.monotonic() + START_PATIENCE_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{_tail(log)}")
        try:
            facts = read_server(data_dir)
            with direct.open(facts.endpoint_url + "/healthz", timeout=2.0) as response:
                if json.load(response)["status"] != "ok":  # the controller is still starting
                    raise ServerNotFound("degraded")
            present = dict(os.environ)
            unset = interfering_variables(present)
            environment = {name: value for name, value in present.items() if name not in unset}
            environment.update(client_variables(facts, present))
            return RunningServer(
                facts.endpoint_url,
                data_dir,
                process.pid,
                log,
                environment,
                exec_environment(facts, present),
            )
        except (ServerNotFound, OSError):  # HTTPError is an OSError
            time.sleep(0.05)
    return pytest.fail(f"the server did not answer within {START_PATIENCE_S:g} s:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:])


# --- the churn models ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Churn:
    """AWS's own example: two models, rows, and what XGBoost 0.90 itself says for the last 120 rows.

    Attributes:
        expected: Per variant, per row: ``repr(float(float32))``.
    """

    models: tuple[Path, Path]
    rows: Path
    expected: dict[str, list[str]]


@pytest.fixture(scope="session")
def churn_files() -> tuple[Path, Path, Path]:
    if not CHURN.is_dir():
        pytest.skip("needs ../shared/data/churn beside the checkout")
    models = CHURN / "models"
    return (
        models / "xgb-churn-prediction-model.tar.gz",
        models / "xgb-churn-prediction-model2.tar.gz",
        CHURN / "csv" / "test-dataset-input-cols.csv",
    )


@pytest.fixture(scope="session")
def churn(churn_files: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Churn:
    python = python_of(".venv-oracle")
    model, model2, rows = churn_files
    last = tmp_path_factory.mktemp("churn") / "rows.csv"
    last.write_text("\n".join(rows.read_text().splitlines()[-120:]))
    done = subprocess.run(
        [python, "-W", "ignore", PROGRAMS / "oracle.py", last, model, model2],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    first, second = json.loads(done.stdout.splitlines()[-1])
    assert first != second
    return Churn((model, model2), last, {"Variant1": first, "Variant2": second})


def python_of(environment: str) -> str:
    """Give the interpreter of one of the environments that ``make sdks`` builds."""
    python = ROOT / environment / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs {environment}: run `make sdks`")
    return str(python)


@pytest.fixture(scope="session")
def interpreter() -> Callable[[str], str]:
    """``python_of`` for tests, which can't import this file."""
    return python_of


@pytest.fixture(scope="session")
def check_walk() -> Callable[[dict[str, Any], Churn], None]:
    """The claims of the A/B walk, whichever client walked."""
    return _check_walk


def _check_walk(seen: dict[str, Any], churn: Churn) -> None:
    sends = [what for what in seen if what.startswith(("by weight", "to Variant", "after update"))]
    assert len(sends) == 7
    for what in sends:
        assert len(seen[what]) == 120
        for row, (variant, answer) in enumerate(seen[what]):
            assert answer.strip() == churn.expected[variant][row], (what, row, variant)
    assert fits(count(seen["by weight 0.5/0.5"], "Variant1"), 120, 0.5)
    assert fits(count(seen["by weight 0.25/0.75"], "Variant1"), 120, 0.25)
    assert count(seen["by weight 0/1"], "Variant1") == 0
    for what, variant in (
        ("to Variant1", "Variant1"),
        ("to Variant2", "Variant2"),
        ("to Variant1 at weight 0", "Variant1"),
        ("after update", "Variant2"),
    ):
        assert count(seen[what], variant) == 120, what
    by_weight = count(seen["by weight 0.5/0.5"], "Variant1")
    assert seen["Invocations"] == {"Variant1": 120 + by_weight, "Variant2": 240 - by_weight}
    assert seen["config while shifting"] == seen["endpoint"]
    assert seen["variants after update"] == ["Variant2"]


def count(answers: list[list[str]], variant: str) -> int:
    """Count the answers of a variant."""
    return sum(1 for name, _ in answers if name == variant)


def fits(hits: int, trials: int, share: float) -> bool:
    """Tell whether so many hits are likely for a share: exact two-sided binomial p > 1e-6."""
    weights = [comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(trials + 1)]
    return sum(weight for weight in weights if weight <= weights[hits] * (1 + 1e-9)) > 1e-6
