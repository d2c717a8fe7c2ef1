"""The A/B walk with the unmodified SageMaker Python SDK v2 under ``understudy exec``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "programs" / "sdk_v2_walk.py"

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(600)]


def test_the_walk_of_awss_notebook_runs_unmodified(
    server: Any,
    churn: Any,
    check_walk: Callable[..., None],
    interpreter: Callable[[str], str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "seen.json"
    command = [sys.executable, "-m", "understudy.cli", "exec", "--data-dir", str(server.data_dir), "--"]
    command += [interpreter(".venv-sdk2"), str(PROGRAM), *map(str, churn.models), str(churn.rows), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(out.read_text())
    check_walk(seen, churn)
    assert seen["role"].startswith("arn:aws:iam::123456789012:role/")
    assert seen["bucket"] == "sagemaker-us-east-1-123456789012"
    assert [image.rpartition("/")[2] for image in seen["images"]] == [
        "sagemaker-xgboost:0.90-1-cpu-py3",
        "sagemaker-xgboost:0.90-2-cpu-py3",
    ]
    # The SDK tried to send no telemetry: it is opted out, not merely stopped at the door.
    assert "keeps AWS calls on this machine" not in done.stdout + done.stderr
