"""XGBoost workers against XGBoost's own answers, in environments of several versions."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.worker import wire

IMAGE_090 = "246618743249.dkr.ecr.us-west-2.amazonaws.com/xgboost:0.90-1-cpu-py3"
CSV = wire.RequestHead(content_type="text/csv")
MODEL = "xgb-churn-prediction-model.tar.gz"

# Run by the environment's own interpreter: what XGBoost's Python API says of rows on stdin.
ORACLE = """
import json, pickle, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, xgboost
path = sys.argv[1]
try:
    booster = pickle.load(open(path, "rb"))
except Exception:
    booster = xgboost.Booster(model_file=path)
rows = [[float(x) if x else float("nan") for x in line.split(",")] for line in sys.stdin.read().split()]
out = []
for row in rows:
    matrix = xgboost.DMatrix(np.array([row], dtype="float32"))
    out.append(booster.predict(matrix, validate_features=False).ravel().tolist())
together = booster.predict(xgboost.DMatrix(np.array(rows, dtype="float32")), validate_features=False)
assert together.reshape(len(rows), -1).tolist() == out, "XGBoost itself differs between one row and many"
print(json.dumps([[repr(x) for x in row] for row in out]))
"""


def oracle(python: str, path: Path, rows: list[bytes]) -> list[list[str]]:
    done = subprocess.run(
        [python, "-c", ORACLE, str(path)],
        input=b"\n".join(rows),
        capture_output=True,
        check=True,
        timeout=120,
    )
    return list(json.loads(done.stdout))


TRAIN = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, xgboost
rng = np.random.RandomState(7)
X = rng.rand(400, 8).astype("float32"); X[rng.rand(400, 8) < 0.1] = np.nan
y = (np.nan_to_num(X)[:, 0] * 3).astype(int) % 3
for number, objective in enumerate(sys.argv[2:]):
    params = {"objective": objective, "max_depth": 4}
    if objective.startswith("multi"): params["num_class"] = 3
    label = (y if objective.startswith("multi") else y > 0).astype("float32")
    booster = xgboost.train(params, xgboost.DMatrix(X, label=label), 20)
    for name in sys.argv[1].split(","):
        booster.save_model(f"{number}/{name}")
"""
OBJECTIVES = ["binary:logistic", "reg:squarederror", "multi:softprob"]


@pytest.fixture(scope="session")
def trained(xgboost_python, tmp_path_factory):
    """Small models of 8 features, trained once per environment; returns a directory with one file."""

    @functools.cache
    def train(version: str) -> Path:
        directory = tmp_path_factory.mktemp("trained")
        for number in range(len(OBJECTIVES)):
            (directory / str(number)).mkdir()
        names = "xgboost-model" if version == "0.90" else "model.json,model.ubj"
        subprocess.run(
            [xgboost_python(version), "-c", TRAIN, names, *OBJECTIVES], check=True, timeout=120,
            capture_output=True, cwd=directory,
        )  # fmt: skip
        return directory

    def give(version: str, objective: str, name: str) -> Path:
        directory = tmp_path_factory.mktemp("model")
        shutil.copy(train(version) / str(OBJECTIVES.index(objective)) / name, directory)
        return directory

    return give


@pytest.mark.shared_data
@pytest.mark.parametrize("model", [MODEL, "xgb-churn-prediction-model2.tar.gz"])
def test_churn_models_answer_what_xgboost_090_says(
    model, start_worker, make_container, xgboost_python, churn_model, churn_rows
):
    python, directory = xgboost_python("0.90"), churn_model(model)
    worker = start_worker(make_container(directory, python=python, image=IMAGE_090))
    expected = oracle(python, directory / "xgboost-model", churn_rows)
    client = worker.client()
    alone = [client.ask(row) for row in churn_rows[:40]]
    assert [one.body.decode() for one in alone] == [row[0] for row in expected[:40]]
    assert {one.status for one in alone} == {200}
    assert wire.decode_response_head(alone[0].head).content_type == "text/csv; charset=utf-8"
    together = client.collect(client.send(*[(CSV, row) for row in churn_rows]))
    assert [one.body.decode() for one in together] == [row[0] for row in expected]
    many = client.ask(b"\n".join(churn_rows))
    assert many.body.decode() == ",".join(row[0] for row in expected)
    status = worker.status()
    assert status["batch"] is True and status["model"]["kind"] == "xgboost"
    assert "classic" in status["model"]["note"]


@pytest.mark.shared_data
def test_an_old_pickle_is_rescued_by_xgboost_17(
    start_worker, make_container, xgboost_python, churn_model, churn_rows
):
    directory = churn_model(MODEL)
    worker = start_worker(make_container(directory, python=xgboost_python("1.7.6")))
    expected = oracle(xgboost_python("0.90"), directory / "xgboost-model", churn_rows[:50])
    client = worker.client()
    answer = client.ask(b"\n".join(churn_rows[:50]))
    assert answer.body.decode() == "\n".join(row[0] for row in expected)
    assert "another version's pickle" in worker.status()["model"]["note"]


@pytest.mark.shared_data
def test_an_old_pickle_that_can_not_be_rescued_says_which_image(
    start_worker, make_container, xgboost_python, churn_model
):
    worker = start_worker(make_container(churn_model(MODEL), python=xgboost_python("3.2.0")), wait=False)
    status = worker.wait_for("failed", "ready")
    assert status["state"] == "failed"
    assert "pickled by another XGBoost" in status["reason"]
    assert "0.90-1" in status["detail"]
    assert worker.process.wait(30) == 1


@pytest.mark.shared_data
def test_as_on_aws_an_old_image_comes_up_and_fails_each_request(
    start_worker, make_container, xgboost_python, churn_model, churn_rows
):
    worker = start_worker(
        make_container(
            churn_model(MODEL),
            python=xgboost_python("3.2.0"),
            image=IMAGE_090.replace("0.90-1", "1.2-1"),
            environment={"UNDERSTUDY_AWS_PICKLES": "1"},
        )
    )
    answer = worker.client().ask(churn_rows[0])
    assert answer.status == 500 and answer.body.startswith(b"Unable to load model: ")


ROWS = [
    b"0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8",
    b",0.2,,0.4,0.5,,0.7,",
    b"1e-3,nan,3.,.4,+5,-0,7,8E0",
    b"0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2\n",
]


@pytest.mark.parametrize("version", ["0.90", "1.7.6", "3.2.0"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_trained_models_answer_what_their_xgboost_says(
    version, objective, trained, start_worker, make_container, xgboost_python
):
    name = "xgboost-model" if version == "0.90" else "model.json"
    directory, python = trained(version, objective, name), xgboost_python(version)
    worker = start_worker(make_container(directory, python=python, image=f"x/sagemaker-xgboost:{version}-1"))
    expected = oracle(python, directory / name, ROWS)
    client = worker.client()
    old = version == "0.90"

    def shown(row: list[str]) -> str:
        return row[0] if len(row) == 1 else f"[{', '.join(row)}]" if old else ",".join(row)

    assert [client.ask(row).body.decode() for row in ROWS] == [shown(row) for row in expected]
    everything = client.ask(b"\n".join(row.strip() for row in ROWS))
    assert everything.body.decode() == (",", "\n")[not old].join(map(shown, expected))
    scores = [float(row[0]) if len(row) == 1 else list(map(float, row)) for row in expected]
    answer = client.ask(b"\n".join(row.strip() for row in ROWS), accept="application/json")
    assert json.loads(answer.body) == {"predictions": [{"score": score} for score in scores]}
    lines = client.ask(b"\n".join(row.strip() for row in ROWS), accept="application/jsonlines")
    assert [json.loads(line) for line in lines.body.splitlines()] == [{"score": score} for score in scores]
    assert worker.status()["model"]["note"].endswith(", classic" if old else ", dense")


@pytest.mark.parametrize("version", ["0.90", "3.2.0"])
def test_all_request_forms_agree(version, trained, start_worker, make_container, xgboost_python):
    import io

    import numpy as np

    name = "xgboost-model" if version == "0.90" else "model.ubj"
    directory = trained(version, "binary:logistic", name)
    client = start_worker(make_container(directory, python=xgboost_python(version))).client()
    want = client.ask(b"0.5,,0.25,1,2,3,4,5")
    assert want.status == 200
    npy = io.BytesIO()
    np.save(npy, np.array([[0.5, np.nan, 0.25, 1, 2, 3, 4, 5]]))
    for content_type, body in [
        ("application/json", b'{"instances": [{"features": [0.5, null, 0.25, 1, 2, 3, 4, 5]}]}'),
        ("application/json", b"[0.5, null, 0.25, 1, 2, 3, 4, 5]"),
        ("application/jsonlines", b'{"features": [0.5, null, 0.25, 1, 2, 3, 4, 5]}\n'),
        ("application/x-npy", npy.getvalue()),
        ("text/libsvm", b"0 0:0.5 2:0.25 3:1 4:2 5:3 6:4 7:5"),
        ("text/x-libsvm", b"0:0.5 2:0.25 3:1 4:2 5:3 6:4 7:5\n"),
        ("text/csv; label_size=1", b"9,0.5,,0.25,1,2,3,4,5"),
        ("text/csv; charset=utf-8", b"\n0.5,,0.25,1,2,3,4,5\r\n"),
        ("text/csv", b"0.5\tnan\t0.25\t1\t2\t3\t4\t5"),
        ("", b"0.5,,0.25,1,2,3,4,5"),
    ]:
        answer = client.ask(body, content_type=content_type)
        assert (answer.status, answer.body) == (200, want.body), (content_type, answer)
    back = client.ask(b"0.5,,0.25,1,2,3,4,5", accept="application/x-npy")
    assert repr(float(np.load(io.BytesIO(back.body))[0])) == want.body.decode()


HOSTILE = [
    (b"", "text/csv", 400, "empty"),
    (b"   \n", "text/csv", 400, "empty"),
    (b"a,b,c,d,e,f,g,h", "text/csv", 400, "row 1, column 1: 'a'"),
    (b"1,2,3,4,5,6,7,8\n1,2,x,4,5,6,7,8", "text/csv", 400, "row 2, column 3: 'x'"),
    (b"1,2,3,4,5,6,7,8\n1,2", "text/csv", 400, "row 2 has 2 columns"),
    (b"1,2,3", "text/csv", 400, "not consistent with feature size of trained model 8"),
    (b"1,2,3,4,5,6,7,8,9", "text/csv", 400, "inference data 9"),
    (b"1_0,2,3,4,5,6,7,8", "text/csv", 400, "column 1: '1_0'"),
    (b"\xff\xfe\x00,1,2,3,4,5,6,7", "text/csv", 400, "is not a number"),
    (b"1," * 100_000, "text/csv", 400, "100001"),
    (b"{", "application/json", 400, "line 1, column 2"),
    (b"[" * 200_000, "application/json", 400, "Not JSON"),
    (b'[["a",2,3,4,5,6,7,8]]', "application/json", 400, "column 1"),
    (b"[]", "application/json", 400, "no rows"),
    (b'{"instances": {"a": 1}}', "application/json", 400, "Row 1"),
    (b"\x80", "application/json", 400, "UTF-8"),
    (b"1" * 5000, "application/json", 400, "Not JSON"),
    (b'{"a": 1}\n[1,2', "application/jsonlines", 400, "line 2"),
    (b"\x93NUMPY\x01\x00", "application/x-npy", 400, ".npy"),
    (b"PK\x03\x04junk", "application/x-npy", 400, ".npy"),
    (b"0 1:1 99999999:2", "text/libsvm", 400, "larger than feature size"),
    (b"0 1:1 x:2", "text/libsvm", 400, "'x:2'"),
    (b"abc", "application/x-recordio-protobuf", 415, "not supported"),
    (b"<a/>", "application/xml", 415, "application/xml"),
]


def test_hostile_bodies_are_refused_and_never_kill(trained, start_worker, make_container, xgboost_python):
    directory = trained("3.2.0", "binary:logistic", "model.json")
    worker = start_worker(make_container(directory, python=xgboost_python("3.2.0")))
    client = worker.client()
    good = client.ask(ROWS[0])
    requests = [(wire.RequestHead(content_type=content_type), body) for body, content_type, _, _ in HOSTILE]
    mixed = [part for request in requests for part in (request, (CSV, ROWS[0]))]
    answers = client.collect(client.send(*mixed))
    for (_, _, status, text), answer in zip(HOSTILE, answers[::2], strict=True):
        assert answer.status == status and text in answer.body.decode(), answer
    assert {(one.status, one.body) for one in answers[1::2]} == {(200, good.body)}
    for (body, content_type, status, _), (head, _) in zip(HOSTILE, requests, strict=True):
        assert client.ask(body, content_type=head.content_type).status == status, (body[:50], content_type)
    assert client.ask(ROWS[0], accept="application/xml").status == 406
    infinite = client.ask(b"1e39,2,3,4,5,6,7,8")
    assert infinite.status == 400 and b"Row 1, column 1" in infinite.body
    client.ping()


def test_batch_transform_puts_each_prediction_on_its_line(
    trained, start_worker, make_container, xgboost_python
):
    directory = trained("0.90", "binary:logistic", "xgboost-model")
    client = start_worker(
        make_container(
            directory, python=xgboost_python("0.90"), image=IMAGE_090, environment={"SAGEMAKER_BATCH": "true"}
        )
    ).client()
    answer = client.ask(ROWS[0] + b"\n" + ROWS[1])
    assert answer.body.endswith(b"\n") and answer.body.count(b"\n") == 2
    assert client.ask(ROWS[0]).body == answer.body.splitlines(keepends=True)[0]


ESTIMATOR = """
import pickle
import numpy as np, xgboost
X = np.arange(40.0).reshape(20, 2)
model = xgboost.XGBClassifier(n_estimators=3).fit(X, X[:, 0] > 20)
pickle.dump(model, open("model.pkl", "wb"))
print(model.predict(X[::9]).tolist())
"""


@pytest.fixture(scope="module")
def estimator(xgboost_python, tmp_path_factory):
    """A pickled estimator's directory, and what it says itself."""
    directory = tmp_path_factory.mktemp("estimator")
    command = [xgboost_python("3.2.0"), "-c", ESTIMATOR]
    done = subprocess.run(command, cwd=directory, capture_output=True, check=True)
    return directory, json.loads(done.stdout)


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_a_pickled_estimator_of_the_scikit_learn_interface_predicts_labels(
    method, start_worker, make_container, xgboost_python, estimator
):
    directory, expected = estimator
    worker = start_worker(
        make_container(
            directory,
            python=xgboost_python("3.2.0"),
            image="x/xgboost:3.2-1",
            environment={"UNDERSTUDY_PREDICT": "predict_proba"} if method == "predict_proba" else {},
        )
    )
    client = worker.client()
    answer = client.ask(b"0,1\n18,19\n36,37", accept="application/json")
    if method == "predict":
        assert json.loads(answer.body) == expected
    # Its requests are put together: trees do not see who else is there.
    assert worker.status()["batch"] is True
    bodies = [b"%d,%d" % (2 * at, 2 * at + 1) for at in range(20)] + [b"x,1", b"1,2,3"]
    together = client.collect(client.send(*[(CSV, body) for body in bodies]))
    assert [one[1:] for one in together] == [client.ask(body)[1:] for body in bodies]
    assert [one.status for one in together] == [200] * 20 + [400] * 2


CELL = st.one_of(
    st.floats(width=32).map(repr),
    st.just(""),
    st.sampled_from(["x", "1e39", "-inf", "nan", "1_0", "+.5", "7"]),
)
BODY = st.lists(st.lists(CELL, min_size=7, max_size=9).map(",".join), max_size=4).map("\n".join)
GOOD_BODY = st.lists(
    st.lists(st.floats(0, 1, width=32).map(repr), min_size=8, max_size=8).map(",".join),
    min_size=1,
    max_size=4,
).map("\n".join)


@pytest.fixture(scope="module", params=["0.90", "3.2.0"])
def client_of_small_batches(request, trained, xgboost_python, make_container, start_module_worker):
    name = "xgboost-model" if request.param == "0.90" else "model.json"
    return start_module_worker(
        make_container(
            trained(request.param, "binary:logistic", name),
            python=xgboost_python(request.param),
            environment={"UNDERSTUDY_MAX_BATCH_ROWS": "5"},
        )
    ).client()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=st.lists(st.one_of(GOOD_BODY, BODY), min_size=1, max_size=20))
def test_batched_equals_unbatched_bit_for_bit(bodies, client_of_small_batches):
    client = client_of_small_batches
    together = client.collect(client.send(*[(CSV, body.encode()) for body in bodies]))
    alone = [client.ask(body.encode()) for body in bodies]
    assert [one[1:] for one in together] == [one[1:] for one in alone]
