"""Stages: stretches of an endpoint's life in which the chance to be answered by each variant stands still.

Owns :class:`Stage` with the shares that hold in it, :class:`Source` (who chose the variant of a request) and
:class:`Counts`, the evidence that routers send.  Refuses to guess: a request counts in the stage of the table
by which it was routed, however late it ends.  Main functions: :func:`arms_of`, :func:`counts_of`.

A stage begins when weights, variants, configuration, fleet or stickiness change.  Instances, shadows and
capture change nobody's chance, so they begin none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from understudy.core.metrics import Summary
from understudy.core.routing import EndpointRoute, weighted_variants


class Source(StrEnum):
    """Who chose the variant of a request."""

    WEIGHT = "weight"  # a draw, by the weights
    UNIT = "unit"  # the hash of a user or session, by the weights
    TARGET = "target"  # the caller, by TargetVariant


# Sources by which each variant is as likely as its share says: what evidence may be made of.
RANDOMISED = frozenset({Source.WEIGHT, Source.UNIT})


@dataclass(frozen=True)
class Arm:
    """Who may answer: one variant of one fleet.

    Attributes:
        weight: As the route has it, and while two fleets serve its share of all requests; 0.0 is a weight.
    """

    variant: str
    config_name: str
    fleet_id: str
    weight: float


@dataclass(frozen=True)
class Stage:
    """One stage of one endpoint.

    Attributes:
        number: 1, 2, ... for ever, also when the endpoint is deleted and made again.
        started_at_s: Unix time just before the first router was told.
        sticky: What the endpoint's units are (``core.assignment``); empty: every request is drawn.
        ended_at_s: When the next stage began, or the endpoint was taken out of the routes; requests that were
            under way then still count in this one.
    """

    endpoint: str
    number: int
    started_at_s: float
    arms: tuple[Arm, ...]
    sticky: str = ""
    ended_at_s: float | None = None

    def share(self, arm: Arm) -> float:
        """Say how likely an arm is to answer a randomised request; 0.0 when no weight is positive.

        >>> blue, green = Arm("A", "c1", "f1", 9.0), Arm("A", "c2", "f2", 1.0)
        >>> Stage("e", 1, 0.0, (blue, green)).share(green)
        0.1
        """
        total = sum(one.weight for one in self.arms)
        return arm.weight / total if total > 0.0 else 0.0


@dataclass(frozen=True)
class Counts:
    """Requests of one stage, arm and source that ended in one second.

    Attributes:
        stage: 0 when the router knew of none: its table is older than stages.
        at_s: Unix time, whole seconds.
        failures: Answered with a 5XX or with ModelError, whatever the model's own status was.
        caller_errors: Answered with a 4XX that is the caller's own.
        abandoned: The caller went away before its answer; a slow variant has more of these.
        model_latency_us: Of the requests that were handed to a model: at most as many as ``requests``.
    """

    endpoint: str
    stage: int
    at_s: int
    variant: str
    config_name: str
    fleet_id: str
    source: Source
    requests: int
    failures: int = 0
    caller_errors: int = 0
    abandoned: int = 0
    model_latency_us: Summary = field(default_factory=Summary)

    def plus(self, other: Counts) -> Counts:
        """Add counts of the same stage, arm and source; the later second is kept."""
        return replace(
            self,
            at_s=max(self.at_s, other.at_s),
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            caller_errors=self.caller_errors + other.caller_errors,
            abandoned=self.abandoned + other.abandoned,
            model_latency_us=self.model_latency_us + other.model_latency_us,
        )


@dataclass(frozen=True)
class KeptCounts:
    """Counts in the order in which they were kept.

    Attributes:
        sequence: Rises over all endpoints; never given out twice.
    """

    sequence: int
    counts: Counts


def arms_of(route: EndpointRoute) -> tuple[Arm, ...]:
    """List who may answer under a route."""
    return tuple(
        Arm(one.name, one.config_name, one.fleet_id, weight) for one, weight in weighted_variants(route)
    )


def counts_of(items: Iterable[Mapping[str, Any]]) -> list[Counts]:
    """Read the evidence out of a router's deltas.

    Args:
        items: ``data`` of the control channel's ``metrics`` message; what is about no production request
            (shadows, outcomes, refusals before routing) is left out.

    Raises:
        ValueError: an item is malformed.
    """
    found = []
    for item in items:
        if not item.get("source"):
            continue
        numbers = [item[name] for name in ("invocations", "errors_4xx", "errors_5xx")]
        requests, errors_4xx, errors_5xx = map(_whole, numbers)
        caller_errors, abandoned = _whole(item["caller_errors"]), _whole(item["abandoned"])
        failures = errors_4xx + errors_5xx - caller_errors - abandoned
        if failures < 0 or requests < errors_4xx + errors_5xx:
            raise ValueError(f"counts that contradict each other: {item}")
        if not requests:
            continue
        found.append(
            Counts(
                endpoint=str(item["endpoint"]),
                stage=_whole(item["stage"]),
                at_s=int(item["at_s"]),
                variant=str(item["variant"]),
                config_name=str(item["config"]),
                fleet_id=str(item["fleet"]),
                source=Source(item["source"]),
                requests=requests,
                failures=failures,
                caller_errors=caller_errors,
                abandoned=abandoned,
                model_latency_us=Summary.from_json(item["model_latency_us"]),
            )
        )
    return found


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return value
