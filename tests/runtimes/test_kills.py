"""kill -9 of the controller at any moment: its workers are adopted or gone, nothing is left over."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from runtime_bench import Bench, eventually

from understudy.core.ports import InstanceStatus

CONTROLLER = Path(__file__).with_name("doomed_controller.py")


def _family(bench: Bench) -> set[int]:
    """Find all that any worker of this bench started, by the scratch directory in its environment."""
    root = str(bench.directory / "run")
    found = set()
    for process in psutil.process_iter(["environ", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            home = (process.info["environ"] or {}).get("HOME", "")
            if home.startswith(root):
                found.add(process.pid)
    return found


@pytest.mark.parametrize("after_ms", [0, 5, 15, 30, 50, 70, 100, 150, 250, 400])
def test_a_killed_controller_leaves_no_orphan(bench: Bench, after_ms: int) -> None:
    bench.runtime.close()
    arguments = [sys.executable, str(CONTROLLER), str(bench.directory), str(bench.lifeline_read)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, pass_fds=(bench.lifeline_read,)) as controller:
        assert controller.stdout is not None
        assert controller.stdout.readline() == b"begin\n"
        time.sleep(after_ms / 1000)  # not to wait for anything, but to meet different moments
        controller.kill()
    bench.runtime = bench.new_runtime()

    def settled() -> bool:
        return all(
            state.status in (InstanceStatus.READY, InstanceStatus.FAILED) for state in bench.runtime.observe()
        )

    eventually(settled, "what was adopted got ready or failed")
    states = bench.runtime.observe()
    ready = [state for state in states if state.status is InstanceStatus.READY]
    for state in ready:
        assert bench.ask(state)["spec"]["instance_id"] == state.instance_id
    # Each ready one has its process and its child; nothing else of the killed controller runs.
    eventually(lambda: len(_family(bench)) == 2 * len(ready), "no orphan")
    for state in states:
        bench.runtime.stop(state.instance_id, 1.0)
    eventually(lambda: not bench.runtime.observe(), "all are forgotten")
    assert _family(bench) == set()
    assert list((bench.directory / "run" / "w").iterdir()) == []
