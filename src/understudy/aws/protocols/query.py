"""The query protocol: form fields in, XML out (STS, IAM, and CloudWatch for older clients).

Main functions: :func:`parse_form`, :func:`parse`, :func:`render`, :func:`render_error`.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote_to_bytes

from botocore.model import Shape

from understudy.aws.messages import MAX_DEPTH, Answer, Call, HttpRequest, Parameters
from understudy.aws.protocols.scalars import Malformed, malformed, parse_text
from understudy.aws.protocols.xml import DECLARATION, element, escape, write_structure
from understudy.core.errors import ApiError

MAX_FIELDS = 20_000
_NOT_PARAMETERS = frozenset(
    {"Action", "Version", "AWSAccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "Timestamp"}
)


def parse_form(*texts: bytes) -> dict[str, str]:
    """Decode form fields from a query string and a body.

    Raises:
        Malformed: too many, one twice, or not UTF-8 (wire: MalformedQueryString).
    """
    fields: dict[str, str] = {}
    for text in texts:
        if not text:
            continue
        if text.count(b"&") >= MAX_FIELDS:
            raise Malformed(f"More than {MAX_FIELDS} fields.", code="MalformedQueryString")
        for pair in text.split(b"&"):
            raw_name, _, raw_value = pair.partition(b"=")
            try:
                name = unquote_to_bytes(raw_name.replace(b"+", b" ")).decode()
                value = unquote_to_bytes(raw_value.replace(b"+", b" ")).decode()
            except UnicodeDecodeError:
                raise Malformed("Form fields must be UTF-8.", code="MalformedQueryString") from None
            if name in fields:
                raise Malformed(f"Field '{name}' comes twice.", code="MalformedQueryString")
            if name:
                fields[name] = value
    return fields


def parse(call: Call, request: HttpRequest, body: bytes) -> Parameters:
    """Read parameters from the call's form fields; unknown ones stay, for validation to name."""
    shape = call.model.input_shape
    if shape is None:
        return {}
    tree: dict[str, Any] = {}
    for name, value in call.form.items():
        if name not in _NOT_PARAMETERS and not name.startswith("X-Amz-"):
            _plant(tree, name, value)
    parameters: Parameters = _read(shape, tree, "")
    return parameters


def _plant(tree: dict[str, Any], name: str, value: str) -> None:
    """Put one dotted field into the tree of fields."""
    parts = name.split(".")
    if len(parts) > MAX_DEPTH:
        raise Malformed(f"Fields nested deeper than {MAX_DEPTH}.", code="MalformedQueryString")
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise Malformed(f"Field '{name}' is both a value and a structure.", code="MalformedQueryString")
    if parts[-1] in tree:
        raise Malformed(f"Field '{name}' is both a value and a structure.", code="MalformedQueryString")
    tree[parts[-1]] = value


def _read(shape: Shape, tree: Any, path: str) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _read_structure(shape, tree, path)
    if kind in ("list", "map"):
        if tree == "":
            return [] if kind == "list" else {}
        if not isinstance(tree, dict):
            raise malformed(path, f"a {kind}")
        if not shape.serialization.get("flattened"):
            inner = shape.member.serialization.get("name", "member") if kind == "list" else "entry"
            if set(tree) != {inner}:
                raise malformed(path, f"'{inner}.N'")
            tree = tree[inner]
            if not isinstance(tree, dict):
                raise malformed(path, f"'{inner}.N'")
        items = [(f"{path}.{number}", tree[str(number)]) for number in _numbers(tree, path)]
        if kind == "list":
            return [_read(shape.member, item, place) for place, item in items]
        return dict(_read_entry(shape, item, place) for place, item in items)
    if not isinstance(tree, str):
        raise malformed(path, "one value")
    return parse_text(shape, tree, path)


def _read_structure(shape: Shape, tree: Any, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise malformed(path, "a structure")
    names = {}
    for name, member in shape.members.items():
        wire_name = member.serialization.get("name", name)
        if member.type_name == "list" and member.serialization.get("flattened"):
            wire_name = member.member.serialization.get("name") or wire_name
        names[wire_name] = name
    parsed: dict[str, Any] = {}
    for wire_name, item in tree.items():
        known = names.get(wire_name)
        if known is None:
            parsed[wire_name] = item
        else:
            parsed[known] = _read(shape.members[known], item, f"{path}.{wire_name}" if path else wire_name)
    return parsed


def _read_entry(shape: Shape, tree: Any, path: str) -> tuple[Any, Any]:
    key_name = shape.key.serialization.get("name", "key")
    value_name = shape.value.serialization.get("name", "value")
    if not isinstance(tree, dict) or set(tree) != {key_name, value_name}:
        raise malformed(path, f"'{key_name}' and '{value_name}'")
    return _read(shape.key, tree[key_name], path), _read(shape.value, tree[value_name], path)


def _numbers(tree: dict[str, Any], path: str) -> list[int]:
    for key in tree:
        if not (key.isascii() and key.isdigit() and len(key) <= 6 and str(int(key)) == key):
            raise malformed(path, "numbered members")
    return sorted(int(key) for key in tree)


def render(call: Call, result: Parameters, request_id: str) -> Answer:
    """Write a result."""
    shape = call.model.output_shape
    name = call.operation
    inner = ""
    if shape is not None:
        wrapper = shape.serialization.get("resultWrapper", f"{name}Result")
        inner = f"<{wrapper}>{write_structure(shape, result)}</{wrapper}>"
    namespace = escape(call.model.service_model.metadata.get("xmlNamespace", ""))
    body = (
        f'{DECLARATION}<{name}Response xmlns="{namespace}">{inner}'
        f"<ResponseMetadata>{element('RequestId', request_id)}</ResponseMetadata></{name}Response>"
    )
    return Answer(200, {"content-type": "text/xml"}, body.encode())


def render_error(service_metadata: dict[str, Any], error: ApiError, request_id: str) -> Answer:
    """Write an error."""
    namespace = escape(service_metadata.get("xmlNamespace", ""))
    fault = "Sender" if error.status < 500 else "Receiver"
    members = "".join(element(name, str(value)) for name, value in error.members.items())
    body = (
        f'{DECLARATION}<ErrorResponse xmlns="{namespace}"><Error>{element("Type", fault)}'
        f"{element('Code', error.code)}{element('Message', error.message)}{members}</Error>"
        f"{element('RequestId', request_id)}</ErrorResponse>"
    )
    return Answer(error.status, {"content-type": "text/xml"}, body.encode())
