"""Durable capture: answers that leave only after their records are on disk.

Owns :class:`Holding`.  Refuses to hold for ever: after ``LONGEST_HOLD_S`` the caller is told that the service
is unavailable, as it is when the record is shed.  What is held is bounded by the spool's queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from understudy.dataplane.calls import Call

LONGEST_HOLD_S = 5.0

Release = Callable[[Call, bytes, int, bool], None]


class Holding:
    """The held answers of one router.

    Args:
        release: Called exactly once per answer with the call, the bytes, when the worker's answer came and
            whether the record is on disk.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, release: Release) -> None:
        self._loop = loop
        self._release = release
        self._held: dict[Call, tuple[int, bytes, int]] = {}  # oldest first

    def hold(
        self,
        call: Call,
        answer: bytes,
        received_ns: int,
        keep: Callable[[Callable[[bool], None]], bool],
    ) -> None:
        """Keep the record and have the answer wait for it.

        Args:
            answer: All that the caller still has to get.
            keep: Makes the record, given whom to acknowledge it to (from another thread).
        """
        self._held[call] = (time.monotonic_ns() + int(LONGEST_HOLD_S * 1e9), answer, received_ns)
        if not keep(lambda kept: self._acknowledged(call, kept)):
            self._settle(call, False)

    def _acknowledged(self, call: Call, kept: bool) -> None:
        self._loop.call_soon_threadsafe(self._settle, call, kept)

    def _settle(self, call: Call, kept: bool) -> None:
        held = self._held.pop(call, None)
        if held is not None:
            self._release(call, held[1], held[2], kept)

    def end_overdue(self, now_ns: int) -> None:
        """Give up on records that take too long."""
        if not self._held:
            return
        overdue = []
        for call, (due_ns, _, _) in self._held.items():
            if due_ns > now_ns:
                break
            overdue.append(call)
        for call in overdue:
            self._settle(call, False)
