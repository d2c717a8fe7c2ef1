"""scikit-learn workers against the estimators themselves."""

from __future__ import annotations

import io
import json
import subprocess

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from understudy.worker import sklearn_model, wire
from understudy.worker.calls import Call
from understudy.worker.loading import LoadFailure

X = np.random.default_rng(3).normal(size=(80, 4))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


def csv(rows) -> bytes:
    return "\n".join(",".join(map(repr, row)) for row in np.asarray(rows).tolist()).encode()


def test_predictions_equal_the_estimators_in_every_form(start_worker, make_container, tmp_path):
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    joblib.dump(model, tmp_path / "model.joblib")
    worker = start_worker(make_container(tmp_path))
    client = worker.client()
    expected = model.predict(X[:5]).tolist()
    npy = io.BytesIO()
    np.save(npy, X[:5])
    for content_type, body in [
        ("text/csv", csv(X[:5])),
        ("application/json", json.dumps(X[:5].tolist()).encode()),
        ("application/json", json.dumps({"instances": X[:5].tolist()}).encode()),
        ("application/x-npy", npy.getvalue()),
    ]:
        answer = client.ask(body, content_type=content_type)
        assert answer.status == 200 and json.loads(answer.body) == expected
        assert wire.decode_response_head(answer.head).content_type == "application/json"
    assert client.ask(csv(X[:5]), accept="text/csv").body == "".join(f"{one}\n" for one in expected).encode()
    back = np.load(
        io.BytesIO(client.ask(npy.getvalue(), "application/x-npy", accept="application/x-npy").body)
    )
    assert back.tolist() == expected
    assert worker.status()["batch"] is False  # a linear model: BLAS may sum one row otherwise than many


def test_probabilities_on_request(start_worker, make_container, tmp_path):
    model = LogisticRegression().fit(X, Y)
    joblib.dump(model, tmp_path / "m.joblib")
    client = start_worker(
        make_container(tmp_path, environment={"UNDERSTUDY_PREDICT": "predict_proba"})
    ).client()
    for row in X[:10]:
        assert json.loads(client.ask(csv([row])).body) == model.predict_proba([row]).tolist()


def test_refusals_are_the_callers(start_worker, make_container, tmp_path):
    joblib.dump(LogisticRegression().fit(X, Y), tmp_path / "m.pkl")
    client = start_worker(make_container(tmp_path)).client()
    for body, status, text in [
        (b"1,2,3", 400, "wants 4"),
        (b"1,2,3,", 400, "NaN"),
        (b"a,b,c,d", 400, "row 1, column 1"),
        (b"", 400, "empty"),
    ]:
        answer = client.ask(body)
        assert answer.status == status and text in answer.body.decode(), answer
    assert client.ask(b"1,2,3,4", "image/png").status == 415
    assert client.ask(b"1,2,3,4", accept="image/png").status == 406
    assert client.ask(b"1,2,3,4").status == 200


def test_a_method_that_the_estimator_lacks_fails_the_load(start_worker, make_container, tmp_path):
    joblib.dump(RandomForestRegressor(2).fit(X, Y), tmp_path / "m.joblib")
    worker = start_worker(
        make_container(tmp_path, environment={"UNDERSTUDY_PREDICT": "predict_proba"}), wait=False
    )
    status = worker.wait_for("failed", "ready")
    assert status["reason"] == "RandomForestRegressor has no predict_proba"


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04."])
def test_an_unreadable_file_fails_the_load(content, start_worker, make_container, tmp_path):
    (tmp_path / "model.joblib").write_bytes(content)
    status = start_worker(make_container(tmp_path), wait=False).wait_for("failed", "ready")
    assert status["state"] == "failed" and "model.joblib can't be read" in status["reason"]


def test_which_estimators_are_row_wise():
    assert sklearn_model.is_row_wise(make_pipeline(StandardScaler(), RandomForestClassifier()))
    assert not sklearn_model.is_row_wise(make_pipeline(StandardScaler(), LogisticRegression()))
    assert not sklearn_model.is_row_wise(object())
    assert sklearn_model.is_row_wise(DummyClassifier(strategy="prior"))
    assert not sklearn_model.is_row_wise(DummyClassifier(strategy="stratified"))  # it draws
    for booster, row_wise in ((None, True), ("gbtree", True), ("gblinear", False), ("dart", False)):
        boosted = type("XGBRegressor", (), {"__module__": "xgboost.sklearn", "booster": booster})
        assert sklearn_model.is_row_wise(boosted()) is row_wise


@pytest.fixture(scope="module")
def forest():
    return make_pipeline(StandardScaler(), RandomForestRegressor(20, random_state=1)).fit(X, X[:, 0] ** 2)


CELLS = st.one_of(st.floats(-1e6, 1e6), st.just("x"), st.just(""))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bodies=st.lists(
        st.lists(st.lists(CELLS, min_size=3, max_size=4), min_size=0, max_size=4), min_size=1, max_size=12
    )
)
def test_batched_equals_unbatched_bit_for_bit(bodies, forest):
    calls = [
        Call(wire.RequestHead("text/csv"), "\n".join(",".join(map(str, row)) for row in rows).encode())
        for rows in bodies
    ]
    together = sklearn_model.EstimatorHandler(forest, note="", environment={"UNDERSTUDY_MAX_BATCH_ROWS": "7"})
    alone = sklearn_model.EstimatorHandler(forest, note="", environment={"UNDERSTUDY_BATCH": "0"})
    assert together.batch and not alone.batch
    assert together.answer(calls) == alone.answer(calls)


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("method", ["predict", "predict_proba", "predict_log_proba"])
@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("batch", ["", "1"])
@pytest.mark.parametrize("second", [Y, (X[:, 1] > 0) * 2 + (X[:, 2] > 0)], ids=["as many classes", "more"])
def test_several_outputs_are_each_requests_own(method, piped, batch, second):
    # Two outputs, two requests of a row each: what comes output by output must not be cut row by row.
    model = RandomForestClassifier(5, random_state=1).fit(X, np.stack([Y, second], axis=1))
    if piped:
        model = make_pipeline(StandardScaler(), model).fit(X, np.stack([Y, second], axis=1))
    environment = {"UNDERSTUDY_PREDICT": method}
    alone = sklearn_model.EstimatorHandler(
        model, note="", environment=environment | {"UNDERSTUDY_BATCH": "0"}
    )
    together = sklearn_model.EstimatorHandler(
        model, note="", environment=environment | {"UNDERSTUDY_BATCH": batch}
    )
    for accept in ("application/json", "text/csv", "application/x-npy"):
        calls = [Call(wire.RequestHead("text/csv", accept), csv(X[row : row + 1])) for row in (0, 1)]
        answers = together.answer(calls)
        assert answers == alone.answer(calls)
        if accept == "application/json":
            expected = getattr(model, method)(X[:1])
            rendered = [one.tolist() for one in expected]
            assert json.loads(answers[0].body) == rendered and answers[0].status == 200


def test_nonsense_in_the_environment_fails_the_load(start_worker, make_container, tmp_path, forest):
    joblib.dump(RandomForestRegressor(2).fit(X, Y), tmp_path / "m.joblib")
    worker = start_worker(make_container(tmp_path, environment={"UNDERSTUDY_BATCH": "maybe"}), wait=False)
    assert worker.wait_for("failed", "ready")["reason"] == "UNDERSTUDY_BATCH=maybe is neither 0 nor 1"
    for asked in ("2", "-1"):
        with pytest.raises(LoadFailure, match=f"UNDERSTUDY_BATCH={asked} is neither 0 nor 1"):
            sklearn_model.EstimatorHandler(forest, note="", environment={"UNDERSTUDY_BATCH": asked})


TRAIN_NAMED = """
import json, joblib, pandas, skops.io
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor
X = pandas.DataFrame({"plan": ["a", "b", "a", "c"], "minutes": [1.0, 2.5, 3.0, 4.0]})
columns = ColumnTransformer([("plan", OneHotEncoder(handle_unknown="ignore"), ["plan"]),
                             ("minutes", StandardScaler(), ["minutes"])])
model = make_pipeline(columns, DecisionTreeRegressor(random_state=0)).fit(X, [1.0, 2.0, 3.0, 4.0])
joblib.dump(model, "text/model.joblib")
numbers = DecisionTreeRegressor(random_state=0).fit(X[["minutes"]], [1.0, 2.0, 3.0, 4.0])
joblib.dump(numbers, "numbers/model.joblib")
skops.io.dump(numbers, "untrusted/model.skops")
line = LinearRegression().fit(X[["minutes"]], X["minutes"])
skops.io.dump(line, "skops/model.skops")
print(json.dumps(line.predict(X[["minutes"]]).tolist()))
"""


@pytest.fixture(scope="module")
def named_models(sklearn_python, tmp_path_factory):
    directory = tmp_path_factory.mktemp("named")
    for name in ("text", "numbers", "skops", "untrusted"):
        (directory / name).mkdir()
    command = [sklearn_python, "-c", TRAIN_NAMED]
    done = subprocess.run(command, cwd=directory, check=True, timeout=120, capture_output=True)
    (directory / "line.json").write_bytes(done.stdout)
    return directory


def test_columns_with_texts_and_names(named_models, sklearn_python, start_worker, make_container):
    worker = start_worker(make_container(named_models / "text", python=sklearn_python))
    client = worker.client()
    for content_type, body in [
        ("text/csv", b"a,1.0\nb,2.5\nc,4\n"),
        ("text/csv", b"plan,minutes\na,1.0\nb,2.5\nc,4\n"),
        ("application/json", b'{"instances": [["a", 1.0], ["b", 2.5], ["c", 4]]}'),
        (
            "application/json",
            b'[{"minutes": 1, "plan": "a"}, {"plan": "b", "minutes": 2.5}, {"plan": "c", "minutes": 4}]',
        ),
        ("application/jsonlines", b'["a", 1.0]\n["b", 2.5]\n["c", 4]\n'),
    ]:
        answer = client.ask(body, content_type)
        assert (answer.status, answer.body) == (200, b"[1.0, 2.0, 4.0]"), (body, answer)
    for body, text in [
        (b"a,1,2", "3 columns"),
        (b'[{"plan": "a"}]', "lacks minutes"),
        (b"a,b", "could not convert"),
    ]:
        answer = client.ask(body, "application/json" if body[:1] == b"[" else "text/csv")
        assert answer.status == 400 and text in answer.body.decode(), answer
    assert worker.status()["batch"] is True
    head = wire.RequestHead("text/csv")
    mixed = client.collect(client.send(*[(head, body) for body in (b"a,1", b"x", b"b,2.5", b"c,4\na,3")]))
    assert [one.body for one in mixed if one.status == 200] == [b"[1.0]", b"[2.0]", b"[4.0, 3.0]"]


def test_named_numeric_columns_give_no_warning(named_models, sklearn_python, start_worker, make_container):
    worker = start_worker(make_container(named_models / "numbers", python=sklearn_python))
    assert worker.client().ask(b"2.5\n4").body == b"[2.0, 4.0]"
    assert "Warning" not in worker.log()


def test_skops_files_load_where_all_their_types_are_trusted(
    named_models, sklearn_python, start_worker, make_container
):
    worker = start_worker(make_container(named_models / "skops", python=sklearn_python))
    expected = json.loads((named_models / "line.json").read_text())
    assert json.loads(worker.client().ask(b"1\n2.5\n3\n4").body) == expected
    refused = start_worker(make_container(named_models / "untrusted", python=sklearn_python), wait=False)
    status = refused.wait_for("failed", "ready")
    assert status["state"] == "failed" and "sklearn.tree._tree.Tree" in status["detail"]


class _Counted:
    """An estimator that notes what it is asked, or can't take numbers."""

    n_features_in_ = 3

    def __init__(self, error: Exception | None = None) -> None:
        self.rows: list[list[float]] = []
        self.error = error

    def predict(self, rows):
        self.rows += np.asarray(rows).tolist()
        if self.error is not None:
            raise self.error
        return np.zeros(len(rows))


def test_a_model_predicts_once_before_anybody_asks(capsys):
    model = _Counted()
    sklearn_model.EstimatorHandler(model, note="", environment={}).warm_up()
    assert model.rows == [[0.0, 0.0, 0.0]]
    assert capsys.readouterr().err == ""


def test_a_model_that_takes_no_zeros_is_served_all_the_same(capsys):
    for error in (ValueError("unknown category 0"), KeyError("plan")):
        sklearn_model.EstimatorHandler(_Counted(error), note="", environment={}).warm_up()
        assert "warming up on a row of zeros" in capsys.readouterr().err
