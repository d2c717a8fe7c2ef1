"""Trains the benchmark's model and says what it answers: ``train.py ROWS.csv OUT_DIR`` (``-``: made rows).

100 trees of depth 5 on 69 columns of the shape of the churn data, always the same for the same XGBoost.
The expected answers come from ``Booster.predict`` over a DMatrix, not from the way that anybody serves.
"""

import json
import sys
from pathlib import Path

import numpy
import xgboost

SEED = 20260101
COLUMNS = 69
SENT_ROWS = 200


def made_rows():
    """Make rows like the churn data's: eleven figures, then states and yes/no columns as 0 and 1."""
    dice = numpy.random.default_rng(SEED)
    figures = dice.normal(100.0, 40.0, size=(2333, 11)).round(1)
    flags = (dice.random(size=(2333, COLUMNS - 11)) < 0.05).astype(float)
    features = numpy.hstack([figures, flags])
    score = (
        features[:, 2] * 0.03 + features[:, 4] * 0.02 - features[:, 9] * 0.01 + features[:, 11:16].sum(axis=1)
    )
    labels = (score + dice.normal(0.0, 1.0, size=len(score)) > numpy.quantile(score, 0.85)).astype(float)
    return labels, features


def main(source, folder):
    """Train, save and predict."""
    if source == "-":
        labels, features = made_rows()
    else:
        table = numpy.genfromtxt(source, delimiter=",", skip_header=1)
        labels, features = table[:, 0], table[:, 1:]
    if features.shape[1] != COLUMNS:
        raise SystemExit(f"{source}: {features.shape[1]} columns, expected {COLUMNS}")
    parameters = {"objective": "binary:logistic", "max_depth": 5, "eta": 0.2, "seed": SEED, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(features, label=labels), num_boost_round=100)
    booster.save_model(folder / "model.ubj")
    texts = [",".join(repr(float(value)) for value in row) for row in features[:SENT_ROWS]]
    sent = numpy.array([[float(value) for value in text.split(",")] for text in texts], dtype=numpy.float32)
    expected = [repr(float(value)) for value in booster.predict(xgboost.DMatrix(sent))]
    facts = {"xgboost": xgboost.__version__, "rows": texts, "expected": expected, "source": Path(source).name}
    (folder / "work.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
