"""Frames of a shadow's worker without the large bodies that nobody wants.

Owns :class:`Skimmer`, a frame splitter that takes a large RESPONSES frame apart while it arrives: a body that
is not captured is dropped piece by piece instead of being gathered and copied, which would hold up
production's loop for milliseconds.  Refuses meaning: a dropped body is an empty one, a body above the limit
an error 500.

Source: the layout is ``understudy.worker.wire``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from understudy.dataplane.invocation import MAX_BODY_BYTES
from understudy.worker import wire

SKIM_FROM_BYTES = 64 * 1024
# What is gathered of one frame: a worker fills frames to half of that, or with one answer.
MAX_GATHERED_BYTES = 16 * 1024 * 1024
_START = struct.Struct(">IBH")
_RESPONSE = struct.Struct(">IHHI")


class Skimmer(wire.FrameSplitter):
    """Splits as ``FrameSplitter`` does, but leaves out bodies of large frames.

    Args:
        wants: Tells by request id whether an answer's body is needed.
    """

    __slots__ = (
        "_body_left",
        "_current",
        "_frame_left",
        "_gathered_bytes",
        "_items_left",
        "_pieces",
        "_rest",
        "_skims",
        "_taken",
        "_wants",
    )

    def __init__(self, wants: Callable[[int], bool]) -> None:
        super().__init__()
        self._wants = wants
        self._skims = False
        self._rest = b""  # of an item's header, or of its head
        self._frame_left = self._items_left = self._body_left = self._gathered_bytes = 0
        self._current = (0, 0, b"")
        self._pieces: list[bytes] | None = None
        self._taken: list[tuple[int, int, bytes, bytes]] = []

    def feed(self, data: wire.Buffer) -> list[tuple[int, bytes]]:
        """Add bytes; return complete frames as ``(kind, payload)``.

        Raises:
            WireError: a frame does not follow the layout, or is too large to be gathered.
        """
        frames: list[tuple[int, bytes]] = []
        if not self._skims:
            frames = super().feed(data)
            if self._need <= SKIM_FROM_BYTES or len(self._buffer) < _START.size:
                return frames
            if self._buffer[4] != wire.RESPONSES:
                if self._need > MAX_GATHERED_BYTES:
                    raise wire.WireError(f"frame announces {self._need} bytes")
                return frames
            data = self._begin()
        data = self._skim(self._rest + data if self._rest else bytes(data))
        if not self._skims:
            frames.append((wire.RESPONSES, wire.encode_responses(self._taken)[5:]))
            self._taken = []
            frames += self.feed(data)
        return frames

    def _begin(self) -> bytes:
        """Go over to skimming the frame whose start has arrived."""
        data = bytes(self._buffer)
        self._buffer.clear()
        self._need = 0
        length, _, count = _START.unpack_from(data)
        self._skims = True
        self._items_left, self._frame_left = count, length - 3
        self._gathered_bytes = 0
        return data[_START.size :]

    def _skim(self, data: bytes) -> bytes:
        """Use up bytes of the frame; return those after its end."""
        position, end = 0, len(data)
        self._rest = b""
        while True:
            if self._body_left:
                take = min(self._body_left, end - position)
                if self._pieces is not None and take:
                    self._pieces.append(data[position : position + take])
                position += take
                self._body_left -= take
                if self._body_left:
                    return b""
                self._end_item()
            if not self._items_left:
                if self._frame_left:
                    raise wire.WireError(f"RESPONSES frame has {self._frame_left} bytes left over")
                self._skims = False
                return data[position:]
            if end - position < _RESPONSE.size:
                break
            request_id, status, head_length, body_length = _RESPONSE.unpack_from(data, position)
            body_at = position + _RESPONSE.size + head_length
            if end < body_at:
                break
            self._begin_item(request_id, status, data[position + _RESPONSE.size : body_at], body_length)
            position = body_at
        self._rest = data[position:]
        return b""

    def _begin_item(self, request_id: int, status: int, head: bytes, body_length: int) -> None:
        self._frame_left -= _RESPONSE.size + len(head) + body_length
        if self._frame_left < 0:
            raise wire.WireError("truncated RESPONSES frame")
        self._pieces = None
        if body_length > MAX_BODY_BYTES:
            status = 500 if 200 <= status < 300 else status
        elif self._wants(request_id):
            self._gathered_bytes += body_length
            if self._gathered_bytes > MAX_GATHERED_BYTES:
                raise wire.WireError(f"RESPONSES frame of more than {MAX_GATHERED_BYTES} bytes")
            self._pieces = []
        self._current = (request_id, status, head)
        self._body_left = body_length
        if not body_length:
            self._end_item()

    def _end_item(self) -> None:
        body = b"" if self._pieces is None else b"".join(self._pieces)
        self._pieces = None
        self._items_left -= 1
        self._taken.append((*self._current, body))
