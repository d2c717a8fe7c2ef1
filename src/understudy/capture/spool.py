"""The router's end of the spool: records become frames in segment files, off the event loop.

Owns :class:`SpoolWriter`: a bounded queue that the event loop fills and one thread empties.  Nothing here
waits on the event loop and nothing raises there: what can't be kept is shed and counted, with its reason.

A caller can wait for a record or not: with ``acknowledge`` the record's batch is synced at once, one sync
for all that came meanwhile (group commit); without, segments are synced as they are completed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from understudy.capture.frames import pack_frame
from understudy.capture.segments import RESERVE_BYTES, Segments

log = logging.getLogger(__name__)

GATHER_S = 0.05  # how long best-effort records may gather in the queue
BATCH_BYTES = 1 << 20
# The thread shares the interpreter with the event loop: it renders for so long, then steps aside.
SLICE_S = 0.0003


class Spooled(Protocol):
    """A record, or some of one variant: ``capture.records.CaptureRecord``, ``capture.batches.Batch`` or
    ``capture.assignments.AssignmentRecord``.
    """

    @property
    def destination(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def variant(self) -> str: ...
    @property
    def moment(self) -> str: ...
    @property
    def count(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def pieces(self) -> Iterator[bytes]: ...


Acknowledge = Callable[[bool], None]
Shed = Callable[[str, str, str, int], None]


class SpoolWriter:
    """Takes records on the event loop, keeps them from a thread of its own.

    Args:
        directory: The spool; made when missing.
        router: Number of the router; part of the segments' names.
        boot: Unique text of this run of the router; part of the segments' names.
        on_shed: ``(endpoint, variant, outcome, count)`` for **every** record that is not kept, those
            included for which :meth:`offer` returned False; outcome is ``queue``, ``disk`` or
            ``shutdown``.  Called on the thread of ``offer`` and ``close``, or on the writing one.
        wall_s: The server's clock, Unix seconds: segments are named, and so moved, in order of time.
        max_queued_bytes: Bound of what waits to be written, bodies and an overhead per record.
        reserve_bytes: Room on the disk that is left to others.
    """

    def __init__(
        self,
        directory: Path,
        router: int,
        boot: str,
        *,
        on_shed: Shed,
        wall_s: Callable[[], float],
        max_queued_bytes: int = 20 << 20,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self._queue: deque[tuple[Spooled, Acknowledge | None]] = deque()
        self._on_shed = on_shed
        self._max_queued_bytes = max_queued_bytes
        # Each written by one side only, so that no lock is needed: queued = offered - done.
        self._offered_bytes = 0
        self._done_bytes = 0
        self._wake = threading.Event()
        self._asleep = False
        self._closing = False
        self._deadline_s = float("inf")
        self._segments = Segments(directory, f"{router}-{boot}", wall_s, reserve_bytes)
        self._failing = False
        self._slice_ends_s = 0.0
        self._thread = threading.Thread(target=self._run, name="capture spool", daemon=True)
        self._thread.start()

    @property
    def queued_bytes(self) -> int:
        """About how much memory waits to be written."""
        return self._offered_bytes - self._done_bytes

    def offer(self, record: Spooled, acknowledge: Acknowledge | None = None) -> bool:
        """Take a record to be kept; never waits, never raises.  One thread (the event loop's) calls this.

        Args:
            acknowledge: Called once from the thread: True when the record is synced to disk, False when it
                is not kept.  None: best effort.  Not called when this returns False.

        Returns:
            False when the record is not taken: too much waits (``queue``), or ``close`` was called
            (``shutdown``).  ``on_shed`` has been told.
        """
        size_bytes = record.size_bytes
        if self._closing:
            self._on_shed(record.endpoint, record.variant, "shutdown", record.count)
            return False
        if self._offered_bytes - self._done_bytes + size_bytes > self._max_queued_bytes:
            self._on_shed(record.endpoint, record.variant, "queue", record.count)
            return False
        self._offered_bytes += size_bytes
        self._queue.append((record, acknowledge))
        if self._asleep or acknowledge is not None:
            self._asleep = False
            self._wake.set()
        return True

    def close(self, timeout_s: float) -> None:
        """Write what waits, for so long at most; the rest is shed as ``shutdown``.  Blocks."""
        self._deadline_s = time.monotonic() + timeout_s
        self._closing = True
        self._wake.set()
        self._thread.join(timeout_s + 1.0)
        self._shed_waiting("shutdown")

    # --- the thread ---

    def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    break
                self._segments.rotate_if_old()
                self._sleep()
            if self._closing and time.monotonic() > self._deadline_s:
                break
            self._wake.clear()
            self._write_batch()
            if not self._closing and self.queued_bytes < BATCH_BYTES:
                self._wake.wait(GATHER_S)
        self._shed_waiting("shutdown")
        self._segments.rotate()

    def _sleep(self) -> None:
        """Wait for a record, or for the segment to be old enough to be completed."""
        self._asleep = True
        if not self._queue and not self._closing:
            self._wake.wait(self._segments.time_left_s())
        self._asleep = False

    def _write_batch(self) -> None:
        """Write what waits, some of it if it is much."""
        batch: list[tuple[Spooled, Acknowledge | None]] = []
        frames: list[list[bytes]] = []
        size_bytes = held_bytes = 0
        try:
            while size_bytes < BATCH_BYTES and self._queue:
                record, acknowledge = self._queue.popleft()
                batch.append((record, acknowledge))
                held_bytes += record.size_bytes
                frame = self._frame(record)
                frames.append(frame)
                size_bytes += sum(map(len, frame))
            if batch:
                sync = any(acknowledge is not None for _, acknowledge in batch)
                self._settle(batch, self._segments.append(frames, sync=sync))
        finally:
            self._done_bytes += held_bytes

    def _frame(self, record: Spooled) -> list[bytes]:
        return pack_frame(
            record.destination,
            record.endpoint,
            record.variant,
            record.moment,
            self._politely(record.pieces()),
        )

    def _politely(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Step aside for the event loop now and then, unless the queue gets full."""
        for piece in pieces:
            yield piece
            if time.perf_counter() > self._slice_ends_s:
                if self.queued_bytes * 2 < self._max_queued_bytes:
                    time.sleep(SLICE_S)
                self._slice_ends_s = time.perf_counter() + SLICE_S

    def _settle(self, batch: list[tuple[Spooled, Acknowledge | None]], kept: int) -> None:
        """Answer those who wait; count what was not kept: all but the first ``kept``."""
        for record, _ in batch[kept:]:
            self._on_shed(record.endpoint, record.variant, "disk", record.count)
        for place, (_, acknowledge) in enumerate(batch):
            if acknowledge is not None:
                acknowledge(place < kept)
        failing = kept < len(batch)
        if failing != self._failing:
            self._failing = failing
            log.warning(
                "capture: records are %s", "shed, the spool can't be written" if failing else "kept again"
            )

    def _shed_waiting(self, outcome: str) -> None:
        while True:
            try:
                record, acknowledge = self._queue.popleft()
            except IndexError:
                return
            self._on_shed(record.endpoint, record.variant, outcome, record.count)
            if acknowledge is not None:
                acknowledge(False)
