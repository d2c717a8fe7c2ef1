"""The frames of a spool segment: how records lie on disk between a router and the collector.

Owns the layout.  A segment is frames one after the other, each ``u32 length, u32 crc32`` of the payload
(big-endian) and the payload: destination, endpoint, variant and moment (``yyyy/mm/dd/hh/MM-SS-mmm``), each
ended by NUL, then the line of JSON, or, where the moment is empty, a batch (``capture.batches``).  Reading
ends at the first frame that is torn or damaged.
Main functions: :func:`pack_frame`, :func:`read_frames`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

OPEN_SUFFIX = ".open"  # still written to; its writer holds a lock (flock) on it
DONE_SUFFIX = ".spool"  # complete
Stream = tuple[str, str, str, str]
_HEAD = struct.Struct(">II")


class Frame(NamedTuple):
    """One record, or one batch of them.

    Attributes:
        stream: Which files it belongs to: (destination, endpoint, variant, ``yyyy/mm/dd/hh``).
        moment: When in that hour: ``MM-SS-mmm``.
        line: JSON, without the newline; or what a batch holds.
        end: Offset of the frame's end in its segment.
    """

    stream: Stream
    moment: str
    line: bytes
    end: int


def pack_frame(
    destination: str, endpoint: str, variant: str, moment: str, line: Iterable[bytes]
) -> list[bytes]:
    """Lay out one record.

    Args:
        line: JSON in pieces.

    Returns:
        The frame in pieces.
    """
    head = f"{destination}\0{endpoint}\0{variant}\0{moment}\0".encode("utf-8", "replace")
    pieces, length, checksum = [b"", head], len(head), crc32(head)
    for piece in line:
        if piece:
            length += len(piece)
            checksum = crc32(piece, checksum)
            pieces.append(piece)
    pieces[0] = _HEAD.pack(length, checksum)
    return pieces


def read_frames(segment: bytes) -> Iterator[Frame]:
    """Yield a segment's records up to the first frame that is not whole.

    >>> frame = b"".join(pack_frame("s3://b/p", "e", "v", "2021/02/05/04/15-00-871", [b"{}"]))
    >>> [(frame.stream[3], frame.moment, frame.line) for frame in read_frames(frame + frame[:20])]
    [('2021/02/05/04', '15-00-871', b'{}')]
    """
    at, size = 0, len(segment)
    while at + _HEAD.size <= size:
        length, checksum = _HEAD.unpack_from(segment, at)
        start = at + _HEAD.size
        end = start + length
        if length == 0 or end > size:  # zeros pass their own checksum: a hole that a power cut left
            return
        payload = segment[start:end]
        if crc32(payload) != checksum:
            return
        parts = payload.split(b"\0", 4)
        if len(parts) != 5:
            return
        destination, endpoint, variant, moment = (part.decode("utf-8", "replace") for part in parts[:4])
        hour, _, within = moment.rpartition("/")
        yield Frame((destination, endpoint, variant, hour), within, parts[4], end)
        at = end
