"""Seed 002's story with plain boto3 and nothing but the environment of ``understudy env``."""

from __future__ import annotations

import json
import subprocess
import sys
from math import comb
from pathlib import Path
from typing import Any

import pytest

WALK = Path(__file__).parents[2] / "examples" / "shadow_walk.py"
SENT = 3000

pytestmark = [pytest.mark.journey, pytest.mark.shared_data, pytest.mark.timeout(900)]


def fits(hits: int, trials: int, share: float) -> bool:
    """Exact two-sided binomial p > 1e-6; for one half it needs no floats."""
    assert share == 0.5
    weights = [comb(trials, k) for k in range(trials + 1)]
    return 10**6 * sum(weight for weight in weights if weight <= weights[hits]) > 2**trials


def test_the_example_walks_both_scenarios(server: Any, churn: Any, tmp_path: Path) -> None:
    out = tmp_path / "seen.json"
    command = [sys.executable, str(WALK), *map(str, churn.models), str(churn.rows), "--json", str(out)]
    command += ["--requests", str(SENT)]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr + server.log.read_text()[-4000:]
    seen = json.loads(out.read_text())
    old, new = churn.expected["Variant1"], churn.expected["Variant2"]

    assert seen["shadow variants"] == ["shadow"]
    check_answers(seen["shadowed"], SENT, "production", old)
    metrics = seen["metrics"]
    assert metrics["Invocations"]["production"] == SENT
    copies = metrics["Invocations"]["shadow"]
    assert fits(round(copies), SENT, 0.5), copies
    # Invocations over instances of each variant: 2 and 1.
    assert metrics["InvocationsPerInstance"]["production"] == pytest.approx(SENT / 2)
    assert metrics["InvocationsPerInstance"]["shadow"] == pytest.approx(copies)
    for who in ("production", "shadow"):
        assert metrics["Invocation4XXErrors"][who] == metrics["Invocation5XXErrors"][who] == 0
        assert metrics["ModelLatency"][who] > 0 and metrics["OverheadLatency"][who] > 0

    assert seen["after promotion"] == ["shadow"] and seen["shadows after promotion"] == []
    check_answers(seen["promoted"], 20, "shadow", new)

    assert seen["test days"] == 7
    check_answers(seen["managed"], 50, "shadow", new)
    rows = churn.rows.read_text().splitlines()
    for who, answers in (("shadow", new), ("old", old)):
        found = [(rows.index(asked.strip()), said.strip()) for asked, said in seen["captured"][who]]
        assert sorted(row for row, _ in found) == sorted(number // 10 for number in range(50))
        assert all(said == answers[row] for row, said in found), who
    assert seen["test ended"] == ["Completed", "It was not."]
    assert seen["test variants"] == {"shadow": "Deleted", "old": "InService"}
    assert seen["after the test"] == [["old", 2]]
    check_answers(seen["after"], 20, "old", old)

    sagemaker = server.client("sagemaker")
    assert sagemaker.list_endpoints()["Endpoints"] == []
    assert sagemaker.list_endpoint_configs()["EndpointConfigs"] == []
    assert sagemaker.list_models()["Models"] == []
    assert sagemaker.list_inference_experiments()["InferenceExperiments"] == []


def check_answers(answers: list[list[str]], sent: int, variant: str, expected: list[str]) -> None:
    """Every request answered by that variant, with what XGBoost itself says for its row."""
    assert len(answers) == sent
    for number, (who, said) in enumerate(answers):
        row = number // 10 % len(expected)
        assert (who, said.strip()) == (variant, expected[row]), number
