"""Control groups: what the processes of one worker may use of the processors, and when.

Owns :class:`CpuGroups`: finds out whether this server may make groups (version 1 or 2), makes one per
shadow's worker and removes it.  A group has little weight, a ceiling (``cpu.cfs_quota_us``, ``cpu.max``)
where one is asked for, and can be made idle (``cpu.idle``): then whoever else wakes up has the processor at
once, while against a low weight alone it would wait for the end of a slice.  Refuses nothing:
where groups can't be made it says so; priorities and :mod:`understudy.runtimes.ceilings` do without.

Source: the kernel's admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from understudy.runtimes.processes import identify

PERIOD_US = 50_000  # half the kernel's default: pauses are shorter, the share is the same
LEAST_QUOTA_US = 1000  # the kernel takes no less
SHARES = 15  # of 1024: the weight of nice 19, with which a little work gets done on a busy machine
LOADING_SHARES = 110  # nice 10, as others that load: somebody waits for it
_PREFIX = "understudy-"  # then the id of the process that made it, and its name
_KILL_PASSES = 200  # a second
_PROC = Path("/proc/self")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """Where groups are made.

    Attributes:
        version: 1 or 2.
    """

    directory: Path
    version: int


class CpuGroups:
    """Makes groups below the server's own.

    Args:
        process: ``/proc/self``, or a folder that looks like it.
    """

    def __init__(self, process: Path = _PROC) -> None:
        self._parents = _parents(process)
        for parent in self._parents:
            _remove_stale(parent.directory)

    def make(self, name: str, percent: int = 0) -> str | None:
        """Make an empty group for a worker that loads; :func:`set_idle` is for when it has.

        Args:
            name: Unique for ever.
            percent: Of one processor; 0: no ceiling.
        Returns:
            Its folder; None where this server can't make one.
        """
        for parent in self._parents:
            folder = parent.directory / f"{_PREFIX}{os.getpid()}-{name}"
            try:
                folder.mkdir()
            except OSError as error:
                _log.debug("no control group %s: %s", folder, error)
                continue
            try:
                _limit(folder, parent, percent)
                _weigh(folder, LOADING_SHARES)
            except OSError as error:
                _log.debug("control group %s can't be used: %s", folder, error)
                remove_group(str(folder))
                continue
            return str(folder)
        return None


def join_group(folder: str, pid: int) -> bool:
    """Move a process into a group; what it starts from now on is in it, too."""
    try:
        (Path(folder) / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        _log.warning("process %d can't join control group %s: %s", pid, folder, error)
        return False
    return True


def kill_group(folder: str) -> bool:
    """SIGKILL all processes of a group, and what they start meanwhile; False: nobody can tell."""
    for _ in range(_KILL_PASSES):
        try:
            members = map(int, (Path(folder) / "cgroup.procs").read_text().split())
        except OSError:
            return False
        living = [pid for pid in members if identify(pid) is not None]
        if not living:
            return True
        for pid in living:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return False


def remove_group(folder: str) -> bool:
    """Remove a group; False while processes are in it."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def set_idle(folder: str, idle: bool) -> bool:
    """Let a group run only while nobody else wants the processor, or with a little weight.

    Returns:
        False where the kernel can't (before Linux 5.15).
    """
    try:
        (Path(folder) / "cpu.idle").write_text(str(int(idle)))
        if not idle:
            _weigh(Path(folder), SHARES)
    except OSError as error:
        _log.debug("control group %s can't be idle: %s", folder, error)
        return False
    return True


def _limit(folder: Path, parent: Parent, percent: int) -> None:
    if parent.version == 2 and not (folder / "cpu.max").exists():
        (parent.directory / "cgroup.subtree_control").write_text("+cpu")
    if not percent:
        return
    quota_us = max(LEAST_QUOTA_US, percent * PERIOD_US // 100)
    if parent.version == 1:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")


def _weigh(folder: Path, shares: int) -> None:
    """Weigh a group against others: within one, neither nice value nor autogroup counts against them."""
    if (folder.parent / "cgroup.subtree_control").exists():  # version 2
        (folder / "cpu.weight").write_text(str(max(1, shares * 100 // 1024)))
    else:
        (folder / "cpu.shares").write_text(str(shares))


def _remove_stale(parent: Path) -> None:
    """Remove the groups that killed servers left; one with processes in it can't be removed."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        maker = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not (_PROC.parent / maker).exists():
            with suppress(OSError):
                folder.rmdir()


def _parents(process: Path) -> list[Parent]:
    """Find the server's own groups that may have the processors to share out."""
    try:
        own = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in own:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        version = 1 if controllers else 2
        directory = _folder_of(path, version, mounts)
        if directory is not None and directory.is_dir() and os.access(directory, os.W_OK):
            found.append(Parent(directory, version))
    return found


def _folder_of(path: str, version: int, mounts: list[str]) -> Path | None:
    """Say where a group can be seen: containers see a part of the hierarchy."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, options = [*after.split(" ", 2), "", ""][:3]
        if version == 2 and kind != "cgroup2":
            continue
        if version == 1 and not (kind == "cgroup" and "cpu" in options.split(",")):
            continue
        root, mounted = before.split(" ")[3:5]
        inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
        return Path(mounted) / inside
    return None
