"""ONNX models through onnxruntime.

Owns the session, its inputs (one matrix, or one tensor a column) and outputs. Refuses other formats.

Main function: ``load_onnx``.

Requests are not put together by default: onnxruntime may sum a lone row in another order than many, and a
lone row costs it microseconds. ``UNDERSTUDY_BATCH=1`` puts them together where the first dimension is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .calls import Answer, Call, LoadFailure, Refusal, answer_each, describe, warm_up
from .codecs import NPY, decode_npy_array, decode_table, parse_media_type
from .loading import asked_batch, max_batch_rows
from .rendering import choose_accept, head_of, render_npy, render_rows
from .spec import Container
from .together import predict_together

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool",
}  # fmt: skip


def load_onnx(container: Container, vcpus: int) -> Any:
    """Open the artifact's one .onnx file.

    Raises:
        LoadFailure: none, several, or one that this onnxruntime refuses.
    """
    found = sorted(container.model_dir.rglob("*.onnx"))
    named = [path for path in found if path.name == "model.onnx"]
    if len(found) > 1 and len(named) == 1:
        found = named
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise LoadFailure(
            "exactly one .onnx file is wanted", f"Found: {names}. Name the one to serve model.onnx."
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise LoadFailure("onnxruntime is not installed", "Add onnxruntime to requirements.txt.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = vcpus
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(found[0]), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise LoadFailure(
            f"onnxruntime {onnxruntime.__version__} can't open {found[0].name}", describe(error)
        ) from error
    return OnnxHandler(session, container, f"{found[0].name}, onnxruntime {onnxruntime.__version__}")


class OnnxHandler:
    """A loaded session."""

    kind = "onnx"
    inline = False
    threads = 1

    def __init__(self, session: Any, container: Container, note: str) -> None:
        """Read inputs and outputs.

        Raises:
            LoadFailure: an input type that rows of numbers can't fill.
        """
        self._session = session
        self._inputs = session.get_inputs()
        self.note = note
        for one in self._inputs:
            if one.type not in _DTYPES:
                raise LoadFailure(
                    f"input {one.name} is {one.type}",
                    "Only tensors of numbers are served without an inference.py.",
                )
        asked = container.environment.get("UNDERSTUDY_PREDICT", "")
        names = [one.name for one in session.get_outputs()]
        if asked and asked not in names and asked != "predict":
            raise LoadFailure(f"no output {asked}", f"The model's outputs are {', '.join(names)}.")
        self._output = asked if asked in names else names[0]
        self._max_rows = max_batch_rows(container.environment)
        shape = self._inputs[0].shape
        free = len(self._inputs) == 1 and bool(shape) and not isinstance(shape[0], int)
        self.batch = free and asked_batch(container.environment) is True

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Answer calls, several with one run where that was asked for."""
        if self.batch and len(calls) > 1:
            return predict_together(
                calls, decode=self._decode, predict=self._run, render=self._render, max_rows=self._max_rows
            )
        return answer_each(calls, self._answer_one)

    def _answer_one(self, call: Call) -> Answer:
        return self._render(call, self._run(self._decode(call)))

    def warm_up(self) -> None:
        """Predict once before anybody asks, where the width of a row is known."""
        shape = self._inputs[0].shape
        width = shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None
        warm_up(self._answer_one, width if len(self._inputs) == 1 else len(self._inputs))

    def _decode(self, call: Call) -> Any:
        import numpy as np

        choose_accept(call.head.accept, "application/json")
        content_type = call.head.content_type or "application/json"
        if parse_media_type(content_type)[0] == NPY and call.body.strip():
            data = decode_npy_array(call.body)
            if getattr(data, "dtype", None) is None or data.dtype.kind not in "fiub" or data.ndim == 0:
                raise Refusal(400, "The .npy body does not hold rows of numbers.")
            return data
        table = decode_table(content_type, call.body, typecode="d")
        return np.frombuffer(table.values, dtype=np.float64).reshape(table.rows, table.columns)

    def _run(self, data: Any) -> Any:
        import numpy as np

        inputs = self._inputs
        if len(inputs) == 1:
            feed = {inputs[0].name: np.ascontiguousarray(data, dtype=_DTYPES[inputs[0].type])}
        else:
            if data.ndim != 2 or data.shape[1] != len(inputs):
                raise Refusal(
                    400, f"The request has shape {data.shape}; the model wants {len(inputs)} columns."
                )
            feed = {one.name: data[:, [at]].astype(_DTYPES[one.type]) for at, one in enumerate(inputs)}
        try:
            (result,) = self._session.run([self._output], feed)
        except Exception as error:
            # onnxruntime's exceptions share no base class; InvalidArgument is the caller's shape or type.
            if type(error).__name__ in ("InvalidArgument", "Fail") or isinstance(
                error, (ValueError, TypeError)
            ):
                raise Refusal(400, f"Unable to evaluate payload provided: {str(error)[:600]}") from error
            raise
        return result

    def _render(self, call: Call, prediction: Any) -> Answer:
        media = choose_accept(call.head.accept, "application/json")
        if hasattr(prediction, "tolist"):
            if media == NPY:
                return Answer(200, head_of(media), render_npy(prediction))
            prediction = prediction.tolist()
        return Answer(200, head_of(media), render_rows(prediction, media))

    def close(self) -> None:
        """Nothing to let go of."""
