"""The worker as a process: its title, its status file, and its end when the server is gone.

Owns what the operating system sees. Refuses models and requests.

Main functions: ``set_title``, ``write_status``, ``watch_lifeline``, ``go_on_when_the_parent_ends``,
``keep_freed_memory``, ``give_back_what_is_free``, ``set_aside_what_lives_long``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_NAME = 15
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_KEPT_BYTES = 32 * 1024 * 1024  # the C library allows no more for one block


def set_title(title: str) -> bool:
    """Make ``ps`` show ``title`` instead of the command line, where the system allows it.

    Linux tells in ``/proc/self/stat`` where the argument area lies (fields 48 and 49, proc(5)); it is this
    process's own writable memory. The title is cut to the area's size.

    Returns:
        Whether the argument area could be overwritten.
    """
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        room = end - start
        if start <= 0 or room < 2:
            return False
        ctypes.CDLL(None).prctl(_PR_SET_NAME, title.rsplit(" ", 1)[-1].encode()[:15], 0, 0, 0)
        ctypes.memmove(start, title.encode("utf-8", "replace")[: room - 1].ljust(room, b"\0"), room)
    except (OSError, ValueError, IndexError, AttributeError):
        return False  # not Linux, or a sandbox without /proc: the --title argument is seen instead
    return True


def keep_freed_memory(most_bytes: int) -> None:
    """Have the C library keep up to so much freed memory at hand instead of giving it back to the system.

    Large bodies come and go: by default each takes new pages, and to get a page costs more than to fill it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # not glibc: its own ways
    mallopt(_M_MMAP_THRESHOLD, min(most_bytes, _LARGEST_KEPT_BYTES))
    mallopt(_M_TRIM_THRESHOLD, most_bytes)


def give_back_what_is_free() -> None:
    """Collect all garbage, and have the C library give whole free pages back to the system.

    For once in a while: where little is left for the counts of objects to start a collection, only this one
    empties the lists of spare tuples, and what a short peak touched would stay for good.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # glibc's
        trim(0)


def set_aside_what_lives_long(*thresholds: int) -> None:
    """Have no collection look at what is there now, and collect by these thresholds (``gc.set_threshold``).

    Python collects the oldest objects only once a quarter as many have come as there were at the collection
    before, set aside or not.  Hence a second one, of next to nothing: else circles stay until they are a
    quarter of all that the modules hold.
    """
    gc.collect()
    gc.freeze()
    gc.collect()
    gc.set_threshold(*thresholds)


def go_on_when_the_parent_ends() -> None:
    """Have the kernel continue this process, should it be stopped, whenever its parent ends.

    Whoever holds a shadow below its ceiling of the processor by stopping it now and then may be killed in
    between; nobody else might ever continue it, so that it would not see the end of its lifeline either.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def write_status(
    path: Path,
    state: str,
    *,
    reason: str = "",
    detail: str = "",
    batch: bool = False,
    model: Mapping[str, Any] | None = None,
) -> None:
    """Tell the controller, by one atomic rename, how this worker is: loading, ready or failed."""
    status = {
        "state": state,
        "reason": reason,
        "detail": detail,
        "batch": batch,
        "pid": os.getpid(),
        "at_s": time.time(),
        "model": dict(model or {}),
    }
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(status), "utf-8")
    os.replace(partial, path)  # noqa: PTH105 - the same call, older Pythons too


def watch_lifeline(fd: int, before_exit: Callable[[], None] = lambda: None) -> None:
    """Watch, in a thread of its own, for EOF on the lifeline; then end this process at once.

    Args:
        fd: Read end of the pipe whose only writer is the supervisor.
        before_exit: Called first; kills what would otherwise stay behind.
    """

    watching = select.poll()
    watching.register(fd, select.POLLIN)

    def watch() -> None:
        while True:
            try:
                # The pipe is shared with every process of the server, and whoever makes it non-blocking
                # does so for all: wait by poll, then read.
                watching.poll()
                if os.read(fd, 64):
                    continue
            except (InterruptedError, BlockingIOError):
                continue
            except OSError:
                pass  # a closed descriptor says the same as EOF
            try:
                before_exit()
            finally:
                os._exit(0)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
