"""New workers yield the processor to those that serve, until they are ready; so does what prepares them.

Owns two functions: :func:`take_back_seat` lowers the priority of a process that has just been spawned,
:func:`leave_back_seat` gives it the ordinary one.  Refuses what could not be undone: where this process may
not raise a nice value again, workers' nice values stay as they are.

Two things weigh a process, and which of them counts depends on the host: where autogroups are on, nice values
compare threads of one session only, and the session's autogroup has a value of its own, which anybody may set
back to zero; in a container's control group only nice values count, and raising one wants CAP_SYS_NICE.

Source: sched(7), "The autogroup feature"; capabilities(7).
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path

from understudy.runtimes.processes import family_of

# A tenth of the weight of what serves: woken up, that goes first; on a full machine loading still goes on.
BACK_SEAT = 10
_PROC = Path("/proc")
_CAP_SYS_NICE = 23


def take_back_seat(pid: int, *, for_good: bool = False) -> None:
    """Lower a process's priority as far as that can be undone.

    Args:
        pid: Leader of a session of its own, from which nothing was started yet.
        for_good: It need not be undone.
    """
    with suppress(OSError):
        (_PROC / str(pid) / "autogroup").write_text(str(BACK_SEAT))
    if os.getpriority(os.PRIO_PROCESS, 0) < BACK_SEAT and (for_good or may_raise_priority()):
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, BACK_SEAT)


def leave_back_seat(pid: int, marker: str) -> bool:
    """Give a worker and all that it has started the server's own priority; False: try again in a moment.

    A thread or process that has chosen a nice value itself keeps it.
    """
    autogroup = _PROC / str(pid) / "autogroup"
    try:
        if autogroup.exists() and autogroup.read_text().split()[-1] == str(BACK_SEAT):
            autogroup.write_text("0")
    except BlockingIOError:
        return False  # the kernel takes ten changes a second from ordinary users
    except OSError:
        pass  # it is gone
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if own < BACK_SEAT and may_raise_priority():
        # Threads have nice values of their own, and hand them on to what they start.
        for process in family_of(pid, marker):
            with suppress(OSError):
                for task in (_PROC / str(process) / "task").iterdir():
                    with suppress(OSError):
                        if os.getpriority(os.PRIO_PROCESS, int(task.name)) == BACK_SEAT:
                            os.setpriority(os.PRIO_PROCESS, int(task.name), own)
    return True


def may_raise_priority() -> bool:
    """Tell whether this process may give a lower nice value than there is, back to its own."""
    status = (_PROC / "self" / "status").read_text()
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    if int(effective.split()[1], 16) >> _CAP_SYS_NICE & 1:
        return True
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    return limit == resource.RLIM_INFINITY or 20 - limit <= own
