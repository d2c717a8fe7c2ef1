"""Smithy RPC v2 CBOR, which botocore lists first for CloudWatch and other SDKs speak to it.

Owns the encoding; what values a shape takes is JSON's business (:mod:`understudy.aws.protocols.json`), as far
as the two agree: a timestamp is a number under tag 1 here, a blob is bytes, numbers may be infinite.
Refuses what JSON refuses: a key twice, nesting deeper than 64, numbers that are not finite; and tags other
than 1.  Main functions: :func:`parse`, :func:`render`, :func:`render_error`.

Source: RFC 8949, section 3; Smithy's "Smithy RPC v2 CBOR protocol".
"""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

from botocore.model import Shape

from understudy.aws.messages import MAX_DEPTH, Answer, Call, HttpRequest, Parameters
from understudy.aws.protocols.json import parse_value
from understudy.aws.protocols.scalars import Malformed
from understudy.aws.protocols.timestamps import render_timestamp
from understudy.core.errors import ApiError

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _SIMPLE = range(8)
_INDEFINITE, _BREAK = 31, 0xFF
_EPOCH_TAG = 1
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None, 23: None}


def parse(call: Call, request: HttpRequest, body: bytes) -> Parameters:
    """Read a request into parameters by member names.  Unknown members stay, for validation to name."""
    shape = call.model.input_shape
    document = decode(body) if body else {}
    if shape is None:
        return {}
    parameters: Parameters = parse_value(shape, document, "")
    return parameters


def render(call: Call, result: Parameters) -> Answer:
    """Write a result."""
    shape = call.model.output_shape
    return _answer(200, encode({}) if shape is None else _render_value(shape, result))


def render_error(service_metadata: dict[str, Any], error: ApiError, shape_name: str | None) -> Answer:
    """Write an error.

    Args:
        shape_name: The modelled error shape of this code where its name is another.
    """
    members = {"__type": shape_name or error.code, "message": error.message, **error.members}
    answer = _answer(error.status, encode(members))
    if "awsQueryCompatible" in service_metadata:
        fault = "Sender" if error.status < 500 else "Receiver"
        answer.headers["x-amzn-query-error"] = f"{error.code};{fault}"
    return answer


def _answer(status: int, body: bytes) -> Answer:
    return Answer(status, {"content-type": "application/cbor", "smithy-protocol": "rpc-v2-cbor"}, body)


# --- reading ---------------------------------------------------------------------------------------


def decode(data: bytes) -> Any:
    """Decode one item, in the terms of decoded JSON: bytes as base64, timestamps as epoch seconds.

    Raises:
        Malformed: it is no CBOR, or not of the kind that the protocol uses.

    >>> decode(bytes.fromhex("bf6161018120ff"))
    Traceback (most recent call last):
    understudy.aws.protocols.scalars.Malformed: The body is not CBOR: a key is no text (byte 4).
    >>> decode(bytes.fromhex("bf61618120ff"))
    {'a': [-1]}
    """
    reader = _Reader(data)
    value = reader.item(0)
    if reader.at != len(data):
        raise reader.malformed("there is more after its end")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def malformed(self, why: str) -> Malformed:
        return Malformed(f"The body is not CBOR: {why} (byte {self.at}).")

    def _take(self, length: int) -> bytes:
        taken = self._data[self.at : self.at + length]
        if len(taken) < length:
            raise self.malformed("it ends too early")
        self.at += length
        return taken

    def _ends(self) -> bool:
        """Take the end of something of indefinite length, if it is here."""
        if self._data[self.at : self.at + 1] != bytes((_BREAK,)):
            return False
        self.at += 1
        return True

    def _head(self) -> tuple[int, int, int]:
        """Take an item's first bytes: its major type, its additional information, and the number there."""
        (first,) = self._take(1)
        major, information = first >> 5, first & 31
        if information < 24:
            return major, information, information
        if information <= 27:
            return major, information, int.from_bytes(self._take(1 << (information - 24)), "big")
        if information == _INDEFINITE and major in (_BYTES, _TEXT, _LIST, _MAP):
            return major, information, 0
        raise self.malformed("a reserved length")

    def item(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise Malformed(f"CBOR nested deeper than {MAX_DEPTH}.")
        major, information, number = self._head()
        if major == _UNSIGNED:
            return number
        if major == _NEGATIVE:
            return -1 - number
        if major == _BYTES:
            return base64.b64encode(self._string(major, information, number)).decode()
        if major == _TEXT:
            return self._text(information, number)
        if major == _LIST:
            return self._list(information, number, depth)
        if major == _MAP:
            return self._map(information, number, depth)
        if major == _TAG:
            if number != _EPOCH_TAG:
                raise self.malformed(f"the tag {number} has no meaning here")
            value = self.item(depth + 1)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.malformed("a timestamp is no number")
            return value
        if information in _FLOATS:
            return self._float(information)
        if information in _SIMPLE_VALUES:
            return _SIMPLE_VALUES[information]
        raise self.malformed("an unknown simple value")

    def _float(self, information: int) -> float:
        form = _FLOATS[information]
        value: float
        (value,) = struct.unpack(form, self._data[self.at - struct.calcsize(form) : self.at])
        if not math.isfinite(value):
            raise Malformed("A number is not finite.")
        return value

    def _string(self, major: int, information: int, length: int) -> bytes:
        if information != _INDEFINITE:
            return self._take(length)
        pieces = []
        while not self._ends():
            piece_major, piece_information, piece_length = self._head()
            if piece_major != major or piece_information == _INDEFINITE:
                raise self.malformed("a piece of a string is no such string")
            pieces.append(self._take(piece_length))
        return b"".join(pieces)

    def _text(self, information: int, length: int) -> str:
        try:
            return self._string(_TEXT, information, length).decode()
        except UnicodeDecodeError:
            raise self.malformed("a text is not UTF-8") from None

    def _list(self, information: int, count: int, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._ends() if information == _INDEFINITE else len(found) < count:
            found.append(self.item(depth + 1))
        return found

    def _map(self, information: int, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        taken = 0
        while not self._ends() if information == _INDEFINITE else taken < count:
            major, key_information, length = self._head()
            if major != _TEXT:
                raise self.malformed("a key is no text")
            key = self._text(key_information, length)
            if key in found:
                raise Malformed("A CBOR map names a member twice.")
            found[key] = self.item(depth + 1)
            taken += 1
        return found


# --- writing ---------------------------------------------------------------------------------------


def encode(value: Any) -> bytes:
    """Encode what JSON knows, and bytes.

    >>> encode({"a": [1, None, 0.5]}).hex()
    'a161618301f6fb3fe0000000000000'
    """
    if value is None or isinstance(value, bool):
        return bytes(({False: 0xF4, True: 0xF5, None: 0xF6}[value],))
    if isinstance(value, int):
        return _encoded_head(_UNSIGNED, value) if value >= 0 else _encoded_head(_NEGATIVE, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return _encoded_head(_TEXT, len(raw)) + raw
    if isinstance(value, bytes):
        return _encoded_head(_BYTES, len(value)) + value
    if isinstance(value, list):
        return _encoded_list([encode(item) for item in value])
    return _encoded_map({str(key): encode(item) for key, item in value.items()})


def _encoded_head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    for information, length in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * length:
            return bytes((major << 5 | information,)) + number.to_bytes(length, "big")
    raise ValueError(f"{number} needs more than 64 bits")


def _encoded_list(items: list[bytes]) -> bytes:
    return _encoded_head(_LIST, len(items)) + b"".join(items)


def _encoded_map(items: dict[str, bytes]) -> bytes:
    return _encoded_head(_MAP, len(items)) + b"".join(encode(key) + item for key, item in items.items())


def _render_value(shape: Shape, value: Any) -> bytes:
    """Encode a result as its shape wants it, dropping what is None."""
    kind = shape.type_name
    if kind == "structure" and not getattr(shape, "is_document_type", False):
        members = {name: item for name, item in value.items() if item is not None}
        return _encoded_map(
            {
                shape.members[name].serialization.get("name", name): _render_value(shape.members[name], item)
                for name, item in members.items()
            }
        )
    if kind == "list":
        return _encoded_list([_render_value(shape.member, item) for item in value])
    if kind == "map":
        return _encoded_map({str(key): _render_value(shape.value, item) for key, item in value.items()})
    if kind == "timestamp":
        return _encoded_head(_TAG, _EPOCH_TAG) + encode(float(render_timestamp(value, "unixtimestamp")))
    if kind == "blob":
        return encode(value.encode() if isinstance(value, str) else bytes(value))
    if kind in ("float", "double"):
        return encode(float(value))
    return encode(value)
