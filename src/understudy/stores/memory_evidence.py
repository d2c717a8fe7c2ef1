"""The double of the evidence store: everything in lists.

Main class: :class:`MemoryEvidence`.  It keeps nothing over a restart and merges nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from understudy.core.stages import Arm, Counts, KeptCounts, Stage


class MemoryEvidence:
    """Implements ``core.ports.Stages`` and ``core.ports.Evidence``."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stages: dict[str, list[Stage]] = {}
        self._kept: list[KeptCounts] = []
        self._sequences: dict[str, int] = {}

    def begin(self, endpoint: str, arms: Sequence[Arm], sticky: str, at_s: float) -> Stage:
        """Begin an endpoint's next stage, and end the one before in the same step."""
        with self._lock:
            self.end(endpoint, at_s)
            stages = self._stages.setdefault(endpoint, [])
            stage = Stage(endpoint, len(stages) + 1, at_s, tuple(arms), sticky)
            stages.append(stage)
            return stage

    def end(self, endpoint: str, at_s: float) -> None:
        """End an endpoint's stage; none that is open is no error."""
        with self._lock:
            stages = self._stages.get(endpoint, [])
            if stages and stages[-1].ended_at_s is None:
                stages[-1] = replace(stages[-1], ended_at_s=at_s)

    def open(self) -> list[Stage]:
        """Return the stage that is not ended of every endpoint that has one, by name."""
        with self._lock:
            return [stages[-1] for _, stages in sorted(self._stages.items()) if stages[-1].ended_at_s is None]

    def find(self, endpoint: str) -> list[Stage]:
        """Return all stages of an endpoint, oldest first."""
        with self._lock:
            return list(self._stages.get(endpoint, []))

    def record(self, counts: Sequence[Counts], *, source: str, sequence: int) -> bool:
        """Keep counts, exactly once per (source, sequence)."""
        with self._lock:
            if sequence <= self._sequences.get(source, -1):
                return False
            self._sequences[source] = sequence
            first = len(self._kept) + 1
            self._kept += [KeptCounts(first + place, one) for place, one in enumerate(counts)]
        return True

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptCounts]:
        """Return counts with ``sequence > after`` in the order in which they were kept."""
        with self._lock:
            return [one for one in self._kept[after:] if one.counts.endpoint == endpoint][:limit]

    def totals(self, endpoint: str) -> list[Counts]:
        """Return the sums per stage, arm and source, by stage."""
        sums: dict[tuple[int, str, str, str, str], Counts] = {}
        for kept in self.read(endpoint, limit=2**62):
            one = kept.counts
            key = (one.stage, one.variant, one.config_name, one.fleet_id, str(one.source))
            sums[key] = sums[key].plus(one) if key in sums else one
        return [sums[key] for key in sorted(sums)]

    def close(self) -> None:
        """Nothing to let go of."""
