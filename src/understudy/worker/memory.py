"""Notices when what a model keeps has used up its instance's memory: the process can't serve any more.

A container that reaches its limit is killed and replaced; a limit of the process itself (``RLIMIT_DATA``)
only makes allocations fail, and a model that leaks would answer ``MemoryError`` for ever.  Owns the
difference between that and one request that is too large: what such a one took is free again.
Main functions: :func:`watch_memory`, :func:`note_memory_error`.

Source: getrlimit(2); proc_pid_status(5), VmData, which is what the limit counts.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from pathlib import Path

USED_UP = 0.9
_STATUS = Path("/proc/self/status")
_watchers: list[Callable[[str], None]] = []


def watch_memory(on_used_up: Callable[[str], None]) -> None:
    """Have somebody told, once and from any thread, in words."""
    _watchers.append(on_used_up)


def note_memory_error() -> None:
    """Look whether there is room again after a MemoryError."""
    if not _watchers:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY or used_bytes() < USED_UP * limit:
        return
    gc.collect()
    used = used_bytes()
    if used >= USED_UP * limit:
        while _watchers:
            _watchers.pop()(f"MemoryError: {used / 2**30:.2f} of {limit / 2**30:.2f} GiB are in use for good")


def used_bytes() -> int:
    """Tell how much this process has, as its limit counts it; 0 where the system doesn't say."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
