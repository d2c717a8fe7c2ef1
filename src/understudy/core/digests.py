"""A body digested while somebody else reads it.

Main function: :func:`digested`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator


def digested(pieces: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Yield the pieces of a body; ``digest`` has seen each of them before its reader does.

    >>> digest = hashlib.sha256()
    >>> b"".join(digested([b"a", b"b"], digest)), digest.digest() == hashlib.sha256(b"ab").digest()
    (b'ab', True)
    """
    for piece in pieces:
        digest.update(piece)
        yield piece
