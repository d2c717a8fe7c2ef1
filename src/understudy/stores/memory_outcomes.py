"""The double of the store of outcomes: dictionaries.  Main class: :class:`MemoryOutcomes`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence

from understudy.core.outcomes import Added, KeptOutcome, Outcome, Tally, Value

TOLD_CONFLICTS = 20

_Key = tuple[str, str, str, str]  # endpoint, subject, name, id


class MemoryOutcomes:
    """Implements ``core.ports.Outcomes``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[_Key, KeptOutcome] = {}
        self._repeats: Counter[tuple[_Key, Value, str]] = Counter()

    def add(self, endpoint: str, outcomes: Sequence[Outcome], received_at_s: float) -> Added:
        """Keep what is reported for the first time, count the rest."""
        accepted = duplicates = conflicting = 0
        conflicts: list[tuple[str, str, Value, Value]] = []
        with self._lock:
            for one in outcomes:
                key = (endpoint, one.subject, one.name, one.id)
                before = self._kept.get(key)
                if before is None:
                    self._kept[key] = KeptOutcome(one, len(self._kept) + 1, received_at_s)
                    accepted += 1
                    continue
                stands = before.outcome
                agrees = stands.value == one.value
                if agrees and one.source and stands.source == one.source:
                    continue
                if one.source and self._repeats[key, one.value, one.source]:
                    continue
                self._repeats[key, one.value, one.source] += 1
                if agrees:
                    duplicates += 1
                    continue
                conflicting += 1
                if len(conflicts) < TOLD_CONFLICTS:
                    conflicts.append((one.id, one.name, stands.value, one.value))
        return Added(accepted, duplicates, conflicting, tuple(conflicts))

    def find(
        self, endpoint: str, name: str, ids: Collection[str], subject: str = "id"
    ) -> dict[str, KeptOutcome]:
        """Return the outcomes of that name by id, of those ids that have one."""
        with self._lock:
            found = {one: self._kept.get((endpoint, subject, name, one)) for one in ids}
        return {one: kept for one, kept in found.items() if kept is not None}

    def after(self, endpoint: str, sequence: int, limit: int) -> list[KeptOutcome]:
        """Return outcomes with a greater sequence, in order."""
        with self._lock:
            ours = [kept for key, kept in self._kept.items() if key[0] == endpoint]
        return [kept for kept in ours if kept.sequence > sequence][:limit]

    def tallies(self, endpoint: str) -> list[Tally]:
        """Count reports, sorted by name and subject."""
        kept: dict[tuple[str, str], list[float]] = {}
        again: Counter[tuple[str, str, bool]] = Counter()
        with self._lock:
            for key, one in self._kept.items():
                if key[0] == endpoint:
                    kept.setdefault((key[2], key[1]), []).append(one.outcome.at_s)
            for (key, value, _), times in self._repeats.items():
                if key[0] == endpoint:
                    again[key[2], key[1], self._kept[key].outcome.value == value] += times
        return [
            Tally(
                name,
                subject,
                len(times),
                again[name, subject, True],
                again[name, subject, False],
                max(times),
            )
            for (name, subject), times in sorted(kept.items())
        ]

    def close(self) -> None:
        """Nothing to let go of."""
