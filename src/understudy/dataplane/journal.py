"""What one router has counted, where it outlives the router: a file that is mapped into memory.

Owns the file's layout: two areas that take turns holding a snapshot (JSON), and cells for what was counted
since the newer one.  A cell is written with one call and no system call; its last field is the generation of
the snapshot it adds to, so that a cell is there whole or not at all, and a new snapshot voids all cells at
once.  Whatever kills the process, the file says exactly what it had counted.  (A machine that loses its power
takes the last seconds with it: nothing is synced here.)

The writer holds a lock (flock) on the file; who can take it knows that the writer is gone.  All of the file's
room is taken at its making: a full disk later on changes nothing.
Main class: :class:`Journal`.  Main function: :func:`read_journal`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

SUFFIX = ".counts"
AREA_BYTES = 4 << 20
CELLS_BYTES = 2 << 20  # some seconds of a busy router
WORD = 0xFFFFFFFF
_HEAD = struct.Struct("=III")  # of an area: crc32 of what follows and of the body, generation, length
_CELL = struct.Struct("=IIII")  # two values, slot, generation
_SECOND = struct.Struct("=Q")
_SECOND_AT = 48  # of the file: the second it is by the scaled clock
_DEFINES = 0x80000000  # in a slot: the cell is followed by a name, of so many bytes as its first value says
_LONGEST_NAME_BYTES = 4096
_BODY_AT = 64  # of an area
_pack_cell = _CELL.pack_into

Name = tuple[Any, ...]


class Journal:
    """The writing end.

    Attributes:
        generation: Of the snapshot that cells add to.
        at: Where the next cell goes.
        limit: No cell begins behind it: a new snapshot is due.
        slots: Of the names that this generation's cells know.

    Raises:
        OSError: there is no room for the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_name(f"{path.name.partition('-')[0]}.new")  # the next one's is in its place
        self._descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            size_bytes = 2 * AREA_BYTES + CELLS_BYTES
            os.posix_fallocate(self._descriptor, 0, size_bytes)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._map = mmap.mmap(self._descriptor, size_bytes)
            fresh.rename(path)  # locked before anybody can find it
        except OSError:
            os.close(self._descriptor)
            fresh.unlink(missing_ok=True)
            raise
        self.generation = 0
        self.at = 2 * AREA_BYTES
        self.limit = size_bytes - 2 * _LONGEST_NAME_BYTES
        self.slots: dict[Name, int] = {}

    def replace(self, snapshot: Any) -> bool:
        """Begin anew from a snapshot that has everything in it.

        Returns:
            False when it is too long; nothing is changed then.
        """
        body = msgspec.json.encode(snapshot)
        if _BODY_AT + len(body) > AREA_BYTES:
            return False
        generation = self.generation + 1
        area = (generation % 2) * AREA_BYTES
        self._map[area + _BODY_AT : area + _BODY_AT + len(body)] = body
        _HEAD.pack_into(self._map, area, _checksum(generation, body), generation, len(body))
        self.generation = generation
        self.at = 2 * AREA_BYTES
        self.slots = {}
        return True

    @property
    def at_s(self) -> int:
        """The second in which what is counted now is counted."""
        return int(_SECOND.unpack_from(self._map, _SECOND_AT)[0])

    @at_s.setter
    def at_s(self, second: int) -> None:
        _SECOND.pack_into(self._map, _SECOND_AT, second)

    def define(self, name: Name) -> int:
        """Give a name its slot within this generation."""
        slot = self.slots[name] = len(self.slots) + 1
        encoded = msgspec.json.encode(name)[:_LONGEST_NAME_BYTES]
        start = self.at + _CELL.size
        self._map[start : start + len(encoded)] = encoded
        _pack_cell(self._map, self.at, len(encoded), 0, slot | _DEFINES, self.generation)
        self.at = start + _whole_cells(len(encoded))
        return slot

    def write(self, slot: int, value: int, second: int) -> None:
        """Add a cell; values are taken modulo 2**32."""
        at = self.at
        _pack_cell(self._map, at, value & WORD, second & WORD, slot, self.generation)
        self.at = at + 16

    def add(self, slot: int, value: int) -> None:
        """Add a cell with one small value."""
        at = self.at
        _pack_cell(self._map, at, value, 0, slot, self.generation)
        self.at = at + 16

    def close(self) -> None:
        """Let go of the file, as the end of the process does."""
        self._map.close()
        os.close(self._descriptor)


class Read(NamedTuple):
    """What a journal says.

    Attributes:
        at_s: The second in which it ended.
        entries: (name, value, second value) of everything counted since the snapshot, in order.
    """

    at_s: int
    snapshot: Any
    entries: list[tuple[Name, int, int]]


def read_journal(descriptor: int) -> Read | None:
    """Read a journal whose writer is gone; None when it ended before its first snapshot."""
    if os.fstat(descriptor).st_size < 2 * AREA_BYTES:
        return None
    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as content:
        found = [one for one in (_read_area(content, 0), _read_area(content, AREA_BYTES)) if one is not None]
        if not found:
            return None
        generation, body = max(found)
        at_s = int(_SECOND.unpack_from(content, _SECOND_AT)[0])
        return Read(at_s, msgspec.json.decode(body), list(_read_cells(content, generation)))


def _read_area(content: mmap.mmap, area: int) -> tuple[int, bytes] | None:
    checksum, generation, length = _HEAD.unpack_from(content, area)
    if generation == 0 or _BODY_AT + length > AREA_BYTES:
        return None
    body = content[area + _BODY_AT : area + _BODY_AT + length]
    return (generation, body) if _checksum(generation, body) == checksum else None


def _read_cells(content: mmap.mmap, wanted: int) -> Iterator[tuple[Name, int, int]]:
    names: dict[int, Name] = {}
    at = 2 * AREA_BYTES
    while at + _CELL.size <= len(content):
        value, second, slot, generation = _CELL.unpack_from(content, at)
        if generation != wanted:
            return
        at += _CELL.size
        if slot & _DEFINES:
            names[slot & ~_DEFINES] = tuple(msgspec.json.decode(content[at : at + value]))
            at += _whole_cells(value)
        else:
            yield names[slot], value, second


def _checksum(generation: int, body: bytes) -> int:
    return crc32(body, crc32(generation.to_bytes(4, "big") + len(body).to_bytes(4, "big")))


def _whole_cells(size_bytes: int) -> int:
    return -(-size_bytes // _CELL.size) * _CELL.size
