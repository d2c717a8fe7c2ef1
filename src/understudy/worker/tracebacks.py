"""Tracebacks of a failing model in its log: the first of each second, and how many more there were.

Owns what a failure costs: a model that fails thousands of times a second would spend most of its processor
time, and fill its log, with telling so.  Refuses to leave one out uncounted.
Main function: :func:`log_traceback`.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import TextIO

PER_SECOND = 20


class Tracebacks:
    """Prints tracebacks, ``PER_SECOND`` of them; any number of threads.

    Args:
        monotonic_s: Seconds that never go back.
        stream: Where to; None: standard error as it is at that moment.
    """

    def __init__(
        self, monotonic_s: Callable[[], float] = time.monotonic, stream: TextIO | None = None
    ) -> None:
        """Begin with none."""
        self._monotonic_s = monotonic_s
        self._stream = stream
        self._lock = threading.Lock()
        self._second = -1
        self._printed = 0
        self._left_out = 0

    def log(self, error: BaseException) -> None:
        """Print an error's traceback, or count it."""
        with self._lock:
            told = self._told()
        if told is not None:
            text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            (self._stream or sys.stderr).write(told + text)

    def _told(self) -> str | None:
        """Return what is to be said before the next traceback; None: there have been enough this second."""
        second = int(self._monotonic_s())
        if second != self._second:
            left_out, self._second, self._printed, self._left_out = self._left_out, second, 1, 0
            return f"({left_out} more failures without their tracebacks)\n" if left_out else ""
        self._printed += 1
        if self._printed < PER_SECOND:
            return ""
        if self._printed == PER_SECOND:
            return f"(the last of {PER_SECOND} tracebacks that are written in a second)\n"
        self._left_out += 1
        return None


log_traceback = Tracebacks().log
