"""The controller's end of the spool: complete segments become files in the object store.

Owns the order of steps that loses and doubles nothing, whenever the controller is killed: a move is written
to the ledger, its files grow, it is marked done in the ledger, it is reported, its segments are removed, it
is forgotten.  Whatever step a crash interrupted is repeated; growing tells a repetition by sizes, the
receiver of reports by their number.  Main class: :class:`Collector`.

A destination that can't be written keeps its own records in the spool and holds up nobody else's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from understudy.capture.batches import Lines, read_records
from understudy.capture.frames import DONE_SUFFIX, OPEN_SUFFIX, Stream
from understudy.capture.growing import REWRITE_BYTES, Files
from understudy.capture.ledger import CaptureFile, Growth, Ledger, Move, load, save
from understudy.capture.orphans import adopt_orphans
from understudy.capture.segments import boot_of
from understudy.core.errors import ApiError, Conflict
from understudy.core.ports import Buckets, Clock, Entropy, Objects

log = logging.getLogger(__name__)

ROLL_BYTES = 16 << 20
MOVE_BYTES = 16 << 20  # of segments held in memory at a time
ROLL_AFTER_HOUR_S = 60.0  # records of an hour may come a little later
RETRY_S = 5.0  # real seconds until a move that failed is tried again
BUDGET_S = 1.0
DAMAGED_SUFFIX = ".damaged"

Captured = Callable[[str, int, Mapping[tuple[str, str], int]], None]
Place = tuple[str, str]
Found = dict[Stream, Lines]


class Collector:
    """Moves what the routers spooled; one per spool.

    Args:
        directory: The spool.
        objects: Where the files go.
        buckets: A destination's bucket is made when it is not there.
        clock: Tells which hours are over.
        entropy: Names files.
        on_captured: ``(source, number, {(endpoint, variant): records})`` for records that are safely in
            their files; numbers rise.  Called again with the **same source, number and counts** after a
            crash: to be recorded once (``Series.record(..., source=source, sequence=number)``).
    """

    def __init__(
        self,
        directory: Path,
        objects: Objects,
        buckets: Buckets,
        clock: Clock,
        entropy: Entropy,
        on_captured: Captured,
    ) -> None:
        self._directory = directory
        self._files = Files(objects, buckets, entropy)
        self._clock = clock
        self._entropy = entropy
        self._on_captured = on_captured
        self._lock = threading.Lock()
        self._known: Ledger | None = None
        self._retry_at_s = 0.0

    def collect_once(self, budget_s: float = BUDGET_S) -> bool:
        """Move what is complete.

        Args:
            budget_s: Real seconds after which the rest is left to the next call.

        Returns:
            True when something is left that could be moved at once.  False, too, when another thread is at
            it.
        """
        if not self._directory.is_dir() or not self._lock.acquire(blocking=False):
            return False
        until_s = time.monotonic() + budget_s
        try:
            ledger = self._ledger()
            adopt_orphans(self._directory)
            self._settle(ledger)
            self._retry(ledger)
            more = True
            while more and time.monotonic() < until_s:
                more = self._move_some(ledger)
            self._finish_files(ledger, until_s)
            return more
        except (ApiError, Conflict, OSError) as error:
            self._known = None  # what is on disk counts, as after a crash
            log.warning("capture: the spool could not be moved, trying again: %s", error)
            return False
        except BaseException:
            self._known = None
            raise
        finally:
            self._lock.release()

    def taken(self, boot: str) -> Mapping[Place, int] | None:
        """Count the records that came out of one router's spool, by (endpoint, variant).

        Args:
            boot: Of a router that is gone.
        Returns:
            None while there may be more of them: not all of its segments are taken yet.
        """
        if not self._directory.is_dir():
            return {}
        with self._lock:
            ledger = self._ledger()
            if any(boot_of(path.name) == boot for path in self._directory.glob(f"*{OPEN_SUFFIX}")):
                return None
            if any(boot_of(name) == boot for name in self._waiting(ledger)):
                return None
            return {(endpoint, variant): count for endpoint, variant, count in ledger.taken.get(boot, ())}

    def remember(self, boots: Collection[str]) -> None:
        """Forget the counts of all routers but these: nobody will ask for them."""
        if not self._directory.is_dir():
            return
        with self._lock:
            ledger = self._ledger()
            if not ledger.taken.keys() <= set(boots):
                ledger.taken = {boot: counts for boot, counts in ledger.taken.items() if boot in boots}
                save(self._directory, ledger)

    def _ledger(self) -> Ledger:
        if self._known is None:
            self._files.sweep()
            self._known = load(self._directory) or Ledger(source=f"capture-{self._entropy.token(8)}")
            self._retry_at_s = 0.0
        return self._known

    # --- moving ---

    def _move_some(self, ledger: Ledger) -> bool:
        """Move some segments, if there are any; tell whether more are left."""
        names = self._waiting(ledger)
        taken, size_bytes = 0, 0
        for name in names:
            size_bytes += (self._directory / name).stat().st_size
            if taken and size_bytes > MOVE_BYTES:
                break
            taken += 1
        if not taken:
            return False
        counts: dict[str, Counter[Place]] = {}
        found = self._read(names[:taken], counts)
        move = Move(names[:taken], self._plan(ledger, found))
        ledger.moves.append(move)
        for boot, more in counts.items():
            for endpoint, variant, count in ledger.taken.get(boot, ()):
                more[endpoint, variant] += count
            ledger.taken[boot] = [(*place, count) for place, count in more.items()]
        save(self._directory, ledger)
        self._carry_out(ledger, move, found)
        self._settle(ledger)
        return taken < len(names)

    def _waiting(self, ledger: Ledger) -> list[str]:
        """Return complete segments that no move has, oldest first."""
        taken = {name for move in ledger.moves for name in move.segments}
        with os.scandir(self._directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(DONE_SUFFIX)]
        return sorted(name for name in names if name not in taken)

    def _read(self, names: list[str], counts: dict[str, Counter[Place]] | None = None) -> Found:
        """Read segments.

        Args:
            counts: Added to, where given: records by the router's boot and (endpoint, variant).
        """
        found: Found = {}
        for name in names:
            counted = None if counts is None else counts.setdefault(boot_of(name), Counter())
            segment = (self._directory / name).read_bytes()
            end = 0
            for stream, lines, frame_end in read_records(segment):
                end = frame_end
                if stream in found:
                    found[stream].add(lines)
                else:
                    found[stream] = lines
                if counted is not None:
                    counted[stream[1], stream[2]] += len(lines.lines)
            if end < len(segment):
                self._keep_damaged(name, segment[end:])
        return found

    def _keep_damaged(self, name: str, rest: bytes) -> None:
        """Keep what of a complete segment can't be read: that is a broken disk's doing, not a crash's."""
        log.error("capture: %d bytes of %s are damaged; they are kept beside it", len(rest), name)
        (self._directory / name).with_suffix(DAMAGED_SUFFIX).write_bytes(rest)

    def _plan(self, ledger: Ledger, found: Found) -> list[Growth]:
        """Say which files are to grow by what; files that got too large for more are closed."""
        growing = {file.stream: file for file in ledger.growing}
        growths = []
        for stream, some in found.items():
            file = growing.get(stream)
            if file is not None and file.size_bytes >= ROLL_BYTES:
                ledger.closing.append(growing.pop(stream))
                file = None
            if file is None:
                file = self._files.new_file(stream, some.first)
            growths.append(Growth(file, _grown(file, some)))
        ledger.growing = list(growing.values())
        return growths

    def _carry_out(self, ledger: Ledger, move: Move, found: Found) -> bool:
        """Grow a move's files; what its destination refuses is left in a move of its own.

        Returns:
            False when something was refused.
        """
        growing = {file.stream: file for file in ledger.growing}
        failed: list[Growth] = []
        for growth in move.growths:
            stream, planned_key = growth.after.stream, growth.after.key
            is_newest = stream not in growing or growing[stream].key == planned_key
            try:
                self._grow(ledger, growth, found[stream])
            except (ApiError, Conflict) as error:
                if isinstance(error, ApiError) and error.status >= 500:
                    raise  # the store is full or away: nothing else would fare better
                log.warning("capture: %s could not be written, trying again: %s", planned_key, error)
                failed.append(growth)
                if is_newest:
                    growing.pop(stream, None)  # nothing else goes into a file of unknown size
                continue
            if is_newest:
                growing[stream] = growth.after
            else:
                ledger.closing.append(growth.after)
        ledger.growing = list(growing.values())
        done = [growth for growth in move.growths if growth not in failed]
        if failed:
            self._retry_at_s = time.monotonic() + RETRY_S
            ledger.moves.append(Move(move.segments, failed))
            move.segments = []
        move.growths = done
        if done or not failed:
            ledger.reported += 1
            move.number = ledger.reported
        else:
            ledger.moves.remove(move)
        save(self._directory, ledger)
        return not failed

    def _grow(self, ledger: Ledger, growth: Growth, some: Lines) -> None:
        if self._files.grow(growth, some.lines):
            return
        log.warning("capture: %s was changed by somebody; going on in a new file", growth.after.key)
        growth.before = self._files.new_file(growth.after.stream, some.first)
        growth.after = _grown(growth.before, some)
        save(self._directory, ledger)
        if not self._files.grow(growth, some.lines):
            raise Conflict(f"{growth.after.key} is there already")

    def _retry(self, ledger: Ledger) -> None:
        """Try moves again that failed, or that a crash interrupted."""
        if time.monotonic() < self._retry_at_s:
            return
        refusing: set[str] = set()
        for move in [move for move in ledger.moves if move.number == 0]:
            wanted = {growth.after.stream for growth in move.growths}
            destinations = {stream[0] for stream in wanted}
            if destinations <= refusing:  # much may wait for it: one look at it is enough
                continue
            found = self._read(move.segments)
            some = {stream: found[stream] for stream in found if stream in wanted}
            if not self._carry_out(ledger, move, some):
                refusing |= destinations
        self._settle(ledger)

    def _settle(self, ledger: Ledger) -> None:
        """Report what is done, and forget it and its segments."""
        done = sorted((move for move in ledger.moves if move.number), key=lambda move: move.number)
        if not done:
            return
        for move in done:
            counts: Counter[tuple[str, str]] = Counter()
            for growth in move.growths:
                counts[growth.after.stream[1], growth.after.stream[2]] += growth.records
            self._on_captured(ledger.source, move.number, counts)
            for name in move.segments:
                (self._directory / name).unlink(missing_ok=True)
            ledger.moves.remove(move)
        save(self._directory, ledger)

    # --- finishing ---

    def _finish_files(self, ledger: Ledger, until_s: float) -> None:
        """Close files whose hour is over or that are large; write the manifests of closed ones."""
        now_s = self._clock.now_s()
        busy = {growth.after.key for move in ledger.moves for growth in move.growths}
        over = [
            file
            for file in ledger.growing
            if file.key not in busy
            and (file.size_bytes >= ROLL_BYTES or now_s >= _end_of(file) + ROLL_AFTER_HOUR_S)
        ]
        if over:
            ledger.growing = [file for file in ledger.growing if file not in over]
            ledger.closing += over
        finished: list[CaptureFile] = []
        for file in ledger.closing:
            if finished and time.monotonic() > until_s:
                break
            try:
                self._files.finish(file)
            except (ApiError, Conflict, OSError) as error:
                log.warning("capture: no manifest of %s could be written yet: %s", file.key, error)
                continue
            finished.append(file)
        if finished:
            ledger.closing = [file for file in ledger.closing if file not in finished]
        if finished or over:
            save(self._directory, ledger)


def _grown(file: CaptureFile, some: Lines) -> CaptureFile:
    hour = file.stream[3]
    first, last = f"{hour}/{some.first}", f"{hour}/{some.last}"
    return CaptureFile(
        file.stream,
        file.key,
        file.size_bytes + sum(map(len, some.lines)) + len(some.lines),
        file.records + len(some.lines),
        min(file.first, first) if file.first else first,
        max(file.last, last),
        file.pieces + (file.size_bytes >= REWRITE_BYTES),
    )


def _end_of(file: CaptureFile) -> float:
    """Tell when a file's hour is over, Unix seconds."""
    year, month, day, hour = map(int, file.stream[3].split("/"))
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp() + 3600.0
