"""What the collector has moved and is moving: the file that makes it survive ``kill -9``.

Owns ``ledger.json`` in the spool: files still growing, moves under way (written down before the first byte
is moved) and the running number of what was reported.  Main functions: :func:`load`, :func:`save`.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from understudy.capture.frames import Stream

NAME = "ledger.json"


class CaptureFile(msgspec.Struct):
    """One file of records in the object store.

    Attributes:
        key: Whole key in the destination's bucket.
        first, last: Earliest and latest record, ``yyyy/mm/dd/hh/MM-SS-mmm``.
        pieces: How many the store has it in.
    """

    stream: Stream
    key: str
    size_bytes: int = 0
    records: int = 0
    first: str = ""
    last: str = ""
    pieces: int = 1


class Growth(msgspec.Struct):
    """What one move adds to one file.

    Attributes:
        before: The file without it; ``size_bytes`` 0: there is none yet.
        after: The file with it.
    """

    before: CaptureFile
    after: CaptureFile

    @property
    def records(self) -> int:
        """How many records it adds."""
        return self.after.records - self.before.records


class Move(msgspec.Struct):
    """Segments on their way into files.

    Attributes:
        segments: Names in the spool; they hold the records of all growths.
        number: 0 while under way; then rising: under which it is reported.
    """

    segments: list[str]
    growths: list[Growth]
    number: int = 0


class Ledger(msgspec.Struct):
    """Everything the collector knows.

    Attributes:
        source: Under which moves are reported, with their numbers; unique for this ledger.
        growing: Files that may still grow, one per stream at most.
        closing: Files that won't grow: to be finished with a manifest.
        reported: Number of the last move that is done.
        taken: By a router's boot: how many of its records moves have, or had, as (endpoint, variant, count).
    """

    source: str
    growing: list[CaptureFile] = []
    closing: list[CaptureFile] = []
    moves: list[Move] = []
    reported: int = 0
    taken: dict[str, list[tuple[str, str, int]]] = {}


def load(directory: Path) -> Ledger | None:
    """Read the ledger; None when there is none yet."""
    try:
        return msgspec.json.decode((directory / NAME).read_bytes(), type=Ledger)
    except FileNotFoundError:
        return None


def save(directory: Path, ledger: Ledger) -> None:
    """Replace the ledger; it is on disk when this returns."""
    path = directory / NAME
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(ledger))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
