"""Two scikit-learn models of one real dataset, trained here and packed as SageMaker wants them.

Owns the demo's data and models, knows nothing of endpoints.  Main function: :func:`train`.
Source: the Wisconsin breast cancer dataset that scikit-learn ships (569 tumours, 30 features).
"""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HELD_OUT_FRACTION = 0.4
SEED = 7

INFERENCE = '''"""What the model server runs: one probability per row of CSV."""

import io
import os

import joblib
import numpy as np


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))


def input_fn(body, content_type):
    text = body if isinstance(body, str) else bytes(body).decode("utf-8")
    return np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)


def predict_fn(rows, model):
    return model.predict_proba(rows)[:, 1]


def output_fn(prediction, accept):
    return "\\n".join(repr(float(value)) for value in prediction), "text/csv"
'''


@dataclass(frozen=True)
class Trained:
    """What the demo deploys and sends.

    Attributes:
        artifacts: (what it is, path of its model.tar.gz), the older model first.
        rows: Held-out rows as CSV, without the label.
        labels: 1 malignant, 0 benign; one per row.
    """

    artifacts: tuple[tuple[str, Path], tuple[str, Path]]
    rows: list[str]
    labels: list[int]


@dataclass(frozen=True)
class Quality:
    """How good one variant's answers were; each between 0 and 1."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    auc: float


def train(folder: Path) -> Trained:
    """Train both models and write their archives into a folder.

    The older one is twenty small boosted trees, the newer one a scaled logistic regression.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, benign = load_breast_cancer(return_X_y=True)
    labels = 1 - benign  # the dataset counts benign as 1; the question is "malignant?"
    split = train_test_split(
        features, labels, test_size=HELD_OUT_FRACTION, random_state=SEED, stratify=labels
    )
    seen, held_out, seen_labels, held_out_labels = split
    boosting = GradientBoostingClassifier(n_estimators=20, max_depth=2, random_state=SEED)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    artifacts: list[tuple[str, Path]] = []
    for name, model in (("gradient boosting, 20 small trees", boosting), ("logistic regression", linear)):
        model.fit(seen, seen_labels)
        path = folder / f"model{len(artifacts) + 1}.tar.gz"
        _pack(model, path)
        artifacts.append((name, path))
    rows = [",".join(repr(float(value)) for value in row) for row in held_out]
    return Trained((artifacts[0], artifacts[1]), rows, [int(label) for label in held_out_labels])


def _pack(model: Any, path: Path) -> None:
    import joblib

    dumped = io.BytesIO()
    joblib.dump(model, dumped)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (
            ("model.joblib", dumped.getvalue()),
            ("code/inference.py", INFERENCE.encode()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def measure(labels: Sequence[int], scores: Sequence[float]) -> Quality:
    """Compute the five figures of an A/B test: accuracy, precision, recall, F1 (threshold 0.5) and ROC AUC.

    >>> measure([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9])
    Quality(accuracy=0.75, precision=0.6666666666666666, recall=1.0, f1=0.8, auc=1.0)
    """
    from sklearn import metrics

    said = [int(score >= 0.5) for score in scores]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _undefined_metric())  # a class that nobody predicted counts as 0
        return Quality(
            accuracy=float(metrics.accuracy_score(labels, said)),
            precision=float(metrics.precision_score(labels, said)),
            recall=float(metrics.recall_score(labels, said)),
            f1=float(metrics.f1_score(labels, said)),
            auc=float(metrics.roc_auc_score(labels, scores)),
        )


def _undefined_metric() -> type[Warning]:
    """Return scikit-learn's warning class for undefined figures."""
    from sklearn.exceptions import UndefinedMetricWarning

    category: type[Warning] = UndefinedMetricWarning
    return category
