"""One captured request and its answer: the record and its line of JSON.

Owns :class:`CaptureRecord` and :func:`render_line`, AWS's line to the letter: order of the fields, no
spaces, ``inferenceTime`` in whole seconds, absent members left out.  Refuses nothing: a body that is not
UTF-8, whatever its content type says, is kept as BASE64 rather than bent.

A line is one line to every reader: besides what JSON escapes, U+0085, U+2028 and U+2029 are escaped too,
since some readers split there.
Source: "Data capture", Amazon SageMaker Developer Guide, and files that AWS wrote.
"""

from __future__ import annotations

from binascii import b2a_base64
from codecs import getincrementaldecoder
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

EVENT_VERSION = "0"
PIECE_BYTES = 3 << 15  # a multiple of 3, for base64
# What str.splitlines takes for the end of a line and JSON leaves as it is; as UTF-8, and as JSON escapes.
_LINE_BREAKS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))

_encode = msgspec.json.Encoder().encode
_Decoder = getincrementaldecoder("utf-8")


@dataclass(slots=True)
class CaptureRecord:
    """What is kept of one request and its answer.

    Attributes:
        destination: ``s3://bucket/prefix`` without a slash at the end.
        event_id: UUID; the same in production's record and each shadow's.
        inference_id: As the caller gave it; None or "" when not.
        custom_attributes: As the caller gave them; None or "" when not.
        at_s: Unix time of the request, by the server's (perhaps scaled) clock.
        input_type: Content type as the caller sent it.
        input_body: None: requests' bodies are not captured.
        output_type: Content type as the model's server answered it.
        output_body: None: answers' bodies are not captured.
        csv_types: Content types that are CSV; parameters and case don't matter.
        json_types: Content types that are JSON.
    """

    destination: str
    endpoint: str
    variant: str
    event_id: str
    inference_id: str | None
    custom_attributes: str | None
    at_s: float
    input_type: str
    input_body: bytes | None
    output_type: str
    output_body: bytes | None
    csv_types: tuple[str, ...] = ()
    json_types: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """About how much memory the record holds."""
        return (
            RECORD_OVERHEAD_BYTES
            + (0 if self.input_body is None else len(self.input_body))
            + (0 if self.output_body is None else len(self.output_body))
        )

    @property
    def count(self) -> int:
        """It is one record."""
        return 1

    @property
    def moment(self) -> str:
        """See :func:`moment_of`."""
        return moment_of(self.at_s)

    def pieces(self) -> Iterator[bytes]:
        """Render the line; see :func:`render_pieces`."""
        return render_pieces(self)


RECORD_OVERHEAD_BYTES = 1024  # of a record with empty bodies, queueing included


def render_line(record: CaptureRecord) -> bytes:
    """Render a record as AWS's line of JSON, without the newline.

    >>> render_line(CaptureRecord(
    ...     "s3://b/p", "e", "v", "1-2", "57", None, 1612498500.9,
    ...     "text/csv", b"1,0", "text/csv; charset=utf-8", b"0.5", ("text/csv",))).decode()[:75]
    '{"captureData":{"endpointInput":{"observedContentType":"text/csv","mode":"I'
    """
    return b"".join(render_pieces(record))


def render_pieces(record: CaptureRecord) -> Iterator[bytes]:
    """Render a record as :func:`render_line` does, a piece at a time.

    A thread that shares its interpreter can step aside between pieces: each is a fraction of a millisecond's
    work, however large the bodies are.  Some are empty.
    """
    if record.size_bytes <= PIECE_BYTES:
        try:
            return iter((_render_small(record),))
        except UnicodeEncodeError:  # half a surrogate pair in a header
            pass
    return _render_large(record)


def _render_small(record: CaptureRecord) -> bytes:
    """Render a record in one go: what is the same in most records is rendered once."""
    sides = []
    csv_types, json_types = record.csv_types, record.json_types
    for name, mode, content_type, body in (
        ("endpointInput", "INPUT", record.input_type, record.input_body),
        ("endpointOutput", "OUTPUT", record.output_type, record.output_body),
    ):
        if body is not None:
            before, after, is_text = _around(name, mode, content_type, csv_types, json_types)
            if is_text:
                try:
                    sides.append(before + escaped(_encode(str(body, "utf-8"))[1:-1]) + after)
                    continue
                except UnicodeDecodeError:
                    after = b'","encoding":"BASE64"}'
            sides.append(before + b2a_base64(body, newline=False) + after)
    more = b""
    if record.custom_attributes:
        more = b',"customAttributes":[%b]' % escaped(_encode(record.custom_attributes))
    if record.inference_id:
        more += b',"inferenceId":%b' % escaped(_encode(record.inference_id))
    return (
        b'{"captureData":{%b},"eventMetadata":{"eventId":%b%b,"inferenceTime":"%b"},"eventVersion":"0"}'
        % (
            b",".join(sides),
            _encode(record.event_id),
            more,
            inference_time(int(record.at_s)).encode(),
        )
    )


@lru_cache(maxsize=256)
def _around(
    name: str, mode: str, content_type: str, csv_types: tuple[str, ...], json_types: tuple[str, ...]
) -> tuple[bytes, bytes, bool]:
    """Render what stands before and after a body, and tell whether it is kept as text."""
    encoding = _encoding_of(content_type, csv_types, json_types)
    before = b'"%b":{"observedContentType":%b,"mode":"%b","data":"' % (
        name.encode(),
        escaped(_encode(content_type)),
        mode.encode(),
    )
    return before, b'","encoding":"%b"}' % encoding.encode(), encoding != "BASE64"


def _render_large(record: CaptureRecord) -> Iterator[bytes]:
    """Render a record of any size, step by step."""
    sides: list[tuple[bytes, list[str] | bytes]] = []
    data: dict[str, Any] = {}
    for name, mode, content_type, body in (
        ("endpointInput", "INPUT", record.input_type, record.input_body),
        ("endpointOutput", "OUTPUT", record.output_type, record.output_body),
    ):
        if body is None:
            continue
        encoding = _encoding_of(content_type, record.csv_types, record.json_types)
        content: list[str] | bytes | None = None
        if encoding != "BASE64":
            content = yield from _decoded(body)
        if content is None:
            encoding, content = "BASE64", body
        # The data's place is found again by what stands before it: in a text, its quotes would be escaped.
        sides.append((f'"mode":"{mode}","data":"'.encode(), content))
        data[name] = {"observedContentType": content_type, "mode": mode, "data": "", "encoding": encoding}
    metadata: dict[str, Any] = {"eventId": record.event_id}
    if record.custom_attributes:
        metadata["customAttributes"] = [record.custom_attributes]
    if record.inference_id:
        metadata["inferenceId"] = record.inference_id
    metadata["inferenceTime"] = inference_time(int(record.at_s))
    event = {"captureData": data, "eventMetadata": metadata, "eventVersion": EVENT_VERSION}
    try:
        rest = escaped(_encode(event))
    except UnicodeEncodeError:  # half a surrogate pair in a header
        rest = escaped(_encode(as_unicode(event)))
    for mark, content in sides:
        before, _, rest = rest.partition(mark)
        yield before + mark
        yield from _rendered(content)
    yield rest


def _decoded(body: bytes) -> Generator[bytes, None, list[str] | None]:
    """Decode a body, stepping aside at every piece; return None when it is no UTF-8."""
    if len(body) <= PIECE_BYTES:
        try:
            return [str(body, "utf-8")]
        except UnicodeDecodeError:
            return None
    texts: list[str] = []
    decoder = _Decoder()
    view = memoryview(body)
    try:
        for at in range(0, len(body), PIECE_BYTES):
            texts.append(decoder.decode(view[at : at + PIECE_BYTES]))
            yield b""
        texts.append(decoder.decode(b"", final=True))
    except UnicodeDecodeError:
        return None
    return texts


def _rendered(content: list[str] | bytes) -> Iterator[bytes]:
    """Render texts as the inside of a JSON string, or bytes as base64."""
    if isinstance(content, bytes):
        view = memoryview(content)
        for at in range(0, len(content), PIECE_BYTES):
            yield b2a_base64(view[at : at + PIECE_BYTES], newline=False)
    else:
        for text in content:
            yield escaped(_encode(text)[1:-1])


def escaped(line: bytes) -> bytes:
    """Escape what some readers take for the end of a line."""
    if line.isascii():
        return line
    for mark, escape in _LINE_BREAKS:
        if mark in line:
            line = line.replace(mark, escape)
    return line


def encoding_of(content_type: str, csv_types: tuple[str, ...], json_types: tuple[str, ...]) -> str:
    """Say how bodies of a content type are kept: ``CSV``, ``JSON`` or ``BASE64``.

    >>> encoding_of("Text/CSV; charset=utf-8", ("text/csv",), ())
    'CSV'
    """
    return _encoding_of(content_type, tuple(csv_types), tuple(json_types))


@lru_cache(maxsize=256)
def _encoding_of(content_type: str, csv_types: tuple[str, ...], json_types: tuple[str, ...]) -> str:
    plain = _plain_type(content_type)
    if plain in map(_plain_type, csv_types):
        return "CSV"
    return "JSON" if plain in map(_plain_type, json_types) else "BASE64"


@lru_cache(maxsize=64)
def inference_time(at_s: int) -> str:
    """Render a time as AWS does.

    >>> inference_time(1612498500)
    '2021-02-05T04:15:00Z'
    """
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_of(at_s: float) -> str:
    """Name the folder of a time's hour and the time in it, as files are named.

    >>> moment_of(1612498500.871)
    '2021/02/05/04/15-00-871'
    """
    at_ms = round(at_s * 1000)
    return f"{_folders_of(at_ms // 1000)}-{at_ms % 1000:03d}"


@lru_cache(maxsize=64)
def _folders_of(at_s: int) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y/%m/%d/%H/%M-%S")


def _plain_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def as_unicode(value: Any) -> Any:
    """Write what no UTF-8 can carry as Python would escape it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [as_unicode(one) for one in value]
    if isinstance(value, dict):
        return {key: as_unicode(one) for key, one in value.items()}
    return value
