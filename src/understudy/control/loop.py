"""The threads that run the loops: at once when nudged, every so often otherwise.

A round that fails (a locked database, a full disk) is logged and tried again; the request path
never waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from understudy.core.errors import ApiError

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.2  # how soon a dead instance is noticed; costs one look at the runtime
BUSY_WAIT_S = 0.01
AFTER_ERROR_S = 1.0


@dataclass
class Chore:
    """Something done every so often, in real seconds, e.g. rolling up metrics."""

    name: str
    every_s: float
    run: Callable[[], object]
    due_s: float = 0.0


class Loop:
    """Runs one thread's work and chores.

    Args:
        tick: One round; told whether the store may have changed; tells whether it did something.
        chores: Done in the same thread, each when due.
        name: Of the thread.
        idle_wait_s: From a round that did nothing to the next.
    """

    def __init__(
        self,
        tick: Callable[[bool], bool],
        chores: list[Chore],
        monotonic_s: Callable[[], float],
        *,
        name: str = "control",
        idle_wait_s: float = IDLE_WAIT_S,
    ) -> None:
        self._idle_wait_s = idle_wait_s
        self._tick = tick
        self._chores = chores
        self._monotonic_s = monotonic_s
        self._wake = threading.Event()
        self._reread = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; what was true before a restart has been looked at once when this returns."""
        self._round()
        self._thread.start()

    def nudge(self) -> None:
        """Look at the store now."""
        self._reread = True
        self._wake.set()

    def wake(self) -> None:
        """Look at routers and instances now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish the round under way and end."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while not self._stopping:
            wait_s = self._round()
            if not self._stopping:
                self._wake.wait(wait_s)

    def _round(self) -> float:
        """Look and act once; say how long to wait."""
        self._wake.clear()
        reread, self._reread = self._reread, False
        try:
            acted = self._tick(reread)
            self._do_chores()
        except ApiError as error:
            log.warning("a store can't be reached: %s Trying again.", error.message)
        except Exception:
            log.exception("a round of %s failed; trying again", self._thread.name)
        else:
            return BUSY_WAIT_S if acted else self._idle_wait_s
        self._reread = True
        return AFTER_ERROR_S

    def _do_chores(self) -> None:
        now_s = self._monotonic_s()
        for chore in self._chores:
            if now_s >= chore.due_s:
                chore.due_s = now_s + chore.every_s
                chore.run()
