"""The bytes between a router and a worker: length-prefixed frames over a stream socket.

Owns frame layout, heads and the incremental splitter. Refuses sockets, event loops and meaning: it neither
reads nor writes, and knows nothing of models. Standard library only, because both the router and every
model environment import it.

Main functions: ``encode_requests`` / ``decode_requests``, ``encode_responses`` / ``decode_responses``,
``encode_chunk`` / ``decode_chunk``, ``encode_cancel``, ``encode_pause`` and ``encode_resume`` /
``decode_request_id``, ``FrameSplitter``.

Layout (all integers big-endian): ``u32 length`` of what follows, ``u8 kind``, payload. A frame holds many
requests or responses, so that everything which queued while the other side was busy travels in one piece.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Union

# What a payload may be handed in as. (typing.Union: evaluated at run time, by Pythons older than 3.10 too.)
Buffer = Union[bytes, bytearray, memoryview]  # noqa: UP007

REQUESTS: Final = 1
CANCEL: Final = 2
PING: Final = 3
PAUSE: Final = 4
RESUME: Final = 5
RESPONSES: Final = 17
CHUNK: Final = 18
PONG: Final = 19

CHUNK_FIRST: Final = 1
CHUNK_LAST: Final = 2
CHUNK_FAILED: Final = 4

STATUS_MODEL_GONE: Final = 0  # the process behind the worker died or timed out; AWS prints "(0) from primary"

MAX_ITEMS_PER_FRAME: Final = 0xFFFF
MAX_HEAD_BYTES: Final = 0xFFFF
MAX_FRAME_BYTES: Final = 1 << 30  # a longer announced length means that the two sides lost step

LARGE_BYTES: Final = 64 * 1024  # from here on a copy costs more than another buffer in a write
_KNOWN_BYTES = 16  # kind and count of a frame that is coming in have been seen

_HEADER = struct.Struct(">IB")
_COUNT = struct.Struct(">H")
_REQUEST = struct.Struct(">IHI")
_RESPONSE = struct.Struct(">IHHI")
_CHUNK = struct.Struct(">IBHH")
_REQUEST_ID = struct.Struct(">I")

_new = tuple.__new__  # what a NamedTuple's own constructor calls, at half the time; these are per request

PING_FRAME: Final = _HEADER.pack(1, PING)
PONG_FRAME: Final = _HEADER.pack(1, PONG)


class WireError(ValueError):
    """The peer's bytes do not follow the layout, or a value does not fit it; close the connection."""


class Request(NamedTuple):
    """One request as it travels.

    Attributes:
        request_id: Chosen by the router, unique among its open requests on this connection, 0..2**32-1.
        head: Encoded ``RequestHead``; at most 65,535 bytes.
        body: The caller's bytes, untouched.
    """

    request_id: int
    head: bytes
    body: bytes


class Response(NamedTuple):
    """One whole answer as it travels; ``status`` 0 means that the model process is gone."""

    request_id: int
    status: int
    head: bytes
    body: bytes


class Chunk(NamedTuple):
    """One piece of a streamed answer; ``flags`` is a sum of ``CHUNK_FIRST``, ``_LAST`` and ``_FAILED``."""

    request_id: int
    flags: int
    status: int
    head: bytes
    data: bytes


class RequestHead(NamedTuple):
    """What the router tells the container about a request, besides its body."""

    content_type: str = ""
    accept: str = ""
    flags: str = ""
    custom_attributes: str = ""
    inference_id: str = ""
    target_model: str = ""
    target_container_hostname: str = ""
    session_id: str = ""
    variant: str = ""
    spare: str = ""

    @property
    def wants_stream(self) -> bool:
        """Whether the caller asked for a streamed answer."""
        return "s" in self.flags

    @property
    def is_mirrored(self) -> bool:
        """Whether this is a shadow's copy, whose answer nobody waits for."""
        return "m" in self.flags


class ResponseHead(NamedTuple):
    """What the container tells the router about an answer, besides status and body."""

    content_type: str = ""
    custom_attributes: str = ""
    container: str = ""
    new_session_id: str = ""
    closed_session_id: str = ""


def _encode_head(fields: tuple[str, ...]) -> bytes:
    joined = "\0".join(fields)
    if joined.count("\0") != len(fields) - 1:
        raise WireError("a head field holds a NUL character")
    head = joined.rstrip("\0").encode("utf-8", "surrogateescape")
    if len(head) > MAX_HEAD_BYTES:
        raise WireError(f"head of {len(head)} bytes exceeds {MAX_HEAD_BYTES}")
    return head


@functools.lru_cache(maxsize=1024)
def encode_request_head(head: RequestHead) -> bytes:
    """Join a request head's fields by NUL, trailing empty ones left out; repeated heads come from a cache.

    Raises:
        WireError: a field holds NUL, or the whole exceeds 65,535 bytes.

    >>> encode_request_head(RequestHead(content_type="text/csv", flags="s"))
    b'text/csv\\x00\\x00s'
    """
    return _encode_head(head)


@functools.lru_cache(maxsize=1024)
def decode_request_head(head: bytes) -> RequestHead:
    """Split a request head; unknown further fields are ignored, so that either side may be newer.

    >>> decode_request_head(b"text/csv\\0\\0s").wants_stream
    True
    """
    return RequestHead(*head.decode("utf-8", "surrogateescape").split("\0")[: len(RequestHead._fields)])


@functools.lru_cache(maxsize=1024)
def encode_response_head(head: ResponseHead) -> bytes:
    """Join a response head's fields by NUL, trailing empty ones left out.

    Raises:
        WireError: a field holds NUL, or the whole exceeds 65,535 bytes.
    """
    return _encode_head(head)


@functools.lru_cache(maxsize=1024)
def decode_response_head(head: bytes) -> ResponseHead:
    """Split a response head; unknown further fields are ignored.

    >>> decode_response_head(b"text/csv")
    ResponseHead(content_type='text/csv', custom_attributes='', container='', new_session_id='', \
closed_session_id='')
    """
    return ResponseHead(*head.decode("utf-8", "surrogateescape").split("\0")[: len(ResponseHead._fields)])


def _frame(kind: int, parts: list[bytes]) -> bytes:
    length = sum(map(len, parts)) + 1
    if length > MAX_FRAME_BYTES:
        raise WireError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
    parts[0:0] = [_HEADER.pack(length, kind)]
    return b"".join(parts)


def encode_requests(requests: Iterable[tuple[int, bytes, bytes]]) -> bytes:
    """Put requests ``(request_id, head, body)`` into one frame.

    Raises:
        WireError: more than 65,535 requests, or a value that does not fit its field.

    >>> list(decode_requests(encode_requests([(7, b"text/csv", b"1,2")])[5:]))
    [Request(request_id=7, head=b'text/csv', body=b'1,2')]
    """
    parts = [b""]
    try:
        for request_id, head, body in requests:
            parts += (_REQUEST.pack(request_id, len(head), len(body)), head, body)
        parts[0] = _COUNT.pack(len(parts) // 3)
    except struct.error as error:
        raise WireError(f"request does not fit the frame: {error}") from None
    return _frame(REQUESTS, parts)


def request_buffers(requests: Iterable[tuple[int, bytes, bytes]]) -> list[bytes]:
    """Do as :func:`encode_requests`, large bodies left as they are: the frame is the buffers in a row."""
    return _apart(REQUESTS, _REQUEST, requests)


def response_buffers(responses: Iterable[tuple[int, int, bytes, bytes]]) -> list[bytes]:
    """Do as :func:`encode_responses`, large bodies left as they are: the frame is the buffers in a row."""
    return _apart(RESPONSES, _RESPONSE, responses)


def _apart(kind: int, layout: struct.Struct, items: Iterable[tuple[Any, ...]]) -> list[bytes]:
    buffers: list[bytes] = []
    small, count, length = b"", 0, 1 + _COUNT.size
    try:
        for *numbers, head, body in items:
            start = layout.pack(*numbers, len(head), len(body)) + head
            count += 1
            length += len(start) + len(body)
            if len(body) < LARGE_BYTES:
                small += start + body
            else:
                buffers += (small + start, body)
                small = b""
        announced = _COUNT.pack(count)
    except struct.error as error:
        raise WireError(f"an item does not fit the frame: {error}") from None
    if length > MAX_FRAME_BYTES:
        raise WireError(f"frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
    buffers.append(small)
    buffers[0] = _HEADER.pack(length, kind) + announced + buffers[0]
    return [buffer for buffer in buffers if buffer]


def decode_requests(payload: Buffer) -> list[Request]:
    """Take a REQUESTS payload apart (the bytes after ``kind``).

    Raises:
        WireError: truncated, or bytes left over.
    """
    view = payload if isinstance(payload, bytes) else bytes(payload)
    size = _REQUEST.size
    requests = []
    position = 2
    try:
        (count,) = _COUNT.unpack_from(view)
        for _ in range(count):
            request_id, head_length, body_length = _REQUEST.unpack_from(view, position)
            head_end = position + size + head_length
            body_end = head_end + body_length
            head = view[position + size : head_end]
            requests.append(_new(Request, (request_id, head, view[head_end:body_end])))
            position = body_end
    except struct.error as error:
        raise WireError(f"truncated REQUESTS frame: {error}") from None
    if position != len(view):
        raise WireError(f"REQUESTS frame of {len(view)} bytes announces {position}")
    return requests


def encode_responses(responses: Iterable[tuple[int, int, bytes, bytes]]) -> bytes:
    """Put answers ``(request_id, status, head, body)`` into one frame.

    Raises:
        WireError: more than 65,535 answers, or a value that does not fit its field.
    """
    parts = [b""]
    try:
        for request_id, status, head, body in responses:
            parts += (_RESPONSE.pack(request_id, status, len(head), len(body)), head, body)
        parts[0] = _COUNT.pack(len(parts) // 3)
    except struct.error as error:
        raise WireError(f"response does not fit the frame: {error}") from None
    return _frame(RESPONSES, parts)


def decode_responses(payload: Buffer) -> list[Response]:
    """Take a RESPONSES payload apart (the bytes after ``kind``).

    Raises:
        WireError: truncated, or bytes left over.
    """
    view = payload if isinstance(payload, bytes) else bytes(payload)
    size = _RESPONSE.size
    responses = []
    position = 2
    try:
        (count,) = _COUNT.unpack_from(view)
        for _ in range(count):
            request_id, status, head_length, body_length = _RESPONSE.unpack_from(view, position)
            head_end = position + size + head_length
            body_end = head_end + body_length
            head = view[position + size : head_end]
            responses.append(_new(Response, (request_id, status, head, view[head_end:body_end])))
            position = body_end
    except struct.error as error:
        raise WireError(f"truncated RESPONSES frame: {error}") from None
    if position != len(view):
        raise WireError(f"RESPONSES frame of {len(view)} bytes announces {position}")
    return responses


def encode_chunk(request_id: int, *, flags: int, status: int, head: bytes, data: bytes) -> bytes:
    """Frame one piece of a streamed answer.

    Raises:
        WireError: a value does not fit its field.
    """
    try:
        start = _CHUNK.pack(request_id, flags, status, len(head))
    except struct.error as error:
        raise WireError(f"chunk does not fit the frame: {error}") from None
    return _frame(CHUNK, [start, head, data])


def decode_chunk(payload: Buffer) -> Chunk:
    """Take a CHUNK payload apart (the bytes after ``kind``).

    Raises:
        WireError: truncated.
    """
    view = payload if isinstance(payload, bytes) else bytes(payload)
    try:
        request_id, flags, status, head_length = _CHUNK.unpack_from(view)
    except struct.error as error:
        raise WireError(f"truncated CHUNK frame: {error}") from None
    head_end = _CHUNK.size + head_length
    if head_end > len(view):
        raise WireError("truncated CHUNK frame: head")
    return Chunk(request_id, flags, status, view[_CHUNK.size : head_end], view[head_end:])


def encode_cancel(request_id: int) -> bytes:
    """Frame the news that nobody waits for ``request_id`` any more."""
    return _frame(CANCEL, [_REQUEST_ID.pack(request_id)])


def encode_pause(request_id: int) -> bytes:
    """Frame the wish that ``request_id``'s stream waits: its reader is behind."""
    return _frame(PAUSE, [_REQUEST_ID.pack(request_id)])


def encode_resume(request_id: int) -> bytes:
    """Frame the news that ``request_id``'s stream may go on."""
    return _frame(RESUME, [_REQUEST_ID.pack(request_id)])


def decode_request_id(payload: Buffer) -> int:
    """Read the request id of a CANCEL, PAUSE or RESUME payload.

    Raises:
        WireError: not exactly four bytes.
    """
    try:
        (request_id,) = _REQUEST_ID.unpack(payload)
    except struct.error as error:
        raise WireError(f"malformed request id: {error}") from None
    return int(request_id)


class FrameSplitter:
    """Cuts a byte stream into frames, whatever the pieces it arrives in.

    ``feed`` takes what was read and returns every frame that is now complete; the rest waits. Data that
    ends on a frame border is never copied into the buffer.

    >>> splitter = FrameSplitter()
    >>> splitter.feed(PING_FRAME[:3]), splitter.feed(PING_FRAME[3:] + PONG_FRAME)
    ([], [(3, b''), (19, b'')])
    """

    __slots__ = ("_buffer", "_gathered_bytes_of_large", "_max_frame_bytes", "_need", "_pieces_of_large")

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start with nothing buffered; frames announced longer than ``max_frame_bytes`` are refused."""
        self._buffer = bytearray()
        self._need = 0
        self._max_frame_bytes = max_frame_bytes
        self._pieces_of_large: list[bytes] = []
        self._gathered_bytes_of_large = 0

    @property
    def pending_bytes(self) -> int:
        """How many bytes of an incomplete frame wait here; not 0 at the stream's end means truncation."""
        return len(self._buffer) + self._gathered_bytes_of_large

    def feed(self, data: Buffer) -> list[tuple[int, bytes]]:
        """Add bytes; return complete frames as ``(kind, payload)``.

        Raises:
            WireError: a frame announces no kind, or more than ``max_frame_bytes``.
        """
        if self._pieces_of_large:
            return self._gather(data)
        if self._buffer:
            if self._need > LARGE_BYTES and len(self._buffer) >= _KNOWN_BYTES:
                self._pieces_of_large.append(bytes(self._buffer))
                self._gathered_bytes_of_large = len(self._buffer)
                self._buffer.clear()
                return self._gather(data)
            self._buffer += data
            if len(self._buffer) < self._need:  # a long body arrives in many pieces: do not rescan it
                return []
            source = bytes(self._buffer)
        else:
            source = data if isinstance(data, bytes) else bytes(data)
        frames = []
        position, end = 0, len(source)
        need = 0
        while end - position >= 5:
            length, kind = _HEADER.unpack_from(source, position)
            if length < 1 or length > self._max_frame_bytes:
                raise WireError(f"frame announces {length} bytes")
            frame_end = position + 4 + length
            if frame_end > end:
                need = frame_end - position
                break
            frames.append((kind, source[position + 5 : frame_end]))
            position = frame_end
        self._need = need
        if self._buffer:
            del self._buffer[:position]
        elif position < end:
            self._buffer += source[position:] if position else source
        return frames

    def _gather(self, data: Buffer) -> list[tuple[int, bytes]]:
        """Add a piece of a large frame: it is copied once, when it is whole."""
        piece = data if isinstance(data, bytes) else bytes(data)
        pieces = self._pieces_of_large
        pieces.append(piece)
        self._gathered_bytes_of_large += len(piece)
        beyond = self._gathered_bytes_of_large - self._need
        if beyond < 0:
            return []
        self._pieces_of_large = []
        self._need = self._gathered_bytes_of_large = 0
        if beyond:
            pieces[-1] = piece[:-beyond]
        kind = pieces[0][4]
        pieces[0] = pieces[0][_HEADER.size :]
        frames = [(kind, b"".join(pieces))]
        return frames + FrameSplitter.feed(self, piece[-beyond:]) if beyond else frames
