"""What is cut out of SDKs' heads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.dataplane.familiar import cut

ID = b"amz-sdk-invocation-id: 11111111-2222-4333-8444-555555555555\r\n"
SIGNED = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=host, Signature=" + b"0a" * 32 + b"\r\n"
)
START = b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("lines", [(ID, SIGNED), (SIGNED, ID)])
def test_both_are_cut_out_in_any_order(lines: tuple[bytes, ...]) -> None:
    parts = cut(START + b"".join(lines) + b"\r\n")
    assert parts is not None
    assert parts[1:] == (b"11111111-2222-4333-8444-555555555555", b"0a" * 32)
    assert parts[0].count(b"\0") == 2 and parts[0].replace(b"\0", b"") in (
        START + b"".join(lines).replace(parts[1], b"").replace(parts[2], b"") + b"\r\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        START + b"\r\n",
        START + ID.replace(b"5\r\n", b"5 \r\n") + b"\r\n",
        START + ID.replace(b"1111", b"11z1") + b"\r\n",
        START + ID + SIGNED.replace(b"\r\n", b" \r\n") + b"\r\n",
        START + ID + SIGNED.replace(b"0a\r\n", b"\r\n") + b"\r\n",
        START + ID + b"X: \0\r\n\r\n",
        START + ID + SIGNED.replace(b"0a" * 32, b"\0") + b"\r\n",
        START + b"X: amz-sdk-invocation-id: 11111111-2222-4333-8444-555555555555\r\n\r\n",
        START + b"User-Agent: a, Signature=" + b"0a" * 32 + b"\r\n\r\n",
    ],
)
def test_nothing_else_is(head: bytes) -> None:
    assert cut(head) is None


@given(
    first=st.binary(max_size=80),
    second=st.binary(max_size=80),
    lines=st.sampled_from([ID, SIGNED, ID + SIGNED]),
)
def test_different_heads_stay_different(first: bytes, second: bytes, lines: bytes) -> None:
    one, other = START + first + b"\r\n" + lines + b"\r\n", START + second + b"\r\n" + lines + b"\r\n"
    parts, others = cut(one), cut(other)
    if one != other and parts is not None and others is not None:
        assert parts != others
