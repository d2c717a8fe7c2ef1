"""Deploy and invoke with the unmodified SageMaker SDK v3 (sagemaker-core) under ``understudy exec``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parent / "programs" / "sdk_v3_walk.py"

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(600)]


def test_models_deploy_and_answer(
    server: Any, churn: Any, interpreter: Callable[[str], str], tmp_path: Path
) -> None:
    out = tmp_path / "seen.json"
    command = [sys.executable, "-m", "understudy.cli", "exec", "--data-dir", str(server.data_dir), "--"]
    command += [interpreter(".venv-sdk3"), str(PROGRAM), *map(str, churn.models), str(churn.rows), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(out.read_text())
    for variant in ("Variant1", "Variant2"):
        expected = [[variant, answer] for answer in churn.expected[variant][-20:]]
        assert [[name, answer.strip()] for name, answer in seen[f"to {variant}"]] == expected
    assert seen["listed"] == [seen["endpoint"]]
    assert seen["weights"] == [0.5, 0.5]
    assert seen["role"].startswith("arn:aws:iam::123456789012:role/")
