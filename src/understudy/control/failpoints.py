"""Places where the controller can be made to die, for tests of what a crash leaves behind.

Owns their names (:data:`FAILPOINTS`) and :class:`Failpoints`.  Nothing is armed unless the environment
variable ``UNDERSTUDY_FAILPOINT`` names one when the controller starts; a name that is not registered is
refused.  How often each has killed is kept in a file, so that the controllers that follow go on, or die
there again: ``TrafficShifting/mid-effect:2`` dies twice.  Several are separated by commas.

Boundaries of a step that is saved: ``before-intent`` (decided, not stored), ``after-intent`` (stored, nothing
done), ``mid-effect`` (the routing table is on disk and not sent; only of steps that change it),
``after-effect`` (sent, not acknowledged).
Those of instances have ``before-effect`` and ``after-effect``.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from understudy.core.rollout_terms import EVENTS, ROUTING_EVENTS

VARIABLE = "UNDERSTUDY_FAILPOINT"
STEPS = ("before-intent", "after-intent", "mid-effect", "after-effect")

FAILPOINTS: tuple[str, ...] = (
    *(
        f"{event}/{step}"
        for event in EVENTS
        for step in STEPS
        # Where routes stay as they are no table is written: nothing could die in the middle of it.
        if step != "mid-effect" or event in ROUTING_EVENTS
    ),
    # Saved on the way, and not followed by a table.
    *(
        f"{event}/{step}"
        for event in ("EndpointDeleted", "EndpointNotRecovering")
        for step in ("before-intent", "after-intent")
    ),
    *(
        f"{what}/{step}"
        for what in ("StartInstance", "StopInstance")
        for step in ("before-effect", "after-effect")
    ),
)


class UnknownFailpoint(ValueError):
    """The variable names a failpoint that there is not."""


class Failpoints:
    """The armed failpoints of one controller.

    Args:
        armed: How often each is to kill.
        path: Where the deaths of the controllers before are counted.
        die: Ends the process.
    """

    def __init__(self, armed: dict[str, int], path: Path, die: Callable[[], None]) -> None:
        self._armed = armed
        self._path = path
        self._die = die

    def reach(self, what: str, step: str) -> None:
        """Die here, if this is armed and has not killed often enough."""
        if not self._armed:
            return
        name = f"{what}/{step}"
        if name not in self._armed:
            return
        deaths = json.loads(self._path.read_text()) if self._path.exists() else {}
        if deaths.get(name, 0) >= self._armed[name]:
            return
        deaths[name] = deaths.get(name, 0) + 1
        self._path.write_text(json.dumps(deaths))
        self._die()


NO_FAILPOINTS = Failpoints({}, Path("failpoints.json"), lambda: None)


def arm(value: str | None, path: Path) -> Failpoints:
    """Read the variable's value: ``NAME[:COUNT][,...]``.

    Raises:
        UnknownFailpoint: a name is not registered, or a count is no positive number.
    """
    armed: dict[str, int] = {}
    for part in (value or "").split(","):
        name, _, count = part.strip().partition(":")
        if not name:
            continue
        if name not in FAILPOINTS or not (count or "1").isdigit():
            raise UnknownFailpoint(f"{VARIABLE}: there is no failpoint {part.strip()!r}.")
        armed[name] = int(count or "1")
    return Failpoints(armed, path, lambda: os.kill(os.getpid(), signal.SIGKILL))
