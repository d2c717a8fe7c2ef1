"""Takes what routers measured into the series and into the running totals of ``/metrics``.

Main class: :class:`Recorder`.  Exactly once: a delta is acknowledged after it is on disk, and one
that is sent again is recognised by (boot, sequence).  The totals are what the series hold: they are read
back when an endpoint is first heard of, and followed in memory from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from understudy.control.totals import VariantTotals, read_totals
from understudy.core.metrics import CAPTURED, LOGGED, instance_data, router_data
from understudy.core.ports import Clock, Evidence, InstanceState, Series
from understudy.core.stages import counts_of

READ_BACK_FOR_S = 0.25  # a start with many endpoints must not keep the control loops waiting
READ_BACK_AT_ONCE = 20


class Recorder:
    """Shared by the threads of the control channel and of capture (writing) and ``/metrics`` (reading)."""

    def __init__(self, series: Series, clock: Clock, evidence: Evidence) -> None:
        self._series = series
        self._evidence = evidence
        self._clock = clock
        # Held while the series and the totals are brought from one agreeing state to the next.
        self._recording = threading.Lock()
        self._lock = threading.Lock()
        self._variants: dict[tuple[str, str], VariantTotals] = {}
        self._refused: dict[str, int] = {}
        self._known: set[str] = set()

    def on_metrics(self, boot: str, sequence: int, items: list[dict[str, Any]]) -> None:
        """Record one delta of one router; it is on disk when this returns."""
        served = [item for item in items if item["endpoint"]]
        counts, data = counts_of(served), router_data(served)
        with self._recording:
            # Each store knows by itself what it has: between the two, a crash costs nothing.
            self._evidence.record(counts, source=boot, sequence=sequence)
            if not self._series.record(data, source=boot, sequence=sequence):
                return
            self._add(served)
            with self._lock:
                for item in items:
                    for code, count in item.get("refused", {}).items():
                        self._refused[code] = self._refused.get(code, 0) + int(count)

    def on_captured(self, source: str, sequence: int, counts: Mapping[tuple[str, str], int]) -> None:
        """Record that records of answers are in the object store.

        Args:
            source: Who tells; no router's boot id.
            sequence: Rising; the same ones told again come under the same number.
            counts: By (endpoint, variant).
        """
        self._on_kept("capture", CAPTURED, source, sequence, counts)

    def on_logged(self, source: str, sequence: int, counts: Mapping[tuple[str, str], int]) -> None:
        """Record that assignments are in their store; see :meth:`on_captured`."""
        self._on_kept("assignment", LOGGED, source, sequence, counts)

    def _on_kept(
        self, kind: str, outcome: str, source: str, sequence: int, counts: Mapping[tuple[str, str], int]
    ) -> None:
        at_s = int(self._clock.now_s())
        items = [
            {"endpoint": endpoint, "variant": variant, "at_s": at_s, kind: {outcome: count}}
            for (endpoint, variant), count in counts.items()
        ]
        with self._recording:
            if self._series.record(router_data(items), source=source, sequence=sequence):
                self._add(items)

    def _add(self, items: Sequence[dict[str, Any]]) -> None:
        """Follow what was just recorded."""
        new = {item["endpoint"] for item in items} - self._known
        with self._lock:
            for item in items:
                if item["endpoint"] not in new:
                    key = (item["endpoint"], item["variant"])
                    self._variants[key] = self._variants.get(key, VariantTotals()).plus(item)
        if new:
            self._read_back(new)

    def _read_back(self, endpoint_names: Collection[str]) -> None:
        totals = read_totals(self._series, endpoint_names)
        with self._lock:
            self._variants.update(totals)
        self._known.update(endpoint_names)

    def on_instances(self, states: Sequence[InstanceState]) -> None:
        """Record CPU, memory and disk of the instances."""
        data = instance_data(states, int(self._clock.now_s()))
        if data:
            self._series.record(data)

    def follow(self, endpoint_names: Collection[str]) -> None:
        """Show the totals of these endpoints and drop all others, so that ``/metrics`` stays bounded.

        Totals of endpoints not heard of since the start are read back; where that takes long, the rest
        of them at the next call.
        """
        with self._recording:
            self._known.intersection_update(endpoint_names)
            with self._lock:
                for key in [key for key in self._variants if key[0] not in self._known]:
                    del self._variants[key]
        until_s = time.monotonic() + READ_BACK_FOR_S
        while time.monotonic() < until_s:
            with self._recording:
                missing = sorted(set(endpoint_names) - self._known)
                if not missing:
                    break
                self._read_back(missing[:READ_BACK_AT_ONCE])

    def totals(self) -> tuple[dict[tuple[str, str], VariantTotals], dict[str, int]]:
        """Return totals by (endpoint, variant) and refusals by error code."""
        with self._lock:
            return dict(self._variants), dict(self._refused)
