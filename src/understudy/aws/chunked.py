"""Decodes ``aws-chunked`` bodies, checking chunk signatures where they are signed.

Refuses endless lines, trailers not announced, wrong lengths and bytes behind the end.  Main type:
:class:`ChunkedBody`.  Source: S3 API, "Signature calculations for the authorization header:
transferring payload in multiple chunks" and "... including trailing headers".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from understudy.core.errors import ApiError
from understudy.core.signing import Verified, chunk_signature, trailer_signature

MAX_LINE_BYTES = 4096
MAX_TRAILERS = 16
SIGNED = frozenset({"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"})
UNSIGNED = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class ChunkedBody:
    """One aws-chunked body.

    Args:
        source: The encoded bytes.
        claim: The value of x-amz-content-sha256.
        verified: Who signed the request; None with authentication off (signatures are then not checked).
        decoded_length: x-amz-decoded-content-length, if sent.
    Attributes:
        trailers: Lower-case name to value; complete when the iteration has ended.
    """

    def __init__(
        self, source: Iterator[bytes], claim: str, verified: Verified | None, decoded_length: int | None
    ) -> None:
        if claim not in SIGNED and claim != UNSIGNED:
            raise ApiError(
                f"Understudy does not implement {claim} bodies.", code="NotImplemented", status=501
            )
        self._source = source
        self._buffer = bytearray()
        self._signed = claim in SIGNED
        self._trailing = claim.endswith("-TRAILER")
        self._verified = verified
        self._previous = verified.signature if verified is not None else ""
        self._decoded_length = decoded_length
        self.trailers: dict[str, str] = {}

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        while True:
            size, signature = self._chunk_head()
            digest = hashlib.sha256()
            remaining = size
            while remaining:
                data = self._some(remaining)
                remaining -= len(data)
                if self._signed:
                    digest.update(data)
                yield data
            total += size
            if self._signed and self._verified is not None:
                self._previous = self._check(
                    chunk_signature(self._verified, self._previous, digest.hexdigest()), signature
                )
            if size == 0:
                break
            if self._line() != b"":
                raise _incomplete("A chunk is longer than its size says.")
        self._read_trailers()
        if self._decoded_length is not None and total != self._decoded_length:
            raise _incomplete("The body's length is not x-amz-decoded-content-length.")
        if self._buffer or any(self._source):
            raise _incomplete("Bytes follow the end of the body.")

    def _chunk_head(self) -> tuple[int, bytes]:
        """Read ``SIZE[;chunk-signature=HEX]``."""
        head, _, extension = self._line().partition(b";")
        if not head or len(head) > 16 or head.strip(b"0123456789abcdefABCDEF"):
            raise _incomplete("A chunk does not begin with its size.")
        name, _, signature = extension.partition(b"=")
        if self._signed and name != b"chunk-signature":
            raise _incomplete("A chunk has no signature.")
        return int(head, 16), signature

    def _read_trailers(self) -> None:
        """Read the trailer to its empty line, and check its signature."""
        signed_text = b""
        signature: bytes | None = None
        while (line := self._line()) != b"":
            name, separator, value = line.partition(b":")
            name = name.strip().lower()
            if not separator or not name.startswith(b"x-amz-") or len(self.trailers) >= MAX_TRAILERS:
                raise _incomplete("The body's trailer is malformed.")
            if name == b"x-amz-trailer-signature":
                signature = value.strip(b" \t")
                continue
            if name.decode("latin-1") in self.trailers:
                raise _incomplete("The body's trailer names a header twice.")
            self.trailers[name.decode("latin-1")] = value.strip(b" \t").decode("latin-1")
            signed_text += name + b":" + value.strip(b" \t") + b"\n"
        if self.trailers and not self._trailing:
            raise _incomplete("The body has a trailer that was not announced.")
        if self._signed and self._trailing and self._verified is not None:
            expected = trailer_signature(self._verified, self._previous, signed_text)
            self._check(expected, signature or b"")

    def _check(self, expected: str, signature: bytes) -> str:
        if not hmac.compare_digest(expected.encode(), signature):
            raise ApiError(
                "The request signature we calculated does not match the signature you provided.",
                code="SignatureDoesNotMatch",
                status=403,
            )
        return expected

    def _fill(self) -> bool:
        for data in self._source:
            if data:
                self._buffer += data
                return True
        return False

    def _some(self, most: int) -> bytes:
        if not self._buffer and not self._fill():
            raise _incomplete("You did not provide the number of bytes specified by the chunks.")
        data = bytes(self._buffer[:most])
        del self._buffer[:most]
        return data

    def _line(self) -> bytes:
        """Read to CRLF."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise _incomplete("A line of the body's framing is too long.")
            if not self._fill():
                raise _incomplete("The body ends within a chunk.")
        if end > MAX_LINE_BYTES:
            raise _incomplete("A line of the body's framing is too long.")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _incomplete(message: str) -> ApiError:
    return ApiError(message, code="IncompleteBody", status=400)
