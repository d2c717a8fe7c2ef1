"""One strict grammar: what is ambiguous is refused, whatever the pieces it arrives in."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.dataplane.guard import CHUNKED, ChunkedBody, Refused, check_partial, parse_head

HOST = b"Host: x\r\n"
START = b"POST /endpoints/e/invocations HTTP/1.1\r\n"


def head(*lines: bytes, start: bytes = START) -> bytes:
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_a_usual_head_is_read() -> None:
    read = parse_head(head(b"Host: x:8080", b"Content-Type:  text/csv \t", b"content-length: 12", b"X-E:"))
    assert (read.method, read.path, read.query) == (b"POST", b"/endpoints/e/invocations", b"")
    assert read.fields[b"content-type"] == b"text/csv"
    assert read.fields[b"x-e"] == b""
    assert (read.length, read.keep_alive, read.minor) == (12, True, 1)


def test_path_and_query_stay_raw() -> None:
    read = parse_head(b"GET /a%2Fb?x=%20&y HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (read.path, read.query, read.target) == (b"/a%2Fb", b"x=%20&y", b"/a%2Fb?x=%20&y")


def test_chunked_is_read() -> None:
    assert parse_head(head(b"Host: x", b"Transfer-Encoding: Chunked")).length == CHUNKED


@pytest.mark.parametrize(
    ("line", "minor", "keeps"),
    [
        (b"Connection: close", b"1", False),
        (b"Connection: keep-alive, Close", b"1", False),
        (b"Connection: upgrade", b"1", True),
        (b"X: y", b"0", False),
        (b"Connection: Keep-Alive", b"0", True),
    ],
)
def test_keep_alive(line: bytes, minor: bytes, keeps: bool) -> None:
    start = b"GET / HTTP/1." + minor + b"\r\n"
    assert parse_head(head(b"Host: x", line, start=start)).keep_alive is keeps


SMUGGLING = {
    "cl and te": head(b"Host: x", b"Content-Length: 3", b"Transfer-Encoding: chunked"),
    "te and cl": head(b"Host: x", b"Transfer-Encoding: chunked", b"Content-Length: 3"),
    "two lengths": head(b"Host: x", b"Content-Length: 3", b"Content-Length: 4"),
    "two equal lengths": head(b"Host: x", b"Content-Length: 3", b"content-length: 3"),
    "list of lengths": head(b"Host: x", b"Content-Length: 3, 3"),
    "signed length": head(b"Host: x", b"Content-Length: +3"),
    "negative length": head(b"Host: x", b"Content-Length: -3"),
    "hex length": head(b"Host: x", b"Content-Length: 0x3"),
    "unicode digits": head(b"Host: x", "Content-Length: ３".encode()),
    "underscore length": head(b"Host: x", b"Content-Length: 1_0"),
    "empty length": head(b"Host: x", b"Content-Length: "),
    "huge length": head(b"Host: x", b"Content-Length: 99999999999999999999"),
    "te identity": head(b"Host: x", b"Transfer-Encoding: identity"),
    "te list": head(b"Host: x", b"Transfer-Encoding: gzip, chunked"),
    "te twice": head(b"Host: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "te tab": head(b"Host: x", b"Transfer-Encoding: \x0bchunked"),
    "te xchunked": head(b"Host: x", b"Transfer-Encoding: xchunked"),
    "te on 1.0": head(b"Host: x", b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0\r\n"),
    "two hosts": head(b"Host: x", b"Host: y"),
    "no host": head(b"X: y"),
    "host with path": head(b"Host: x/y"),
    "host with at": head(b"Host: a@b"),
    "space before colon": head(b"Host: x", b"Content-Length : 3"),
    "space before name": head(b"Host: x", b" Content-Length: 3"),
    "folded": head(b"Host: x", b"X: a", b"\tb"),
    "bare lf": START + b"Host: x\nContent-Length: 3\r\n\r\n",
    "bare cr": START + b"Host: x\rContent-Length: 3\r\n\r\n",
    "nul": head(b"Host: x", b"X: a\0b"),
    "control": head(b"Host: x", b"X: a\x01b"),
    "delete": head(b"Host: x", b"X: a\x7fb"),
    "no colon": head(b"Host: x", b"Content-Length"),
    "empty name": head(b"Host: x", b": 3"),
    "name with bracket": head(b"Host: x", b"Content(Length: 3"),
    "name not ascii": head(b"Host: x", "Cöntent: 3".encode("latin-1")),
    "absolute form": head(b"Host: x", start=b"POST http://y/endpoints/e/invocations HTTP/1.1\r\n"),
    "authority form": head(b"Host: x", start=b"CONNECT y:443 HTTP/1.1\r\n"),
    "asterisk": head(b"Host: x", start=b"GET * HTTP/1.1\r\n"),
    "two spaces": head(b"Host: x", start=b"GET  / HTTP/1.1\r\n"),
    "tab in the line": head(b"Host: x", start=b"GET\t/ HTTP/1.1\r\n"),
    "lower method": head(b"Host: x", start=b"get / HTTP/1.1\r\n"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": head(b"Host: x", start=b"GET / HTTP/2.0\r\n"),
    "HTTP/1.10": head(b"Host: x", start=b"GET / HTTP/1.10\r\n"),
    "target not ascii": head(b"Host: x", start="GET /ä HTTP/1.1\r\n".encode()),
    "space at the end": head(b"Host: x", start=b"GET / HTTP/1.1 \r\n"),
    "empty line first": b"\r\n" + head(b"Host: x"),
    "two content types": head(b"Host: x", b"Content-Type: a", b"Content-Type: b"),
    "two targets": head(
        b"Host: x", b"X-Amzn-SageMaker-Target-Variant: a", b"x-amzn-sagemaker-target-variant: b"
    ),
    "two authorizations": head(b"Host: x", b"Authorization: a", b"Authorization: b"),
    "unknown expectation": head(b"Host: x", b"Expect: 200-ok"),
}


@pytest.mark.parametrize("data", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_ambiguous_heads_are_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_head(data)
    assert 400 <= refused.value.status < 500


def test_limits() -> None:
    with pytest.raises(Refused) as refused:
        parse_head(head(b"Host: x", *(b"X-%d: y" % n for n in range(100))))
    assert refused.value.status == 431
    with pytest.raises(Refused) as refused:
        parse_head(head(b"Host: x", b"X: " + b"y" * 16_400))
    assert refused.value.status == 431
    with pytest.raises(Refused):
        check_partial(b"GET /" + b"a" * 16_400)


def test_a_head_of_blanks_is_read_in_linear_time() -> None:
    value = b"a" + b" " * 15_000 + b"b"
    assert parse_head(head(b"Host: x", b"X: " + value)).fields[b"x"] == value


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nA: b\rc", b"GET \0", b"\r\n"])
def test_hopeless_beginnings_are_refused_at_once(data: bytes) -> None:
    with pytest.raises(Refused):
        check_partial(data)


def test_a_cr_at_the_end_may_still_become_a_line_end() -> None:
    check_partial(b"GET / HTTP/1.1\r")


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    cuts=st.lists(st.integers(0, 500), max_size=12),
    trailer=st.booleans(),
)
def test_chunked_bodies_come_apart_alike_in_any_pieces(
    chunks: list[bytes], cuts: list[int], trailer: bool
) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    data += b"X-Sum: 1\r\n\r\n" if trailer else b"\r\n"
    whole = len(data)
    data += b"GET /next"
    body, decoder, rest, fed = b"", ChunkedBody(), b"", 0
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(edges):
        pieces, rest = decoder.feed(data[start:end])
        body += b"".join(pieces)
        fed = end
        if decoder.done:
            break
    assert decoder.done
    assert body == b"".join(chunks)
    assert rest == data[whole:fed]


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\rX",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"5;a=\nb\r\nhello\r\n0\r\n\r\n",
        b"5;" + b"a" * 300,
        b"123456789\r\n",
        b"g\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
        b"0\r\nX: y\n\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 1000,
        b"\r\n",
    ],
)
def test_crooked_chunks_are_refused(data: bytes) -> None:
    for step in (len(data), 1):
        decoder = ChunkedBody()
        with pytest.raises(Refused):
            for start in range(0, len(data), step):
                decoder.feed(data[start : start + step])


def test_extensions_are_ignored() -> None:
    decoder = ChunkedBody()
    pieces, rest = decoder.feed(b"2;a=b\r\nhi\r\n0;x\r\n\r\n")
    assert (pieces, rest, decoder.done) == ([b"hi"], b"", True)


def test_a_flood_of_tiny_chunks_is_refused() -> None:
    with pytest.raises(Refused, match="tiny"):
        ChunkedBody().feed(b"1\r\nx\r\n" * 5000)
