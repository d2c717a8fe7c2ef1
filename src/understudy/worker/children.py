"""Child processes of a worker: started so that none outlives it, and their last words kept.

Owns starting, listening to stderr and ending. Refuses protocols.

Main class: ``Child``.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LAST_LINES = 20


def _die_with_parent() -> Callable[[], None]:
    """Build what a child does between fork and exec: its own process group, and death with its parent."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def prepare() -> None:
        os.setpgid(0, 0)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)

    return prepare


class Child:
    """A running child process."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it; its stderr goes to ours line by line, the last lines are remembered.

        Raises:
            OSError: the program can't be started.
        """
        self._closing = False
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=tuple(pass_fds),
            preexec_fn=_die_with_parent(),
        )
        self._relay = threading.Thread(target=self._relay_stderr, name="stderr", daemon=True)
        self._relay.start()

    def _relay_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            text = line.decode("utf-8", "replace")
            sys.stderr.write(text)
            if text.strip():
                self._lines.append(text.rstrip())

    def end(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """Say how it ended: exit code or signal, and the last line it wrote to stderr."""
        code = self._process.poll()
        self._relay.join(1.0)  # a grandchild may hold the pipe open
        how = "ended"
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        return f"{how}: {self._lines[-1]}" if self._lines else how

    def watch(self, died: Callable[[str], None]) -> None:
        """Call ``died`` from a thread when it ends unasked."""

        def wait() -> None:
            self._process.wait()
            if not self._closing:
                died(self.last_words())

        threading.Thread(target=wait, name="child", daemon=True).start()

    def close(self, grace_s: float = 20.0) -> None:
        """End it and its descendants: SIGTERM, and SIGKILL after the grace."""
        self._closing = True
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                continue

    def kill(self) -> None:
        """End it at once."""
        self._closing = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
