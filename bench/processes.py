"""Servers as subprocesses: what their whole process tree costs, and an end that leaves nothing.

Owns reading ``/proc``.  Refuses to signal anything but processes that :func:`start` led to.
Main class: :class:`Running`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MARK = "BENCH_SERVER"
STOP_PATIENCE_S = 15.0
POLL_S = 0.05


class StartFailed(Exception):
    """A server did not come up; the text says why."""


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Process:
    """What one process has used.

    Attributes:
        role: What it is for.
        cpu_us: User and system time, its ended children's included.
        rss_bytes: Resident memory, pages shared with others included.
    """

    role: str
    cpu_us: float
    rss_bytes: int


@dataclass(frozen=True)
class Usage:
    """What a tree of processes has used, by pid and start."""

    processes: dict[tuple[int, str], Process]

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the whole tree; pages shared by two processes count twice."""
        return sum(one.rss_bytes for one in self.processes.values())

    def rss_bytes_by_role(self) -> dict[str, int]:
        """Return resident memory by role."""
        roles: dict[str, int] = {}
        for one in self.processes.values():
            roles[one.role] = roles.get(one.role, 0) + one.rss_bytes
        return roles

    def cpu_us_since(self, before: Usage) -> dict[str, float]:
        """Return the CPU time used since an earlier reading, by role (processes may change their title)."""
        roles: dict[str, float] = {}
        for key, one in self.processes.items():
            earlier = before.processes.get(key)
            used_us = one.cpu_us - (earlier.cpu_us if earlier is not None else 0.0)
            roles[one.role] = roles.get(one.role, 0.0) + used_us
        return roles


class Running:
    """A started server."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str, log: Path) -> None:
        self.process = process
        self.log = log
        self._mark = f"{MARK}={mark}".encode()
        self._marked: dict[tuple[int, str], bool] = {}

    def pids(self) -> list[int]:
        """Return every process of the tree: descendants, and whoever inherited our mark."""
        return sorted(self._family())

    def _family(self) -> dict[int, str]:
        """Return the tree: start time by pid, so that a pid used again is not taken for ours."""
        parents: dict[int, int] = {}
        started: dict[int, str] = {}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all that is needed
            if entry.isdigit():
                fields = _stat(int(entry))
                if fields is not None and fields[0] != "Z":
                    parents[int(entry)] = int(fields[1])
                    started[int(entry)] = fields[19]
        mine = {self.process.pid} if self.process.pid in parents else set()
        mine |= {pid for pid in parents if self._has_mark(pid, started[pid])}
        while True:
            more = {pid for pid, parent in parents.items() if parent in mine} - mine
            if not more:
                return {pid: started[pid] for pid in mine}
            mine |= more

    def usage(self) -> Usage:
        """Read what the tree has used until now."""
        processes = {}
        for pid, started in self._family().items():
            fields = _stat(pid)
            if fields is not None and fields[19] == started:
                ticks = sum(int(fields[at]) for at in (11, 12, 13, 14))
                processes[pid, started] = Process(_role(pid), ticks * TICK_US, int(fields[21]) * PAGE_BYTES)
        return Usage(processes)

    def tail(self) -> str:
        """Return the last lines that it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def stop(self) -> None:
        """SIGTERM to the first process, then SIGKILL to each that is left of the tree."""
        family = self._family()
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_PATIENCE_S)
        family |= self._family()
        deadline_s = time.monotonic() + 5.0
        while left := [pid for pid, started in family.items() if _is_alive(pid, started)]:
            if self.process.poll() is not None or time.monotonic() > deadline_s - 3.0:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline_s:
                break
            time.sleep(POLL_S)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)

    def _has_mark(self, pid: int, started: str) -> bool:
        known = self._marked.get((pid, started))
        if known is None:
            try:
                known = self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                known = False
            self._marked[pid, started] = known
        return known


def start(
    command: Sequence[str],
    *,
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    descriptors: tuple[int, ...] = (),
) -> Running:
    """Start a server in a session of its own.

    Args:
        folder: Its working directory.
        log: For what it prints.
        environment: Added to a small one: PATH and HOME, no proxies, no credentials.
        descriptors: Open files to hand on.
    """
    mark = uuid.uuid4().hex
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**base_environment(), **environment, MARK: mark},
            start_new_session=True,
            pass_fds=descriptors,
            preexec_fn=_end_with_the_bench,
        )
    return Running(process, mark, log)


def _end_with_the_bench() -> None:
    """Have SIGTERM sent when the bench ends, however it ends: no server is left to disturb the next run."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def base_environment() -> dict[str, str]:
    """Return what every server gets: one thread for every numeric library, as all peers have one worker."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # Understudy builds the model's environment: where packages come from is this machine's affair.
    kept |= {name: os.environ[name] for name in os.environ if name.startswith(("UV_", "SSL_CERT_"))}
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**kept, **threads, "PYTHONUNBUFFERED": "1"}


def wait_until(check: Callable[[], bool], running: Running, patience_s: float) -> None:
    """Poll until a server is ready.

    Raises:
        StartFailed: it ended, or is not ready in time.
    """
    deadline_s = time.monotonic() + patience_s
    while not check():
        if running.process.poll() is not None:
            raise StartFailed(f"it ended with code {running.process.returncode}: {running.tail()}")
        if time.monotonic() > deadline_s:
            raise StartFailed(f"no right answer within {patience_s:g} s: {running.tail()}")
        time.sleep(POLL_S)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stat(pid: int) -> list[str] | None:
    """Return the fields of ``/proc/PID/stat`` from the state on; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _is_alive(pid: int, started: str) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z" and fields[19] == started


def _role(pid: int) -> str:
    """Name what a process is for: Understudy's titles say it, of others the program's name is enough."""
    try:
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        )
    except OSError:
        return "gone"
    if words[:1] == ["understudy"] and len(words) > 1:
        return words[1]
    if "understudy" in words and "worker" in words:
        return "worker"
    return Path(words[0]).name if words else "kernel"
