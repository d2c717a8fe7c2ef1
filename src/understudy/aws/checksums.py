"""Checksums of S3 bodies: what a client states, before or behind the body, held to the bytes.

Refuses algorithms that neither the standard library nor a small table offers (XXHASH).  CRC32C and
CRC64NVME are table-driven Python (about 10 MB/s); the others run in C.  Main function: :func:`hasher`.
Source: RFC 3720 B.4 (CRC32C), NVMe base specification (CRC64NVME).
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from functools import cache
from typing import Protocol

from understudy.core.errors import ApiError

HEADER_PREFIX = "x-amz-checksum-"
# Suffix of the header -> suffix of the wire member (ChecksumCRC32 ...).
ALGORITHMS = {
    "crc32": "CRC32",
    "crc32c": "CRC32C",
    "crc64nvme": "CRC64NVME",
    "sha1": "SHA1",
    "sha256": "SHA256",
    "sha512": "SHA512",
    "md5": "MD5",
}
# Headers of the family that state no value.
NOT_VALUES = frozenset({"x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"})


class Hasher(Protocol):
    """A running checksum."""

    def update(self, data: bytes, /) -> object:
        """Take more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the checksum, big-endian."""
        ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _TableCrc:
    """A reflected CRC, initial and final value all ones."""

    def __init__(self, polynomial: int, bits: int) -> None:
        self._table = _table(polynomial)
        self._mask = (1 << bits) - 1
        self._value = self._mask
        self._size = bits // 8

    def update(self, data: bytes, /) -> None:
        table, value = self._table, self._value
        for byte in data:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        self._value = value

    def digest(self) -> bytes:
        return (self._value ^ self._mask).to_bytes(self._size, "big")


@cache
def _table(polynomial: int) -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


def hasher(algorithm: str) -> Hasher:
    """Start a checksum.

    Args:
        algorithm: A key of :data:`ALGORITHMS`.
    Raises:
        ApiError: NotImplemented 501: another one.

    >>> running = hasher("crc32c")
    >>> running.update(b"123456789")
    >>> running.digest().hex()
    'e3069283'
    """
    if algorithm == "crc32":
        return _Crc32()
    if algorithm == "crc32c":
        return _TableCrc(0x82F63B78, 32)
    if algorithm == "crc64nvme":
        return _TableCrc(0x9A6C9329AC4BC9B5, 64)
    if algorithm in ("sha1", "sha256", "sha512", "md5"):
        return hashlib.new(algorithm, usedforsecurity=False)
    raise ApiError(
        f"Understudy does not check {HEADER_PREFIX}{algorithm}; use CRC32, CRC32C, CRC64NVME or SHA256.",
        code="NotImplemented",
        status=501,
    )


def encode(digest: bytes) -> str:
    """Write a checksum as headers carry it."""
    return base64.b64encode(digest).decode()


def bad_digest(algorithm: str) -> ApiError:
    """Say that bytes and checksum differ."""
    name = "Content-MD5" if algorithm == "content-md5" else ALGORITHMS[algorithm]
    return ApiError(
        f"The {name} you specified did not match the calculated checksum.", code="BadDigest", status=400
    )
