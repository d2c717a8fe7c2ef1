"""The thread that runs the loops: at once when nudged, a few times a second otherwise.

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
    """Runs the endpoint loop and the chores.

    Args:
        tick: One round; told whether the store may have changed; tells whether it did something.
        chores: Done in the same thread, each when due.
    """

    def __init__(
        self, tick: Callable[[bool], bool], chores: list[Chore], monotonic_s: Callable[[], float]
    ) -> None:
        self._tick = tick
        self._chores = chores
        self._monotonic_s = monotonic_s
        self._wake = threading.Event()
        self._reread = True
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

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
            log.exception("a control round failed; trying again")
        else:
            return BUSY_WAIT_S if acted else IDLE_WAIT_S
        self._reread = True
        return AFTER_ERROR_S

    def _do_chores(self) -> None:
        now_s = self._monotonic_s()
        for chore in self._chores:
            if now_s >= chore.due_s:
                chore.due_s = now_s + chore.every_s
                chore.run()
