"""Segments of routers that are gone: completed by whoever collects.

A writer holds a lock (``flock``) on its open segment, so one that nobody locks has no writer any more.
Main function: :func:`adopt_orphans`.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from understudy.capture.frames import DONE_SUFFIX, OPEN_SUFFIX, read_frames

log = logging.getLogger(__name__)


def adopt_orphans(directory: Path) -> None:
    """Complete the open segments of a spool whose writers are gone, up to their last whole frame."""
    for path in directory.glob(f"*{OPEN_SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # completed meanwhile
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists():
                _adopt(path, descriptor)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _adopt(path: Path, descriptor: int) -> None:
    end = 0
    for frame in read_frames(path.read_bytes()):
        end = frame.end
    if end == 0:
        path.unlink()
        return
    os.ftruncate(descriptor, end)
    os.fsync(descriptor)
    path.rename(path.with_suffix(DONE_SUFFIX))
    log.info("spool: took over %s of a router that is gone", path.name)
