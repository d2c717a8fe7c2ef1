"""aws-chunked bodies: framing, chunk signatures and trailers; and the checksums' known answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.aws.checksums import ALGORITHMS, hasher
from understudy.aws.chunked import UNSIGNED, ChunkedBody
from understudy.core.errors import ApiError
from understudy.core.signing import Verified, chunk_signature, trailer_signature

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
VERIFIED = Verified("AKID", "s3", "us-east-1", "5e" * 32, SIGNED, b"key", "scope", "20261121T000000Z")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def unsigned(chunks: list[bytes], trailer: bytes = b"x-amz-checksum-crc32:AAAAAA==\r\n") -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return framed + b"0\r\n" + trailer + b"\r\n"


def signed(chunks: list[bytes], trailer: bytes | None = None) -> bytes:
    previous = VERIFIED.signature
    framed = b""
    for chunk in [*chunks, b""]:
        previous = chunk_signature(VERIFIED, previous, hashlib.sha256(chunk).hexdigest())
        framed += b"%x;chunk-signature=%s\r\n%s" % (len(chunk), previous.encode(), chunk)
        framed += b"\r\n" if chunk else b""
    if trailer is not None:
        framed += trailer + b"\r\n"
        signature = trailer_signature(VERIFIED, previous, trailer + b"\n")
        framed += b"x-amz-trailer-signature:" + signature.encode() + b"\r\n"
    return framed + b"\r\n"


chunk_lists = st.lists(st.binary(min_size=1, max_size=50), max_size=5)


@given(chunk_lists, st.integers(1, 40))
def test_unsigned_chunks_however_they_arrive(chunks: list[bytes], size: int) -> None:
    whole = b"".join(chunks)
    body = ChunkedBody(pieces(unsigned(chunks), size), UNSIGNED, VERIFIED, len(whole))
    assert b"".join(body) == whole
    assert body.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}


@given(chunk_lists, st.integers(1, 40), st.booleans())
def test_signed_chunks_however_they_arrive(chunks: list[bytes], size: int, trailing: bool) -> None:
    trailer = b"x-amz-checksum-crc32:AAAAAA==" if trailing else None
    claim = SIGNED + "-TRAILER" if trailing else SIGNED
    whole = b"".join(chunks)
    body = ChunkedBody(pieces(signed(chunks, trailer), size), claim, VERIFIED, len(whole))
    assert b"".join(body) == whole
    assert bool(body.trailers) == trailing


@given(st.data())
def test_every_changed_byte_of_signed_chunks_is_refused(data: st.DataObject) -> None:
    encoded = signed([b"hello", b"world"], b"x-amz-checksum-crc32:AAAAAA==")
    index = data.draw(st.integers(0, len(encoded) - 3))
    changed = (
        encoded[:index]
        + bytes((encoded[index] ^ data.draw(st.sampled_from([1, 2, 64])),))
        + encoded[index + 1 :]
    )
    body = ChunkedBody(pieces(changed, 16), SIGNED + "-TRAILER", VERIFIED, 10)
    with pytest.raises(ApiError):
        list(body)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"5\r\nhel",
        b"5\r\nhello",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5_0\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nhello",
        b"\r\n",
        b"a" * 10_000,
        b"5\r\nhello\r\n0\r\n\r\nmore",
        b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        b"5\r\nhello\r\n0\r\nhost: evil\r\n\r\n",
        b"5\r\nhello\r\n0\r\nx-amz-a:1\r\nx-amz-a:2\r\n\r\n",
        b"4\r\nhell\r\n0\r\n\r\n",
    ],
)
def test_broken_framing_is_refused(encoded: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        list(ChunkedBody(pieces(encoded, 7), UNSIGNED, None, 5))
    assert caught.value.status == 400


def test_signed_bodies_need_their_signatures() -> None:
    for encoded in (b"5\r\nhello\r\n0\r\n\r\n", b"5;chunk-signature=\r\nhello\r\n0;chunk-signature=\r\n\r\n"):
        with pytest.raises(ApiError):
            list(ChunkedBody(pieces(encoded, 100), SIGNED, VERIFIED, None))
    with pytest.raises(ApiError) as caught:
        ChunkedBody(iter(()), "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", VERIFIED, None)
    assert caught.value.code == "NotImplemented"


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("md5", hashlib.md5(b"123456789").hexdigest()),
        ("sha1", hashlib.sha1(b"123456789").hexdigest()),
        ("sha256", hashlib.sha256(b"123456789").hexdigest()),
        ("sha512", hashlib.sha512(b"123456789").hexdigest()),
    ],
)
def test_checksums_known_answers(algorithm: str, expected: str) -> None:
    running = hasher(algorithm)
    running.update(b"1234")
    running.update(b"56789")
    assert running.digest().hex() == expected


def test_checksums_cover_the_table_and_refuse_the_rest() -> None:
    for algorithm in ALGORITHMS:
        hasher(algorithm)
    with pytest.raises(ApiError) as caught:
        hasher("xxhash64")
    assert caught.value.status == 501
