"""A clock for waiting: it shows wall time and does not follow the wall's jumps.

Owns :class:`SteadyClock`.  It counts the machine's monotonic time from an anchor that is kept in a file, so
that a bake which a controller began is as long under the next one, though somebody set the clock in between.
After a reboot, when the monotonic time has begun anew, the wall is all there is to go by.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from understudy.core.ports import Clock

log = logging.getLogger(__name__)

TOLERATED_S = 1.0  # a smaller difference is no jump: clocks are slewed all the time


class SteadyClock:
    """Wall time at the anchor plus monotonic time since.

    Args:
        clock: Wall and monotonic time; the latter goes on from process to process until the machine reboots.
        path: Where the anchor is kept.
        boot: Names the machine's boot; an anchor of another one is not used.
        scale: How many clock seconds pass in a real one; an anchor of another scale is not used.
    """

    def __init__(self, clock: Clock, path: Path, boot: str, scale: float = 1.0) -> None:
        self._clock = clock
        self._path = path
        self._facts: dict[str, str | float] = {"boot": boot, "scale": scale}
        self._tolerated_s = TOLERATED_S * max(1.0, scale)
        kept = _read(path)
        if kept is not None and {name: kept.get(name) for name in self._facts} == self._facts:
            self._wall_s, self._monotonic_s = float(kept["wall_s"]), float(kept["monotonic_s"])
        else:
            self._anchor()

    def now_s(self) -> float:
        """Unix time in seconds, as far as nobody has set the clock since the anchor."""
        return self._wall_s + self._clock.monotonic_s() - self._monotonic_s

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return self._clock.monotonic_s()

    def follow_wall(self) -> None:
        """Take over what the wall says now; for moments in which nobody waits."""
        away_s = self._clock.now_s() - self.now_s()
        if abs(away_s) > self._tolerated_s:
            log.warning("the machine's clock was set by %+.1f s", away_s)
            self._anchor()

    def _anchor(self) -> None:
        self._wall_s, self._monotonic_s = self._clock.now_s(), self._clock.monotonic_s()
        temporary = self._path.with_suffix(".tmp")
        facts = {**self._facts, "wall_s": self._wall_s, "monotonic_s": self._monotonic_s}
        temporary.write_text(json.dumps(facts))
        temporary.replace(self._path)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return kept if isinstance(kept, dict) and {"wall_s", "monotonic_s"} <= kept.keys() else None
