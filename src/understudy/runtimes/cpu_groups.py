"""Control groups that bound what the processes of one worker use of the processors.

Owns :class:`CpuGroups`: finds out whether this server may make groups (version 1's ``cpu.cfs_quota_us`` or
version 2's ``cpu.max``), makes one per worker and removes it.  Refuses nothing: where groups can't be made
it says so, and :mod:`understudy.runtimes.ceilings` does without.

Source: the kernel's admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst; proc_pid_mountinfo(5).
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PERIOD_US = 50_000  # half the kernel's default: pauses are shorter, the share is the same
LEAST_QUOTA_US = 1000  # the kernel takes no less
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

    def make(self, name: str, percent: int) -> str | None:
        """Make an empty group.

        Args:
            name: Unique for ever.
            percent: Of one processor.
        Returns:
            Its folder; None where this server can't make one.
        """
        for parent in self._parents:
            folder = parent.directory / f"understudy-{name}"
            try:
                folder.mkdir()
            except OSError as error:
                _log.debug("no control group %s: %s", folder, error)
                continue
            try:
                _limit(folder, parent, percent)
            except OSError as error:
                _log.debug("control group %s can't be limited: %s", folder, error)
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


def remove_group(folder: str) -> bool:
    """Remove a group; False while processes are in it."""
    try:
        Path(folder).rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _limit(folder: Path, parent: Parent, percent: int) -> None:
    quota_us = max(LEAST_QUOTA_US, percent * PERIOD_US // 100)
    if parent.version == 1:
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        # In a group of its own neither nice value nor autogroup counts against others: its weight does.
        (folder / "cpu.shares").write_text("2")
        return
    if not (folder / "cpu.max").exists():
        (parent.directory / "cgroup.subtree_control").write_text("+cpu")
    (folder / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    with suppress(OSError):
        (folder / "cpu.weight").write_text("1")


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
