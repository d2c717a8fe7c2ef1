"""Checksums of multipart objects, from those of their parts: no byte is read again.

Main functions: :func:`composite`, :func:`whole`.
Source: S3's user guide, "Checking object integrity" (composite and full object checksums); combining CRCs
is multiplication by x^(8n) modulo the polynomial over GF(2).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import zlib
from collections.abc import Sequence

_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512", "MD5": "md5"}
# Polynomials with their lowest power in the highest bit, and widths in bits.
_CRCS = {
    "CRC32": (0xEDB88320, 32),
    "CRC32C": (0x82F63B78, 32),
    "CRC64NVME": (0x9A6C9329AC4BC9B5, 64),
}


def composite(algorithm: str, parts: Sequence[str]) -> str | None:
    """Return the checksum of the parts' checksums with ``-N``; None for an algorithm without one here.

    >>> composite("CRC32", ["NhCmhg=="])
    'FKTmaw==-1'
    """
    data = b"".join(base64.b64decode(part) for part in parts)
    if algorithm in _HASHES:
        digest = hashlib.new(_HASHES[algorithm], data, usedforsecurity=False).digest()
    elif algorithm in _CRCS:
        digest = crc(algorithm, data).to_bytes(_CRCS[algorithm][1] // 8, "big")
    else:
        return None
    return f"{base64.b64encode(digest).decode()}-{len(parts)}"


def whole(algorithm: str, parts: Sequence[tuple[str, int]]) -> str | None:
    """Return the checksum of the joined bytes; None for an algorithm that can't be combined.

    Args:
        parts: Checksum and size in bytes of each.
    """
    if algorithm not in _CRCS:
        return None
    width_bytes = _CRCS[algorithm][1] // 8
    total = 0
    for value, size_bytes in parts:
        part = int.from_bytes(base64.b64decode(value), "big")
        total = _times(algorithm, total, _power(algorithm, size_bytes)) ^ part
    return base64.b64encode(total.to_bytes(width_bytes, "big")).decode()


def crc(algorithm: str, data: bytes) -> int:
    """Compute a CRC; for a few kilobytes, except CRC32, which is quick."""
    if algorithm == "CRC32":
        return zlib.crc32(data)
    ones = (1 << _CRCS[algorithm][1]) - 1
    table, value = _table(algorithm), ones
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ ones


@functools.cache
def _table(algorithm: str) -> list[int]:
    polynomial, _ = _CRCS[algorithm]
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


def _times(algorithm: str, one: int, other: int) -> int:
    """Multiply two polynomials modulo the CRC's."""
    polynomial, width = _CRCS[algorithm]
    product, bit = 0, 1 << (width - 1)
    while bit:
        if one & bit:
            product ^= other
        other = (other >> 1) ^ (polynomial if other & 1 else 0)
        bit >>= 1
    return product


@functools.lru_cache(maxsize=1024)  # parts are mostly of one size
def _power(algorithm: str, size_bytes: int) -> int:
    """Return x^(8 * size) modulo the CRC's polynomial."""
    width = _CRCS[algorithm][1]
    result = 1 << (width - 1)  # x^0
    square = 1 << (width - 2)  # x^1
    exponent = 8 * size_bytes
    while exponent:
        if exponent & 1:
            result = _times(algorithm, result, square)
        square = _times(algorithm, square, square)
        exponent >>= 1
    return result
