"""The double of the assignment store: everything in a list.

Main class: :class:`MemoryAssignments`.  It keeps nothing over a restart and forgets nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from understudy.core.assignment import Assignment, KeptAssignment, Receipt


class MemoryAssignments:
    """Implements ``core.ports.Assignments``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[KeptAssignment] = []
        self._batches: dict[str, int] = {}
        self._last_batch = 0

    def add(self, batch: str, assignments: Sequence[Assignment]) -> Receipt:
        """Keep a batch, once: one that was added and not forgotten is recognised by its name."""
        with self._lock:
            if batch not in self._batches:
                self._last_batch += 1
                self._batches[batch] = self._last_batch
                first = len(self._kept) + 1
                self._kept += [KeptAssignment(first + place, one) for place, one in enumerate(assignments)]
            return Receipt("assignments", self._batches[batch])

    def forget_batch(self, batch: str) -> None:
        """Forget a batch's name: it will not be added again."""
        with self._lock:
            self._batches.pop(batch, None)

    def find(self, endpoint: str, ids: Collection[str]) -> dict[str, Assignment]:
        """Look requests up by inference id or event id; of several with one id, the first to be routed."""
        wanted = set(ids)
        found: dict[str, Assignment] = {}
        for _, one in self.read(endpoint, limit=2**62):
            for id_ in {one.inference_id, one.event_id} & wanted:
                if id_ is not None and (id_ not in found or one.at_s < found[id_].at_s):
                    found[id_] = one
        return found

    def read(self, endpoint: str, after: int = 0, limit: int = 1000) -> list[KeptAssignment]:
        """Return assignments with ``sequence > after`` in the order in which they were kept."""
        with self._lock:
            return [one for one in self._kept[after:] if one.assignment.endpoint == endpoint][:limit]

    def close(self) -> None:
        """Nothing to let go of."""
