"""The double of the assignment store: everything in a list.

Main class: :class:`MemoryAssignments`.  It keeps nothing over a restart and forgets nothing.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence

from understudy.core.assignment import Assignment, KeptAssignment, Receipt


class MemoryAssignments:
    """Implements ``core.ports.Assignments`` and ``AssignmentBatches``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[KeptAssignment] = []
        self._batches: dict[str, int] = {}
        self._last_batch = 0
        self._taken: dict[str, Counter[tuple[str, str]]] = {}

    def add(self, batch: str, writer: str, assignments: Sequence[Assignment]) -> Receipt:
        """Keep a batch, once: one that was added and not forgotten is recognised by its name."""
        with self._lock:
            if batch not in self._batches:
                self._last_batch += 1
                self._batches[batch] = self._last_batch
                taken = self._taken.setdefault(writer, Counter())
                taken.update((one.endpoint, one.variant) for one in assignments)
                first = len(self._kept) + 1
                self._kept += [KeptAssignment(first + place, one) for place, one in enumerate(assignments)]
            return Receipt("assignments", self._batches[batch])

    def forget_batch(self, batch: str) -> None:
        """Forget a batch's name: it will not be added again."""
        with self._lock:
            self._batches.pop(batch, None)

    def taken(self, writer: str) -> dict[tuple[str, str], int]:
        """Count what was added of a writer, by (endpoint, variant)."""
        with self._lock:
            return dict(self._taken.get(writer, {}))

    def remember(self, writers: Collection[str]) -> None:
        """Forget how much was added of all writers but these."""
        with self._lock:
            self._taken = {writer: counts for writer, counts in self._taken.items() if writer in writers}

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
