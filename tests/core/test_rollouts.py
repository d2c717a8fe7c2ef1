"""The endpoint lifecycle, driven as control drives it, by a small simulated world."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.alarms import AlarmState
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.models import Container
from understudy.core.ports import InstanceStatus
from understudy.core.rollout_routes import route_of
from understudy.core.rollout_terms import (
    NEXT_PHASES,
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
from understudy.core.routing import CaptureRoute, EndpointRoute

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint/e"
READY, FAILED, STARTING = InstanceStatus.READY, InstanceStatus.FAILED, InstanceStatus.STARTING


def variant(name: str = "v", **members: object) -> FleetVariant:
    return FleetVariant(name=name, model_name="m", containers=(Container("xgboost"),), **members)  # type: ignore[arg-type]


def fleet(number: int, *variants: FleetVariant) -> Fleet:
    return Fleet(f"f{number}", f"config-{number}", variants or (variant(),))


def serving(number: int, *variants: FleetVariant) -> Endpoint:
    """An endpoint InService on fleet ``number``."""
    up = tuple(
        replace(v, current_count=v.desired_count, current_weight=v.desired_weight)
        for v in fleet(number, *variants).variants
    )
    return Endpoint(
        "e",
        ARN,
        f"config-{number}",
        EndpointStatus.IN_SERVICE,
        0.0,
        0.0,
        fleet=Fleet(f"f{number}", f"config-{number}", up),
    )


@dataclass
class World:
    """Instances and routers that do as they are told; ``broken`` configs never get ready."""

    endpoint: Endpoint | None
    broken: set[str] = field(default_factory=set)
    broken_variants: set[str] = field(default_factory=set)
    now_s: float = 1_000.0
    instances: dict[str, InstanceView] = field(default_factory=dict)
    router_route: EndpointRoute | None = None
    restart_at_s: dict[Slot, float] = field(default_factory=dict)
    failures: dict[Slot, SlotFailures] = field(default_factory=dict)
    alarms: tuple[AlarmView, ...] = ()
    statuses: list[EndpointStatus] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    number: int = 0

    def snapshot(self) -> RolloutSnapshot:
        assert self.endpoint is not None
        route = route_of(self.endpoint, self.instances.values())
        used = set()
        if self.router_route is not None:
            used = {instance.instance_id for instance in self.router_route.instances()}
        views = tuple(replace(i, routed=i.instance_id in used) for i in self.instances.values())
        return RolloutSnapshot(
            self.endpoint,
            self.now_s,
            views,
            route == self.router_route,
            self.restart_at_s,
            self.failures,
            self.alarms,
        )

    def step(self) -> bool:
        """Do the next action; False when there is none."""
        assert self.endpoint is not None
        action = decide(self.snapshot())
        assert decide(self.snapshot()) == action, "not repeatable"
        if action is None:
            return False
        if isinstance(action, StartInstance):
            assert action.slot not in {i.slot for i in self.instances.values()}, "slot taken twice"
            self.number += 1
            name = f"i{self.number}"
            self.instances[name] = InstanceView(name, action.slot, STARTING, address=name)
        elif isinstance(action, StopInstance):
            view = next(i for i in self.snapshot().instances if i.instance_id == action.instance_id)
            assert view.status is FAILED or not view.routed, "a serving instance was stopped"
            del self.instances[action.instance_id]
        elif isinstance(action, SaveEndpoint):
            self.endpoint = action.endpoint
            self.events.append(action.event)
            if not self.statuses or self.statuses[-1] is not self.endpoint.status:
                self.statuses.append(self.endpoint.status)
            if self.endpoint.update is not None:
                assert self.endpoint.update.phase in NEXT_PHASES[self.endpoint.update.kind]
        else:
            assert isinstance(action, RemoveEndpoint)
            self.endpoint = None
        return True

    def mature(self) -> None:
        """Let what starts become ready, or fail where its config is broken."""
        for name, view in list(self.instances.items()):
            if view.status is STARTING:
                broken = view.slot.fleet_id in self.broken or view.slot.variant_name in self.broken_variants
                self.instances[name] = replace(
                    view, status=FAILED if broken else READY, reason="no such file" if broken else ""
                )

    def acknowledge(self) -> None:
        """Let routers take the newest routes."""
        if self.endpoint is None:
            self.router_route = None
        else:
            self.router_route = route_of(self.endpoint, self.instances.values())

    def settle(self) -> None:
        for _ in range(200):
            if self.endpoint is None:
                return
            moved = self.step()
            self.mature()
            self.acknowledge()
            if not moved and decide_none(self):
                return
        raise AssertionError("never settles")


def decide_none(world: World) -> bool:
    return world.endpoint is None or decide(world.snapshot()) is None


def creating(number: int = 1, *variants: FleetVariant) -> Endpoint:
    update = PendingUpdate("create", 1_000.0, fleet=fleet(number, *variants))
    return Endpoint("e", ARN, f"config-{number}", EndpointStatus.CREATING, 0.0, 0.0, update=update)


def test_create_reaches_in_service_with_every_instance_routed() -> None:
    world = World(creating(1, variant("a", desired_count=2, desired_weight=0.0), variant("b")))
    world.settle()
    assert world.endpoint is not None and world.endpoint.status is EndpointStatus.IN_SERVICE
    assert world.endpoint.fleet is not None and world.endpoint.update is None
    assert [(v.name, v.current_weight, v.current_count) for v in world.endpoint.fleet.variants] == [
        ("a", 0.0, 2),
        ("b", 1.0, 1),
    ]
    route = route_of(world.endpoint, world.instances.values())
    assert route is not None and [len(v.instances) for v in route.variants] == [2, 1]


def test_create_of_a_broken_model_fails_with_its_reason_and_leaves_nothing_running() -> None:
    world = World(creating(), broken={"f1"})
    world.settle()
    assert world.endpoint is not None
    assert world.endpoint.status is EndpointStatus.FAILED
    assert world.endpoint.failure_reason == "Variant v: no such file"
    assert world.instances == {} and world.endpoint.fleet is None


def update_to(endpoint: Endpoint, number: int, *variants: FleetVariant, wait_s: int = 0) -> Endpoint:
    routing = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}
    policy = {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, "TerminationWaitInSeconds": wait_s}
    }
    pending = PendingUpdate("update", 1_000.0, fleet=fleet(number, *variants), deployment_config=policy)
    return replace(endpoint, status=EndpointStatus.UPDATING, update=pending)


def settled(number: int = 1, *variants: FleetVariant) -> World:
    world = World(creating(number, *variants))
    world.settle()
    return world


def test_update_brings_green_up_before_blue_goes() -> None:
    world = settled()
    assert world.endpoint is not None
    world.endpoint = update_to(world.endpoint, 2)
    blue = set(world.instances)
    seen_both = False
    for _ in range(50):
        world.step()
        world.mature()
        seen_both = seen_both or (blue <= set(world.instances) and len(world.instances) == 2)
        world.acknowledge()
    assert seen_both
    assert world.endpoint is not None and world.endpoint.status is EndpointStatus.IN_SERVICE
    assert world.endpoint.config_name == "config-2" and not blue & set(world.instances)


def test_a_broken_update_keeps_blue_and_says_why() -> None:
    world = settled()
    assert world.endpoint is not None
    blue = set(world.instances)
    world.broken = {"f2"}
    world.endpoint = update_to(world.endpoint, 2)
    world.settle()
    assert world.endpoint is not None
    assert world.endpoint.status is EndpointStatus.IN_SERVICE and world.endpoint.config_name == "config-1"
    assert "no such file" in (world.endpoint.failure_reason or "")
    assert set(world.instances) == blue


def test_the_termination_wait_keeps_blue_alive() -> None:
    world = settled()
    assert world.endpoint is not None
    world.endpoint = update_to(world.endpoint, 2, wait_s=300)
    world.settle()
    assert len(world.instances) == 2 and world.endpoint.status is EndpointStatus.UPDATING
    world.now_s += 301
    world.settle()
    assert len(world.instances) == 1 and world.endpoint.status is EndpointStatus.IN_SERVICE


def reweighted(endpoint: Endpoint, **by_name: tuple[float, int]) -> Endpoint:
    assert endpoint.fleet is not None
    variants = tuple(
        replace(v, desired_weight=by_name[v.name][0], desired_count=by_name[v.name][1])
        for v in endpoint.fleet.variants
    )
    return replace(
        endpoint,
        status=EndpointStatus.UPDATING,
        fleet=replace(endpoint.fleet, variants=variants),
        update=PendingUpdate("weights", 1_000.0),
    )


def test_weights_are_current_only_once_routers_have_them() -> None:
    world = settled(1, variant("a"), variant("b"))
    assert world.endpoint is not None
    world.endpoint = reweighted(world.endpoint, a=(0.0, 1), b=(1.0, 3))
    for _ in range(20):
        world.step()
        world.mature()  # routers acknowledge nothing
    assert world.endpoint.status is EndpointStatus.UPDATING
    world.settle()
    assert world.endpoint.status is EndpointStatus.IN_SERVICE
    assert world.endpoint.fleet is not None
    assert [v.current_weight for v in world.endpoint.fleet.variants] == [0.0, 1.0]
    assert [v.current_count for v in world.endpoint.fleet.variants] == [1, 3]
    assert len(world.instances) == 4
    world.endpoint = reweighted(world.endpoint, a=(1.0, 1), b=(1.0, 1))
    world.settle()
    assert len(world.instances) == 2


def test_added_instances_that_fail_put_the_counts_back() -> None:
    world = settled(1, variant("a"))
    assert world.endpoint is not None
    world.endpoint = reweighted(world.endpoint, a=(5.0, 2))
    world.broken = {"f1"}
    world.settle()
    assert world.endpoint is not None and world.endpoint.fleet is not None
    assert world.endpoint.status is EndpointStatus.IN_SERVICE and world.endpoint.failure_reason
    assert (
        world.endpoint.fleet.variants[0].desired_count,
        world.endpoint.fleet.variants[0].desired_weight,
    ) == (1, 1.0)
    assert len(world.instances) == 1


def test_delete_forgets_the_route_before_it_stops_anything() -> None:
    world = settled()
    assert world.endpoint is not None
    update = PendingUpdate("delete", 1_000.0)
    world.endpoint = replace(world.endpoint, status=EndpointStatus.DELETING, update=update)
    while world.step():
        pass
    assert len(world.instances) == 1, "stopped while routers still used it"
    world.acknowledge()
    world.settle()
    assert world.endpoint is None and world.instances == {}


def test_a_dead_instance_is_replaced_after_its_backoff() -> None:
    world = settled()
    (name,) = world.instances
    view = world.instances[name]
    world.instances[name] = replace(view, status=FAILED, reason="killed by signal 9")
    world.restart_at_s = {view.slot: world.now_s + 10}
    action = decide(world.snapshot())
    assert action == StopInstance(name, view.slot, failed=True, reason="killed by signal 9")
    world.settle()
    assert world.instances == {}
    world.now_s += 11
    world.settle()
    assert [i.status for i in world.instances.values()] == [READY]


def test_a_cold_start_is_system_updating_until_all_serve() -> None:
    endpoint = serving(1)
    cold = RolloutSnapshot(endpoint, 5.0, cold=True)
    action = decide(cold)
    assert isinstance(action, SaveEndpoint) and action.endpoint.status is EndpointStatus.SYSTEM_UPDATING
    world = World(action.endpoint)
    world.settle()
    assert world.endpoint is not None and world.endpoint.status is EndpointStatus.IN_SERVICE


def shadow(name: str = "s", **members: object) -> FleetVariant:
    return variant(name, shadow=True, **members)


def test_the_route_tells_shadows_from_production_and_what_is_kept() -> None:
    capture = CaptureRoute("s3://b/p", 50.0, inputs=True, outputs=False)
    made = creating(1, variant("a", desired_weight=3.0), variant("b"), shadow(desired_weight=1.0))
    assert made.update is not None and made.update.fleet is not None
    made = replace(made, update=replace(made.update, fleet=replace(made.update.fleet, capture=capture)))
    world = World(made)
    world.settle()
    assert world.endpoint is not None
    route = route_of(world.endpoint, world.instances.values())
    assert route is not None and route.capture == capture
    assert [(v.name, v.weight, len(v.instances)) for v in route.variants] == [("a", 3.0, 1), ("b", 1.0, 1)]
    (shadowed,) = route.shadows
    assert (shadowed.name, shadowed.share, shadowed.config_name) == ("s", 0.25, "config-1")
    assert len(shadowed.instances) == 1
    assert {one.instance_id for one in route.instances()} == set(world.instances)


@pytest.mark.parametrize(
    ("weight", "production", "share"),
    [
        (0.5, (1.0,), 0.5),
        (2.0, (1.0,), 1.0),
        (0.0, (1.0,), 0.0),
        (0.0, (0.0,), 0.0),
        (0.1, (0.0,), 1.0),
        (0.5, (1.0, 1.0), 0.25),
    ],
)
def test_a_shadows_share_follows_the_weights(
    weight: float, production: tuple[float, ...], share: float
) -> None:
    variants = [variant(f"p{number}", desired_weight=one) for number, one in enumerate(production)]
    world = settled(1, *variants, shadow(desired_weight=weight))
    assert world.endpoint is not None
    route = route_of(world.endpoint, world.instances.values())
    assert route is not None and [one.share for one in route.shadows] == [share]


def test_a_shadow_that_can_not_start_ends_the_update_and_its_reason_names_it() -> None:
    world = settled()
    assert world.endpoint is not None
    world.broken_variants = {"s"}
    world.endpoint = update_to(world.endpoint, 2, variant(), shadow())
    world.settle()
    assert world.endpoint is not None and world.endpoint.config_name == "config-1"
    assert world.endpoint.failure_reason == "Variant s: no such file"
    assert {i.slot.fleet_id for i in world.instances.values()} == {"f1"}


def test_a_shadow_that_dies_while_serving_leaves_the_endpoint_as_it_is() -> None:
    world = settled(1, variant(), shadow())
    before = world.endpoint
    (name,) = (name for name, view in world.instances.items() if view.slot.variant_name == "s")
    view = world.instances[name]
    world.instances[name] = replace(view, status=FAILED, reason="killed by signal 9")
    world.restart_at_s = {view.slot: world.now_s + 60}
    world.settle()
    assert world.endpoint == before and len(world.instances) == 1
    route = route_of(before, world.instances.values()) if before is not None else None
    assert route is not None
    assert (len(route.variants[0].instances), len(route.shadows[0].instances)) == (1, 0)
    world.now_s += 61
    world.settle()
    assert world.endpoint == before and len(world.instances) == 2


def test_after_a_cold_start_nobody_waits_for_a_shadow() -> None:
    action = decide(RolloutSnapshot(serving(1, variant(), shadow()), 5.0, cold=True))
    assert isinstance(action, SaveEndpoint)
    world = World(action.endpoint, restart_at_s={Slot("f1", "s", 0): 2_000.0})  # it failed, and waits
    world.settle()
    assert [view.slot.variant_name for view in world.instances.values()] == ["v"]
    assert world.endpoint is not None and world.endpoint.status is EndpointStatus.IN_SERVICE


def test_a_shadows_weight_and_count_change_without_touching_production() -> None:
    world = settled(1, variant("a"), shadow())
    assert world.endpoint is not None
    (served,) = (name for name, view in world.instances.items() if view.slot.variant_name == "a")
    world.endpoint = reweighted(world.endpoint, a=(1.0, 1), s=(0.25, 2))
    world.settle()
    assert world.endpoint is not None and world.endpoint.status is EndpointStatus.IN_SERVICE
    route = route_of(world.endpoint, world.instances.values())
    assert route is not None and route.shadows[0].share == 0.25 and len(route.shadows[0].instances) == 2
    assert [one.instance_id for one in route.variants[0].instances] == [served]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_happens_an_endpoint_ends_in_exactly_one_configuration(data: st.DataObject) -> None:
    """Random orders of operations, instance failures and slow routers always settle, never mixed."""
    world = settled(1, variant("a"), variant("b"))
    for number in range(2, data.draw(st.integers(3, 6))):
        assert world.endpoint is not None
        kind = data.draw(st.sampled_from(["update", "broken", "weights"]))
        if kind == "weights":
            counts = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            world.endpoint = reweighted(world.endpoint, a=(0.5, counts[0]), b=(2.0, counts[1]), s=(0.1, 1))
        else:
            world.broken |= {f"f{number}"} if kind == "broken" else set()
            others = data.draw(st.sampled_from([(), (shadow(),)]))
            world.endpoint = update_to(world.endpoint, number, variant("a"), variant("b"), *others)
        for _ in range(data.draw(st.integers(0, 25))):
            event = data.draw(st.sampled_from(["step", "mature", "acknowledge", "kill"]))
            if event == "kill" and world.instances:
                name = data.draw(st.sampled_from(sorted(world.instances)))
                world.instances[name] = replace(world.instances[name], status=FAILED, reason="killed")
            elif event == "step":
                world.step()
            elif event == "mature":
                world.mature()
            else:
                world.acknowledge()
        world.settle()
        endpoint = world.endpoint
        assert endpoint is not None and endpoint.fleet is not None
        assert (
            endpoint.status is EndpointStatus.IN_SERVICE and endpoint.update is None and not endpoint.retiring
        )
        assert {i.slot.fleet_id for i in world.instances.values()} == {endpoint.fleet.fleet_id}
        wanted = sum(v.current_count for v in endpoint.fleet.variants)
        assert len(world.instances) == wanted and all(i.status is READY for i in world.instances.values())


@pytest.mark.parametrize("kind", sorted(NEXT_PHASES))
def test_every_phase_of_an_operation_can_be_reached_and_left(kind: str) -> None:
    table = NEXT_PHASES[kind]
    reached = {next(iter(table))}
    while more := {after for phase in reached for after in table[phase]} - reached:
        reached |= more
    assert reached == set(table), "a phase that nothing leads to, or one that is not in the table"
    last = {phase for phase, after in table.items() if not after}
    assert len(last) == 1, "one end"


# --- defects that rollout controllers in public have had ---------------------------------------------------

CANARY = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "WaitIntervalInSeconds": 100,
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 20},
        }
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}]},
}
OK = (AlarmView("errors", AlarmState.OK),)
TRIPPED = (AlarmView("errors", AlarmState.ALARM, "too many"),)


def canary(world: World, number: int, **members: object) -> None:
    """Ask for a canary update to fleet ``number`` and let it get as far as it does."""
    assert world.endpoint is not None
    pending = PendingUpdate(
        "update", world.now_s, fleet=fleet(number, variant(**members)), deployment_config=CANARY
    )
    world.endpoint = replace(
        world.endpoint, status=EndpointStatus.UPDATING, update=pending, failure_reason=None
    )
    world.alarms = OK
    world.settle()


def share(world: World) -> float:
    """The part of the requests that routers give to the new fleet."""
    route = world.router_route
    assert route is not None
    return 0.0 if route.green is None else route.green.share


def test_a_failed_analysis_stops_the_rollout() -> None:
    """Argo Rollouts #1411: the analysis failed, the rollout went on."""
    world = settled(1, variant(desired_count=3))
    canary(world, 2, desired_count=3)
    assert share(world) == 0.2
    world.alarms = TRIPPED
    world.settle()
    assert world.endpoint is not None and world.endpoint.config_name == "config-1"
    assert world.endpoint.failure_reason == "Alarm errors is in ALARM state: too many"
    assert "TrafficShifted" not in world.events and world.events[-1] == "UpdateRolledBack"


def test_an_aborted_rollout_keeps_all_capacity() -> None:
    """Argo Rollouts #777: abort removed all capacity."""
    world = settled(1, variant(desired_count=3))
    blue = set(world.instances)
    canary(world, 2, desired_count=3)
    world.alarms = TRIPPED
    while world.endpoint is not None and world.endpoint.update is not None:
        world.step()
        world.acknowledge()
        route = world.router_route
        assert route is not None and len(route.variants[0].instances) == 3
        assert blue <= set(world.instances)


def test_nothing_of_an_aborted_rollout_is_left() -> None:
    """Argo Rollouts #1337: replicas of the aborted version stayed."""
    world = settled(1, variant(desired_count=2))
    blue = set(world.instances)
    canary(world, 2, desired_count=4)
    assert len(world.instances) == 6
    world.alarms = TRIPPED
    world.settle()
    assert set(world.instances) == blue
    assert world.endpoint is not None and world.endpoint.retiring == () and world.endpoint.update is None


def test_traffic_does_not_flap_after_an_abort() -> None:
    """Argo Rollouts #3078: after the abort the canary's service went on changing."""
    world = settled(1, variant(desired_count=2))
    canary(world, 2, desired_count=2)
    world.alarms = TRIPPED
    shares = []
    for _ in range(40):
        world.step()
        world.acknowledge()
        shares.append(share(world))
        world.alarms = OK if len(shares) == 3 else world.alarms  # it calms down at once: no way forward again
    assert shares == sorted(shares, reverse=True) and shares[-1] == 0.0


def test_an_aborted_rollout_can_be_tried_again() -> None:
    """Argo Rollouts #3120: a retry after an abort was stuck."""
    world = settled(1, variant(desired_count=2))
    canary(world, 2, desired_count=2)
    world.alarms = TRIPPED
    world.settle()
    for number in (3, 4):
        canary(world, number, desired_count=2)
        assert share(world) == 0.2
        for _ in range(2):
            world.now_s += 101
            world.settle()
        assert world.endpoint is not None and world.endpoint.config_name == f"config-{number}"
        assert world.endpoint.failure_reason is None


# --- what turns an update round ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"alarms": (AlarmView("errors", None),)}, "Alarm errors .* does not exist any more"),
        ({"failures": {Slot("f2", "v", 1): SlotFailures(3, "killed")}}, "an instance keeps ending: killed"),
    ],
)
def test_other_reasons_to_go_back(change: dict[str, object], reason: str) -> None:
    world = settled(1, variant(desired_count=2))
    canary(world, 2, desired_count=2)
    for name, value in change.items():
        setattr(world, name, value)
    world.settle()
    assert world.endpoint is not None and re.search(reason, world.endpoint.failure_reason or "")
    assert world.endpoint.config_name == "config-1"


def test_the_time_limit_covers_bakes_and_not_the_termination_wait() -> None:
    world = settled()
    assert world.endpoint is not None
    limited = {
        "BlueGreenUpdatePolicy": {
            **CANARY["BlueGreenUpdatePolicy"],
            "MaximumExecutionTimeoutInSeconds": 600,
            "TerminationWaitInSeconds": 3600,
        }
    }
    for number, bake_s, config in ((2, 100, "config-2"), (3, 601, "config-2")):
        pending = PendingUpdate("update", world.now_s, fleet(number), deployment_config=limited)
        world.endpoint = replace(world.endpoint, status=EndpointStatus.UPDATING, update=pending)
        for wait_s in (bake_s, 100, 3600):
            world.settle()
            world.now_s += wait_s
        world.settle()
        assert world.endpoint.config_name == config
    assert "MaximumExecutionTimeoutInSeconds (600)" in (world.endpoint.failure_reason or "")


def test_no_bake_ends_before_alarms_were_looked_at_again() -> None:
    world = settled()
    canary(world, 2)
    world.now_s += 1_000
    assert decide(replace(world.snapshot(), watched=False)) is None
    assert isinstance(decide(world.snapshot()), SaveEndpoint)
