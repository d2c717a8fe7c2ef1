"""The segment file that a router writes, and its successors.

Owns the files' names, ages and sizes, and what happens when the disk does not take a write.  A segment is
``<ms>-<router>-<boot>-<n>.open`` while it is written (its writer holds a ``flock`` on it, so that the
collector can tell a crashed router's from a living one's) and ``….spool`` once complete: every two seconds
or 8 MiB.  A write that fails is cut back to the last whole frame.  Capture leaves the disk's last bit of
room to others: below the reserve it is as if the disk were full.  Main class: :class:`Segments`, for one
thread.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from understudy.capture.frames import DONE_SUFFIX, OPEN_SUFFIX

log = logging.getLogger(__name__)

SEGMENT_BYTES = 8 << 20
SEGMENT_AGE_S = 2.0
RESERVE_BYTES = 64 << 20  # or 5 % of the disk, when that is less
LOOK_AT_DISK_EVERY_S = 1.0
WRITE_BYTES = 256 << 10


class Segments:
    """Appends frames; completes a segment when it is old or large enough.

    Args:
        directory: The spool; made when missing.
        owner: Unique text of this writer for the files' names.
        wall_s: Unix seconds: segments are named, and so moved, in order of time.
        reserve_bytes: Room on the disk that is left to others.
    """

    def __init__(self, directory: Path, owner: str, wall_s: Callable[[], float], reserve_bytes: int) -> None:
        self._directory = directory
        self._owner = owner
        self._wall_s = wall_s
        self._reserve_bytes = reserve_bytes
        self._number = 0
        self._path = directory
        self._descriptor: int | None = None
        self._size_bytes = 0
        self._opened_s = 0.0
        self._looked_s = float("-inf")
        self._has_room = True

    def append(self, frames: Sequence[Sequence[bytes]], *, sync: bool) -> int:
        """Write frames.

        Args:
            frames: Each in pieces.
            sync: What is kept is on disk when this returns.

        Returns:
            How many frames are kept, from the first; the others are not in the file.
        """
        if not self._is_room():
            return 0
        try:
            descriptor = self._open() if self._descriptor is None else self._descriptor
        except OSError as error:
            log.debug("capture: no segment can be made in %s: %s", self._directory, error)
            return 0
        start, kept = self._size_bytes, len(frames)
        sizes = [sum(map(len, frame)) for frame in frames]
        try:
            for buffer in _buffers(frames):
                _write_all(descriptor, buffer)
        except OSError as error:
            log.debug("capture: %s can't be written: %s", self._path, error)
            kept = self._cut_to_whole_frames(descriptor, start, sizes)
        else:
            self._size_bytes += sum(sizes)
        if sync and kept and not _synced(descriptor):
            # After a failed sync nobody knows what is on disk.
            kept = self._cut_to_whole_frames(descriptor, start, ())
        if kept < len(frames):
            self._looked_s = float("-inf")
            self.rotate()
        elif self._size_bytes >= SEGMENT_BYTES:
            self.rotate()
        else:
            self.rotate_if_old()
        return kept

    def time_left_s(self) -> float | None:
        """Say how long the segment may still grow; None when there is none."""
        if self._descriptor is None:
            return None
        return max(0.0, self._opened_s + SEGMENT_AGE_S - time.monotonic())

    def rotate_if_old(self) -> None:
        """Complete the segment when it is old enough."""
        if self._descriptor is not None and time.monotonic() >= self._opened_s + SEGMENT_AGE_S:
            self.rotate()

    def rotate(self) -> None:
        """Complete the segment, if there is one: sync it, give it its final name."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            if self._size_bytes:
                if not _synced(descriptor):  # nobody waits for these; most likely they can be read
                    log.warning("capture: %s could not be synced", self._path)
                self._path.rename(self._path.with_suffix(DONE_SUFFIX))
            else:
                self._path.unlink()
        except OSError as error:
            # The collector takes it over under the name it has, once the lock ends below.
            log.warning("capture: %s could not be completed: %s", self._path, error)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            self._number += 1
            at_ms = int(self._wall_s() * 1000)
            path = self._directory / f"{at_ms:015d}-{self._owner}-{self._number}{OPEN_SUFFIX}"
            descriptor = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = os.fstat(descriptor).st_nlink == 0
                _sync_folder(self._directory)
            except BlockingIOError:
                taken = True
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
            if taken:  # the collector was there before the lock and took the empty file for an orphan
                os.close(descriptor)
                continue
            self._path, self._descriptor = path, descriptor
            self._size_bytes, self._opened_s = 0, time.monotonic()
            return descriptor

    def _cut_to_whole_frames(self, descriptor: int, start: int, sizes: Sequence[int]) -> int:
        """Cut the file back to the last of the frames that it holds whole; return how many it holds."""
        try:
            left = os.fstat(descriptor).st_size - start
            kept, self._size_bytes = 0, start
            for size_bytes in sizes:
                left -= size_bytes
                if left < 0:
                    break
                kept += 1
                self._size_bytes += size_bytes
            os.ftruncate(descriptor, self._size_bytes)
        except OSError as error:  # readers stop at the torn frame all the same
            log.warning("capture: %s could not be cut back: %s", self._path, error)
        return kept

    def _is_room(self) -> bool:
        now_s = time.monotonic()
        if now_s >= self._looked_s + LOOK_AT_DISK_EVERY_S:
            self._looked_s = now_s
            try:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                disk = os.statvfs(self._directory)
            except OSError as error:
                log.debug("capture: %s can't be used: %s", self._directory, error)
                self._has_room = False
            else:
                reserve_bytes = min(self._reserve_bytes, disk.f_blocks * disk.f_frsize // 20)
                self._has_room = disk.f_bavail * disk.f_frsize >= reserve_bytes
        return self._has_room


def boot_of(name: str) -> str:
    """Tell which run of which router wrote a segment; "" where its name does not say.

    >>> boot_of("000001612498500-0-9f86d081884c7d65-12.spool")
    '9f86d081884c7d65'
    """
    parts = name.split("-")
    return parts[2] if len(parts) > 3 else ""


def _buffers(frames: Iterable[Sequence[bytes]]) -> Iterator[bytes]:
    """Join small pieces for few writes; large ones are written as they are."""
    small: list[bytes] = []
    size_bytes = 0
    for frame in frames:
        for piece in frame:
            small.append(piece)
            size_bytes += len(piece)
            if size_bytes >= WRITE_BYTES:
                yield b"".join(small)
                small, size_bytes = [], 0
    if small:
        yield b"".join(small)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _synced(descriptor: int) -> bool:
    try:
        os.fdatasync(descriptor)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
