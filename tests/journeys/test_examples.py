"""The files in examples/, run as their first lines say, against a real server."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TESTED_ELSEWHERE = {"ab_walk.py", "shadow_walk.py", "rollout_walk.py"}
PATIENCE_S = 150

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]


def run(server: Any, place: Path, *command: str) -> str:
    bin_dir = Path(sys.executable).parent
    environment = {**server.environment, "PATH": f"{bin_dir}:{server.environment['PATH']}"}
    done = subprocess.run(
        command,
        env=environment,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_example_is_tested() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    here = {"sklearn_model.py", "pipeline.py", "streaming.py", "metric_math.py", "cli_walk.sh"}
    assert files == here | TESTED_ELSEWHERE
    for name in here:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 60, name


def test_a_scikit_learn_model(server: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = run(server, tmp_path, sys.executable, str(EXAMPLES / "sklearn_model.py")).splitlines()
    said = lines[2].partition(": ")[2]
    assert lines[1] == f"application/json: '{said}'"
    as_lines = "".join(f"{number}\\n" for number in said.strip("[]").split(", "))
    assert lines[0] == f"text/csv: '{as_lines}'"


def test_a_pipeline(server: Any, tmp_path: Path) -> None:
    assert run(server, tmp_path, sys.executable, str(EXAMPLES / "pipeline.py")).strip() == "[3.0, 7.5]"


def test_a_streamed_answer(server: Any, tmp_path: Path) -> None:
    lines = run(server, tmp_path, sys.executable, str(EXAMPLES / "streaming.py")).splitlines()
    assert [line.split(": ")[1].strip() for line in lines] == ["to", "be", "or", "not", "to", "be"]


def test_metric_math(server: Any, tmp_path: Path) -> None:
    lines = run(server, tmp_path, sys.executable, str(EXAMPLES / "metric_math.py")).splitlines()
    assert lines == ["percent returned: [10.0]", "orders kept: [18.0]", "p90 when busy: [8.0]"]


def test_the_walk_of_the_aws_cli(server: Any, tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    datasets, tree = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.tree")
    features, labels = datasets.load_iris(return_X_y=True)
    for number in ("1", "2"):
        model = tree.DecisionTreeClassifier(max_depth=int(number)).fit(features, labels)
        joblib.dump(model, tmp_path / "model.joblib")
        with tarfile.open(tmp_path / f"model{number}.tar.gz", "w:gz") as archive:
            archive.add(tmp_path / "model.joblib", "model.joblib")
    rows = "\n".join(",".join(map(str, row)) for row in features[:5])
    (tmp_path / "rows.csv").write_text(rows + "\n")
    script = [str(EXAMPLES / "cli_walk.sh"), "model1.tar.gz", "model2.tar.gz", "rows.csv"]
    lines = run(server, tmp_path, "sh", *script).splitlines()
    variants, answers = lines[0::2], lines[1::2]
    assert len(variants) == 5
    assert variants[2:] == ["Variant1", "Variant2", "Variant2"]
    assert answers == ["[0]"] * 5
    assert server.client("sagemaker").list_models()["Models"] == []


KINDS = ["canary", "linear", "rolling", "all-at-once"]


@pytest.fixture(scope="module")
def walks(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[str]]]:
    """The guarded rollouts of all kinds, side by side: most of their time is waits."""
    place = tmp_path_factory.mktemp("walks")
    walk = str(EXAMPLES / "rollout_walk.py")
    with (
        serving(place, "--time-scale", "20") as scaled,
        ThreadPoolExecutor(len(KINDS)) as pool,
    ):
        # Bakes of 6 s: four walks at once have to find the errors of a bad version within one.
        yield {kind: pool.submit(run, scaled, place, sys.executable, walk, kind, "120") for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_guarded_rollouts(walks: dict[str, Future[str]], kind: str) -> None:
    lines = walks[kind].result().splitlines()
    assert lines == ["good: good serves", "bad: good serves (rolled back)", "better: better serves"]
