"""LocalRuntime with the real worker program: AWS's own churn model, asked over the wire."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime_bench import Bench, archive, make_spec

from understudy.core.models import Container
from understudy.core.ports import InstanceState, InstanceStatus
from understudy.runtimes.local import WORKER_MAIN
from understudy.worker import wire

REPOSITORY = Path(__file__).parents[2]
CHURN = REPOSITORY.parent / "shared" / "data" / "churn"
IMAGE = "683313688378.dkr.ecr.us-east-1.amazonaws.com/sagemaker-xgboost:0.90-1-cpu-py3"


# What XGBoost itself says, by its own Python interface.
ORACLE = """
import pickle, sys
import numpy, xgboost
booster = pickle.load(open(sys.argv[1], "rb"))
rows = [[float(x) for x in line.split(",")] for line in sys.stdin.read().split()]
rows = numpy.array(rows, dtype=numpy.float32)
for value in booster.predict(xgboost.DMatrix(rows), validate_features=False):
    print(repr(float(value)))
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    # One download for all runs: XGBoost's wheel has 136 MB.
    cache = os.environ.get("UV_CACHE_DIR", str(REPOSITORY / ".cache" / "uv"))
    made = Bench(tmp_path, WORKER_MAIN, UV_CACHE_DIR=cache)
    yield made
    made.close()


def invoke(bench: Bench, state: InstanceState, body: bytes, content_type: str = "text/csv") -> wire.Response:
    """Send one request over the worker's socket and wait for the answer."""
    with bench.connect(state.address) as connection:
        head = wire.encode_request_head(wire.RequestHead(content_type=content_type))
        connection.sendall(wire.encode_requests([(7, head, body)]))
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            more = connection.recv(65536)
            assert more, "the worker closed the connection"
            data += more
    assert data[4] == wire.RESPONSES
    [response] = wire.decode_responses(data[5:])
    assert response.request_id == 7
    return response


@pytest.mark.shared_data
def test_awss_churn_model_predicts(bench: Bench) -> None:
    source = CHURN / "models" / "xgb-churn-prediction-model.tar.gz"
    if not source.exists():
        pytest.skip("needs ../shared/data beside the checkout")
    (bench.files / "model.tar.gz").write_bytes(source.read_bytes())
    spec = make_spec(
        "churn/AllTraffic/f1/0-1",
        Container(IMAGE, f"file://{bench.files}/model.tar.gz"),
        startup_timeout_s=120,
        memory_bytes=8 * 1024**3,
    )
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, InstanceStatus.READY, InstanceStatus.FAILED, deadline_s=170)
    if "Could not install the packages" in state.reason:
        pytest.skip(f"XGBoost could not be installed here: {state.reason}")
    assert state.status is InstanceStatus.READY, state.reason
    [(image, resolved, _)] = state.images
    assert image == IMAGE
    assert resolved.startswith("xgboost:0.90-1 (python 3.") and resolved.endswith(", xgboost 0.90)")
    rows = (CHURN / "csv" / "test-dataset-input-cols.csv").read_text().split()[1:21]
    answers = [invoke(bench, state, row.encode()) for row in rows]
    assert [answer.status for answer in answers] == [200] * 20
    [python] = (bench.directory / "environments").glob("*/bin/python")
    [artifact] = (bench.directory / "artifacts").glob("*/xgboost-model")
    asked = subprocess.run(
        [str(python), "-c", ORACLE, str(artifact)],
        input="\n".join(rows),
        text=True,
        capture_output=True,
        check=True,
    )
    assert [bytes(answer.body).decode() for answer in answers] == asked.stdout.split()


def test_a_script_of_the_users_own_serves(bench: Bench) -> None:
    code = b"""
import json
def model_fn(model_dir):
    return open(model_dir + '/greeting.txt').read()
def input_fn(body, content_type):
    return json.loads(body)
def predict_fn(data, model):
    return {'said': model + ' ' + data['name']}
def output_fn(prediction, accept):
    return json.dumps(prediction), 'application/json'
"""
    files = {"greeting.txt": b"hello", "code/inference.py": code}
    bench.objects.put("models", "script.tar.gz", [archive(**files)])
    spec = make_spec("script/V/f1/0-1", Container("python", "s3://models/script.tar.gz"))
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, InstanceStatus.READY, InstanceStatus.FAILED)
    assert state.status is InstanceStatus.READY, state.reason
    response = invoke(bench, state, b'{"name": "world"}', "application/json")
    assert (response.status, bytes(response.body)) == (200, b'{"said": "hello world"}')


HUNGRY = b"""
held = []
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    if body == "spill":
        return str(len(bytearray(1 << 30))), "text/plain"
    if body == "keep":
        held.append(bytearray(64 << 20))
    return str(len(held)), "text/plain"
"""


def test_a_model_that_has_used_up_its_memory_is_replaced(bench: Bench) -> None:
    """One request that is too large is its own failure; what a model keeps is the end of its process."""
    bench.objects.put("models", "hungry.tar.gz", [archive(**{"code/inference.py": HUNGRY})])
    spec = make_spec(
        "hungry/V/f1/0-1", Container("python", "s3://models/hungry.tar.gz"), memory_bytes=768 << 20
    )
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, InstanceStatus.READY, InstanceStatus.FAILED)
    assert state.status is InstanceStatus.READY, state.reason
    for _ in range(5):
        response = invoke(bench, state, b"spill")
        assert (response.status, bytes(response.body)) == (500, b"MemoryError")
    assert invoke(bench, state, b"look").status == 200
    statuses = [200]
    while statuses[-1] == 200 and len(statuses) < 20:
        statuses.append(invoke(bench, state, b"keep").status)
    assert statuses[-1] == 500 and len(statuses) > 3, "who asked for too much hears of it"
    failed = bench.wait(spec.instance_id, InstanceStatus.FAILED)
    assert "out of memory" in failed.reason and "GiB are in use for good" in failed.reason


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (b"def model_fn(d):\n    return 1 +\n", "inference.py"),
        (b"import no_such_module_anywhere\n", "no_such_module_anywhere"),
        (b"def model_fn(d):\n    raise KeyError('weights')\n", "weights"),
        (b"import os\ndef model_fn(d):\n    os.kill(os.getpid(), 9)\n", "killed by signal 9"),
        (b"import os\ndef model_fn(d):\n    print('bye')\n    os._exit(5)", "exit code 5. Its log ends: bye"),
    ],
)  # fmt: skip
def test_a_script_that_does_not_load_says_where(bench: Bench, code: bytes, told: str) -> None:
    bench.objects.put("models", "bad.tar.gz", [archive(**{"code/inference.py": code})])
    spec = make_spec("bad/V/f1/0-1", Container("python", "s3://models/bad.tar.gz"))
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, InstanceStatus.READY, InstanceStatus.FAILED)
    assert state.status is InstanceStatus.FAILED
    assert told in state.reason


@pytest.mark.skipif(
    not WORKER_MAIN.with_name("pipeline.py").exists(), reason="this worker has no pipeline conductor"
)
def test_a_pipeline_passes_through(bench: Bench) -> None:
    code = b"""
def model_fn(d): return None
def input_fn(body, content_type): return body if isinstance(body, str) else body.decode()
def predict_fn(data, model): return data + '%s'
def output_fn(prediction, accept): return prediction, 'text/plain'
"""
    containers = []
    for name in ("a", "b"):
        bench.objects.put(
            "models", f"{name}.tar.gz", [archive(**{"code/inference.py": code % name.encode()})]
        )
        containers.append(Container("python", f"s3://models/{name}.tar.gz", hostname=name))
    spec = make_spec("pipe/V/f1/0-1", *containers)
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, InstanceStatus.READY, InstanceStatus.FAILED)
    assert state.status is InstanceStatus.READY, state.reason
    assert bytes(invoke(bench, state, b"x", "text/plain").body) == b"xab"
