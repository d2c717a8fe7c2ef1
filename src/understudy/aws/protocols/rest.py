"""REST bindings, both ways: path labels, query string, headers, payload; bodies in XML (S3) or JSON.

Main functions: :func:`parse`, :func:`render`, :func:`render_error`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from botocore.model import Shape

from understudy.aws.messages import (
    MAX_CONTROL_BODY_BYTES,
    Answer,
    BodySource,
    Call,
    HttpRequest,
    Parameters,
    decode_header,
)
from understudy.aws.protocols import json as json_codec
from understudy.aws.protocols.scalars import Malformed, malformed, parse_text, render_text
from understudy.aws.protocols.xml import (
    DECLARATION,
    element,
    escape,
    parse_xml,
    read_structure,
    write_structure,
)
from understudy.core.errors import ApiError

S3_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
# Root elements as S3 sends them.  botocore ignores them, so its model lacks them; Go's clients do not.
# Source: S3 API reference, response syntax of each operation.
_S3_ROOTS = {
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "DeleteObjects": "DeleteResult",
    "GetBucketAcl": "AccessControlPolicy",
    "GetBucketCors": "CORSConfiguration",
    "GetBucketLifecycleConfiguration": "LifecycleConfiguration",
    "GetBucketNotificationConfiguration": "NotificationConfiguration",
    "GetBucketTagging": "Tagging",
    "GetBucketVersioning": "VersioningConfiguration",
    "GetObjectAcl": "AccessControlPolicy",
    "GetObjectAttributes": "GetObjectAttributesResponse",
    "GetObjectTagging": "Tagging",
    "ListBuckets": "ListAllMyBucketsResult",
    "ListMultipartUploads": "ListMultipartUploadsResult",
    "ListObjectVersions": "ListVersionsResult",
    "ListObjects": "ListBucketResult",
    "ListObjectsV2": "ListBucketResult",
    "ListParts": "ListPartsResult",
    "UploadPartCopy": "CopyPartResult",
}


# --- reading ---------------------------------------------------------------------------------------


def parse_query_string(raw_query: bytes) -> dict[str, list[str]]:
    """Decode a query string; a parameter may come several times."""
    parameters: dict[str, list[str]] = {}
    for pair in raw_query.split(b"&") if raw_query else ():
        raw_name, _, raw_value = pair.partition(b"=")
        try:
            name = unquote_to_bytes(raw_name.replace(b"+", b" ")).decode()
            value = unquote_to_bytes(raw_value.replace(b"+", b" ")).decode()
        except UnicodeDecodeError:
            raise Malformed("Couldn't parse the specified URI.", code="InvalidURI") from None
        parameters.setdefault(name, []).append(value)
    return parameters


def parse(call: Call, request: HttpRequest, body: BodySource) -> Parameters:
    """Read bound members and the payload; a streaming payload is handed on unread."""
    shape = call.model.input_shape
    if shape is None:
        return {}
    query = parse_query_string(request.raw_query)
    parameters: Parameters = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        if location == "uri":
            if wire_name in call.labels:
                parameters[name] = parse_text(member, call.labels[wire_name], wire_name)
        elif location == "querystring":
            if member.type_name == "list" and wire_name in query:
                parameters[name] = [parse_text(member.member, text, wire_name) for text in query[wire_name]]
            elif wire_name in query:
                parameters[name] = parse_text(member, query[wire_name][0], wire_name)
        elif location == "header":
            text = _header(request, wire_name)
            if text is not None:
                parameters[name] = _parse_header(member, text, wire_name)
        elif location == "headers":
            found = _header_map(request, wire_name)
            if found:
                parameters[name] = found
    _parse_payload(call, shape, body, parameters)
    return parameters


def _header(request: HttpRequest, name: str) -> str | None:
    """Join a header's values, as RFC 9110 reads repeated ones."""
    wanted = name.lower().encode()
    values = [decode_header(value) for key, value in request.headers if key == wanted]
    return ",".join(values) if values else None


def _header_map(request: HttpRequest, prefix: str) -> dict[str, str]:
    lowered = prefix.lower().encode()
    found: dict[str, str] = {}
    for key, value in request.headers:
        if key.startswith(lowered):
            name = key[len(lowered) :].decode("latin-1")
            text = decode_header(value)
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _parse_header(shape: Shape, text: str, name: str) -> Any:
    if shape.type_name == "list":
        return [parse_text(shape.member, item, name) for item in _split_header(text)]
    if shape.serialization.get("jsonvalue"):
        try:
            return json_codec.parse_document(base64.b64decode(text, validate=True))
        except ValueError:
            raise malformed(name, "JSON in base64") from None
    return parse_text(shape, text, name)


def _split_header(text: str) -> list[str]:
    """Split a comma list with quoted items.

    >>> _split_header('a, "b,c", d')
    ['a', 'b,c', 'd']
    """
    items: list[str] = []
    current, quoted, escaped = "", False, False
    for char in text:
        if escaped:
            current, escaped = current + char, False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            items.append(current.strip())
            current = ""
        else:
            current += char
    items.append(current.strip())
    return items


def _parse_payload(call: Call, shape: Shape, body: BodySource, parameters: Parameters) -> None:
    payload = shape.serialization.get("payload")
    if payload is not None:
        member = shape.members[payload]
        if member.type_name == "blob":
            if call.protocol == "rest-xml":
                parameters[payload] = body.stream()
            else:
                parameters[payload] = body.read(MAX_CONTROL_BODY_BYTES)
            return
        raw = body.read(MAX_CONTROL_BODY_BYTES)
        if member.type_name == "string":
            parameters[payload] = raw.decode("utf-8", "replace")
        elif raw.strip():
            parameters[payload] = _parse_body(call, member, raw)
        return
    if any(member.serialization.get("location") is None for member in shape.members.values()):
        raw = body.read(MAX_CONTROL_BODY_BYTES)
        if raw.strip():
            parameters.update(_parse_body(call, shape, raw))


def _parse_body(call: Call, shape: Shape, raw: bytes) -> Any:
    if call.protocol == "rest-xml":
        return read_structure(shape, parse_xml(raw))
    return json_codec.parse_value(shape, json_codec.parse_document(raw), "")


# --- writing ---------------------------------------------------------------------------------------


def render(call: Call, result: Parameters) -> Answer:
    """Write a result: headers by their members, then the payload."""
    shape = call.model.output_shape
    answer = Answer(int(call.model.http.get("responseCode", 200)), {})
    if shape is None:
        return answer
    for name, value in result.items():
        member = shape.members[name]
        location = member.serialization.get("location")
        if value is None or location is None:
            continue
        wire_name = member.serialization.get("name", name)
        if location == "header":
            answer.headers[wire_name.lower()] = _render_header(member, value)
        elif location == "headers":
            for key, text in value.items():
                answer.headers[wire_name.lower() + key.lower()] = str(text)
        elif location == "statusCode":
            answer.status = int(value)
    if call.protocol == "rest-xml" and result.get("ContentRange") is not None:
        answer.status = 206
    _render_payload(call, shape, result, answer)
    return answer


def _render_header(shape: Shape, value: Any) -> str:
    if shape.type_name == "list":
        return ",".join(_quote_item(render_text(shape.member, item, "rfc822")) for item in value)
    if shape.serialization.get("jsonvalue"):
        return base64.b64encode(json_codec.dump(value)).decode()
    return render_text(shape, value, "rfc822")


def _quote_item(text: str) -> str:
    if "," in text or '"' in text:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _render_payload(call: Call, shape: Shape, result: Parameters, answer: Answer) -> None:
    payload = shape.serialization.get("payload")
    if payload is not None:
        member = shape.members[payload]
        value = result.get(payload)
        if member.type_name in ("blob", "string"):
            answer.body = _blob_body(value)
            answer.headers.setdefault("content-type", "binary/octet-stream")
        elif value is not None:
            _render_document(call, member, value, answer)
        return
    if call.operation == "GetBucketLocation":
        # Not modelled as it is on the wire: the constraint is the root element's own text.
        region = result.get("LocationConstraint") or ""
        body = (
            f'{DECLARATION}<LocationConstraint xmlns="{S3_NAMESPACE}">{escape(region)}</LocationConstraint>'
        )
        answer.headers["content-type"], answer.body = "application/xml", body.encode()
        return
    if any(member.serialization.get("location") is None for member in shape.members.values()):
        _render_document(call, shape, result, answer)


def _blob_body(value: Any) -> bytes | Iterable[bytes]:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    pieces: Iterable[bytes] = value
    return pieces  # itself, not its iterator: whoever sends it also closes it


def _render_document(call: Call, shape: Shape, value: Parameters, answer: Answer) -> None:
    if call.protocol == "rest-xml":
        root = _S3_ROOTS.get(call.operation, shape.serialization.get("name", shape.name))
        text = f'{DECLARATION}<{root} xmlns="{S3_NAMESPACE}">{write_structure(shape, value)}</{root}>'
        answer.headers["content-type"], answer.body = "application/xml", text.encode()
    else:
        unbound = {
            name: item
            for name, item in value.items()
            if shape.members[name].serialization.get("location") is None
        }
        answer.headers["content-type"] = "application/json"
        answer.body = json_codec.dump(json_codec.render_value(shape, unbound))


def render_s3_error(error: ApiError, request: HttpRequest, request_id: str) -> Answer:
    """Write an error as S3 does; an answer to HEAD, and 304, has no body."""
    if request.method == "HEAD" or error.status == 304:
        return Answer(error.status, {"content-type": "application/xml"})
    resource = decode_header(request.raw_path)
    members = "".join(element(name, str(value)) for name, value in error.members.items())
    body = (
        f"{DECLARATION}<Error>{element('Code', error.code)}{element('Message', error.message)}{members}"
        f"{element('Resource', resource)}{element('RequestId', request_id)}</Error>"
    )
    return Answer(error.status, {"content-type": "application/xml"}, body.encode())


def render_json_error(error: ApiError) -> Answer:
    """Write an error as REST-JSON services do."""
    headers = {"content-type": "application/json", "x-amzn-errortype": error.code}
    document = {"Message": error.message, "message": error.message, **error.members}
    return Answer(error.status, headers, json_codec.dump(document))
