"""Estimators of scikit-learn's interface: files, inputs with or without column names, answers.

Owns joblib, pickle and skops artifacts and everything with a ``predict``. Refuses XGBoost boosters
(``xgboost_model``) and user scripts.

Main functions: ``load_estimator``; class ``EstimatorHandler``.

Default answer: application/json, a bare list, as the scikit-learn container answers when nothing is
accepted (also to .npy requests: its default does not depend on the request). CSV has a line a row.

Differs from AWS: numbers are float64 (the container rounds text to float32), one row is a 2-D array, and
so predictions equal ``estimator.predict`` on the same numbers.

Requests are batched only where a row's result can't depend on its neighbours in the last bit: trees and
row-wise transformers. BLAS may sum a lone row in another order than many, so linear models get their requests
one by one, unless ``UNDERSTUDY_BATCH=1`` accepts that.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .calls import Answer, Call, LoadFailure, Refusal, answer_each, describe, warm_up
from .codecs import (
    NPY,
    NotNumeric,
    decode_npy_array,
    decode_records,
    decode_table,
    field_value,
    parse_media_type,
)
from .rendering import choose_accept, head_of, render_npy, render_rows
from .spec import Container
from .together import predict_together

_PATTERNS = ("*.joblib", "*.skops", "*.pkl", "*.pickle", "*.sav")
_METHODS = ("predict", "predict_proba", "decision_function", "predict_log_proba", "transform")

# Per-row arithmetic only, so bits do not depend on how many rows come together.
_ROW_WISE = {
    "DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
    "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
    "HistGradientBoostingClassifier", "HistGradientBoostingRegressor", "GradientBoostingClassifier",
    "GradientBoostingRegressor", "DummyClassifier", "DummyRegressor", "StandardScaler", "MinMaxScaler",
    "MaxAbsScaler", "RobustScaler", "SimpleImputer", "OrdinalEncoder", "OneHotEncoder",
}  # fmt: skip


def load_estimator(container: Container, vcpus: int) -> Any:
    """Read the artifact's one estimator and build its handler.

    Raises:
        LoadFailure: no file, several, or one that can't be read here.
    """
    path = find_estimator(container.model_dir)
    loaded = read_estimator(path)
    note = f"{path.name}, {type(loaded).__module__.split('.')[0]} {type(loaded).__name__}"
    if type(loaded).__module__.startswith("xgboost") and type(loaded).__name__ == "Booster":
        import xgboost

        from .loading import max_batch_rows
        from .xgboost_model import XGBoostHandler
        from .xgboost_native import Predictor

        return XGBoostHandler(
            Predictor(loaded, xgboost, vcpus),
            note=note,
            joined_by_comma=False,
            for_batch_transform=False,
            max_batch_rows=max_batch_rows(container.environment),
        )
    return EstimatorHandler(loaded, note=note, environment=container.environment)


def find_estimator(model_dir: Path) -> Path:
    """Find the artifact's file: ``model.joblib`` first, then by ending.

    Raises:
        LoadFailure: none, or several.
    """
    if (model_dir / "model.joblib").is_file():
        return model_dir / "model.joblib"
    for pattern in _PATTERNS:
        found = sorted(model_dir.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise LoadFailure(
                "several model files",
                f"{', '.join(path.name for path in found)}: name the one to serve model.joblib.",
            )
    names = sorted(path.name for path in model_dir.iterdir())
    raise LoadFailure(
        "no scikit-learn model file",
        f"The artifact holds {', '.join(names) or 'nothing'}; expected model.joblib or one of "
        f"{', '.join(_PATTERNS)}.",
    )


def read_estimator(path: Path) -> Any:
    """Read joblib, pickle or skops (trusted types only).

    Raises:
        LoadFailure: with what is missing and what to do.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = _read(path)
        for warning in caught:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
        return loaded
    except ImportError as error:
        raise LoadFailure(
            f"{path.name} needs a package that is not installed",
            f"{describe(error)}. Add it to the model's requirements.txt, or use an image that has it.",
        ) from error
    except LoadFailure:
        raise
    except Exception as error:  # unpickling runs whatever the pickle says
        raise LoadFailure(
            f"{path.name} can't be read",
            f"{describe(error)[:600]}. Was it written by other versions of its libraries? Pin them in "
            "requirements.txt, or use the image that trained it.",
        ) from error


def _read(path: Path) -> Any:
    if path.suffix == ".skops":
        from skops.io import get_untrusted_types
        from skops.io import load as load_skops

        untrusted = get_untrusted_types(file=path)
        if untrusted:
            raise LoadFailure(
                f"{path.name} holds types that skops does not trust",
                f"{', '.join(map(str, untrusted))[:600]}. Serve it with a model_fn that trusts them by name.",
            )
        return load_skops(path, trusted=[])
    try:
        import joblib
    except ImportError:
        if path.suffix == ".joblib":
            raise
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - the artifact is the user's own code
    return joblib.load(path)


class EstimatorHandler:
    """Anything with ``predict(rows)``."""

    kind = "sklearn"
    inline = False
    threads = 1

    def __init__(
        self,
        estimator: Any,
        *,
        note: str,
        environment: Mapping[str, str],
        default_accept: str = "application/json",
    ) -> None:
        """Choose the method and whether requests may share a call.

        Raises:
            LoadFailure: the estimator lacks the method that the environment asks for.
        """
        from .loading import asked_batch, max_batch_rows

        name = (
            environment.get("UNDERSTUDY_PREDICT")
            or environment.get("SAGEMAKER_INFERENCE_OUTPUT")
            or "predict"
        )
        if name not in _METHODS or not callable(getattr(estimator, name, None)):
            able = [known for known in _METHODS if callable(getattr(estimator, known, None))]
            raise LoadFailure(
                f"{type(estimator).__name__} has no {name}",
                f"It has {', '.join(able) or 'no way to predict'}; set UNDERSTUDY_PREDICT accordingly.",
            )
        self._predict = getattr(estimator, name)
        self._default_accept = default_accept
        names = getattr(estimator, "feature_names_in_", None)
        self._names: list[str] | None = None if names is None else [str(column) for column in names]
        width = getattr(estimator, "n_features_in_", None)
        self._width = None if width is None else int(width)
        self._max_rows = max_batch_rows(environment)
        self._pandas = _pandas() if self._names is not None else None
        asked = asked_batch(environment)
        self.batch = is_row_wise(estimator) if asked is None else asked
        if name in ("predict_proba", "predict_log_proba") and _outputs_of(estimator) > 1:
            self.batch = False  # they come output by output, not row by row
        self.note = f"{note}.{name}"

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Answer calls, several with one prediction where that is bit-safe."""
        if self.batch and len(calls) > 1:
            return predict_together(
                calls,
                decode=self._decode,
                predict=self._run,
                render=self._render,
                max_rows=self._max_rows,
            )
        return answer_each(calls, self._answer_one)

    def _answer_one(self, call: Call) -> Answer:
        return self._render(call, self._run(self._decode(call)))

    def warm_up(self) -> None:
        """Predict once before anybody asks."""
        warm_up(self._answer_one, self._width)

    def _decode(self, call: Call) -> Any:
        choose_accept(call.head.accept, self._default_accept)  # 406 before any work
        content_type = call.head.content_type
        import numpy as np

        if parse_media_type(content_type)[0] == NPY and call.body.strip():
            data = decode_npy_array(call.body)
            if getattr(data, "dtype", None) is None or data.dtype.kind not in "fiub":
                raise Refusal(
                    400, f"The .npy body holds {getattr(data, 'dtype', 'an archive')}, not numbers."
                )
            if data.ndim == 1:
                data = data.reshape(1, -1)
        else:
            try:
                table = decode_table(
                    content_type or "application/json", call.body, typecode="d", columns=self._width
                )
            except NotNumeric:
                if self._pandas is None:
                    raise
                return self._frame_of_records(decode_records(content_type or "application/json", call.body))
            data = np.frombuffer(table.values, dtype=np.float64).reshape(table.rows, table.columns)
        if data.ndim != 2 or data.shape[0] == 0:
            raise Refusal(400, f"The request has shape {data.shape}: rows by columns are wanted.")
        self._check_width(data.shape[1])
        if self._pandas is not None:
            return self._pandas.DataFrame(data, columns=self._names)
        return data

    def _check_width(self, width: int) -> None:
        if self._width is not None and width != self._width:
            raise Refusal(400, f"The request has {width} columns; the model wants {self._width}.")

    def _frame_of_records(self, records: list[Any]) -> Any:
        """Build a DataFrame from rows with texts: lists in the model's order, or objects by name."""
        assert self._pandas is not None and self._names is not None
        names = self._names
        rows = []
        for number, record in enumerate(records, 1):
            if isinstance(record, dict):
                missing = [name for name in names if name not in record]
                if missing:
                    raise Refusal(400, f"Row {number} lacks {', '.join(missing)[:300]}.")
                rows.append([field_value(record[name]) for name in names])
            elif isinstance(record, list):
                if number == 1 and record == names:
                    continue  # a header line that is exactly the model's own
                if len(record) != len(names):
                    raise Refusal(
                        400, f"Row {number} has {len(record)} columns; the model wants {len(names)}."
                    )
                rows.append([field_value(value) for value in record])
            else:
                raise Refusal(400, f"Row {number} is neither a list nor an object.")
        if not rows:
            raise Refusal(400, "The request has no rows.")
        return self._pandas.DataFrame(rows, columns=names)

    def _run(self, data: Any) -> Any:
        import numpy as np

        rows = data if self._names is None or self._pandas is not None else np.asarray(data)
        try:
            with warnings.catch_warnings():
                if self._names is not None and self._pandas is None:
                    warnings.filterwarnings("ignore", message="X does not have valid feature names")
                prediction = self._predict(rows)
        except (ValueError, TypeError) as error:
            # scikit-learn says so of rows that it can't take: NaN, infinity, unknown categories, texts.
            raise Refusal(400, f"Unable to evaluate payload provided: {str(error)[:600]}") from error
        if isinstance(prediction, list) and prediction and all(getattr(one, "ndim", 0) for one in prediction):
            return tuple(prediction)  # an array for each output: nothing that may be split by rows
        if hasattr(prediction, "toarray"):
            prediction = prediction.toarray()  # sparse
        return np.asarray(prediction)

    def _render(self, call: Call, prediction: Any) -> Answer:
        import numpy as np

        media = choose_accept(call.head.accept, self._default_accept)
        if isinstance(prediction, tuple):
            if media != NPY:
                parts = [_plain(one.tolist()) for one in prediction]
                return Answer(200, head_of(media), render_rows(parts, media))
            if len({one.shape for one in prediction}) > 1:  # of different numbers of classes
                raise Refusal(406, "This answer has no plain .npy form: ask for application/json.")
            prediction = np.asarray(prediction)
        if media == NPY:
            return Answer(200, head_of(media), render_npy(prediction))
        return Answer(200, head_of(media), render_rows(_plain(prediction.tolist()), media))

    def close(self) -> None:
        """Nothing to let go of."""


def _plain(rows: list[Any]) -> list[Any]:
    """JSON has no NaN: a missing prediction is null."""
    return [_plain(one) if isinstance(one, list) else None if one != one else one for one in rows]


def _outputs_of(estimator: Any) -> int:
    """How many columns the last step predicts."""
    steps = getattr(estimator, "steps", None)
    return int(getattr(steps[-1][1] if steps else estimator, "n_outputs_", 1))


def is_row_wise(estimator: Any) -> bool:
    """Whether each row's result has the same bits alone and among others."""
    name = type(estimator).__name__
    library = type(estimator).__module__.partition(".")[0]
    if library == "xgboost":  # its trees; the C API that serves bare boosters has the same bits
        return name.startswith(("XGBClassifier", "XGBRegressor", "XGBRanker", "XGBRF")) and (
            getattr(estimator, "booster", None) in (None, "gbtree")
        )
    if library != "sklearn":
        return False
    if name in ("DummyClassifier", "DummyRegressor"):  # these draw, by the number of rows
        return getattr(estimator, "strategy", "") not in ("stratified", "uniform")
    if name == "Pipeline":
        return all(step in (None, "passthrough") or is_row_wise(step) for _, step in estimator.steps)
    if name == "ColumnTransformer":
        parts = [part for _, part, _ in getattr(estimator, "transformers_", [])]
        return bool(parts) and all(part in ("drop", "passthrough") or is_row_wise(part) for part in parts)
    return name in _ROW_WISE


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        return None
    return pandas
