"""scikit-learn workers against the estimators themselves."""

from __future__ import annotations

import io
import json

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from understudy.worker import sklearn_model, wire

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
    from understudy.worker.calls import Call

    calls = [
        Call(wire.RequestHead("text/csv"), "\n".join(",".join(map(str, row)) for row in rows).encode())
        for rows in bodies
    ]
    together = sklearn_model.EstimatorHandler(forest, note="", environment={"UNDERSTUDY_MAX_BATCH_ROWS": "7"})
    alone = sklearn_model.EstimatorHandler(forest, note="", environment={"UNDERSTUDY_BATCH": "0"})
    assert together.batch and not alone.batch
    assert together.answer(calls) == alone.answer(calls)
