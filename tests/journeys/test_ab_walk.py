"""The A/B walk with plain boto3 and nothing but the environment of ``understudy env``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WALK = Path(__file__).parents[2] / "examples" / "ab_walk.py"

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(600)]


def test_the_example_walks_with_real_predictions(
    server: Any, churn: Any, check_walk: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "seen.json"
    command = [sys.executable, str(WALK), *map(str, churn.models), str(churn.rows), "--json", str(out)]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    check_walk(json.loads(out.read_text()), churn)
    sagemaker = server.client("sagemaker")
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_models()["Models"] == []
