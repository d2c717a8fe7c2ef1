"""AWS JSON 1.0 and 1.1, and the bodies of REST-JSON.

Refuses duplicate keys, NaN and Infinity, numbers without end and nesting deeper than 64 (threat T15).
Main functions: :func:`parse`, :func:`render`, :func:`render_error`; :func:`parse_document` and
:func:`render_value` serve REST-JSON.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

from botocore.model import Shape

from understudy.aws.messages import MAX_DEPTH, Answer, Call, HttpRequest, Parameters
from understudy.aws.protocols.scalars import INTEGER_RANGES, Malformed, malformed, parse_base64, render_float
from understudy.aws.protocols.timestamps import parse_timestamp, render_timestamp
from understudy.core.errors import ApiError

_NESTING = ("structure", "list", "map")


def parse(call: Call, request: HttpRequest, body: bytes) -> Parameters:
    """Read a JSON request into parameters by member names.  Unknown members stay, for validation to name."""
    shape = call.model.input_shape
    document = parse_document(body) if body.strip() else {}
    if shape is None:
        return {}
    parameters: Parameters = parse_value(shape, document, "")
    return parameters


def render(call: Call, result: Parameters) -> Answer:
    """Write a result."""
    shape = call.model.output_shape
    version = call.model.service_model.metadata.get("jsonVersion", "1.1")
    body = b"{}" if shape is None else dump(render_value(shape, result))
    return Answer(200, {"content-type": f"application/x-amz-json-{version}"}, body)


def render_error(service_metadata: dict[str, Any], error: ApiError, shape_name: str | None) -> Answer:
    """Write an error.

    Args:
        shape_name: The modelled error shape of this code where its name is another (query-compatible
            services keep their old codes in a header).
    """
    version = service_metadata.get("jsonVersion", "1.1")
    headers = {"content-type": f"application/x-amz-json-{version}", "x-amzn-errortype": error.code}
    if "awsQueryCompatible" in service_metadata:
        fault = "Sender" if error.status < 500 else "Receiver"
        headers["x-amzn-query-error"] = f"{error.code};{fault}"
    members = {"__type": shape_name or error.code, "message": error.message, **error.members}
    return Answer(error.status, headers, dump(members))


def dump(document: Any) -> bytes:
    """Encode JSON compactly."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


# --- reading ---------------------------------------------------------------------------------------


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise Malformed("A JSON object names a member twice.")
    return document


def _constant(text: str) -> NoReturn:
    raise Malformed(f"{text} is not JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Malformed("A number is out of range.")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant, parse_float=_finite)


def parse_document(body: bytes) -> Any:
    """Decode strict JSON.

    Raises:
        Malformed: it is not, or nested deeper than 64.
    """
    try:
        document = _DECODER.decode(body.decode("utf-8"))
    except Malformed:
        raise
    except RecursionError:
        raise Malformed(f"JSON nested deeper than {MAX_DEPTH}.") from None
    except ValueError as error:
        # UnicodeDecodeError and JSONDecodeError are ValueErrors; so is an integer of 5,000 digits.
        place = f" at byte {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Malformed(f"The body is not JSON in UTF-8{place}.") from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(document)
    return document


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(value for value in item.values() if isinstance(value, dict | list))
            elif isinstance(item, list):
                inner.extend(value for value in item if isinstance(value, dict | list))
        if not inner:
            return
        level = inner
    raise Malformed(f"JSON nested deeper than {MAX_DEPTH}.")


def parse_value(shape: Shape, value: Any, path: str) -> Any:
    """Turn decoded JSON into a member's value, checking types."""
    kind = shape.type_name
    if kind == "structure":
        return value if getattr(shape, "is_document_type", False) else _parse_structure(shape, value, path)
    if kind == "list":
        if not isinstance(value, list):
            raise malformed(path, "a list")
        return [
            None if item is None else parse_value(shape.member, item, f"{path}.{number}.member")
            for number, item in enumerate(value, start=1)
        ]
    if kind == "map":
        if not isinstance(value, dict):
            raise malformed(path, "a map")
        return {
            key: None if item is None else parse_value(shape.value, item, f"{path}.{key}")
            for key, item in value.items()
        }
    return _parse_scalar(shape, value, path)


def _parse_structure(shape: Shape, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise malformed(path, "a structure")
    names = {member.serialization.get("name", name): name for name, member in shape.members.items()}
    parsed: dict[str, Any] = {}
    for wire_name, item in value.items():
        if item is None:
            continue  # null says absent
        name = names.get(wire_name)
        if name is None:
            if wire_name != "__type":
                parsed[wire_name] = item
            continue
        place = f"{path}.{_camel(name)}" if path else _camel(name)
        parsed[name] = parse_value(shape.members[name], item, place)
    return parsed


def _parse_scalar(shape: Shape, value: Any, path: str) -> Any:
    kind = shape.type_name
    if kind in INTEGER_RANGES:
        low, high = INTEGER_RANGES[kind]
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole or not low <= value <= high:
            raise malformed(path, f"an integer between {low} and {high}")
        return int(value)
    if kind in ("float", "double"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise malformed(path, "a number")
        try:
            return float(value)
        except OverflowError:
            raise malformed(path, "a number within range") from None
    if kind == "boolean":
        if not isinstance(value, bool):
            raise malformed(path, "true or false")
        return value
    if kind == "timestamp":
        try:
            return parse_timestamp(value)
        except ValueError:
            raise malformed(path, "a timestamp (epoch seconds)") from None
    if not isinstance(value, str):
        raise malformed(path, "a string")
    if kind == "blob":
        return parse_base64(value, path)
    # A lone surrogate is no character: nothing could store or render it.
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise malformed(path, "Unicode text")
    return value


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


# --- writing ---------------------------------------------------------------------------------------


def render_value(shape: Shape, value: Any) -> Any:
    """Turn a result into JSON-able values, dropping what is None.

    Raises:
        KeyError: a member that the model does not have (a fault of the operation).
    """
    kind = shape.type_name
    if kind == "structure":
        if getattr(shape, "is_document_type", False):
            return value
        rendered = {}
        for name, item in value.items():
            if item is not None:
                member = shape.members[name]
                rendered[member.serialization.get("name", name)] = render_value(member, item)
        return rendered
    if kind == "list":
        member = shape.member
        if member.type_name in _NESTING:
            return [render_value(member, item) for item in value]
        render = _scalar_renderer(member)  # once for all: a day of data points has thousands
        return [render(item) for item in value]
    if kind == "map":
        return {str(key): render_value(shape.value, item) for key, item in value.items()}
    return _scalar_renderer(shape)(value)


def _scalar_renderer(shape: Shape) -> Callable[[Any], Any]:
    """Return what renders values of a shape that holds no others."""
    kind = shape.type_name
    if kind == "timestamp":
        form = shape.serialization.get("timestampFormat", "unixtimestamp")
        return lambda value: render_timestamp(value, form)
    if kind == "blob":
        return _render_blob
    if kind in ("float", "double"):
        return lambda value: value if math.isfinite(value) else render_float(value)
    return lambda value: value


def _render_blob(value: str | bytes) -> str:
    raw = value.encode() if isinstance(value, str) else bytes(value)
    return base64.b64encode(raw).decode()
