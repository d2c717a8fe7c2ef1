"""The dashboard and the alert rules name metrics that exist, and Prometheus's own tool takes the rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
OPERATING = Path(__file__).parents[2] / "docs" / "guides" / "operating.md"


def told_metrics() -> set[str]:
    return set(re.findall(r"^\| `(understudy_\w+)` \|", OPERATING.read_text(encoding="utf-8"), re.MULTILINE))


def named(text: str) -> set[str]:
    return {name.removesuffix("_bucket") for name in re.findall(r"understudy_\w+", text)}


def find_promtool() -> str:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("promtool", path=places)
    if found is None:
        pytest.skip("needs promtool: run `make promtool`, or install Prometheus")
    return found


def test_the_dashboard_is_fresh() -> None:
    script = MONITORING / "make_dashboard.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dashboard_and_rules_name_metrics_that_exist() -> None:
    dashboard: dict[str, Any] = json.loads(
        (MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8")
    )
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    seen = named(" ".join(expressions)) | named(rules)
    assert len(expressions) >= 10 and seen <= told_metrics(), seen - told_metrics()


def test_promtool_takes_the_rules_and_they_fire() -> None:
    promtool = find_promtool()
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        done = subprocess.run([promtool, *command], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_parses_the_dashboards_expressions(tmp_path: Path) -> None:
    promtool = find_promtool()
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    filled = [
        one.replace("$__rate_interval", "1m").replace("$endpoint", ".*").replace("$variant", ".*")
        for one in expressions
    ]
    rules = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(filled)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
