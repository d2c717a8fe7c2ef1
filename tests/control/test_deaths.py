"""The controller dies at every registered failpoint of every story, and again while it recovers.

In memory: records and instances outlive the loop and its publisher, as they outlive a killed process.
The same with real processes is ``python -m bench.soak_rollouts kills``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from endpoint_world import ARN, AckingRouter, World, create, fleet

from understudy.control.endpoints import EndpointLoop
from understudy.control.failpoints import FAILPOINTS, Failpoints
from understudy.control.publisher import Publisher
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, PendingUpdate
from understudy.core.names import Place
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_routes import wanted_slots
from understudy.core.rollout_terms import NEXT_PHASES
from understudy.system import RealEntropy

MOST_ROUNDS = 3000
STEP_S = 5.0
STATUSES = {
    None: {"Creating", "InService", "Failed"},
    "Creating": {"InService", "Failed"},
    "InService": {"Updating", "Deleting", "SystemUpdating"},
    "Updating": {"InService", "UpdateRollbackFailed"},
    "UpdateRollbackFailed": {"Updating"},
    "SystemUpdating": {"InService"},
    "Failed": {"Deleting"},
    "Deleting": {"gone"},
    "gone": set(),
}


class Dead(BaseException):
    """SIGKILL: nothing of the loop goes on."""


class Deadly(Failpoints):
    """Notes what is met, and dies at one of them, or at the first."""

    def __init__(self, at: str | None) -> None:
        self.at = at
        self.met: list[str] = []

    def reach(self, what: str, step: str) -> None:
        name = f"{what}/{step}"
        self.met.append(name)
        if self.at in (name, "the first"):
            self.at = None
            raise Dead(name)


@dataclass
class Life:
    """A world whose controller may die, and what was seen of it."""

    world: World
    run_dir: Path
    deaths: list[str | None]  # where to die next, in order
    met: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    statuses: list[str | None] = field(default_factory=lambda: [None])

    def __post_init__(self) -> None:
        self._begin_loop()

    def _begin_loop(self) -> None:
        world = self.world
        self.failpoints = Deadly(self.deaths.pop(0) if self.deaths else None)
        world.loop = EndpointLoop(
            world.records,
            world.runtime,
            world.publisher,
            world.clock,
            RealEntropy(),
            Place(),
            failpoints=self.failpoints,
        )

    def restart(self) -> None:
        """A new process knows nothing of what loop and publisher knew; the router connects anew."""
        world = self.world
        world.router.close()
        world.publisher.close()
        world.publisher = Publisher(
            self.run_dir, 1, on_metrics=lambda *_: None, on_change=lambda: None, on_suspect=lambda *_: None
        )
        tables = world.router.tables
        world.router = AckingRouter(self.run_dir)
        world.router.tables = [*tables, *world.router.tables]
        self._begin_loop()

    def tick(self) -> bool:
        acted = True
        try:
            acted = self.world.loop.tick(reread=True)
        except Dead as death:
            self.met += self.failpoints.met
            self.died.append(str(death))
            self.restart()
        self._look()
        return acted

    def _look(self) -> None:
        """Whatever happens: legal statuses, and somebody who answers."""
        endpoint = self.world.endpoint()
        status = "gone" if endpoint is None else str(endpoint.status)
        if status != self.statuses[-1]:
            assert status in STATUSES[self.statuses[-1]], (self.statuses, status)
            self.statuses.append(status)
        serving = status in ("InService", "Updating", "UpdateRollbackFailed")
        if serving and self.world.router.tables and not self.cold:
            (routed,) = self.world.router.tables[-1]["endpoints"]
            green = routed["green"]
            if green is None or green["share"] < 1.0:
                assert any(one["instances"] for one in routed["variants"]), "nobody of blue answers"
            if green is not None and green["share"] > 0.0:
                assert any(one["instances"] for one in green["variants"]), "nobody of green answers"

    @property
    def cold(self) -> bool:
        """Nothing is ready: the whole server was gone."""
        return not any(one.status is InstanceStatus.READY for one in self.world.runtime.observe())

    def until(self, condition: Callable[[Endpoint | None], bool]) -> None:
        for _ in range(MOST_ROUNDS):
            acted = self.tick()
            if condition(self.world.endpoint()):
                return
            if not acted and self._router_is_up_to_date():
                self.world.clock.at_s += STEP_S
        raise AssertionError(f"it never ends: {self.world.endpoint()}")

    def _router_is_up_to_date(self) -> bool:
        """Wait for the router's thread: how fast that is must not count as time."""
        publisher = self.world.publisher
        deadline_s = time.monotonic() + 60.0
        while True:
            links = list(publisher._links)
            if links and all(link.acknowledged >= publisher.table.version for link in links):
                return True
            assert time.monotonic() < deadline_s, "the router does not answer"
            time.sleep(0.001)

    def until_rest(self, status: str = "InService") -> Endpoint:
        self.until(lambda e: e is not None and str(e.status) == status and not e.retiring)
        self.until(lambda e: e is not None and self._whole(e))
        endpoint = self.world.endpoint()
        assert endpoint is not None and endpoint.update is None
        return endpoint

    def _whole(self, endpoint: Endpoint) -> bool:
        """Exactly the instances that the record wants, no orphan."""
        found = [one.instance_id.rpartition("-")[0] for one in self.world.runtime.observe()]
        wanted = [f"e/{s.variant_name}/{s.fleet_id}/{s.number}" for s in wanted_slots(endpoint)]
        return sorted(found) == sorted(wanted)

    def wish(self, update: PendingUpdate, status: EndpointStatus = EndpointStatus.UPDATING) -> None:
        self.world.change(
            lambda e: replace(
                e, status=status, update=update, next_fleet=e.next_fleet + 1, failure_reason=None
            )
        )
        self._look()

    def update(self, to: Fleet, deployment: dict[str, Any] | None = None) -> None:
        now_s = self.world.clock.now_s()
        self.wish(PendingUpdate("update", now_s, to, deployment or {}, phase_at_s=now_s))

    def bakes(self) -> int:
        return sum(one.kind == "BakingStarted" for one in self.world.records.events(ARN, 0, 10_000))

    def roll_back_in_bake(self, number: int) -> None:
        self.until(lambda _: self.bakes() >= number)

        def asked(endpoint: Endpoint) -> Endpoint:
            assert endpoint.update is not None
            return replace(endpoint, update=replace(endpoint.update, stop_reason="A rollback was asked for."))

        self.world.change(asked)

    def judge(self) -> None:
        """Bakes are neither skipped nor begun anew, and phases follow each other as the table says."""
        steps: list[int] = []
        begun: tuple[float, float] | None = None
        for event in self.world.records.events(ARN, 0, 10_000):
            if event.kind in ("DeploymentStarted", "RollbackStarted", "UpdateRolledBack"):
                steps, begun = [], None
            if begun is not None and event.kind in FORWARD_EVENTS:
                assert event.at_s - begun[0] >= begun[1], (event, begun)
                begun = None
            if event.kind == "BakingStarted":
                assert event.detail["step"] not in steps, "a bake began anew"
                steps.append(event.detail["step"])
                begun = event.at_s, event.detail["seconds"]


FORWARD_EVENTS = ("TrafficShifting", "BatchStarted", "TrafficShifted", "TerminationWaitStarted")


def percent(value: int) -> dict[str, Any]:
    return {"Type": "CAPACITY_PERCENT", "Value": value}


def routed(kind: str, termination_s: int = 0, **size: Any) -> dict[str, Any]:
    routing = {"Type": kind, "WaitIntervalInSeconds": 60, **size}
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": termination_s,
        }
    }


POLICIES: dict[str, dict[str, Any]] = {
    "all at once": routed("ALL_AT_ONCE", 60),
    "canary": routed("CANARY", CanarySize=percent(20)),
    "linear": routed("LINEAR", LinearStepSize=percent(50)),
    "rolling": {"RollingUpdatePolicy": {"MaximumBatchSize": percent(50), "WaitIntervalInSeconds": 60}},
}
ONE = {"Type": "INSTANCE_COUNT", "Value": 1}
BY_BATCHES = {
    "RollingUpdatePolicy": {
        "MaximumBatchSize": ONE,
        "RollbackMaximumBatchSize": ONE,
        "WaitIntervalInSeconds": 60,
    }
}


def serving(life: Life, config: str) -> None:
    """Exactly one configuration, described and routed."""
    endpoint = life.until_rest()
    assert endpoint.config_name == config
    (now,) = life.world.router.tables[-1]["endpoints"]
    assert now["green"] is None and {one["config_name"] for one in now["variants"]} == {config}


# --- stories: from an endpoint with two instances, by an act, to an end -----------------------------------


def forth(policy: str) -> Callable[[Life], None]:
    def play(life: Life) -> None:
        life.update(fleet(2, a=2), POLICIES[policy])
        serving(life, "config-2")

    return play


def back(policy: dict[str, Any], bake: int = 1) -> Callable[[Life], None]:
    def play(life: Life) -> None:
        life.update(fleet(2, a=4 if bake > 1 else 2), policy)
        life.roll_back_in_bake(bake)
        serving(life, "config-1")
        endpoint = life.world.endpoint()
        assert endpoint is not None and endpoint.failure_reason == "A rollback was asked for."

    return play


def weights(life: Life) -> None:
    for count in (3, 1):
        change_count(life, count)
        serving(life, "config-1")
        endpoint = life.world.endpoint()
        assert endpoint is not None and endpoint.fleet is not None and endpoint.failure_reason is None
        assert endpoint.fleet.variants[0].current_count == count


def change_count(life: Life, count: int) -> None:
    def wished(endpoint: Endpoint) -> Endpoint:
        assert endpoint.fleet is not None
        variants = tuple(replace(one, desired_count=count) for one in endpoint.fleet.variants)
        now_s = life.world.clock.now_s()
        return replace(
            endpoint,
            status=EndpointStatus.UPDATING,
            fleet=replace(endpoint.fleet, variants=variants),
            update=PendingUpdate("weights", now_s, phase_at_s=now_s),
        )

    life.world.change(wished)
    life._look()


def weights_that_fail(life: Life) -> None:
    life.world.runtime.outcome = lambda spec: "no such file"
    change_count(life, 3)
    serving(life, "config-1")
    endpoint = life.world.endpoint()
    assert endpoint is not None and endpoint.fleet is not None and endpoint.failure_reason is not None
    assert endpoint.fleet.variants[0].desired_count == 2


def an_update_that_fails(life: Life) -> None:
    life.world.runtime.outcome = lambda spec: "no such file"
    life.update(fleet(2, a=2))
    serving(life, "config-1")
    endpoint = life.world.endpoint()
    assert endpoint is not None and endpoint.failure_reason == "Variant a: no such file"


def a_rollback_that_fails(life: Life) -> None:
    life.update(fleet(2, a=2), POLICIES["rolling"])
    life.until(lambda _: life.bakes() == 2)
    life.world.runtime.outcome = lambda spec: "no such file" if "/f1/" in spec.instance_id else ""
    life.roll_back_in_bake(2)
    life.until(lambda e: e is not None and e.status is EndpointStatus.UPDATE_ROLLBACK_FAILED)
    life.update(fleet(3, a=2))
    serving(life, "config-3")


def delete(life: Life) -> None:
    now_s = life.world.clock.now_s()
    life.wish(PendingUpdate("delete", now_s, phase="shifting", phase_at_s=now_s), EndpointStatus.DELETING)
    life.until(lambda e: e is None)
    life.until(lambda _: not life.world.runtime.observe())


def all_killed(life: Life) -> None:
    for state in list(life.world.runtime.observe()):
        life.world.runtime.lose(state.instance_id)
    life.restart()
    life.until(lambda e: e is not None and e.status is EndpointStatus.SYSTEM_UPDATING)
    serving(life, "config-1")


def all_killed_and_no_model(life: Life) -> None:
    life.world.runtime.outcome = lambda spec: "the disk is gone"
    for state in list(life.world.runtime.observe()):
        life.world.runtime.lose(state.instance_id)
    life.restart()
    life.until(lambda e: e is not None and e.failure_reason is not None)
    life.world.runtime.outcome = lambda spec: ""
    serving(life, "config-1")


def a_create_that_fails(life: Life) -> None:
    life.until(lambda e: e is not None and e.status is EndpointStatus.FAILED)
    life.until(lambda _: not life.world.runtime.observe())
    delete(life)


STORIES: dict[str, Callable[[Life], None]] = {
    **{name: forth(name) for name in POLICIES},
    **{f"{name} and back": back(policy) for name, policy in POLICIES.items()},
    "back by batches": back(BY_BATCHES, 3),
    "weights": weights,
    "weights that fail": weights_that_fail,
    "an update that fails": an_update_that_fails,
    "a rollback that fails": a_rollback_that_fails,
    "create and delete": delete,
    "a create that fails": a_create_that_fails,
    "all killed": all_killed,
    "all killed, and no model": all_killed_and_no_model,
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A directory of its own for each life."""
    numbers = iter(range(10_000))

    def make() -> Path:
        directory = tmp_path / str(next(numbers))
        directory.mkdir()
        return directory

    yield make


def live(run_dir: Path, story: str, deaths: list[str | None]) -> Life:
    """Play one story; deaths begin with the create where that is the story, else after it."""
    world = World(run_dir)
    from_the_start = "create" in story
    try:
        if story == "a create that fails":
            world.runtime.outcome = lambda spec: "no such file"
        life = Life(world, run_dir, list(deaths) if from_the_start else [])
        create(world, a=4 if story == "back by batches" else 2)
        if story != "a create that fails":
            life.until_rest()
        if not from_the_start:
            life.deaths = list(deaths)
            life.restart()
        STORIES[story](life)
        life.met += life.failpoints.met
        life.judge()
    finally:
        world.router.close()
        world.publisher.close()
    return life


@pytest.mark.timeout(900)
@pytest.mark.parametrize("story", STORIES)
def test_a_controller_that_dies_anywhere_and_again_while_it_recovers(
    story: str, place: Callable[[], Path]
) -> None:
    for name in dict.fromkeys(live(place(), story, []).met):
        life = live(place(), story, [name, "the first"])
        assert life.died[0] == name, (name, life.died)
        assert life.statuses[-1] in ("InService", "gone"), (name, life.statuses)


def test_the_stories_meet_every_failpoint(place: Callable[[], Path]) -> None:
    met = {name for story in STORIES for name in live(place(), story, []).met}
    assert set(FAILPOINTS) <= met
    assert set(NEXT_PHASES) == {"create", "update", "weights", "delete"}
