"""Assignments on their way from routers to the store: the line, and the controller's end of their spool.

Owns the line of JSON (absent members left out) and :class:`AssignmentCollector`.  Each complete segment is
one batch: it is kept under its name, reported, removed, forgotten, in this order; whatever a crash interrupts
is repeated, and the store and the receiver of reports recognise the repetition.
Main class: :class:`AssignmentCollector`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from understudy.capture.frames import DONE_SUFFIX, OPEN_SUFFIX, read_frames
from understudy.capture.orphans import adopt_orphans
from understudy.capture.records import moment_of
from understudy.capture.segments import boot_of
from understudy.core.assignment import Assignment
from understudy.core.errors import ApiError
from understudy.core.ports import AssignmentBatches

log = logging.getLogger(__name__)

FOLDER = "assignments"  # in the spool
BUDGET_S = 1.0
DAMAGED_SUFFIX = ".damaged"
RECORD_BYTES = 1024  # about how much memory a record holds, queueing included
_DESTINATION = "assignments"  # these frames have but one

Logged = Callable[[str, int, Mapping[tuple[str, str], int]], None]

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class AssignmentRecord:
    """An assignment as the router makes it; see ``core.assignment.Assignment``."""

    endpoint: str
    variant: str
    at_s: float
    config_name: str
    fleet_id: str
    stage: int
    source: str
    status: int
    model_latency_us: int | None
    event_id: str | None
    inference_id: str | None
    unit: str | None

    @property
    def destination(self) -> str:
        """Where the frame says it is to go."""
        return _DESTINATION

    @property
    def count(self) -> int:
        """It is one record."""
        return 1

    @property
    def moment(self) -> str:
        """See ``capture.records.moment_of``."""
        return moment_of(self.at_s)

    @property
    def size_bytes(self) -> int:
        """About how much memory the record holds."""
        return RECORD_BYTES

    def pieces(self) -> Iterator[bytes]:
        """Render the line, without the newline."""
        yield render_assignment(self)


class _Line(msgspec.Struct, omit_defaults=True):
    """An assignment as it is written: what the frame's head does not say."""

    at_s: float
    config: str
    fleet: str
    stage: int
    source: str
    status: int
    model_latency_us: int | None = None
    event_id: str | None = None
    inference_id: str | None = None
    unit: str | None = None


_decode = msgspec.json.Decoder(_Line).decode


def render_assignment(record: AssignmentRecord) -> bytes:
    """Render an assignment as a line of JSON, without the newline."""
    line = _Line(
        record.at_s,
        record.config_name,
        record.fleet_id,
        record.stage,
        record.source,
        record.status,
        record.model_latency_us,
        record.event_id,
        record.inference_id,
        record.unit,
    )
    try:
        return _encode(line)
    except UnicodeEncodeError:  # half a surrogate pair in a header: kept as Python would escape it
        line.inference_id, line.unit = _as_unicode(line.inference_id), _as_unicode(line.unit)
        return _encode(line)


def _as_unicode(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def parse_assignment(endpoint: str, variant: str, line: bytes) -> Assignment:
    """Read what :func:`render_assignment` wrote.

    Raises:
        ValueError: not such a line.
    """
    read = _decode(line)
    return Assignment(
        endpoint,
        read.at_s,
        variant,
        read.config,
        read.fleet,
        read.stage,
        read.source,
        read.status,
        read.model_latency_us,
        read.event_id,
        read.inference_id,
        read.unit,
    )


class AssignmentCollector:
    """Moves what the routers spooled into the store; one per spool.

    Args:
        directory: The spool.
        on_logged: ``(source, number, {(endpoint, variant): records})`` for records that are in the store.
            Called again with the **same source, number and counts** after a crash: to be recorded once.
    """

    def __init__(self, directory: Path, batches: AssignmentBatches, on_logged: Logged) -> None:
        self._directory = directory
        self._batches = batches
        self._on_logged = on_logged
        self._lock = threading.Lock()

    def collect_once(self, budget_s: float = BUDGET_S) -> bool:
        """Move what is complete.

        Args:
            budget_s: Real seconds after which the rest is left to the next call.

        Returns:
            True when something is left that could be moved at once.
        """
        if not self._directory.is_dir() or not self._lock.acquire(blocking=False):
            return False
        until_s = time.monotonic() + budget_s
        try:
            adopt_orphans(self._directory)
            names = sorted(path.name for path in self._directory.glob(f"*{DONE_SUFFIX}"))
            for place, name in enumerate(names):
                if place and time.monotonic() > until_s:
                    return True
                self._move(name)
            return False
        except (ApiError, OSError) as error:
            log.warning("assignments: the spool could not be moved, trying again: %s", error)
            return False
        finally:
            self._lock.release()

    def _move(self, name: str) -> None:
        path = self._directory / name
        segment = path.read_bytes()
        batch: list[Assignment] = []
        counts: Counter[tuple[str, str]] = Counter()
        end = 0
        for frame in read_frames(segment):
            _, endpoint, variant, _ = frame.stream
            batch.append(parse_assignment(endpoint, variant, frame.line))
            counts[endpoint, variant] += 1
            end = frame.end
        if end < len(segment):
            # A complete segment that can't be read is a broken disk's doing, not a crash's.
            log.error("assignments: %d bytes of %s are damaged; they are kept", len(segment) - end, name)
            path.with_suffix(DAMAGED_SUFFIX).write_bytes(segment[end:])
        receipt = self._batches.add(name, boot_of(name), batch)
        self._on_logged(receipt.source, receipt.number, counts)
        path.unlink(missing_ok=True)
        self._batches.forget_batch(name)

    def taken(self, boot: str) -> Mapping[tuple[str, str], int] | None:
        """Count the records that came out of one router's spool, by (endpoint, variant).

        Args:
            boot: Of a router that is gone.
        Returns:
            None while there may be more of them: not all of its segments are taken yet.
        """
        with self._lock:
            waiting = (*self._directory.glob(f"*{OPEN_SUFFIX}"), *self._directory.glob(f"*{DONE_SUFFIX}"))
            if any(boot_of(path.name) == boot for path in waiting):
                return None
            return self._batches.taken(boot)

    def remember(self, boots: Collection[str]) -> None:
        """Forget the counts of all routers but these: nobody will ask for them."""
        with self._lock:
            self._batches.remember(boots)
