"""XGBoost's C API, called without the Python wrapper's checks: a lone row costs half.

Owns the choice of C functions for the version at hand and the proof, at load time, that they give the bits
of ``Booster.predict``. Refuses requests and files.

Main class: ``Predictor``.

Sources: xgboost c_api.h of 0.90 (XGDMatrixCreateFromMat, XGBoosterPredict), 1.0 (``training`` argument),
1.4 (XGBoosterPredictFromDMatrix) and 1.5 (XGBoosterPredictFromDense).
"""

from __future__ import annotations

import array
import ctypes
import inspect
import json
import math
from typing import Any

_SMALL_ROWS = 2048  # from here on a second thread earns its start
_NAN = float("nan")
_MAX_INTERFACES = 1024


class NativeError(RuntimeError):
    """XGBoost refused; the text is its own."""


class Predictor:
    """Predicts float32 rows with one booster.

    Attributes:
        mode: ``dense`` (1.5 on), ``dmatrix`` (1.4 on), ``classic`` (before) or ``python`` (its own wrapper).
        columns: The model's width, or None where it does not tell.
        refuses_infinity: Whether this XGBoost does so itself when it builds a DMatrix.
    """

    def __init__(self, booster: Any, xgboost: Any, threads: int) -> None:
        """Choose the way, prove it on probe rows, else fall back to the Python API."""
        self._booster = booster
        self._xgboost = xgboost
        self._threads = max(1, threads)
        self._current_threads = 0
        self.columns = number_of_features(booster)
        self._handle = booster.handle
        self._iterations, self._tree_limit = _best_iterations(booster)
        # An object of our own: argument types set on it do not disturb xgboost's.
        self._lib = ctypes.CDLL(xgboost.core._LIB._name)
        self._lib.XGBGetLastError.restype = ctypes.c_char_p
        self._config = json.dumps(
            {
                "type": 0,
                "training": False,
                "iteration_begin": 0,
                "iteration_end": self._iterations,
                "missing": _NAN,
                "strict_shape": False,
                "cache_id": 0,
            }
        ).encode()
        self._has_training = "training" in inspect.signature(booster.predict).parameters
        self._length = ctypes.c_uint64()
        self._shape = ctypes.POINTER(ctypes.c_uint64)()
        self._out = ctypes.POINTER(ctypes.c_float)()
        self._matrix = ctypes.c_void_p()
        self._refs = [
            ctypes.byref(self._length),
            ctypes.byref(self._shape),
            ctypes.byref(self._out),
            ctypes.byref(self._matrix),
        ]
        self._proxy = ctypes.c_void_p()
        self._address = 0
        self._interfaces: dict[int, bytes] = {}  # by number of rows, of the memory at that address
        self._declare()
        self._use_threads(1)
        self.mode = self._prove()
        self.refuses_infinity = self._probe_infinity()

    def predict(self, values: array.array[float], rows: int, columns: int) -> list[float]:
        """Predict; several outputs of a row follow each other.

        Args:
            values: ``array('f')``, row-major, at least ``rows * columns`` long; NaN is missing.
        Raises:
            NativeError: XGBoost's own refusal.
        """
        self._use_threads(1 if rows < _SMALL_ROWS else self._threads)
        if self.mode == "dense" and columns == self.columns:
            return self._predict_dense(values, rows, columns)
        if self.mode == "python":
            return self._predict_python(values, rows, columns)
        return self._predict_matrix(values, rows, columns)

    def _predict_dense(self, values: array.array[float], rows: int, columns: int) -> list[float]:
        address = values.buffer_info()[0]
        # Who fills the same memory again spares us to describe it again.
        if address != self._address or len(self._interfaces) > _MAX_INTERFACES:
            self._address = address
            self._interfaces.clear()
        interface = self._interfaces.get(rows)
        if interface is None:
            interface = self._interfaces[rows] = (
                b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}' % (address, rows, columns)
            )
        length, shape, out, _ = self._refs
        code = self._predict_from_dense(
            self._handle, interface, self._config, self._proxy, shape, length, out
        )
        if code != 0:
            self._check(code)
        return self._shaped_result()

    def _predict_matrix(self, values: array.array[float], rows: int, columns: int) -> list[float]:
        length, shape, out, matrix = self._refs
        lib = self._lib
        self._check(lib.XGDMatrixCreateFromMat(values.buffer_info()[0], rows, columns, _NAN, matrix))
        try:
            if self.mode == "classic":
                if self._has_training:
                    code = lib.XGBoosterPredict(
                        self._handle, self._matrix, 0, self._tree_limit, 0, length, out
                    )
                else:
                    code = lib.XGBoosterPredict(self._handle, self._matrix, 0, self._tree_limit, length, out)
                self._check(code)
                return self._out[: self._length.value]
            self._check(
                lib.XGBoosterPredictFromDMatrix(self._handle, self._matrix, self._config, shape, length, out)
            )
            return self._shaped_result()
        finally:
            lib.XGDMatrixFree(self._matrix)

    def _predict_python(self, values: array.array[float], rows: int, columns: int) -> list[float]:
        import numpy as np

        data = np.frombuffer(values, dtype=np.float32, count=rows * columns).reshape(rows, columns)
        try:
            matrix = self._xgboost.DMatrix(data)
            limits: dict[str, Any] = {}
            if self._tree_limit or self._iterations:
                if "iteration_range" in inspect.signature(self._booster.predict).parameters:
                    limits["iteration_range"] = (0, self._iterations)
                else:
                    limits["ntree_limit"] = self._tree_limit
            prediction = self._booster.predict(matrix, validate_features=False, **limits)
        except (self._xgboost.core.XGBoostError, ValueError) as error:
            raise NativeError(_first_line(str(error))) from None
        result: list[float] = prediction.ravel().tolist()
        return result

    def _shaped_result(self) -> list[float]:
        count = 1
        for dimension in self._shape[: self._length.value]:
            count *= dimension
        return self._out[:count]

    def _check(self, code: int) -> None:
        if code != 0:
            raise NativeError(_first_line(self._lib.XGBGetLastError().decode("utf-8", "replace")))

    def _use_threads(self, threads: int) -> None:
        if threads != self._current_threads:
            self._booster.set_param({"nthread": threads})
            self._current_threads = threads

    def _declare(self) -> None:
        lib, pointer, integer = self._lib, ctypes.c_void_p, ctypes.c_uint64
        lib.XGDMatrixCreateFromMat.argtypes = [pointer, integer, integer, ctypes.c_float, pointer]
        lib.XGDMatrixFree.argtypes = [pointer]
        classic: list[Any] = [pointer, pointer, ctypes.c_int, ctypes.c_uint]
        if self._has_training:
            classic.append(ctypes.c_int)
        lib.XGBoosterPredict.argtypes = [*classic, pointer, pointer]
        if hasattr(lib, "XGBoosterPredictFromDMatrix"):
            lib.XGBoosterPredictFromDMatrix.argtypes = [
                pointer, pointer, ctypes.c_char_p, pointer, pointer, pointer,
            ]  # fmt: skip
        if hasattr(lib, "XGBoosterPredictFromDense"):
            self._predict_from_dense = lib.XGBoosterPredictFromDense
            lib.XGBoosterPredictFromDense.argtypes = [
                pointer, ctypes.c_char_p, ctypes.c_char_p, pointer, pointer, pointer, pointer,
            ]  # fmt: skip
        if hasattr(lib, "XGProxyDMatrixCreate"):
            # Kept from call to call: making one anew is a quarter of a lone row's time.
            lib.XGProxyDMatrixCreate.argtypes = [pointer]
            self._check(lib.XGProxyDMatrixCreate(ctypes.byref(self._proxy)))

    def _prove(self) -> str:
        """Find the cheapest way whose bits are those of ``Booster.predict`` on probe rows."""
        columns = self.columns
        if columns is None:
            return "python"
        rows = 4
        probe = array.array("f", [_NAN] * columns + [0.0] * columns + [1.0] * columns)
        probe.extend((-1) ** at * 1.7**at % 977 for at in range(columns))
        self.mode = "python"
        try:
            expected = self._predict_python(probe, rows, columns)
        except NativeError:
            return "python"
        candidates = ["classic"]
        if hasattr(self._lib, "XGBoosterPredictFromDMatrix"):
            candidates = ["dmatrix"]
        if hasattr(self._lib, "XGBoosterPredictFromDense"):
            candidates.insert(0, "dense")
        for mode in candidates:
            self.mode = mode
            try:
                # The first row once more, alone: nothing of one call may stay for the next.
                found = self.predict(probe, rows, columns) + self.predict(probe[:columns], 1, columns)
                wanted = expected + expected[: len(expected) // rows]
                if array.array("f", found).tobytes() == array.array("f", wanted).tobytes():
                    return mode
            except NativeError:
                continue
        return "python"

    def _probe_infinity(self) -> bool:
        if self.columns is None:
            return False
        matrix = ctypes.c_void_p()
        values = array.array("f", [math.inf])
        code = self._lib.XGDMatrixCreateFromMat(values.buffer_info()[0], 1, 1, _NAN, ctypes.byref(matrix))
        if code == 0:
            self._lib.XGDMatrixFree(matrix)
        return bool(code != 0)


def _first_line(text: str) -> str:
    """Cut XGBoost's C++ stack trace off its message."""
    for line in text.splitlines():
        if line.strip():
            return line.strip()[:400]
    return "XGBoost refused without a message"


def number_of_features(booster: Any) -> int | None:
    """Ask a booster of any version how wide its rows are."""
    asked = getattr(booster, "num_features", None)
    if asked is not None:
        return int(asked())
    if booster.feature_names:
        return len(booster.feature_names)
    raw = bytes(booster.save_raw())
    if raw[:4] == b"binf":
        raw = raw[4:]
    # LearnerModelParam of the binary format begins: float base_score, unsigned num_feature (0.x and 1.x).
    count = int.from_bytes(raw[4:8], "little")
    return count if 0 < count < 1 << 24 else None


def _best_iterations(booster: Any) -> tuple[int, int]:
    """Read early stopping's result as (iterations, trees); 0 means all, as in XGBoost's container.

    The container predicts with ``ntree_limit=booster.best_ntree_limit`` where training stopped early.
    """
    best = booster.attr("best_iteration")
    if best is None:
        return 0, 0
    iterations = int(best) + 1
    trees = booster.attr("best_ntree_limit")
    return iterations, iterations if trees is None else int(trees)
