"""An endpoint whose traffic is made up: stages, counts and assignments as routers would report them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, cast

from understudy.capture.judging import Judge
from understudy.control.verdicts import VerdictLoop
from understudy.core.assignment import Assignment
from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.judgements import EndpointPolicy, Judgement
from understudy.core.metrics import SeriesKey, Summary
from understudy.core.names import Place
from understudy.core.policies import parse_policy
from understudy.core.ports import Put
from understudy.core.stages import Arm, Counts, Source
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnRequest
from understudy.operations.understudy.verdicts import get_verdict
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_assignments import MemoryAssignments
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_outcomes import MemoryOutcomes
from understudy.stores.memory_series import MemorySeries

NOW_S = 1_700_000_000
NAME = "e"
BLUE, GREEN = Arm("A", "blue", "f1", 9.0), Arm("A", "green", "f2", 1.0)
ERRORS_ONLY = {"kind": "deploy", "guardrails": [{"metric": "error_rate"}]}


class SetClock:
    def __init__(self) -> None:
        self.at_s = float(NOW_S)

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


@dataclass
class World:
    """One endpoint, judged by a real loop over stores in memory."""

    records: Any = field(default_factory=MemoryRecords)
    log: MemoryEvidence = field(default_factory=MemoryEvidence)
    assignments: MemoryAssignments = field(default_factory=MemoryAssignments)
    outcomes: MemoryOutcomes = field(default_factory=MemoryOutcomes)
    series: MemorySeries = field(default_factory=MemorySeries)
    clock: SetClock = field(default_factory=SetClock)
    sequence: int = 0
    logged: int = 0
    seed: int = 7

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        endpoint = Endpoint(NAME, Place().arn("endpoint", NAME), "c", EndpointStatus.IN_SERVICE, 1.0, 1.0)
        self.records.commit([Put(endpoint, 0)])
        self.restart()

    def restart(self) -> None:
        """A controller that was killed comes back: nothing but the stores is left."""
        judge = Judge(self.log, self.log, self.assignments, self.outcomes, self.series)
        self.loop = VerdictLoop(self.records, self.log, judge, self.series, self.clock, Place())

    def policy(self, policy: dict[str, Any]) -> None:
        """Set the endpoint's policy."""
        before = self.records.get(EndpointPolicy, NAME)
        record = EndpointPolicy(NAME, parse_policy(policy).to_json(), 1.0, 1.0)
        self.records.commit([Put(record, 0 if before is None else before.version)])

    def stage(self, *arms: Arm, sticky: str = "") -> int:
        """Begin a stage now."""
        return self.log.begin(NAME, arms, sticky, self.clock.at_s).number

    def count(
        self,
        stage: int,
        arm: Arm,
        requests: int,
        failures: int = 0,
        *,
        source: Source = Source.WEIGHT,
        latency_us: float = 1000.0,
        abandoned: int = 0,
    ) -> None:
        """Report what a router counted in one second."""
        self.sequence += 1
        counts = Counts(
            NAME,
            stage,
            int(self.clock.at_s),
            arm.variant,
            arm.config_name,
            arm.fleet_id,
            source,
            requests,
            failures,
            abandoned=abandoned,
            model_latency_us=Summary.of(
                [latency_us * self.dice.lognormvariate(0, 0.5) for _ in range(requests)]
            ),
        )
        self.log.record([counts], source="router", sequence=self.sequence)

    def second(
        self, stage: int, arms: tuple[Arm, Arm], requests: int, rates: tuple[float, float], **options: Any
    ) -> None:
        """Serve a second of random traffic, judge it, and let the second pass."""
        share = arms[1].weight / (arms[0].weight + arms[1].weight)
        treated = sum(self.dice.random() < share for _ in range(requests))
        for arm, count, rate in ((arms[0], requests - treated, rates[0]), (arms[1], treated, rates[1])):
            if count:
                failures = sum(self.dice.random() < rate for _ in range(count))
                self.count(stage, arm, count, failures, **options)
        self.loop.tick()
        self.clock.at_s += 1.0

    def expose(
        self, stage: int, arm: Arm, id_: str, *, unit: str | None = None, status: int = 200, **members: Any
    ) -> None:
        """Log one assignment."""
        self.logged += 1
        source = Source.UNIT if unit is not None else members.pop("source", Source.WEIGHT)
        one = Assignment(
            NAME,
            self.clock.at_s,
            arm.variant,
            arm.config_name,
            arm.fleet_id,
            stage,
            str(source),
            status,
            members.pop("latency_us", 1000),
            members.pop("event_id", None),
            id_,
            unit,
        )
        self.assignments.add(f"batch-{self.logged}", "router", [one])

    def judgement(self) -> Judgement:
        """Return the only judgement as it is stored."""
        from understudy.core.ports import Query

        (stored,) = self.records.find(Judgement, Query())
        return cast(Judgement, stored.value)

    def verdict(self, **query: str) -> dict[str, Any]:
        """Ask as a client does."""
        return get_verdict(self.services(), OwnRequest({"endpoint": NAME}, query))

    def services(self) -> Services:
        """What operations get."""
        unused = cast(Any, None)
        objects = MemoryObjects(self.clock)
        return Services(
            records=self.records,
            buckets=objects,
            objects=objects,
            series=self.series,
            logs=unused,
            stages=self.log,
            evidence=self.log,
            assignments=self.assignments,
            outcomes=self.outcomes,
            clock=self.clock,
            entropy=unused,
            place=Place(),
            endpoint_url="",
            nudge=lambda: None,
            nudge_alarms=lambda: None,
            webhooks=(),
        )

    def metric(self, name: str, config: str | None = None, **more: str) -> list[float]:
        """Read a published metric, second by second."""
        dimensions = [("EndpointName", NAME), ("VariantName", "A"), *more.items()]
        if config is not None:
            dimensions.append(("EndpointConfigName", config))
        key = SeriesKey("Understudy/Verdicts", name, tuple(sorted(dimensions)))
        return [bucket.summary.maximum for bucket in self.series.read(key, NOW_S - 10, NOW_S + 100_000, 1)]
