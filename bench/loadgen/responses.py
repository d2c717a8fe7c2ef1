"""Reads HTTP/1.1 answers that did not come in one piece as expected.

Owns what a client needs of RFC 9112: status, Content-Length, chunked, close.  Refuses anything else as
malformed.  Main class: :class:`ResponseReader`.
"""

from __future__ import annotations


class MalformedResponse(ValueError):
    """What came is no HTTP/1.1 answer."""


class ResponseReader:
    """Reads one answer.

    Attributes:
        status: 0 until the head is complete.
        body: Complete once :meth:`feed` has returned True.
        closes: The server ends the connection after this answer.
    """

    __slots__ = ("_buffer", "_chunked", "_missing", "_until_end", "body", "closes", "status")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._missing = -1
        self._chunked = False
        self._until_end = False
        self.status = 0
        self.body = b""
        self.closes = False

    def feed(self, data: bytes) -> bool:
        """Take what came; return whether the answer is complete.

        Raises:
            MalformedResponse: it can't be read, or more came than the answer has.
        """
        self._buffer += data
        while not self.status:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return False
            self._read_head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
        if self._chunked:
            return self._read_chunks()
        if self._until_end:
            return False
        if len(self._buffer) < self._missing:
            return False
        if len(self._buffer) > self._missing:
            raise MalformedResponse(f"{len(self._buffer) - self._missing} bytes follow the answer")
        self.body = bytes(self._buffer)
        return True

    def ended(self) -> bool:
        """Note the end of the connection; return whether that completes the answer."""
        if self.status and self._until_end:
            self.body = bytes(self._buffer)
            return True
        return False

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        parts = first.split(b" ", 2)
        if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
            raise MalformedResponse(f"status line {first[:80]!r}")
        status = int(parts[1])
        if 100 <= status < 200:
            return  # 100 Continue: the answer is still to come
        self.status = status
        self.closes = parts[0] == b"HTTP/1.0"
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip().lower()
            if name == b"content-length":
                if not value.isdigit():
                    raise MalformedResponse(f"Content-Length {value!r}")
                self._missing = int(value)
            elif name == b"transfer-encoding" and value == b"chunked":
                self._chunked = True
            elif name == b"connection":
                self.closes = value == b"close"
        if self._missing < 0 and not self._chunked:
            if status in (204, 304):
                self._missing = 0
            else:
                self._until_end = self.closes = True

    def _read_chunks(self) -> bool:
        """Join all chunks once the last one is there (answers in chunks are small here)."""
        whole, position = self._buffer, 0
        parts: list[bytes] = []
        while True:
            end = whole.find(b"\r\n", position)
            if end < 0:
                return False
            try:
                size = int(whole[position:end].split(b";")[0], 16)
            except ValueError:
                raise MalformedResponse(f"chunk size {bytes(whole[position:end])[:40]!r}") from None
            start = end + 2
            if len(whole) < start + size + 2:
                return False
            if size == 0:
                if len(whole) != start + 2:
                    raise MalformedResponse("trailers or bytes after the last chunk")
                self.body = b"".join(parts)
                return True
            parts.append(bytes(whole[start : start + size]))
            position = start + size + 2
