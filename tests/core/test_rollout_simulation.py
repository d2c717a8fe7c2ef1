"""Random lives of an endpoint under a seeded virtual clock: whatever fails, nothing unsafe, and an end.

A world of instances that come up, fail and are killed, of routers that acknowledge late, of alarms that trip
and vanish, of callers who ask for updates at any moment, and of controllers that die between any two
actions.  What drives it are core's real decisions; what checks it knows nothing of how they are made.

One seed is one life.  A failing one names its seed: ``live(seed)`` replays it identically.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from understudy.core.alarm_evaluation import AlarmRule, Datapoint, evaluate
from understudy.core.alarms import AlarmState
from understudy.core.deployments import ALL_AT_ONCE, CANARY, LINEAR, ROLLING, plan_of, production
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.models import Container
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_routes import route_of, wanted_slots
from understudy.core.rollout_terms import (
    BAKING,
    DRAINING,
    FORWARD,
    NEXT_PHASES,
    PREPARING,
    RETURNING,
    ROUTING_EVENTS,
    SHIFTING,
    AlarmView,
    InstanceView,
    RemoveEndpoint,
    RolloutSnapshot,
    SaveEndpoint,
    Slot,
    SlotFailures,
    StartInstance,
    StopInstance,
)
from understudy.core.rollouts import decide
from understudy.core.routing import EndpointRoute
from understudy.dataplane.dice import splitmix64

LIVES = int(os.environ.get("UNDERSTUDY_LIVES", "120"))
STEP_S = 2.0
FAULTS_UNTIL_S = 400.0
PATIENCE_S = 6_000.0  # longer than the longest plan below
READY, FAILED, STARTING = InstanceStatus.READY, InstanceStatus.FAILED, InstanceStatus.STARTING
STATUSES: dict[EndpointStatus, set[EndpointStatus]] = {
    EndpointStatus.CREATING: {EndpointStatus.IN_SERVICE, EndpointStatus.FAILED},
    EndpointStatus.IN_SERVICE: {EndpointStatus.UPDATING},
    EndpointStatus.UPDATING: {EndpointStatus.IN_SERVICE, EndpointStatus.UPDATE_ROLLBACK_FAILED},
    EndpointStatus.UPDATE_ROLLBACK_FAILED: {EndpointStatus.UPDATING},
}  # fmt: skip


@dataclass
class Instance:
    view: InstanceView
    ready_at_s: float


@dataclass
class Router:
    """Serves the newest table that has reached it."""

    route: EndpointRoute | None = None
    coming: list[tuple[float, int, EndpointRoute | None]] = field(default_factory=list)
    version: int = 0


class World:
    """All of it, and what must hold at every moment."""

    def __init__(self, seed: int) -> None:
        self.draw = splitmix64(seed + 1)
        self.now_s = 1_000.0
        self.trace: list[str] = []
        self.instances: dict[str, Instance] = {}
        self.routers = [Router(), Router()]
        self.version = 0
        self.published: EndpointRoute | None = None
        self.alarms: dict[str, AlarmState] = {}
        self.broken: set[str] = set()  # fleets whose instances never come up
        self.number = 0
        self.fleets = 1
        self.faults = True
        self.dead: set[str] = set()
        # A controller's memory: lost when it dies.
        self.failures: dict[Slot, SlotFailures] = {}
        self.restart_at_s: dict[Slot, float] = {}
        # What the checks remember.
        self.baked: list[float] = []
        self.rerouted: set[str] = set()
        self.acked_since_s: float | None = None
        fleet = self.fleet(1, self.chance(0.3))
        update = PendingUpdate("create", self.now_s, fleet)
        self.endpoint = Endpoint(
            "e", "arn", fleet.config_name, EndpointStatus.CREATING, 0, 0, update=update, next_fleet=2
        )

    def chance(self, probability: float) -> bool:
        return self.draw() < probability

    def below(self, count: int) -> int:
        return int(self.draw() * count)

    def pick(self, values: list[Any]) -> Any:
        return values[self.below(len(values))]

    def say(self, what: str) -> None:
        self.trace.append(f"{self.now_s:.0f} {what}")

    # --- what is asked for -------------------------------------------------------------------------

    def fleet(self, number: int, several: bool) -> Fleet:
        variants = [
            FleetVariant(
                name, "m", (Container("i"),),
                desired_count=1 + self.below(5), desired_weight=1.0 + self.below(3), current_weight=1.0,
            )
            for name in (("a", "b") if several else ("a",))
        ]  # fmt: skip
        variants = [replace(one, current_weight=one.desired_weight) for one in variants]
        if self.chance(0.2):
            variants.append(FleetVariant("s", "m", (Container("i"),), desired_count=1, shadow=True))
        return Fleet(f"f{number}", f"c{number}", tuple(variants))

    def deployment(self, several: bool) -> dict[str, Any]:
        kind = self.pick([ALL_AT_ONCE, CANARY, LINEAR] if several else [ALL_AT_ONCE, CANARY, LINEAR, ROLLING])
        wait_s = self.pick([0, 30, 60])
        deployment: dict[str, Any] = {}
        size = {"Type": "CAPACITY_PERCENT", "Value": self.pick([20, 33, 50])}
        if kind == ROLLING:
            deployment["RollingUpdatePolicy"] = {"MaximumBatchSize": size, "WaitIntervalInSeconds": wait_s}
            if self.chance(0.5):
                deployment["RollingUpdatePolicy"]["RollbackMaximumBatchSize"] = {
                    "Type": "INSTANCE_COUNT",
                    "Value": 1,
                }
            policy = deployment["RollingUpdatePolicy"]
        else:
            routing: dict[str, Any] = {"Type": kind, "WaitIntervalInSeconds": wait_s}
            if kind != ALL_AT_ONCE:
                routing["CanarySize" if kind == CANARY else "LinearStepSize"] = size
            policy = deployment["BlueGreenUpdatePolicy"] = {"TrafficRoutingConfiguration": routing}
            policy["TerminationWaitInSeconds"] = self.pick([0, 0, 100])
        if self.chance(0.3):
            policy["MaximumExecutionTimeoutInSeconds"] = 600
        if self.chance(0.6):
            names = ["x", "y"][: 1 + self.below(2)]
            deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in names]}
            for name in names:
                self.alarms.setdefault(name, AlarmState.OK)
        return deployment

    def ask(self) -> None:
        """One call of the API, taken or refused as the operations do."""
        endpoint = self.endpoint
        if (
            endpoint.update is not None
            and endpoint.update.phase in FORWARD
            and endpoint.update.kind == "update"
        ):
            if endpoint.update.fleet is not None and self.chance(0.05):
                self.say("rollback is asked for")
                self.endpoint = replace(endpoint, update=replace(endpoint.update, stop_reason="asked"))
            return
        mixed = endpoint.status is EndpointStatus.UPDATE_ROLLBACK_FAILED
        if endpoint.update is not None or endpoint.fleet is None:
            return
        if not mixed and endpoint.status is not EndpointStatus.IN_SERVICE:
            return
        if not mixed and self.chance(0.2):
            variants = tuple(
                replace(one, desired_weight=1.0 + self.below(4), desired_count=1 + self.below(4))
                for one in endpoint.fleet.variants
            )
            fleet = replace(endpoint.fleet, variants=variants)
            self.say("weights are asked for")
            self.put(replace(endpoint, fleet=fleet, status=EndpointStatus.UPDATING,
                             update=PendingUpdate("weights", self.now_s, phase_at_s=self.now_s)))  # fmt: skip
            return
        several = len(production(endpoint.fleet)) > 1
        self.fleets += 1
        fleet = self.fleet(self.fleets, several)
        deployment: dict[str, Any] = {} if mixed else self.deployment(several)
        names = plan_of(deployment).alarms
        if any(self.alarms.get(name) is not AlarmState.OK for name in names):
            return  # refused before anything is deployed
        if self.faults and self.chance(0.15):
            self.broken.add(fleet.fleet_id)
        self.say(f"update to {fleet.config_name} {plan_of(deployment).kind} alarms {names}")
        update = PendingUpdate("update", self.now_s, fleet, deployment, phase_at_s=self.now_s)
        self.put(replace(endpoint, status=EndpointStatus.UPDATING, update=update, next_fleet=self.fleets + 1,
                         failure_reason=None))  # fmt: skip

    # --- what happens ------------------------------------------------------------------------------

    def happen(self) -> None:
        for instance in self.instances.values():
            if instance.view.status is STARTING and self.now_s >= instance.ready_at_s:
                broken = instance.view.slot.fleet_id in self.broken
                instance.view = replace(instance.view, status=FAILED if broken else READY, reason="broken")
        for router in self.routers:
            while router.coming and router.coming[0][0] <= self.now_s:
                _, router.version, router.route = router.coming.pop(0)
        if not self.faults:
            return
        if self.chance(0.01) and self.instances:
            instance = self.instances[self.pick(sorted(self.instances))]
            instance.view = replace(instance.view, status=FAILED, reason="killed")
            self.say(f"{instance.view.instance_id} is killed")
        if self.chance(0.01) and self.alarms:
            name = self.pick(sorted(self.alarms))
            self.alarms[name] = AlarmState.ALARM
            self.say(f"alarm {name}")
        elif self.chance(0.03):
            self.alarms = dict.fromkeys(self.alarms, AlarmState.OK)
        serving = self.endpoint.fleet
        if serving is not None and self.chance(0.01):
            # Its model can't be fetched for a while: what is restarted does not come up.
            (self.broken.discard if serving.fleet_id in self.broken else self.broken.add)(serving.fleet_id)
        if self.chance(0.001) and self.alarms:
            name = self.pick(sorted(self.alarms))
            del self.alarms[name]
            self.say(f"alarm {name} is deleted")

    def publish(self) -> None:
        route = route_of(self.endpoint, [one.view for one in self.instances.values()])
        if route == self.published:
            return
        self.version += 1
        self.published = route
        for router in self.routers:
            late_s = float(self.below(8)) if self.faults else 0.0
            at_s = max([self.now_s + late_s, *(one[0] for one in router.coming)])
            router.coming.append((at_s, self.version, route))

    # --- the controller ----------------------------------------------------------------------------

    def used(self) -> set[str]:
        """Instances that a router may hand a request, now or with a table on its way to it."""
        routes = {
            id(route): route
            for router in self.routers
            for route in (router.route, *(one[2] for one in router.coming))
        }
        routes[id(self.published)] = self.published
        return {
            one.instance_id for route in routes.values() if route is not None for one in route.instances()
        }

    def snapshot(self) -> RolloutSnapshot:
        views = [one.view for one in self.instances.values()]
        route = route_of(self.endpoint, views)
        update = self.endpoint.update
        names: tuple[str, ...] = ()
        if update is not None and update.kind == "update" and update.fleet is not None:
            names = plan_of(update.deployment_config).alarms
        used = self.used()
        return RolloutSnapshot(
            endpoint=self.endpoint,
            now_s=self.now_s,
            instances=tuple(
                replace(view, routed=True) if view.instance_id in used else view for view in views
            ),
            route_acknowledged=route == self.published and self.acknowledged(),
            restart_at_s=dict(self.restart_at_s),
            failures=dict(self.failures),
            alarms=tuple(AlarmView(name, self.alarms.get(name)) for name in names),
        )

    def acknowledged(self) -> bool:
        return all(router.version == self.version for router in self.routers)

    def control(self) -> None:
        """One round; a controller may die before or after any effect, and forgets what it remembered."""
        for _ in range(60):
            self.publish()
            snapshot = self.snapshot()
            action = decide(snapshot)
            if action is None or self.dies():
                return
            if isinstance(action, StartInstance):
                assert action.slot in wanted_slots(self.endpoint)
                assert action.slot not in {one.view.slot for one in self.instances.values()}, (
                    "slot taken twice"
                )
                self.number += 1
                name = f"i{self.number}"
                view = InstanceView(name, action.slot, STARTING, address=name)
                self.instances[name] = Instance(view, self.now_s + 1.0 + self.below(10))
            elif isinstance(action, StopInstance):
                view = self.instances[action.instance_id].view
                assert view.status is FAILED or view.instance_id not in self.used(), (
                    "a serving instance was stopped"
                )
                del self.instances[action.instance_id]
                if view.status is FAILED:
                    self.dead.add(view.instance_id)
                if action.failed:
                    count = self.failures.get(action.slot, SlotFailures(0)).count + 1
                    self.failures[action.slot] = SlotFailures(count, action.reason)
                    self.restart_at_s[action.slot] = self.now_s + (count - 1) * 2.0
            elif isinstance(action, SaveEndpoint):
                assert decide(snapshot) == action, "not repeatable"
                self.check_step(snapshot, action)
                self.say(f"{action.event} {action.endpoint.status} {phase_of(action.endpoint)}")
                if route_of(action.endpoint, snapshot.instances) != route_of(
                    self.endpoint, snapshot.instances
                ):
                    self.rerouted.add(action.event)
                self.put(action.endpoint)
            else:
                assert isinstance(action, RemoveEndpoint)
                raise AssertionError("nobody asked for a delete")
            if self.dies():
                return

    def dies(self) -> bool:
        if not self.faults or not self.chance(0.02):
            return False
        self.say("the controller dies")
        self.failures, self.restart_at_s = {}, {}
        return True

    # --- safety ------------------------------------------------------------------------------------

    def put(self, endpoint: Endpoint) -> None:
        before = self.endpoint
        if before.status is not endpoint.status:
            assert endpoint.status in STATUSES[before.status], f"{before.status} -> {endpoint.status}"
        if before.update is not None and endpoint.update is not None:
            was, now = before.update.phase, endpoint.update.phase
            assert was == now or now in NEXT_PHASES[endpoint.update.kind][was], f"{was} -> {now}"
        self.endpoint = endpoint
        self.check_capacity()

    def check_capacity(self) -> None:
        """Each fleet has the instances that its share of the traffic needs."""
        update, blue = self.endpoint.update, self.endpoint.fleet
        if update is None or update.kind != "update" or update.fleet is None or blue is None:
            return
        for mine, theirs in zip(production(blue), production(update.fleet), strict=False):
            if self.endpoint.mix is None and update.share < 1.0:
                assert mine.current_count >= (1.0 - update.share) * mine.desired_count - 1e-9
            if update.share > 0.0:
                assert theirs.current_count >= update.share * theirs.desired_count - 1e-9
                least = min(mine.desired_count, theirs.desired_count)
                assert mine.current_count + theirs.current_count >= least, "under capacity"

    def check_step(self, snapshot: RolloutSnapshot, action: SaveEndpoint) -> None:
        before, after = self.endpoint.update, action.endpoint.update
        if before is None or before.kind != "update" or before.fleet is None:
            return
        plan = plan_of(before.deployment_config)
        alarmed = [one.name for one in snapshot.alarms if one.state in (AlarmState.ALARM, None)]
        if before.phase in FORWARD and alarmed:
            assert action.event in ("RollbackStarted", "UpdateRolledBack"), "went on under an alarm"
            if plan.kind != ROLLING and after is not None:
                assert after.share == 0.0, "not all traffic goes back at once"
        if action.event == "UpdateRollbackFailed":
            assert plan.kind == ROLLING
        if action.event == "DeploymentStarted":
            self.baked = []
        if action.event == "BakingStarted":
            assert self.acknowledged(), "a bake began before every router had the step"
        if before.phase == BAKING and after is not None and after.phase != RETURNING:
            waited_s = self.now_s - before.phase_at_s
            assert waited_s >= plan.wait_s, "a bake was cut short"
            self.baked.append(before.share)
        if action.event == "TrafficShifted":
            ready = {one.slot for one in snapshot.instances if one.status is READY}
            green = {
                Slot(before.fleet.fleet_id, one.name, number)
                for one in production(before.fleet)
                for number in range(one.desired_count)
            }
            assert green <= ready, "the old fleet is given up for one that is not whole"
            if plan.wait_s:
                size = production(before.fleet)[0].desired_count
                steps = list(plan.shares(before.fleet))
                if plan.kind == ROLLING:
                    assert plan.size is not None
                    batch = plan.size.instances_of(size)
                    steps = [min(1.0, batch * step / size) for step in range(1, math.ceil(size / batch) + 1)]
                assert self.baked == pytest.approx(steps), "a bake is missing, or was made twice"

    def check_traffic(self) -> None:
        """Every router can answer: each fleet that gets requests has an instance, or lost it to a fault."""
        for router in self.routers:
            if router.route is None:
                continue
            for one in router.route.instances():
                assert one.instance_id in self.instances.keys() | self.dead, (
                    "a router was left with an instance that is gone"
                )

    def check_end(self) -> None:
        endpoint = self.endpoint
        if endpoint.status is EndpointStatus.FAILED:
            assert endpoint.fleet is None and not self.instances
            return
        if endpoint.status is EndpointStatus.UPDATE_ROLLBACK_FAILED:
            assert endpoint.mix is not None and endpoint.failure_reason
            return
        assert endpoint.status is EndpointStatus.IN_SERVICE and endpoint.fleet is not None
        assert endpoint.mix is None and endpoint.config_name == endpoint.fleet.config_name
        assert {one.view.slot.fleet_id for one in self.instances.values()} == {endpoint.fleet.fleet_id}
        assert {one.view.slot for one in self.instances.values()} == set(wanted_slots(endpoint))
        for router in self.routers:
            assert router.route is not None and router.route.green is None, "mixed"
            assert {one.config_name for one in router.route.variants} == {endpoint.config_name}


def phase_of(endpoint: Endpoint) -> str:
    update = endpoint.update
    return "-" if update is None else f"{update.kind} {update.phase} {update.share:.3g}"


def live(seed: int) -> World:
    """One life: faults for a while, then none, until nothing is left to do."""
    world = World(seed)
    end_s = world.now_s + FAULTS_UNTIL_S
    while world.now_s < end_s:
        world.happen()
        if world.chance(0.06):
            world.ask()
        world.control()
        world.check_traffic()
        world.now_s += STEP_S
    world.faults = False
    update = world.endpoint.update
    coming = update.fleet.fleet_id if update is not None and update.fleet is not None else ""
    world.broken &= {coming}  # what serves can be fetched again
    deadline_s = world.now_s + PATIENCE_S
    while True:
        world.happen()
        world.control()
        world.check_traffic()
        if world.endpoint.update is None and not world.endpoint.retiring and whole(world):
            break
        assert world.now_s < deadline_s, "it never ends"
        world.now_s += STEP_S if world.endpoint.update is None else 5.0
    world.check_end()
    return world


# For what only looks at a life: the same seeds in several tests are lived once.
lived = functools.lru_cache(maxsize=150)(live)


def whole(world: World) -> bool:
    slots = {one.view.slot for one in world.instances.values() if one.view.status is READY}
    return slots == set(wanted_slots(world.endpoint)) and world.acknowledged()


def first_failure(seeds: range, run: Callable[[int], World]) -> str | None:
    for seed in seeds:
        try:
            run(seed)
        except AssertionError as error:
            return f"seed {seed}: {error}"
    return None


def test_no_life_is_unsafe_or_endless() -> None:
    assert first_failure(range(LIVES), lived) is None


def test_a_life_replays_identically() -> None:
    for seed in range(20):
        assert live(seed).trace == lived(seed).trace


def test_the_lives_see_everything() -> None:
    """A simulation that never meets a rollback proves nothing about it."""
    lives = [lived(seed) for seed in range(150)]
    assert set().union(*(one.rerouted for one in lives)) == ROUTING_EVENTS
    told = " ".join(line.split(" ", 1)[1] for one in lives for line in one.trace)
    for event in (
        "TrafficShifted",
        "BakingStarted",
        "BatchStarted",
        "TerminationWaitStarted",
        "RollbackStarted",
        "RollbackBatchStarted",
        "TrafficReturning",
        "TrafficReturned",
        "UpdateRolledBack",
        "UpdateRollbackFailed",
        "WeightsChanged",
        "EndpointInService",
        "the controller dies",
        "is deleted",
    ):
        assert event in told, event
    assert {PREPARING, SHIFTING, DRAINING} <= set(told.split())


# --- regressions -----------------------------------------------------------------------------------

REGRESSIONS = int(os.environ.get("UNDERSTUDY_REGRESSIONS", "100"))  # `make soak`: 500
REQUESTS_PER_STEP = 20
ERRORS = AlarmRule("GreaterThanThreshold", 0.05, 60, 1, 1, treat_missing="notBreaching")
ALARM = "green errors"


class Guarded(World):
    """An update whose alarm is evaluated on the errors of the new version's own requests."""

    def __init__(self, seed: int, error_rate: float) -> None:
        super().__init__(seed)
        self.faults = False
        self.error_rate = error_rate
        self.errors: dict[int, list[int]] = {}  # by minute: 1 for each request that failed, else 0
        self.by_green, self.share_of_all, self.requests = 0, 0.0, 0

    def dies(self) -> bool:
        if not self.chance(0.02):
            return False
        self.failures, self.restart_at_s = {}, {}
        return True

    def serve(self) -> None:
        """Requests of one step, drawn as routers draw them."""
        for _ in range(REQUESTS_PER_STEP):
            route = self.pick(self.routers).route
            green = None if route is None else route.green
            if green is None:
                continue
            self.requests += 1
            self.share_of_all += green.share
            if self.chance(green.share):
                self.by_green += 1
                minute_s = int(self.now_s) // 60 * 60
                self.errors.setdefault(minute_s, []).append(int(self.chance(self.error_rate)))

    def look(self) -> None:
        """What CloudWatch does every minute, a little after its end."""
        if int(self.now_s) % 60 != 4:
            return
        points = [Datapoint(at_s, sum(ones) / len(ones), len(ones)) for at_s, ones in self.errors.items()]
        state = evaluate(ERRORS, points, int(self.now_s) // 60 * 60).state
        self.alarms[ALARM] = self.alarms[ALARM] if state is None else state

    def until_rest(self) -> None:
        deadline_s = self.now_s + PATIENCE_S
        while self.endpoint.update is not None or self.endpoint.retiring or not whole(self):
            self.happen()
            self.serve()
            self.look()
            self.control()
            assert self.now_s < deadline_s, "it never ends"
            self.now_s += STEP_S


def guarded_update(seed: int, error_rate: float) -> Guarded:
    """One update under an alarm; ``error_rate`` is the new version's."""
    world = Guarded(seed, error_rate)
    world.until_rest()
    blue = world.endpoint.fleet
    assert blue is not None
    several = len(production(blue)) > 1
    deployment = world.deployment(several)
    policy = deployment.get("RollingUpdatePolicy") or deployment["BlueGreenUpdatePolicy"]
    policy.get("TrafficRoutingConfiguration", policy)["WaitIntervalInSeconds"] = 180
    policy.pop("MaximumExecutionTimeoutInSeconds", None)
    deployment["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": ALARM}]}
    world.alarms = {ALARM: AlarmState.OK}
    update = PendingUpdate("update", world.now_s, world.fleet(2, several), deployment, phase_at_s=world.now_s)
    world.put(replace(world.endpoint, status=EndpointStatus.UPDATING, update=update, next_fleet=3))
    world.until_rest()
    world.check_end()
    return world


def test_every_regression_goes_back_and_takes_no_more_than_its_share() -> None:
    lives = [guarded_update(seed, 0.2) for seed in range(REGRESSIONS)]
    assert [one.endpoint.config_name for one in lives] == ["c1"] * REGRESSIONS
    assert all(ALARM in (one.endpoint.failure_reason or "") for one in lives)
    requests = sum(one.requests for one in lives)
    assert sum(one.by_green for one in lives) <= sum(one.share_of_all for one in lives) + 0.01 * requests


def test_no_good_version_goes_back() -> None:
    lives = [guarded_update(seed, 0.001) for seed in range(REGRESSIONS)]
    assert [one.endpoint.config_name for one in lives] == ["c2"] * REGRESSIONS
    assert not any(one.endpoint.failure_reason for one in lives)
