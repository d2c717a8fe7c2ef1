"""The demo's models are real: trained here, packed as SageMaker wants them, answering as they should."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path
from typing import Any

import numpy
import pytest

from understudy.demo.models import HELD_OUT_FRACTION, Quality, Trained, measure, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("models"))


def test_both_models_beat_guessing_on_rows_they_have_not_seen(trained: Trained, tmp_path: Path) -> None:
    assert len(trained.rows) == len(trained.labels) == round(569 * HELD_OUT_FRACTION)
    for number, (_, path) in enumerate(trained.artifacts):
        handlers, model = unpack(path, tmp_path / str(number))
        rows = handlers.input_fn("\n".join(trained.rows).encode(), "text/csv")
        scores = handlers.predict_fn(rows, model)
        quality = measure(trained.labels, list(scores))
        assert min(quality.accuracy, quality.f1, quality.auc) > 0.85


def test_the_handlers_answer_one_probability_per_row(trained: Trained, tmp_path: Path) -> None:
    handlers, model = unpack(trained.artifacts[0][1], tmp_path)
    one = handlers.predict_fn(handlers.input_fn(trained.rows[0], "text/csv"), model)
    body, content_type = handlers.output_fn(one, "text/csv")
    assert content_type == "text/csv"
    row = numpy.array([[float(cell) for cell in trained.rows[0].split(",")]])
    assert float(body) == float(model.predict_proba(row)[0, 1])


def test_figures() -> None:
    assert measure([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9]) == Quality(0.75, 2 / 3, 1.0, 0.8, 1.0)
    assert measure([0, 1], [0.1, 0.2]).precision == 0.0  # nobody said "malignant": no warning, a zero


def unpack(path: Path, folder: Path) -> tuple[Any, Any]:
    with tarfile.open(path) as archive:
        assert sorted(archive.getnames()) == ["code/inference.py", "model.joblib"]
        archive.extractall(folder, filter="data")
    spec = importlib.util.spec_from_file_location("demo_inference", folder / "code" / "inference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, module.model_fn(str(folder))
