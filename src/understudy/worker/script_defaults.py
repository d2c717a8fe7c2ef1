"""What happens where a script lacks a function: only what is sound, else an error that names the function.

Owns default model loading, decoding, prediction and encoding for scripts, and reading what scripts return.

Main functions: ``default_model``, ``default_input``, ``default_prediction``, ``default_output``,
``body_and_type``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from .calls import LoadFailure, Refusal
from .codecs import (
    CSV,
    JSON,
    JSON_LINES,
    LIBSVM,
    NPY,
    decode_json,
    decode_npy_array,
    decode_table,
    parse_media_type,
)
from .rendering import OFFERED, choose_accept, render_npy, render_rows
from .spec import Container


def default_model(container: Container, script: str) -> Any:
    """Load the artifact when the script has no ``model_fn``.

    Raises:
        LoadFailure: the artifact has no form that loads without code.
    """
    names = sorted(path.name for path in container.model_dir.iterdir() if path.is_file())
    image = container.image.lower()
    if "xgboost-model" in names or ("xgboost" in image and names):
        import xgboost

        from .xgboost_files import find_artifact, load_booster

        return load_booster(find_artifact(container.model_dir), xgboost)[0]
    if any(name.endswith((".joblib", ".skops", ".pkl", ".pickle")) for name in names):
        from .sklearn_model import find_estimator, read_estimator

        return read_estimator(find_estimator(container.model_dir))
    torch_files = [name for name in names if name.endswith((".pt", ".pth"))]
    if torch_files:
        return _torch_script(container, torch_files, script)
    raise LoadFailure(
        f"{script} lacks model_fn",
        f"The artifact holds {', '.join(names) or 'no files'}, which no default loads: define "
        "model_fn(model_dir) that returns the model.",
    )


def _torch_script(container: Container, names: list[str], script: str) -> Any:
    if len(names) > 1 and "model.pth" not in names and "model.pt" not in names:
        raise LoadFailure("several model files", f"{', '.join(names)}: name the one to serve model.pth.")
    name = next((one for one in ("model.pth", "model.pt") if one in names), names[0])
    import torch

    try:
        model = torch.jit.load(str(container.model_dir / name), map_location="cpu")
    except RuntimeError as error:
        raise LoadFailure(
            f"{script} lacks model_fn",
            f"{name} is not TorchScript ({str(error).splitlines()[0][:200]}); weights alone say nothing "
            "of the network: define model_fn(model_dir) that builds it and loads them.",
        ) from error
    return model.eval()


def default_input(body: bytes, content_type: str) -> Any:
    """Decode to a numpy array, as the toolkits' default input_fn; rows are always 2-D for CSV.

    JSON that is not a regular array of numbers stays what it is: lists and dictionaries.  Where the model's
    environment has no numpy, rows are lists too.

    Raises:
        Refusal: 415 for a type without a default, 400 for a body that is not of its type.
    """
    np = _numpy()
    media = parse_media_type(content_type or JSON)[0]
    if not body.strip():
        raise Refusal(400, "The request body is empty: send at least one row.")
    if media == NPY:
        if np is None:
            raise Refusal(415, f"{NPY} needs numpy in the model's environment: add it to requirements.txt.")
        return decode_npy_array(body)
    if media in (CSV, LIBSVM):
        table = decode_table(content_type, body, typecode="d")
        if np is None:
            values, width = table.values.tolist(), table.columns
            return [values[at : at + width] for at in range(0, len(values), width)]
        return np.frombuffer(table.values, dtype=np.float64).reshape(table.rows, table.columns)
    if media in (JSON, JSON_LINES):
        value = decode_json(media, body)
        if isinstance(value, dict) and isinstance(value.get("instances"), list):
            value = value["instances"]
        if isinstance(value, list) and np is not None:
            try:
                array = np.array(value)
            except ValueError:
                return value
            if array.dtype.kind in "fiub":
                return array
        return value
    raise Refusal(
        415, f"Content type {content_type} needs an input_fn; without one, send {', '.join(OFFERED)}."
    )


def _numpy() -> Any:
    """Give numpy, or None in an environment whose requirements do not name it."""
    try:
        import numpy
    except ModuleNotFoundError:
        return None
    return numpy


def default_prediction(data: Any, model: Any) -> Any:
    """Call the model the way its library is called.

    Raises:
        Refusal: 500, no way is known; the text names predict_fn.
    """
    library = type(model).__module__.split(".")[0]
    if library == "xgboost" and type(model).__name__ == "Booster":
        import numpy as np
        import xgboost

        return model.predict(xgboost.DMatrix(np.atleast_2d(np.asarray(data))), validate_features=False)
    if hasattr(model, "predict"):
        return model.predict(data)
    if hasattr(model, "state_dict") and callable(model):
        import torch

        with torch.no_grad():
            return model(torch.as_tensor(data, dtype=torch.float32))
    raise Refusal(500, f"A {type(model).__name__} has no predict: define predict_fn(data, model).")


def default_output(prediction: Any, accept: str, default: str) -> tuple[bytes, str]:
    """Render arrays, tensors, frames, lists and dictionaries in the form accepted.

    Raises:
        Refusal: 406 for a form that is not offered; 500 for what has no form.
    """
    media = choose_accept(accept, default)
    if hasattr(prediction, "detach"):
        prediction = prediction.detach().cpu().numpy()
    if isinstance(prediction, (bytes, bytearray, str)):
        return piece_bytes(prediction), media
    if media == NPY:
        import numpy as np

        return render_npy(np.asarray(prediction)), media
    plain = prediction.tolist() if hasattr(prediction, "tolist") else prediction
    if hasattr(plain, "values") and hasattr(plain, "columns"):
        plain = plain.values.tolist()
    try:
        if media == JSON:
            return json.dumps(plain, default=_plain).encode(), media
        return render_rows(plain if isinstance(plain, list) else [plain], media), media
    except TypeError as error:
        raise Refusal(
            500, f"The prediction can't be rendered as {media}: {error}; define output_fn."
        ) from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def body_and_type(result: Any, accept: str) -> tuple[int, bytes | Iterable[Any], str, str]:
    """Read what a script returned: bare, ``(body, content_type)`` or a Response object.

    Returns:
        Status, body (an iterable where it is to be streamed), content type, custom attributes.
    """
    status, attributes = 200, ""
    content_type = accept.partition(",")[0].strip() or JSON
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], str):
        body, content_type = result
    elif hasattr(result, "response") or callable(getattr(result, "get_data", None)):
        body = result.get_data() if callable(getattr(result, "get_data", None)) else result.response
        content_type = (
            getattr(result, "content_type", None) or getattr(result, "mimetype", None) or content_type
        )
        status = int(getattr(result, "status_code", None) or getattr(result, "status", None) or 200)
        headers = getattr(result, "headers", None)
        if headers is not None and hasattr(headers, "get"):
            attributes = headers.get("X-Amzn-SageMaker-Custom-Attributes") or ""
    else:
        body = result
    if isinstance(body, Iterator):
        return status, body, content_type, attributes
    if not isinstance(body, (bytes, bytearray, memoryview, str)):
        if hasattr(body, "dtype") and parse_media_type(content_type)[0] == NPY:
            return status, render_npy(body), content_type, attributes
        body = json.dumps(body, default=_plain)
    return status, piece_bytes(body), content_type, attributes


def piece_bytes(piece: Any) -> bytes:
    """Turn one piece of an answer into bytes; anything but text and bytes becomes a JSON line."""
    if isinstance(piece, str):
        return piece.encode("utf-8")
    if isinstance(piece, (bytes, bytearray, memoryview)):
        return bytes(piece)
    return (json.dumps(piece, default=_plain) + "\n").encode()
