"""What an operation may touch: the ports, the place it speaks for, and a way to wake control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    Outcomes,
    Records,
    Series,
    Stages,
)
from understudy.core.webhooks import WebhookPattern


@dataclass(frozen=True)
class Services:
    """Handed to every operation.

    Attributes:
        endpoint_url: The server's own URL, e.g. ``http://127.0.0.1:8080``.
        nudge: Tells the control loops to look at the store now instead of at their next tick.
        nudge_alarms: The same for the loop that evaluates alarms.
        webhooks: Where alarms may send to.
    """

    records: Records
    buckets: Buckets
    objects: Objects
    series: Series
    logs: Logs
    stages: Stages
    evidence: Evidence
    assignments: Assignments
    outcomes: Outcomes
    clock: Clock
    entropy: Entropy
    place: Place
    endpoint_url: str
    nudge: Callable[[], None]
    nudge_alarms: Callable[[], None] = lambda: None
    webhooks: Sequence[WebhookPattern] = ()


Operation = Callable[[Services, dict[str, Any]], dict[str, Any]]
