"""The bytes of answers: success heads, rest-json errors, the texts of model errors, event-stream messages.

Owns everything a caller reads from a router.  Refuses workers' heads that would break an answer's framing.
Main functions: :func:`success_template`, :func:`render_error`, :func:`model_error`, :func:`event_message`.

Source: recorded answers of AWS; botocore's ModelError, ModelStreamError and PayloadPart; the event stream
encoding of the AWS SDKs (prelude, headers, payload, two CRC32).
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from typing import Any

from understudy.core.errors import ApiError, ModelError
from understudy.core.names import Place, log_group

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    424: b"Failed Dependency",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
_MAX_MESSAGE = 2048  # botocore's Message shape
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PRELUDE = struct.Struct(">II")
_CRC = struct.Struct(">I")

NEEDS_CLOSE = b"Connection: close\r\n"


class UnsafeHead(ValueError):
    """A worker's answer carries a header value that can't be passed on."""


def success_headers(variant: str, head: bytes, *, streams: bool) -> bytes:
    """Render the headers that a worker's answer head stands for.

    Args:
        head: Response head of ``worker.wire``: content type, custom attributes, container, new and closed
            session, NUL-joined.
    Raises:
        UnsafeHead: a value holds control characters.
    """
    fields = head.split(b"\0")
    fields += [b""] * (5 - len(fields))
    if any(_UNSAFE.search(field) for field in fields):
        raise UnsafeHead("a header value of the model's answer holds a control character")
    content_type = fields[0].strip() or b"application/octet-stream"
    lines = []
    if streams:
        lines.append(b"Content-Type: application/vnd.amazon.eventstream")
        lines.append(b"X-Amzn-SageMaker-Content-Type: " + content_type)
    else:
        lines.append(b"Content-Type: " + content_type)
    lines.append(b"x-Amzn-Invoked-Production-Variant: " + variant.encode())
    for name, value in (
        (b"X-Amzn-SageMaker-Custom-Attributes: ", fields[1]),
        (b"X-Amzn-SageMaker-New-Session-Id: ", fields[3]),
        (b"X-Amzn-SageMaker-Closed-Session-Id: ", fields[4]),
    ):
        if value:
            lines.append(name + value)
    return b"\r\n".join(lines) + b"\r\n"


def success_template(variant: str, head: bytes, request_ids: bytes, *, closes: bool) -> bytes:
    """Prepare all of a 200 answer but what differs per request.

    Args:
        request_ids: What every request id of this process starts with.
    Returns:
        A ``bytes %`` template for (request number, body length, body).
    Raises:
        UnsafeHead: see :func:`success_headers`.
    """
    fixed = success_headers(variant, head, streams=False)
    if closes:
        fixed += NEEDS_CLOSE
    return (
        b"HTTP/1.1 200 OK\r\n"
        + fixed.replace(b"%", b"%%")
        + b"x-amzn-RequestId: "
        + request_ids
        + b"%012x\r\nContent-Length: %d\r\n\r\n%b"
    )


def error_template(error: ApiError, request_ids: bytes) -> bytes:
    """Prepare an error that many requests get, on connections that stay.

    Args:
        request_ids: What every request id of this process starts with.
    Returns:
        A ``bytes %`` template for the request number.
    """
    mark = b"\0"
    return render_error(error, mark, closes=False).replace(b"%", b"%%").replace(mark, request_ids + b"%012x")


def render_error(error: ApiError, request_id: bytes, *, closes: bool) -> bytes:
    """Render an error as rest-json does."""
    members: dict[str, Any] = {"Message": error.message[:_MAX_MESSAGE], **error.members}
    body = json.dumps(members).encode()
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nx-amzn-ErrorType: %b\r\n"
        b"x-amzn-RequestId: %b\r\nContent-Length: %d\r\n%b\r\n%b"
        % (
            error.status,
            REASONS.get(error.status, b"Error"),
            error.code.encode(),
            request_id,
            len(body),
            NEEDS_CLOSE if closes else b"",
            body,
        )
    )


def model_error(place: Place, endpoint: str, container: str, status: int, message: str) -> ModelError:
    """Say that a model failed, with AWS's wording.

    Args:
        status: The container's own; 0 when it did not answer.
        message: The container's own body.
    """
    kind = "client" if 400 <= status < 500 else "server"
    group = log_group(endpoint)
    before = f'Received {kind} error ({status}) from {container} with message "'
    after = (
        f'". See https://{place.region}.console.aws.amazon.com/cloudwatch/home?region={place.region}'
        f"#logEventViewer:group={group} in account {place.account_id} for more information."
    )
    kept = message[: max(0, _MAX_MESSAGE - len(before) - len(after))]
    return ModelError(
        before + kept + after,
        members={
            "OriginalStatusCode": status,
            "OriginalMessage": message[:_MAX_MESSAGE],
            "LogStreamArn": f"arn:aws:logs:{place.region}:{place.account_id}:log-group:{group}",
        },
    )


def timeout_message(container: str) -> str:
    """What AWS says when a container does not answer in time."""
    return (
        f"Your invocation timed out while waiting for a response from container {container}. Review the"
        " latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
    )


def _string_headers(pairs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(
        bytes((len(name),)) + name + b"\x07" + len(value).to_bytes(2, "big") + value for name, value in pairs
    )


def _message(headers: bytes, payload: bytes) -> bytes:
    prelude = _PRELUDE.pack(len(headers) + len(payload) + 16, len(headers))
    start = prelude + _CRC.pack(zlib.crc32(prelude)) + headers + payload
    return start + _CRC.pack(zlib.crc32(start))


_PART_HEADERS = _string_headers(
    (
        (b":message-type", b"event"),
        (b":event-type", b"PayloadPart"),
        (b":content-type", b"application/octet-stream"),
    )
)


def event_message(data: bytes) -> bytes:
    """Encode one PayloadPart."""
    return _message(_PART_HEADERS, data)


def exception_message(code: str, message: str) -> bytes:
    """Encode a ModelStreamError.

    Args:
        code: ``ModelInvocationTimeExceeded`` or ``StreamBroken``.
    """
    headers = _string_headers(
        (
            (b":message-type", b"exception"),
            (b":exception-type", b"ModelStreamError"),
            (b":content-type", b"application/json"),
        )
    )
    return _message(headers, json.dumps({"Message": message[:_MAX_MESSAGE], "ErrorCode": code}).encode())


def chunk(data: bytes) -> bytes:
    """Frame data as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def unavailable(content_type: bytes, authorization: bytes, message: str, request_id: bytes) -> bytes:
    """Render ServiceUnavailable for a request of another service, in a form its client can read."""
    if b"/s3/aws4_request" in authorization:
        kind = b"application/xml"
        text = f"<Error><Code>ServiceUnavailable</Code><Message>{message}</Message></Error>"
    elif content_type.startswith(b"application/x-www-form-urlencoded"):
        kind = b"text/xml"
        text = (
            "<ErrorResponse><Error><Type>Receiver</Type><Code>ServiceUnavailable</Code>"
            f"<Message>{message}</Message></Error></ErrorResponse>"
        )
    elif content_type.startswith(b"application/cbor"):
        return _unavailable_503(
            b"application/cbor\r\nsmithy-protocol: rpc-v2-cbor", _cbor_error(message), request_id
        )
    else:
        kind = b"application/json"
        text = json.dumps({"__type": "ServiceUnavailable", "message": message, "Message": message})
    return _unavailable_503(kind, text.encode(), request_id)


def _cbor_error(message: str) -> bytes:
    """Encode a map of two texts: RFC 8949, section 3."""
    parts = (part.encode() for part in ("__type", "ServiceUnavailable", "message", message))
    return b"\xa2" + b"".join(b"\x79" + len(part).to_bytes(2, "big") + part for part in parts)


def _unavailable_503(kind: bytes, body: bytes, request_id: bytes) -> bytes:
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: %b\r\nx-amzn-ErrorType: ServiceUnavailable\r\n"
        b"x-amzn-RequestId: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (kind, request_id, len(body), body)
    )
