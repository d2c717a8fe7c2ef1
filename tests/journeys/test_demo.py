"""``understudy demo`` from start to end: its own server, real models, a clean exit."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(600)]


def demo(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "understudy.cli", "demo", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)


def test_it_tells_its_story_and_leaves_nothing(tmp_path: Path) -> None:
    done = demo(cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout  # plain where nobody looks at a terminal
    for variant in ("Variant1", "Variant2"):
        figures = re.search(rf"^ *{variant} +(.*)$", done.stdout, re.MULTILINE)
        assert figures is not None
        count, *others = map(float, figures[1].split())
        assert count >= 228
        assert len(others) == 7
        assert min(others[2:]) > 0.8
    assert re.search(r"weights 0/1: Variant1 0 \(0%\), Variant2 228 \(100%\)", done.stdout)
    assert "0 failed; Variant2 is the only variant now" in done.stdout
    code = done.stdout.partition("for copying:")[2].partition("Done in")[0]
    ast.parse(code)
    assert "sm.create_endpoint(" in code
    assert list(tmp_path.iterdir()) == []


def test_kept_it_goes_on_serving_until_it_is_told_to_stop(tmp_path: Path) -> None:
    done = demo("--keep", cwd=tmp_path)
    pid = re.search(r"kill (\d+)", done.stdout)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        assert pid is not None
        status = subprocess.run(
            [sys.executable, "-m", "understudy.cli", "status"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert status.returncode == 0, status.stderr
        assert "InService" in status.stdout
        assert "100.0%" in status.stdout
    finally:
        if pid is not None:
            process = psutil.Process(int(pid[1]))
            process.send_signal(signal.SIGTERM)
            process.wait(60)
