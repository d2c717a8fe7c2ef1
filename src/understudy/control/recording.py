"""Takes what routers measured into the series and into the running totals of ``/metrics``.

Main class: :class:`Recorder`.  Exactly once: a delta is acknowledged after it is on disk, and one
that is sent again is recognised by (boot, sequence).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from understudy.core.metrics import Summary, instance_data, router_data
from understudy.core.ports import Clock, InstanceState, Series


@dataclass(frozen=True)
class VariantTotals:
    """Everything one variant has served since the controller's start."""

    invocations: int = 0
    errors_4xx: int = 0
    errors_5xx: int = 0
    model_errors: int = 0
    model_latency_us: Summary = field(default_factory=Summary)
    overhead_latency_us: Summary = field(default_factory=Summary)


class Recorder:
    """Shared by the control channel's threads (writing) and ``/metrics`` (reading)."""

    def __init__(self, series: Series, clock: Clock) -> None:
        self._series = series
        self._clock = clock
        self._lock = threading.Lock()
        self._variants: dict[tuple[str, str], VariantTotals] = {}
        self._refused: dict[str, int] = {}

    def on_metrics(self, boot: str, sequence: int, items: list[dict[str, Any]]) -> None:
        """Record one delta of one router; it is on disk when this returns."""
        served = [item for item in items if item["endpoint"]]
        if not self._series.record(router_data(served), source=boot, sequence=sequence):
            return
        with self._lock:
            for item in items:
                if item["endpoint"]:
                    self._add(item)
                else:
                    for code, count in item.get("refused", {}).items():
                        self._refused[code] = self._refused.get(code, 0) + int(count)

    def _add(self, item: dict[str, Any]) -> None:
        key = (item["endpoint"], item["variant"])
        before = self._variants.get(key, VariantTotals())
        self._variants[key] = replace(
            before,
            invocations=before.invocations + int(item["invocations"]),
            errors_4xx=before.errors_4xx + int(item["errors_4xx"]),
            errors_5xx=before.errors_5xx + int(item["errors_5xx"]),
            model_errors=before.model_errors + int(item["model_errors"]),
            model_latency_us=before.model_latency_us + Summary.from_json(item["model_latency_us"]),
            overhead_latency_us=before.overhead_latency_us + Summary.from_json(item["overhead_latency_us"]),
        )

    def on_instances(self, states: Sequence[InstanceState]) -> None:
        """Record CPU, memory and disk of the instances."""
        data = instance_data(states, int(self._clock.now_s()))
        if data:
            self._series.record(data)

    def forget(self, endpoint_names: set[str]) -> None:
        """Drop the totals of endpoints that are gone, so that ``/metrics`` stays bounded."""
        with self._lock:
            self._variants = {key: value for key, value in self._variants.items() if key[0] in endpoint_names}

    def totals(self) -> tuple[dict[tuple[str, str], VariantTotals], dict[str, int]]:
        """Return totals by (endpoint, variant) and refusals by error code."""
        with self._lock:
            return dict(self._variants), dict(self._refused)
