"""The soak of capture, a short one: every kind of harm once, and every request accounted for to the unit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]


def soak(*options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak_capture", "--once", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["problems"] == [], done.stdout
    assert done.returncode == 0
    return report


def test_every_request_is_accounted_for_whatever_dies() -> None:
    report = soak("--requests", "10000", "--rate", "1500", "--every", "0.5")
    assert {"router", "controller", "worker", "shadow", "everything", "restart"} <= report["harm"].keys()
    assert report["sent"] >= 10000
    assert report["lines of live"] > 0 and report["mirrored"] > 0


def test_durable_capture_loses_no_record_of_an_answer() -> None:
    report = soak("--durable", "--requests", "3000", "--rate", "800", "--every", "0.4")
    assert report["acknowledged without a record"] == 0
    assert report["acknowledged"] > 0
