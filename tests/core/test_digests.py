"""A digest sees every piece, in order, and no more than was read."""

from __future__ import annotations

import hashlib

from understudy.core.digests import digested


def test_a_digest_sees_what_its_reader_sees() -> None:
    digest = hashlib.md5(usedforsecurity=False)
    pieces = digested([b"a", b"", b"bc", b"d"], digest)
    assert [next(pieces), next(pieces), next(pieces)] == [b"a", b"", b"bc"]
    assert digest.digest() == hashlib.md5(b"abc", usedforsecurity=False).digest()
    assert list(pieces) == [b"d"]
    assert digest.digest() == hashlib.md5(b"abcd", usedforsecurity=False).digest()
