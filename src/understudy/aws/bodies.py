"""Request bodies: whole for control operations, as a stream for S3's objects, checked as they pass.

Owns size caps, gzip with a cap on what it unfolds to, and the checks on an object's bytes (SHA-256 claim,
aws-chunked framing, Content-MD5, checksums).  A failed check raises from within the iteration, so a
store that keeps only whole bodies keeps nothing.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from botocore.model import OperationModel

from understudy.aws import checksums
from understudy.aws.chunked import ChunkedBody
from understudy.aws.messages import MAX_CONTROL_BODY_BYTES, HttpRequest, Parameters
from understudy.core.errors import ApiError
from understudy.core.signing import Verified

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

RECEIVE_TIMEOUT_S = 60.0  # S3 itself gives up on a silent sender after 20 to 60 s
DRAIN_TIMEOUT_S = 5.0
MAX_OBJECT_BYTES = 5 * 1024**3  # of one PUT, as on S3
_HEX64 = re.compile(r"[0-9a-f]{64}")


class ClientGone(Exception):
    """The client closed the connection before its request was whole: nobody waits for an answer."""


class Reception:
    """Receives one body piece by piece, and knows whether it has ended."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def next_piece(self, timeout_s: float = RECEIVE_TIMEOUT_S) -> bytes:
        """Take one piece; empty once the body has ended.

        Raises:
            ApiError: RequestTimeout 400, the client is silent.
            ClientGone: it has hung up.
        """
        if self.ended:
            return b""
        try:
            event = await asyncio.wait_for(self._receive(), timeout_s)
        except TimeoutError:
            raise ApiError(
                "Your socket connection to the server was not read from or written to within the timeout"
                " period.",
                code="RequestTimeout",
                status=400,
            ) from None
        if event["type"] != "http.request":
            raise ClientGone
        self.ended = not event.get("more_body", False)
        data: bytes = event.get("body", b"")
        return data


async def receive_whole(body: Reception, limit_bytes: int) -> bytes:
    """Read a body that fits in memory.

    Raises:
        ApiError: RequestEntityTooLarge 413.
    """
    parts: list[bytes] = []
    total = 0
    while not body.ended:
        data = await body.next_piece()
        total += len(data)
        if total > limit_bytes:
            raise too_large(limit_bytes)
        parts.append(data)
    return b"".join(parts)


async def drain(request: HttpRequest, body: Reception) -> bool:
    """Read what an answer left unread, so that closing cannot tear the answer away from the client.

    A client that waits for ``100 Continue`` will not send its body once it has an answer; nor is a long
    rest worth reading.

    Returns:
        Whether the connection may carry another request.
    """
    if body.ended or not (request.header("content-length") or request.header("transfer-encoding")):
        return True
    if request.header("expect") is not None:
        return False
    total = 0
    try:
        while not body.ended and total < MAX_CONTROL_BODY_BYTES:
            total += len(await body.next_piece(DRAIN_TIMEOUT_S))
    except ApiError:
        return False  # silent: the answer goes out now, and the connection ends with it
    return body.ended


def too_large(limit_bytes: int) -> ApiError:
    """Say that a body passes its cap."""
    return ApiError(
        f"The request body is larger than {limit_bytes} bytes.", code="RequestEntityTooLarge", status=413
    )


class WholeBody:
    """A body that was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, limit_bytes: int) -> bytes:
        """Return it."""
        if len(self.data) > limit_bytes:
            raise too_large(limit_bytes)
        return self.data

    def stream(self) -> Iterator[bytes]:
        """Yield it."""
        if self.data:
            yield self.data


class ComingBody:
    """A body that is still on its way, drawn from a thread while the event loop receives it."""

    def __init__(self, body: Reception, loop: asyncio.AbstractEventLoop) -> None:
        self._body = body
        self._loop = loop

    def stream(self) -> Iterator[bytes]:
        """Yield pieces as they come."""
        total = 0
        while not self._body.ended:
            data = asyncio.run_coroutine_threadsafe(self._body.next_piece(), self._loop).result()
            total += len(data)
            if total > MAX_OBJECT_BYTES + MAX_CONTROL_BODY_BYTES:  # the framing of aws-chunked comes on top
                raise ApiError(
                    "Your proposed upload exceeds the maximum allowed size", code="EntityTooLarge", status=400
                )
            if data:
                yield data


def unfold(request: HttpRequest, data: bytes) -> bytes:
    """Undo ``Content-Encoding: gzip`` of a control body, up to the cap.

    Raises:
        ApiError: another encoding, not gzip, or larger than 8 MiB when unfolded.
    """
    encoding = (request.header("content-encoding") or "identity").lower()
    if encoding in ("identity", ""):
        return data
    if encoding != "gzip":
        raise ApiError(
            "Content-Encoding may be gzip or identity.", code="UnsupportedMediaTypeException", status=415
        )
    inflater = zlib.decompressobj(wbits=31)
    try:
        unfolded = inflater.decompress(data, MAX_CONTROL_BODY_BYTES + 1)
    except zlib.error:
        raise ApiError("The body is not gzip.", code="SerializationException", status=400) from None
    if len(unfolded) > MAX_CONTROL_BODY_BYTES:
        raise too_large(MAX_CONTROL_BODY_BYTES)
    if not inflater.eof or inflater.unused_data:
        raise ApiError("The body is not one whole gzip.", code="SerializationException", status=400)
    return unfolded


class ObjectBody:
    """The body of an S3 request: framing undone, every stated checksum held to the bytes.

    Args:
        source: What comes over the wire.
        verified: Who signed it, if anybody.
        model: The operation: tells whether checksum headers speak of this body.
    Attributes:
        parameters: Set by the gateway after parsing; a trailer's checksum enters it under its wire member
            before the iteration ends.
    """

    def __init__(
        self,
        request: HttpRequest,
        source: ComingBody | WholeBody,
        verified: Verified | None,
        model: OperationModel,
    ) -> None:
        self.parameters: Parameters = {}
        self._request = request
        self._source = source
        self._verified = verified
        stated = request.header("x-amz-content-sha256") or ""
        self._claim = verified.payload_hash_claim if verified is not None else stated
        # CompleteMultipartUpload's checksum headers speak of the object, not of its own XML.
        self._speaks_of_body = "requestAlgorithmMember" in (model.http_checksum or {})
        self._members = frozenset(model.input_shape.members if model.input_shape is not None else ())

    def read(self, limit_bytes: int) -> bytes:
        """Return the whole body, checked."""
        parts, total = [], 0
        for data in self.stream():
            total += len(data)
            if total > limit_bytes:
                raise too_large(limit_bytes)
            parts.append(data)
        return b"".join(parts)

    def stream(self) -> Iterator[bytes]:
        """Yield the body, decoded and checked; the checks' verdict comes before the end."""
        request, claim = self._request, self._claim
        pieces: Iterator[bytes] = self._source.stream()
        chunked: ChunkedBody | None = None
        if claim.startswith("STREAMING-"):
            chunked = ChunkedBody(pieces, claim, self._verified, _length(request))
            pieces = iter(chunked)
        expected = self._stated()
        announced = self._announced() if chunked is not None else []
        running = {name: checksums.hasher(name) for name in {*expected, *announced}}
        md5 = _content_md5(request)
        updates = [hasher.update for hasher in running.values()]
        body_md5 = hashlib.md5(usedforsecurity=False) if md5 is not None else None
        body_sha256 = hashlib.sha256() if _HEX64.fullmatch(claim) else None
        updates += [digest.update for digest in (body_md5, body_sha256) if digest is not None]
        for data in pieces:
            for update in updates:
                update(data)
            yield data
        if body_sha256 is not None and not hmac.compare_digest(body_sha256.hexdigest(), claim):
            raise ApiError(
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
                code="XAmzContentSHA256Mismatch",
                status=400,
            )
        if body_md5 is not None and body_md5.digest() != md5:
            raise checksums.bad_digest("content-md5")
        for name in announced:
            trailer = chunked.trailers.get(checksums.HEADER_PREFIX + name) if chunked is not None else None
            if trailer is None:
                raise ApiError(
                    "The trailer that x-amz-trailer announces is missing.",
                    code="MalformedTrailerError",
                    status=400,
                )
            expected[name] = trailer
        for name, value in expected.items():
            if checksums.encode(running[name].digest()) != value:
                raise checksums.bad_digest(name)
            member = f"Checksum{checksums.ALGORITHMS[name]}"
            if member in self._members:  # DeleteObjects and its like have only the header
                self.parameters[member] = value

    def _stated(self) -> dict[str, str]:
        """Return the checksums that headers state about this body, by lower-case algorithm."""
        stated: dict[str, str] = {}
        if self._speaks_of_body:
            for key, _ in self._request.headers:
                name = key.decode("latin-1")
                if name.startswith(checksums.HEADER_PREFIX) and name not in checksums.NOT_VALUES:
                    stated[name.removeprefix(checksums.HEADER_PREFIX)] = self._request.header(name) or ""
        return stated

    def _announced(self) -> list[str]:
        """Return the algorithms whose values the trailer will bring."""
        names = [name.strip().lower() for name in (self._request.header("x-amz-trailer") or "").split(",")]
        prefix = checksums.HEADER_PREFIX
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _content_md5(request: HttpRequest) -> bytes | None:
    text = request.header("content-md5")
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise ApiError("The Content-MD5 you specified was invalid.", code="InvalidDigest", status=400)
    return digest


def _length(request: HttpRequest) -> int | None:
    text = request.header("x-amz-decoded-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise ApiError("x-amz-decoded-content-length is not a length.", code="InvalidArgument", status=400)
    return int(text)
