"""CBOR, with cbor2 as the oracle."""

from __future__ import annotations

import base64
import contextlib
import math
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.aws.protocols.cbor import decode, encode
from understudy.aws.protocols.scalars import Malformed

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30
)


@given(VALUES)
def test_what_is_written_is_read_by_others_and_by_itself(value: Any) -> None:
    assert cbor2.loads(encode(value)) == value
    assert decode(encode(value)) == value


@given(VALUES, st.booleans())
def test_what_others_write_is_read(value: Any, canonical: bool) -> None:
    assert decode(cbor2.dumps(value, canonical=canonical)) == value


def test_bytes_timestamps_and_lengths_that_come_later() -> None:
    assert decode(cbor2.dumps(b"\x00\xff")) == base64.b64encode(b"\x00\xff").decode()
    assert encode(b"ab") == cbor2.dumps(b"ab")
    assert decode(cbor2.dumps(cbor2.CBORTag(1, 1770091506.5))) == 1770091506.5
    assert decode(bytes.fromhex("bf6161bf61629f0203ffffff")) == {"a": {"b": [2, 3]}}
    assert decode(bytes.fromhex("9f0102ff")) == [1, 2]
    assert decode(bytes.fromhex("7f61616162ff")) == "ab"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xa1",
        b"\x61",
        b"\x82\x01",
        b"\xa1\x01\x01",  # a key that is a number
        b"\xa2\x61a\x01\x61a\x01",  # a key twice
        b"\x00\x00",  # more after the end
        b"\x1c",  # a reserved length
        b"\xff",
        b"\x7f\x41a\xff",  # bytes within a text
        b"\x61\xff",  # no UTF-8
        b"\xc2\x41a",  # a big number
        b"\xc1\x61a",  # a timestamp that is a text
        b"\xf8\x20",
        b"\x9b" + b"\xff" * 8,  # 2**64 - 1 items, of which none is there
        b"\x5b" + b"\xff" * 8,
        b"\x81" * 100 + b"\x01",
        b"\x9f" * 100_000,
        b"\xc1" * 100_000 + b"\x01",
        *(cbor2.dumps(number) for number in (math.inf, -math.inf, math.nan)),
    ],
)
def test_what_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(Malformed):
        decode(data)
