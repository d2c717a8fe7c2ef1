"""Reads a request's head and chunked body by one strict grammar; what is ambiguous is refused.

Owns the only parser of what callers send: :func:`parse_head` and :class:`ChunkedBody`.  Refuses, with a
:class:`Refused` that ends the connection: Content-Length beside Transfer-Encoding, either of them or Host
twice, Transfer-Encoding other than ``chunked``, bare CR or LF, folded lines, names that are no tokens,
control characters, a missing Host on HTTP/1.1, targets that are not in origin form, empty lines before a
request, floods of tiny chunks.  Two parsers that read the same bytes differently are what request
smuggling lives on; so nothing here is lenient, and nothing of a caller's framing is ever passed on.

Source: RFC 9112 sections 2.2, 3, 5, 6, 7.1; RFC 9110 section 5.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.dataplane.invocation import Invocation

MAX_HEAD_BYTES = 16 * 1024
MAX_FIELDS = 100
CHUNKED = -1

_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) (/[!\x22$-~]*|\*) HTTP/1\.([01])\r\n")
_FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n")
_FIELD = re.compile(rb"([^:\r\n]+):([^\r\n]*)\r\n")
_BARE = re.compile(rb"(?<!\r)\n|\r(?=[^\n])|\0")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_HOST = re.compile(rb"[A-Za-z0-9._~%:\[\]-]*")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:[ \t]*;[\t\x20-\x7e]*)?\r\n")
_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization"))
_MAX_CHUNK_LINE_BYTES = 256
_MAX_TRAILER_BYTES = 4096
# T2: a megabyte of one-byte chunks costs the sender nothing and the parser seconds.
_FREE_CHUNKS = 4096
_MIN_MEAN_CHUNK_BYTES = 32


class Refused(Exception):
    """A request that can't be read in exactly one way.

    Attributes:
        status: 400, 408, 413 or 431.
        reason: For the caller.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """One request's head, read.

    Attributes:
        path: As sent, up to the first ``?``.
        query: What followed it.
        headers: In order, names in lower case, values without outer blanks.
        fields: The same by name; of repeated ones the last.
        length: Bytes of body, or ``CHUNKED``.
        keep_alive: Whether the caller takes another answer on this connection.
        minor: 1 for HTTP/1.1, 0 for HTTP/1.0.
        expects_continue: It waits for ``100 Continue``.
        invocation: What InvokeEndpoint makes of it, filled in by the router; None for other requests.
    """

    __slots__ = (
        "expects_continue",
        "fields",
        "headers",
        "invocation",
        "keep_alive",
        "length",
        "method",
        "minor",
        "path",
        "query",
    )

    method: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    fields: dict[bytes, bytes]
    length: int
    keep_alive: bool
    minor: int
    expects_continue: bool
    invocation: Invocation | None

    @property
    def target(self) -> bytes:
        """The request target as sent."""
        return self.path + b"?" + self.query if self.query else self.path


def check_partial(data: bytes) -> None:
    """Refuse the beginning of a head that can't become a proper one, without waiting for its end.

    Raises:
        Refused: 400 for bare CR, LF or NUL, 431 when it is too long already.
    """
    if _BARE.search(data) is not None:
        raise Refused(400, "A bare CR, LF or NUL in the request head.")
    if len(data) > MAX_HEAD_BYTES:
        raise Refused(431, f"The request head exceeds {MAX_HEAD_BYTES} bytes.")
    if data[:2] == b"\r\n":
        raise Refused(400, "An empty line before the request line.")


def parse_head(data: bytes) -> Head:
    """Read one request head.

    Args:
        data: From the request line to the empty line, both included.
    Raises:
        Refused: 400 or 431; close the connection.
    """
    if len(data) > MAX_HEAD_BYTES:
        raise Refused(431, f"The request head exceeds {MAX_HEAD_BYTES} bytes.")
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise Refused(400, "The request line is malformed, or its target is not in origin form.")
    start = line.end()
    if _FIELDS.fullmatch(data, start) is None:
        raise Refused(400, "A header line is malformed, folded, or holds a control character.")
    head = Head()
    method, target, minor = line.groups()
    if target == b"*" and method != b"OPTIONS":
        raise Refused(400, "The target * belongs to OPTIONS alone.")
    head.method = method
    head.path, _, head.query = target.partition(b"?")
    head.minor = 1 if minor == b"1" else 0
    headers = [(name.lower(), value.strip()) for name, value in _FIELD.findall(data, start)]
    if len(headers) > MAX_FIELDS:
        raise Refused(431, f"More than {MAX_FIELDS} header fields.")
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated(headers)
    head.headers = headers
    head.fields = fields
    head.length = _body_length(fields, head.minor)
    host = fields.get(b"host")
    if host is None:
        if head.minor == 1:
            raise Refused(400, "HTTP/1.1 requires a Host header.")
    elif _HOST.fullmatch(host) is None:
        raise Refused(400, "The Host header is malformed.")
    connection = fields.get(b"connection")
    if connection is None:
        head.keep_alive = head.minor == 1
    else:
        options = [option.strip().lower() for option in connection.split(b",")]
        head.keep_alive = b"close" not in options and (head.minor == 1 or b"keep-alive" in options)
    head.expects_continue = False
    expect = fields.get(b"expect")
    if expect is not None:
        if expect.lower() != b"100-continue":
            raise Refused(417, "The only expectation known is 100-continue.")
        head.expects_continue = head.minor == 1
    head.invocation = None
    return head


def _check_repeated(headers: list[tuple[bytes, bytes]]) -> None:
    seen = set()
    for name, _ in headers:
        if name in seen and (name in _SINGLE or name.startswith(b"x-amzn-sagemaker-")):
            raise Refused(400, f"The header {name.decode('ascii')} is given more than once.")
        seen.add(name)


def _body_length(fields: dict[bytes, bytes], minor: int) -> int:
    coding = fields.get(b"transfer-encoding")
    length = fields.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.")
        if minor == 0 or coding.lower() != b"chunked":
            raise Refused(400, "The only Transfer-Encoding is chunked, with HTTP/1.1.")
        return CHUNKED
    if length is None:
        return 0
    if _LENGTH.fullmatch(length) is None:
        raise Refused(400, "Content-Length is not a plain number.")
    return int(length)


class ChunkedBody:
    """Takes a chunked body apart, piece by piece; trailers are checked and dropped.

    Attributes:
        done: The last chunk and the trailer have been read.
    """

    __slots__ = ("_buffer", "_bytes", "_chunks", "_left", "done")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = (
            -1
        )  # bytes of the current chunk still to come, its CRLF included; -1: a size line is next
        self._chunks = 0
        self._bytes = 0
        self.done = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Add bytes.

        Returns:
            The body's next pieces, and what followed the body once ``done``.
        Raises:
            Refused: the framing is not exactly as it must be; close the connection.
        """
        data = self._buffer + data if self._buffer else data
        position, end = 0, len(data)
        pieces: list[bytes] = []
        while True:
            if self._left > 2:
                take = min(self._left - 2, end - position)
                if take:
                    pieces.append(data[position : position + take])
                    position += take
                    self._left -= take
                if self._left > 2:
                    break
            if self._left == 2:
                if end - position < 2:
                    if end > position and data[position : position + 1] != b"\r":
                        raise Refused(400, "A chunk is longer than it says.")
                    break
                if data[position : position + 2] != b"\r\n":
                    raise Refused(400, "A chunk is longer than it says.")
                position += 2
                self._left = -1
            if self._left == 0:
                rest = self._trailer(data[position:])
                if rest is None:
                    break
                self.done = True
                self._buffer = b""
                return pieces, rest
            line = _CHUNK_LINE.match(data, position)
            if line is None:
                self._check_partial_line(data[position : position + _MAX_CHUNK_LINE_BYTES])
                break
            position = line.end()
            size = int(line.group(1), 16)
            self._chunks += 1
            self._bytes += size
            if self._chunks > _FREE_CHUNKS and self._bytes < self._chunks * _MIN_MEAN_CHUNK_BYTES:
                raise Refused(400, "The body is cut into too many tiny chunks.")
            self._left = size + 2 if size else 0
        self._buffer = data[position:]
        return pieces, b""

    def _trailer(self, data: bytes) -> bytes | None:
        """Return what follows the trailer, or None while it is incomplete."""
        end = 2 if data[:2] == b"\r\n" else data.find(b"\r\n\r\n") + 4
        if end < 4 and data[:2] != b"\r\n":
            if len(data) > _MAX_TRAILER_BYTES or _BARE.search(data) is not None:
                raise Refused(400, "The trailer is malformed or too long.")
            return None
        if _FIELDS.fullmatch(data, 0, end) is None:
            raise Refused(400, "The trailer is malformed.")
        return data[end:]

    def _check_partial_line(self, line: bytes) -> None:
        if b"\n" in line or _BARE.search(line) is not None or len(line) >= _MAX_CHUNK_LINE_BYTES:
            raise Refused(400, "A chunk's size line is malformed.")
        if line and re.match(rb"[0-9A-Fa-f]{1,8}(?:\r?$|[ \t]*(?:;|$))", line) is None:
            raise Refused(400, "A chunk's size line is malformed.")
