"""What a local runtime knows of one instance, and what it does to its process.

Owns the content of the records in ``DATA/run/w`` (:class:`Facts`); refuses decisions, which are
:mod:`understudy.runtimes.local`'s.
"""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from understudy.core.ports import InstanceStatus
from understudy.runtimes.processes import Identity

_MAX_OPEN_FILES = 4096


@dataclass
class Facts:
    """What must be known of a running instance by whoever adopts it: the record's content."""

    instance_id: str
    name: str
    endpoint_name: str
    variant_name: str
    vcpus: int
    memory_bytes: int
    startup_timeout_s: float
    shadow: bool
    marker: str
    images: list[tuple[str, str, float]] = field(default_factory=list)
    artifacts: list[tuple[str, str, str]] = field(default_factory=list)
    pid: int = 0
    start_ticks: int = 0
    spawned_monotonic_s: float = 0.0  # CLOCK_MONOTONIC is the machine's: good across processes of one boot
    failed: str = ""
    cpu_percent: int = 0  # ceiling; 0: none
    cpu_group: str = ""  # control group that holds the ceiling
    back_seat: bool = False  # it yields the processor until it is ready
    server: int = 0  # inode of the lifeline pipe: names one life of the whole server

    @property
    def address(self) -> str:
        return f"w/{self.name}.sock"

    @property
    def log_name(self) -> str:
        """Name the instance within its variant: ``f1-0-1`` of ``churn/AllTraffic/f1/0-1``."""
        prefix = f"{self.endpoint_name}/{self.variant_name}/"
        return self.instance_id.removeprefix(prefix).replace("/", "-")


@dataclass
class Instance:
    """One instance in this process; guarded by the runtime's lock.

    Attributes:
        idle: Its control group runs only while nobody else wants the processor; None: not known.
        busy_at_s: When it last used much of a processor, as a shadow; monotonic.
    """

    facts: Facts
    status: InstanceStatus
    reason: str = ""
    detail: str = ""
    child: subprocess.Popen[bytes] | None = None
    pidfd: int | None = None
    preparing: bool = False
    stopping: bool = False
    idle: bool | None = None
    busy_at_s: float = -math.inf
    status_seen: tuple[int, int] = (0, 0)  # inode and mtime of the status file last read

    @property
    def identity(self) -> Identity | None:
        return Identity(self.facts.pid, self.facts.start_ticks) if self.facts.pid else None


def limit_process(pid: int, memory_bytes: int) -> None:
    """Set a new worker's limits from outside: no code of ours runs between fork and exec."""
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        files = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(_MAX_OPEN_FILES, hard)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, files))


def reap(instance: Instance) -> int | None:
    """Collect the exit code of a worker that ended; None when it was another process's child."""
    if instance.child is not None:
        try:
            return instance.child.wait(timeout=5.0)
        except subprocess.TimeoutExpired:  # stuck in the kernel; the supervisor reaps it some day
            return None
    if not instance.facts.pid:
        return None
    try:
        pid, status = os.waitpid(instance.facts.pid, os.WNOHANG)
    except ChildProcessError:
        return None  # the supervisor reaps those of earlier controllers
    return os.waitstatus_to_exitcode(status) if pid else None


def exit_text(code: int | None, last_words: str, facts: Facts) -> str:
    """Say how a process ended, with the likely cause where there is one.

    >>> facts = Facts("e/v/f1/0-1", "ab", "e", "v", 2, 8 * 1024**3, 240.0, False, "m")
    >>> exit_text(-9, "", facts)
    'killed by signal 9 (SIGKILL: out of memory? The instance type has 8 GiB)'
    """
    memory = f"out of memory? The instance type has {facts.memory_bytes / 1024**3:g} GiB"
    if code is None:
        return "exit code unknown (it was started by an earlier controller)"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"killed by signal {-code} ({name}{': ' + memory if -code == signal.SIGKILL else ''})"
    if "MemoryError" in last_words or "bad_alloc" in last_words:
        return f"exit code {code} ({memory})"
    return f"exit code {code}"


def write_private(path: Path, text: str) -> None:
    """Write a file whole, readable by the server's user only: it may hold a container's Environment."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)
