"""Processes of workers: who they are, whether they live, and how all of one are ended.

Owns nothing.  A process is known by its id and its start time, so that a reused id is nobody; whatever
a worker has started is known by a marker in the environment that it inherits.
Main functions: :func:`identify`, :func:`kill_family`, :class:`Usage`.

Source: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MARKER = "UNDERSTUDY_WORKER"
_SHADOW_NICE = 19  # the least there is
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")
_CLEAN_SCANS = 3
_CLEAN_SCANS_BLIND = 60  # 0.3 s


@dataclass(frozen=True)
class Identity:
    """One process, for ever.

    Attributes:
        start_ticks: Clock ticks from boot to its start (field 22 of ``/proc/PID/stat``).
    """

    pid: int
    start_ticks: int


def identify(pid: int) -> Identity | None:
    """Return the identity of a process that lives; None for none and for a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else Identity(pid, int(fields[19]))


def is_alive(identity: Identity) -> bool:
    """Tell whether this very process still runs."""
    return identify(identity.pid) == identity


def marked(marker: str, command_part: str | None = None) -> list[int]:
    """Return the living processes whose environment carries the marker, or whose command line that part."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for pid in _pids():
        with suppress(OSError):
            hit = wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
            if not hit and command_part is not None:
                hit = command_part.encode() in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
            if hit and identify(pid) is not None:
                found.append(pid)
    return found


def kill_marked(markers: Collection[str]) -> None:
    """SIGKILL every living process whose environment carries one of the markers; one look, no waiting."""
    wanted = {f"{MARKER}={marker}".encode() for marker in markers}
    for pid in _pids():
        with suppress(OSError):
            if not wanted.isdisjoint((_PROC / str(pid) / "environ").read_bytes().split(b"\0")):
                os.kill(pid, signal.SIGKILL)


def kill_family(leader: Identity | None, marker: str) -> None:
    """SIGKILL a worker, its session and everything that inherited its marker, until nothing is left.

    Args:
        leader: The worker itself, alive or not yet reaped; None when it is not known.
    """
    # In the middle of exec a process shows no environment for a moment, which a busy machine stretches: one
    # clean scan proves nothing, and without the leader there is nothing but the environment to go by.
    needed = _CLEAN_SCANS if leader is not None else _CLEAN_SCANS_BLIND
    clean_scans = 0
    for _ in range(40 + needed):  # a process may fork while we look; each pass finds the new ones
        family = set(marked(marker))
        if leader is not None and (fields := _stat(leader.pid)) is not None:
            if int(fields[19]) != leader.start_ticks:
                leader = None  # the id belongs to somebody else by now
            else:
                family.update(_session(leader.pid))
        family.discard(os.getpid())
        clean_scans = 0 if family else clean_scans + 1
        if clean_scans >= needed:
            return
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def family_of(leader: int, marker: str) -> set[int]:
    """Find the living processes of a worker: itself, its session, and all that inherited its marker."""
    own = {leader} if identify(leader) is not None else set()
    return {*own, *_session(leader), *marked(marker)} - {os.getpid()}


def _session(session_id: int) -> Iterator[int]:
    for pid in _pids():
        fields = _stat(pid)
        if fields is not None and int(fields[3]) == session_id and fields[0] not in "ZX":
            yield pid


def _pids() -> list[int]:
    return [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the state (field 3) on."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode("latin-1")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # the name before may hold anything, brackets too


def lower_priority(pid: int, *, shadow: bool) -> None:
    """Make a worker the out-of-memory killer's choice before the server, and a shadow yield the processor.

    A host that refuses (no autogroups, containers without the right) leaves the worker as it is.
    """
    with suppress(OSError):
        (_PROC / str(pid) / "oom_score_adj").write_text("800" if shadow else "500")
    if shadow:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, _SHADOW_NICE)
        with suppress(OSError):
            # Nice values count within one session only where autogroups are on; this one weighs the session.
            (_PROC / str(pid) / "autogroup").write_text(str(_SHADOW_NICE))


@dataclass(frozen=True)
class Sample:
    """What a process tree used.

    Attributes:
        cpu_percent: 100 is one processor; since the sample before, None at the first.
    """

    cpu_percent: float | None
    memory_bytes: int


class Usage:
    """Measures process trees, at most once a second."""

    def __init__(self) -> None:
        self._at_s = float("-inf")
        self._cpu_s: dict[int, float] = {}
        self._samples: dict[int, Sample] = {}

    def sample(self, roots: Sequence[int]) -> dict[int, Sample]:
        """Measure the trees below the given process ids, in one pass over all processes."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._at_s
        if elapsed_s < 1.0:
            return self._samples
        parents: dict[int, int] = {}
        used: dict[int, tuple[float, int]] = {}
        for pid in _pids():
            if (fields := _stat(pid)) is not None:
                parents[pid] = int(fields[1])
                # Children that ended count with the parent that waited for them.
                used[pid] = (sum(map(int, fields[11:15])) / _TICKS_PER_S, int(fields[21]) * _PAGE_BYTES)
        totals: dict[int, list[float]] = {root: [0.0, 0.0] for root in roots if root in used}
        for pid, (own_cpu_s, own_rss_bytes) in used.items():
            ancestor: int | None = pid
            for _ in range(64):
                if ancestor is None or ancestor in totals:
                    break
                ancestor = parents.get(ancestor)
            if ancestor is not None and ancestor in totals:
                totals[ancestor][0] += own_cpu_s
                totals[ancestor][1] += own_rss_bytes
        samples = {}
        for root, (cpu_s, rss_bytes) in totals.items():
            before_s = self._cpu_s.get(root)
            rate = None if before_s is None else max(0.0, 100 * (cpu_s - before_s) / elapsed_s)
            samples[root] = Sample(rate, int(rss_bytes))
        self._cpu_s = {root: total[0] for root, total in totals.items()}
        self._at_s, self._samples = now_s, samples
        return samples
