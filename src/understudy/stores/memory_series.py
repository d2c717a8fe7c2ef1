"""The double of the series store: everything in a dictionary, at one second's resolution.

Main class: :class:`MemorySeries`.  It keeps nothing over a restart and rolls nothing up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from understudy.core.metrics import Bucket, Datum, SeriesKey, Summary


class MemorySeries:
    """Implements ``core.ports.Series``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._points: dict[SeriesKey, dict[tuple[int, str], Summary]] = {}
        self._sequences: dict[str, int] = {}

    def record(self, data: Sequence[Datum], *, source: str = "", sequence: int = 0) -> bool:
        """Merge data in; exactly once per (source, sequence) when a source is named."""
        with self._lock:
            if source:
                if sequence <= self._sequences.get(source, -1):
                    return False
                self._sequences[source] = sequence
            for datum in data:
                points = self._points.setdefault(datum.key, {})
                place = (datum.at_s, datum.unit)
                points[place] = points.get(place, Summary()) + datum.summary
        return True

    def keys(
        self, namespace: str | None = None, metric_name: str | None = None
    ) -> list[tuple[SeriesKey, float]]:
        """Return metrics, sorted, and the Unix time of their newest sample."""
        with self._lock:
            return sorted(
                (key, float(max(at_s for at_s, _ in points)))
                for key, points in self._points.items()
                if (namespace is None or key.namespace == namespace)
                and (metric_name is None or key.metric_name == metric_name)
            )

    def read(self, key: SeriesKey, start_s: int, end_s: int, period_s: int) -> list[Bucket]:
        """Return the non-empty periods that start in [start_s, end_s), merged per unit."""
        merged: dict[tuple[int, str], Summary] = {}
        with self._lock:
            for (at_s, unit), summary in self._points.get(key, {}).items():
                place = (at_s - at_s % period_s, unit)
                if start_s <= place[0] < end_s:
                    merged[place] = merged.get(place, Summary()) + summary
        return [Bucket(begin_s, unit, summary) for (begin_s, unit), summary in sorted(merged.items())]

    def close(self) -> None:
        """Nothing to let go of."""
