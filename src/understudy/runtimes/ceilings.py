"""A ceiling for what a worker's processes use of the processors, where control groups can't hold it.

Owns :class:`Ceilings`: measures each family's processor time and stops all of its processes (SIGSTOP)
while it has used more than its share, like a bucket that fills at the ceiling's rate.  Over seconds the share
is exact, whatever the number of processes and threads.  A process is signalled through its pidfd: never
somebody who got its number.

Nothing stays stopped: :meth:`Ceilings.lift` and :meth:`Ceilings.close` continue everybody, a runtime that
takes over does so first, and a worker asks the kernel to continue it when its parent ends
(``worker.process.go_on_when_the_parent_ends``).

Source: proc_pid_stat(5), pidfd_send_signal(2).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

from understudy.runtimes.processes import family_of

TICK_S = 0.02
SEARCH_EVERY_S = 1.0  # for members that left the tree of processes
BURST_S = 0.1  # of its share that a family may have saved up
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class Bucket:
    """Decides when a family must pause.

    Args:
        cores: The ceiling: processors' time per time.

    >>> bucket = Bucket(0.5, now_s=0.0)
    >>> bucket.must_pause(now_s=0.1, used_s=0.1), bucket.must_pause(now_s=0.2, used_s=0.0)
    (True, False)
    """

    def __init__(self, cores: float, now_s: float) -> None:
        self._cores = cores
        self._credit_s = 0.0
        self._at_s = now_s

    def must_pause(self, now_s: float, used_s: float) -> bool:
        """Take in what was used since the last call.

        Args:
            used_s: Processor time of all processes together.
        """
        earned_s = self._cores * (now_s - self._at_s)
        self._at_s = now_s
        self._credit_s = min(self._credit_s + earned_s, self._cores * BURST_S) - used_s
        return self._credit_s < 0.0


class Family:
    """The processes of one worker.

    Attributes:
        paused: They are stopped, as far as we know.
    """

    def __init__(self, leader: int, marker: str, cores: float) -> None:
        self._leader = leader
        self._marker = marker
        self._members: dict[int, int] = {}  # process id -> pidfd
        self._used_s: float | None = None
        self._searched_s = float("-inf")
        self._bucket = Bucket(cores, time.monotonic())
        self.paused = False

    def step(self) -> None:
        """Measure, then pause or go on."""
        now_s = time.monotonic()
        if now_s >= self._searched_s + SEARCH_EVERY_S:
            self._searched_s = now_s
            self._take_in(family_of(self._leader, self._marker))
        self._take_in(self._children())
        used_s = self._measure()
        before_s, self._used_s = self._used_s, used_s
        pause = self._bucket.must_pause(now_s, 0.0 if before_s is None else max(0.0, used_s - before_s))
        if pause:
            self.pause()
        elif self.paused:
            self.go_on()

    def pause(self) -> None:
        """Stop every member, those included that are being forked while we look."""
        self.paused = True
        for _ in range(8):
            self._signal(signal.SIGSTOP)
            before = len(self._members)
            self._take_in(self._children())
            if len(self._members) == before:
                return

    def go_on(self) -> None:
        """Continue every member."""
        self.paused = False
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Continue every member, whether we know of it or not, and forget them."""
        self._take_in(family_of(self._leader, self._marker))
        self.go_on()
        for pidfd in self._members.values():
            os.close(pidfd)
        self._members.clear()

    def _take_in(self, pids: set[int]) -> None:
        for pid in pids - self._members.keys():
            with suppress(OSError):
                self._members[pid] = os.pidfd_open(pid)

    def _children(self) -> set[int]:
        """Find the children of all threads of all members, and theirs."""
        found: set[int] = set()
        waiting = list(self._members)
        while waiting:
            pid = waiting.pop()
            with suppress(OSError):
                for thread in (_PROC / str(pid) / "task").iterdir():
                    new = {int(child) for child in (thread / "children").read_text().split()} - found
                    found |= new
                    waiting += new - self._members.keys()
        return found

    def _signal(self, number: signal.Signals) -> None:
        for pid, pidfd in list(self._members.items()):
            try:
                signal.pidfd_send_signal(pidfd, number)
            except ProcessLookupError:
                os.close(pidfd)
                del self._members[pid]
            except PermissionError:  # another user's by now (a setuid program)
                continue

    def _measure(self) -> float:
        """Sum up processor time: of members, and of their children that ended and were waited for."""
        ticks = 0
        for pid in self._members:
            with suppress(OSError):
                text = (_PROC / str(pid) / "stat").read_bytes()
                ticks += sum(map(int, text.rpartition(b")")[2].split()[11:15]))
        return ticks / _TICKS_PER_S


class Ceilings:
    """Keeps families below their ceilings from one thread, which runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._families: dict[str, Family] = {}
        self._thread: threading.Thread | None = None

    def hold(self, marker: str, leader: int, percent: int) -> None:
        """Keep a worker below its ceiling from now on; continues it first, should it be stopped.

        Args:
            marker: In the environment of all of its processes.
            percent: Of one processor.
        """
        family = Family(leader, marker, percent / 100.0)
        family.close()
        with self._lock:
            self._families[marker] = family
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ceilings", daemon=True)
                self._thread.start()

    def lift(self, marker: str) -> None:
        """Let a worker do as it likes."""
        with self._lock:
            family = self._families.pop(marker, None)
            if family is not None:
                family.close()

    def close(self) -> None:
        """Lift all ceilings and end."""
        for marker in list(self._families):
            self.lift(marker)
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._families:
                    self._thread = None
                    return
                for family in self._families.values():
                    family.step()
            time.sleep(TICK_S)
