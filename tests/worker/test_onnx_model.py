"""ONNX workers against onnxruntime's own answers."""

from __future__ import annotations

import json
import subprocess

import pytest

CONVERT = """
import json
import numpy as np, onnxruntime
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
X = np.random.default_rng(1).normal(size=(60, 3)).astype("float32")
model = LogisticRegression().fit(X, X[:, 0] > 0)
open("model.onnx", "wb").write(
    to_onnx(model, X[:1], options={id(model): {"zipmap": False}}).SerializeToString())
session = onnxruntime.InferenceSession("model.onnx")
name = session.get_inputs()[0].name
label, probability = session.run(None, {name: X[:4]})
alone = [session.run(None, {name: X[i:i+1]})[1].tolist()[0] for i in range(4)]
print(json.dumps({"rows": X[:4].tolist(), "label": label.tolist(), "probability": probability.tolist(),
                  "alone": alone, "names": [one.name for one in session.get_outputs()]}))
"""


@pytest.fixture
def converted(onnx_python, tmp_path):
    done = subprocess.run([onnx_python, "-c", CONVERT], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


def test_labels_and_probabilities_equal_onnxruntimes(
    converted, onnx_python, start_worker, make_container, tmp_path
):
    rows = json.dumps(converted["rows"]).encode()
    worker = start_worker(make_container(tmp_path, python=onnx_python))
    client = worker.client()
    assert json.loads(client.ask(rows, "application/json").body) == converted["label"]
    assert worker.status()["model"]["kind"] == "onnx"
    other = start_worker(
        make_container(
            tmp_path, python=onnx_python, environment={"UNDERSTUDY_PREDICT": converted["names"][1]}
        )
    ).client()
    assert json.loads(other.ask(rows, "application/json").body) == converted["probability"]
    for row, expected in zip(converted["rows"], converted["alone"], strict=True):
        assert json.loads(other.ask(",".join(map(repr, row)).encode()).body) == [expected]
    assert client.ask(b"1,2").status == 400
    assert client.ask(b"1,2,3").status == 200


def test_what_is_no_model_fails_the_load(onnx_python, start_worker, make_container, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"junk")
    status = start_worker(make_container(tmp_path, python=onnx_python), wait=False).wait_for(
        "failed", "ready"
    )
    assert "can't open model.onnx" in status["reason"]
