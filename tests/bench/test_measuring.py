"""What a measurement takes from ``/proc``, refuses, and leaves behind."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bench.contestants import Started
from bench.environments import ROOT
from bench.loadgen.engine import Load
from bench.loadgen.plans import Request, write_plan
from bench.measuring import WrongAnswer, measure
from bench.processes import Running, StartFailed, start, wait_until

# A child that burns until it is told, in a session of its own as Understudy's and Ray's workers are.
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[tuple[Running, int]]:
    running = start([sys.executable, "-c", FAMILY], folder=tmp_path, log=tmp_path / "log", environment={})
    wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"), running, 20.0)
    yield running, int((tmp_path / "log").read_text())
    running.stop()


def test_a_killed_bench_leaves_no_server(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from bench.processes import start
place = Path({str(tmp_path)!r})
print(start(["sleep", "600"], folder=place, log=place / "log", environment={{}}).process.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    ) as bench:
        assert bench.stdout is not None
        server = psutil.Process(int(bench.stdout.readline()))
        assert server.is_running()
        bench.kill()
        gone, _ = psutil.wait_procs([server], timeout=60.0)
    assert gone or server.status() == psutil.STATUS_ZOMBIE


def test_the_whole_tree_counts_and_nothing_of_it_is_left(family: tuple[Running, int]) -> None:
    running, child = family
    assert set(running.pids()) >= {running.process.pid, child}
    before = running.usage()
    wait_until(lambda: sum(running.usage().cpu_us_since(before).values()) > 50_000, running, 20.0)
    assert running.usage().rss_bytes > 0
    running.stop()
    assert running.pids() == []
    # An orphan that was killed is a zombie until whoever adopted it has looked.
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_child_is_found_when_its_parent_was_killed(family: tuple[Running, int]) -> None:
    running, child = family
    running.process.kill()
    running.process.wait(20)
    assert running.pids() == [child]


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    running = start(command, folder=tmp_path, log=tmp_path / "log", environment={})
    with pytest.raises(StartFailed, match="code 1: no such model"):
        wait_until(lambda: False, running, 20.0)


@pytest.fixture
def target(tiny: Any, family: tuple[Running, int], tmp_path: Path) -> Started:
    write_plan(tmp_path / "plan.jsonl", [Request("/x", "row")])
    folder = tempfile.TemporaryDirectory(dir=tmp_path)
    return Started(family[0], "127.0.0.1", tiny.port, tmp_path / "plan.jsonl", folder)


def test_cost_is_that_of_the_processes_per_answer(target: Started, tiny: Any) -> None:
    one = measure(target, Load("", 0, 2, 0.3))
    assert one.errors == {} and one.rss_bytes > 0
    answers = one.load["in_window"]
    assert 0.0 < one.cpu_us * answers == pytest.approx(sum(one.cpu_us_by_role.values()) * answers)


def test_one_wrong_answer_refuses_everything(
    target: Started, tiny: Any, render: Callable[..., bytes]
) -> None:
    tiny.answer = lambda body: render(b"wrong")
    with pytest.raises(WrongAnswer, match="got b'wrong', expected b'row'"):
        measure(target, Load("", 0, 1, 0.1))


def test_refusals_are_errors_unless_they_are_expected(
    target: Started, tiny: Any, render: Callable[..., bytes]
) -> None:
    tiny.answer = lambda body: render(body, status="503 Busy")
    assert set(measure(target, Load("", 0, 1, 0.1)).errors) == {"status 503"}
    assert measure(target, Load("", 0, 1, 0.1), allow_refusals=True).errors == {}
