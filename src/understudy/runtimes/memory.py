"""MemoryRuntime: the double of ``core.ports.Runtime``; instances become what they are told.

Owns nothing outside itself.  Shipped for control's tests and for dry runs; by default every instance is
READY at the next ``observe``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from understudy.core.ports import InstanceSpec, InstanceState, InstanceStatus

Outcome = Callable[[InstanceSpec], str | None]


def always_ready(spec: InstanceSpec) -> str | None:
    """Let every instance become ready."""
    return ""


class MemoryRuntime:
    """Runs nothing.

    Args:
        outcome: Asked once per start: ``""`` becomes READY at the next observe, a text becomes
            FAILED with that reason, None stays PREPARING until told by :meth:`set_ready` or
            :meth:`set_failed`.

    Attributes:
        specs: Every spec that was started, by instance_id, stopped ones included.
        started: Calls of ``start`` that did something, in order.
        stopped: Calls of ``stop`` that did something: (instance_id, grace_s), in order.
    """

    def __init__(self, outcome: Outcome = always_ready) -> None:
        self.outcome = outcome
        self.specs: dict[str, InstanceSpec] = {}
        self.started: list[str] = []
        self.stopped: list[tuple[str, float]] = []
        self._states: dict[str, InstanceState] = {}
        self._outcomes: dict[str, str] = {}
        self._closed = False

    def start(self, spec: InstanceSpec) -> None:
        if self._closed or spec.instance_id in self._states:
            return
        self.specs[spec.instance_id] = spec
        self.started.append(spec.instance_id)
        images = tuple(
            (container.image, f"{container.image} (in memory)", 0.0) for container in spec.containers
        )
        self._states[spec.instance_id] = InstanceState(
            spec.instance_id,
            InstanceStatus.PREPARING,
            detail="waiting",
            images=images,
            artifacts=tuple((f"{at:064x}", "", "") for at, _ in enumerate(spec.containers)),
        )
        outcome = self.outcome(spec)
        if outcome is not None:
            self._outcomes[spec.instance_id] = outcome

    def stop(self, instance_id: str, grace_s: float) -> None:
        if self._states.pop(instance_id, None) is not None:
            self._outcomes.pop(instance_id, None)
            self.stopped.append((instance_id, grace_s))

    def observe(self) -> Sequence[InstanceState]:
        for instance_id, reason in self._outcomes.items():
            if reason:
                self.set_failed(instance_id, reason)
            else:
                self.set_ready(instance_id)
        self._outcomes.clear()
        return list(self._states.values())

    def close(self) -> None:
        self._closed = True

    # --- the script ------------------------------------------------------------------------------------

    def set_starting(self, instance_id: str, detail: str = "loading the model") -> None:
        """Let the worker run but not yet serve."""
        self._states[instance_id] = replace(
            self._states[instance_id], status=InstanceStatus.STARTING, detail=detail
        )

    def set_ready(self, instance_id: str, address: str | None = None) -> None:
        """Let an instance serve, at an address that nothing listens on unless one is given."""
        address = address or f"w/{instance_id.replace('/', '-')}.sock"
        self._states[instance_id] = replace(
            self._states[instance_id], status=InstanceStatus.READY, address=address, detail=""
        )

    def set_failed(self, instance_id: str, reason: str) -> None:
        """Let an instance fail, while it starts or after it served."""
        self._states[instance_id] = replace(
            self._states[instance_id], status=InstanceStatus.FAILED, reason=reason, address="", detail=""
        )

    def set_usage(self, instance_id: str, cpu_percent: float, memory_percent: float) -> None:
        """Let an instance use that much."""
        self._states[instance_id] = replace(
            self._states[instance_id], cpu_percent=cpu_percent, memory_percent=memory_percent
        )

    def lose(self, instance_id: str) -> None:
        """Forget an instance as if a new controller did not know it."""
        self._states.pop(instance_id, None)
        self._outcomes.pop(instance_id, None)
