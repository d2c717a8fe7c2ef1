"""What an operation may touch: the ports, the place it speaks for, and a way to wake control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from understudy.core.names import Place
from understudy.core.ports import (
    Assignments,
    Buckets,
    Clock,
    Entropy,
    Evidence,
    Logs,
    Objects,
    Records,
    Series,
    Stages,
)


@dataclass(frozen=True)
class Services:
    """Handed to every operation.

    Attributes:
        endpoint_url: The server's own URL, e.g. ``http://127.0.0.1:8080``.
        nudge: Tells the control loops to look at the store now instead of at their next tick.
    """

    records: Records
    buckets: Buckets
    objects: Objects
    series: Series
    logs: Logs
    stages: Stages
    evidence: Evidence
    assignments: Assignments
    clock: Clock
    entropy: Entropy
    place: Place
    endpoint_url: str
    nudge: Callable[[], None]


Operation = Callable[[Services, dict[str, Any]], dict[str, Any]]
