"""The real clock and the real dice: the only place that reads either."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path


class RealClock:
    """Wall and monotonic time, sped up by a scale around an anchor.

    With scale 1 this is the machine's clock.  With ``--time-scale 60`` a minute passes in a second,
    starting at the anchor, so that bakes, schedules and cooldowns can be tested in seconds.

    Args:
        scale: How many clock seconds pass in a real second; > 0.
        anchor_s: Unix time at which scaled and real time agree; ignored at scale 1.
    """

    def __init__(self, scale: float = 1.0, anchor_s: float = 0.0) -> None:
        self._scale = scale
        self._anchor_s = anchor_s

    def now_s(self) -> float:
        """Unix time in seconds."""
        now_s = time.time()
        return now_s if self._scale == 1.0 else self._anchor_s + (now_s - self._anchor_s) * self._scale

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic() * self._scale


class RealEntropy:
    """The operating system's randomness."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uniform(self) -> float:
        """Draw from [0, 1)."""
        return self._random.random()

    def token(self, length_bytes: int) -> str:
        """Draw ``2 * length_bytes`` hex characters, fit for secrets."""
        return os.urandom(length_bytes).hex()


def boot_id() -> str:
    """Name the machine's boot: as long as it stays, monotonic time goes on from process to process."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else f"process {os.getpid()}"
