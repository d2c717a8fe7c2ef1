"""Workers' output as CloudWatch log groups and streams.

Owns ``DATA/logs/ENDPOINT/VARIANT/INSTANCE.log``, written by the workers themselves (their stdout and
stderr are these files, so that a crash's last words are kept), and beside each ``.index``, by which a line
has the time it was first seen, and ``.facts``.  Refuses to write lines of its own.  The control process calls
:meth:`FileLogs.index_once` about twice a second; a line can be read once it is complete and indexed.

A line's position is its offset in the file and never changes: a stream that passes its cap loses its oldest
half by punching a hole, which keeps offsets and needs no agreement with the process that appends.  Where
the file system can't punch holes the lines are dropped from view and the space comes back with the file.

Source: the CloudWatch Logs model in botocore; fallocate(2).
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from understudy.core.names import ENDPOINT_LOG_GROUP_PREFIX, log_group
from understudy.core.ports import Clock, LogEvent, LogStream

_ENTRY = struct.Struct("<QQ")  # position of the first line of a batch, Unix milliseconds at which it was seen
_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 256 * 1024  # CloudWatch's limit of one event; a longer line is given in pieces
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 0x01, 0x02
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Facts:
    """What is kept of a stream beside its text.

    Attributes:
        start: Position of the first line that is kept.
        end: End of the last complete, indexed line.
        finished: Nothing more will be written.
        hidden: Its group was deleted and nothing was written since.
    """

    created_at_ms: int
    start: int = 0
    end: int = 0
    finished: bool = False
    hidden: bool = False


class FileLogs:
    """Files of workers as ``core.ports.Logs``, and the paths they write to.

    Args:
        root: ``DATA/logs``.
        clock: For the times at which streams were created.
        max_stream_bytes: A stream beyond it loses its oldest half.
    """

    def __init__(self, root: Path, clock: Clock, *, max_stream_bytes: int = 64 * 1024**2) -> None:
        self._root = root.absolute()
        self._root.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._max_stream_bytes = max_stream_bytes
        self._lock = threading.RLock()
        self._facts: dict[Path, _Facts] = {}

    # --- for the runtime and the loop --------------------------------------------------------------------

    def path(self, endpoint_name: str, variant_name: str, instance_name: str) -> Path:
        """Name the file that an instance's output is appended to; its directory and stream exist then."""
        path = self._root / _quoted(endpoint_name) / _quoted(variant_name) / f"{_quoted(instance_name)}.log"
        with self._lock:
            if path not in self._facts or not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                self._read_facts(path)
        return path

    def finish(self, endpoint_name: str, variant_name: str, instance_name: str) -> None:
        """End a stream: its last line counts as complete from now on."""
        path = self.path(endpoint_name, variant_name, instance_name)
        with self._lock:
            facts = self._read_facts(path)
            with path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                if size > facts.end:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
            facts.finished = True
            if facts.hidden and size <= facts.end:
                self._remove(path)
            else:
                self._write_facts(path, facts)

    def index_once(self, now_ms: int) -> int:
        """Give the lines that came since the last call their time, and cap streams that grew too long.

        Returns:
            Streams with new lines.
        """
        changed = 0
        for path in self._files():
            with self._lock:
                facts = self._read_facts(path)
                try:
                    size = path.stat().st_size
                except FileNotFoundError:
                    self._facts.pop(path, None)
                    continue
                if size == facts.end:
                    continue
                end = _last_line_end(path, facts.end, size)
                if end > facts.end:
                    with path.with_suffix(".index").open("ab") as index:
                        index.write(_ENTRY.pack(facts.end, now_ms))
                    facts.end = end
                    facts.hidden = False
                    changed += 1
                    if facts.end - facts.start > self._max_stream_bytes:
                        self._drop_oldest_half(path, facts)
                    self._write_facts(path, facts)
        return changed

    # --- the port ----------------------------------------------------------------------------------------

    def groups(self) -> list[tuple[str, int, int]]:
        found = []
        for directory in self._root.iterdir():
            name = log_group(unquote(directory.name))
            streams = self.streams(name)
            if streams:
                created_at_ms = min(stream.created_at_ms for stream in streams)
                found.append((name, created_at_ms, sum(stream.stored_bytes for stream in streams)))
        return sorted(found)

    def streams(self, group: str) -> list[LogStream]:
        found = []
        directory = self._directory(group)
        if directory is None:
            return []
        with self._lock:
            for path in self._files(directory):
                facts = self._read_facts(path)
                if facts.hidden:
                    continue
                times = [at_ms for _, at_ms in _entries(path, facts)]
                found.append(
                    LogStream(
                        name=f"{unquote(path.parent.name)}/{unquote(path.stem)}",
                        created_at_ms=facts.created_at_ms,
                        first_event_ms=times[0] if times else None,
                        last_event_ms=times[-1] if times else None,
                        stored_bytes=facts.end - facts.start,
                    )
                )
        return sorted(found, key=lambda stream: stream.name)

    def read(self, group: str, stream: str, after_position: int = -1, limit: int = 10_000) -> list[LogEvent]:
        directory = self._directory(group)
        variant, _, instance = stream.partition("/")
        if directory is None or not variant or not instance or limit <= 0:
            return []
        path = directory / _quoted(variant) / f"{_quoted(instance)}.log"
        with self._lock:
            if not path.exists():
                return []
            facts = self._read_facts(path)
            entries = _entries(path, facts)
            events: list[LogEvent] = []
            starts = [position for position, _ in entries]
            for position, line in _lines(path, _resume_at(starts, after_position, facts), facts.end):
                if position <= after_position:
                    continue
                at_ms = entries[max(0, bisect_right(starts, position) - 1)][1]
                events.append(LogEvent(position, at_ms, line.decode("utf-8", "replace")))
                if len(events) == limit:
                    break
        return events

    def delete(self, group: str) -> None:
        directory = self._directory(group)
        if directory is None:
            return
        with self._lock:
            for path in self._files(directory):
                facts = self._read_facts(path)
                if facts.finished:
                    self._remove(path)
                    continue
                # A worker still appends to it: forget what is there, show the stream again when more comes.
                facts.start = facts.end = _last_line_end(path, facts.end, path.stat().st_size)
                facts.hidden = True
                path.with_suffix(".index").unlink(missing_ok=True)
                _punch(path, facts.start)
                self._write_facts(path, facts)

    # --- files -------------------------------------------------------------------------------------------

    def _directory(self, group: str) -> Path | None:
        name = group.removeprefix(ENDPOINT_LOG_GROUP_PREFIX)
        if name == group or not name:
            return None
        directory = self._root / _quoted(name)
        return directory if directory.is_dir() else None

    def _files(self, directory: Path | None = None) -> list[Path]:
        if directory is None:
            return sorted(self._root.glob("*/*/*.log"))
        return sorted(directory.glob("*/*.log"))

    def _read_facts(self, path: Path) -> _Facts:
        facts = self._facts.get(path)
        if facts is not None:
            return facts
        try:
            facts = _Facts(**json.loads(path.with_suffix(".facts").read_text("utf-8")))
            _mend(path.with_suffix(".index"))
        except (FileNotFoundError, ValueError, TypeError):
            # Without (readable) facts the whole file is there to be indexed anew.
            path.with_suffix(".index").unlink(missing_ok=True)
            facts = _Facts(created_at_ms=int(self._clock.now_s() * 1000))
            self._write_facts(path, facts)
        self._facts[path] = facts
        return facts

    def _write_facts(self, path: Path, facts: _Facts) -> None:
        self._facts[path] = facts
        temporary = path.with_suffix(".facts.new")
        temporary.write_text(json.dumps(asdict(facts)), "utf-8")
        temporary.replace(path.with_suffix(".facts"))

    def _remove(self, path: Path) -> None:
        self._facts.pop(path, None)
        for suffix in (".log", ".index", ".facts"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        for directory in (path.parent, path.parent.parent):
            try:
                directory.rmdir()
            except OSError:  # another stream is in it
                break

    def _drop_oldest_half(self, path: Path, facts: _Facts) -> None:
        middle = facts.end - self._max_stream_bytes // 2
        for position, _ in _lines(path, middle, facts.end):
            if position > middle:  # the first piece may begin within a line
                facts.start = position
                break
        else:
            facts.start = facts.end
        entries = _entries(path, facts)
        index = path.with_suffix(".index")
        temporary = index.with_suffix(".index.new")
        temporary.write_bytes(b"".join(_ENTRY.pack(*entry) for entry in entries))
        temporary.replace(index)
        _punch(path, facts.start)


def _quoted(name: str) -> str:
    """Make one file name of any text.

    >>> _quoted("AllTraffic"), _quoted("../x"), _quoted("..")
    ('AllTraffic', '..%2Fx', '%2E%2E')
    """
    return quote(name, safe="") if name.strip(".") else "%2E" * len(name)


def _entries(path: Path, facts: _Facts) -> list[tuple[int, int]]:
    """Return (position, at_ms) of the batches of lines that are kept, in order."""
    try:
        data = path.with_suffix(".index").read_bytes()
    except FileNotFoundError:
        return []
    entries = [(int(position), int(at_ms)) for position, at_ms in _ENTRY.iter_unpack(data)]
    entries = [entry for entry in entries if entry[0] < facts.end]
    first = max(0, bisect_right([position for position, _ in entries], facts.start) - 1)
    return entries[first:] if facts.end > facts.start else []


def _mend(index: Path) -> None:
    """Cut off an entry that a crash left half written; its lines get their time at the next pass."""
    with suppress(FileNotFoundError):
        size = index.stat().st_size
        if size % _ENTRY.size:
            os.truncate(index, size - size % _ENTRY.size)


def _resume_at(starts: list[int], after_position: int, facts: _Facts) -> int:
    """Find a line start at or before the line that follows ``after_position``."""
    if after_position < facts.start or not starts:
        return facts.start
    return max(facts.start, starts[max(0, bisect_right(starts, after_position) - 1)])


def _lines(path: Path, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield (position, line without its end) between two offsets; long lines in pieces."""
    with path.open("rb") as file:
        file.seek(start)
        position = start
        while position < end:
            line = file.readline(min(_MAX_LINE_BYTES, end - position))
            if not line:
                return
            yield position, line.rstrip(b"\r\n")
            position += len(line)


def _last_line_end(path: Path, start: int, size: int) -> int:
    """Return the offset behind the last line end in ``[start, size)``, ``start`` when there is none."""
    with path.open("rb") as file:
        at = size
        while at > start:
            begin = max(start, at - _CHUNK_BYTES)
            file.seek(begin)
            found = file.read(at - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            at = begin
    return start


def _punch(path: Path, length: int) -> bool:
    """Give the first ``length`` bytes of a file back to the file system; False where it can't."""
    if length <= 0:
        return True
    with path.open("r+b") as file:
        mode = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
        arguments = (file.fileno(), mode, ctypes.c_int64(0), ctypes.c_int64(length))
        return bool(_libc.fallocate(*arguments) == 0)
