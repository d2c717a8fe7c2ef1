"""The endpoint loop: makes the world be what the endpoint records say.

Per endpoint and round: observe (record, instances, routers), ask :func:`core.rollouts.decide`, act,
record; until there is nothing to do now.  Owns no decision of its own.  Main method:
:meth:`EndpointLoop.tick`, called by :class:`control.loop.Loop` on every nudge and a few times a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from understudy.control.failpoints import NO_FAILPOINTS, Failpoints
from understudy.control.publisher import Publisher
from understudy.core.alarms import Alarm
from understudy.core.deployments import plan_of
from understudy.core.endpoints import Endpoint, EndpointStatus, FleetVariant
from understudy.core.errors import Conflict
from understudy.core.instance_types import instance_type_of
from understudy.core.models import Tags
from understudy.core.names import Place
from understudy.core.ports import (
    Clock,
    Delete,
    Entropy,
    Event,
    InstanceSpec,
    InstanceState,
    InstanceStatus,
    Put,
    Query,
    Records,
    Runtime,
    Stored,
)
from understudy.core.rollout_routes import incoming_slots, route_of
from understudy.core.rollout_terms import (
    AlarmView,
    InstanceView,
    RemoveEndpoint,
    RolloutAction,
    RolloutSnapshot,
    SaveEndpoint,
    Slot,
    SlotFailures,
    StartInstance,
    StopInstance,
)
from understudy.core.rollouts import decide
from understudy.core.routing import EndpointRoute

log = logging.getLogger(__name__)

MAX_ACTIONS_PER_ROUND = 200  # one endpoint must not keep the others waiting
STOP_GRACE_S = 30.0  # AWS: SIGTERM, then SIGKILL 30 s later
FAILED_GRACE_S = 1.0  # of one that is dead already, or hangs: nothing is in its hands
SILENT_TOO_LONG_S = 65.0  # the longest that a model may take, and a little: only who hangs is silent so long
FIRST_RESTART_DELAY_S = 0.5
LONGEST_RESTART_DELAY_S = 60.0
STEADY_AFTER_S = 10.0  # an instance that served so long before it ended starts its slot's back-off anew
# A shadow's starts take processor time that production could use, and nobody waits for its answers: as
# Kubernetes restarts what keeps crashing (at most every five minutes, anew after ten without a crash).
LONGEST_SHADOW_DELAY_S = 300.0
SHADOW_STEADY_AFTER_S = 600.0


@dataclass
class _Backoff:
    """How often a slot's instance failed lately, and when it may start again."""

    failures: int = 0
    restart_at_s: float = 0.0
    reason: str = ""


@dataclass
class _Watched:
    """What the loop remembers of one endpoint between rounds; all of it can be lost."""

    stored: Stored[Endpoint]
    backoff: dict[Slot, _Backoff] = field(default_factory=dict)
    ready_at_s: dict[str, float] = field(default_factory=dict)
    cold: bool = False


class EndpointLoop:
    """Carries out what UpdateEndpoint and its kin asked for, and replaces what dies."""

    def __init__(
        self,
        records: Records,
        runtime: Runtime,
        publisher: Publisher,
        clock: Clock,
        entropy: Entropy,
        place: Place,
        *,
        failpoints: Failpoints = NO_FAILPOINTS,
        on_calm: Callable[[], None] = lambda: None,
        alarms_settled: Callable[[], bool] = lambda: True,
        time_scale: float = 1.0,
    ) -> None:
        """Build the loop.

        Args:
            time_scale: How many of the clock's seconds pass in a real one: what a shadow that keeps ending
                costs is real.
            clock: Neither jumps nor stands still: bakes are measured by it.
            on_calm: Called after a round in which no endpoint was being changed.
            alarms_settled: Tells whether alarms have been looked at since this process began.
        """
        self._alarms_settled = alarms_settled
        self._time_scale = time_scale
        self._failpoints = failpoints
        self._on_calm = on_calm
        self._records = records
        self._runtime = runtime
        self._publisher = publisher
        self._clock = clock
        self._entropy = entropy
        self._place = place
        self._watched: dict[str, _Watched] = {}
        self._stopping: set[str] = set()
        self._silent_s: dict[str, float] = {}
        self._routes: dict[str, EndpointRoute] = {}
        self._orphans_checked = False

    def tick(self, *, reread: bool) -> bool:
        """Do one round.

        Args:
            reread: The store may have changed since the last round.

        Returns:
            Whether anything was done, so that another round soon is worth while.
        """
        if reread or not self._orphans_checked:
            self._read_records()
        states = self._observe()
        acted = self._stop_orphans(states)
        self._publish(states)
        for name in list(self._watched):
            acted = self._settle(name, states.get(name, [])) or acted
        if acted:
            self._publish(self._observe())
        if all(watched.stored.value.update is None for watched in self._watched.values()):
            self._on_calm()
        return acted

    def suspect(self, instance_id: str, silent_s: float) -> None:
        """Hear from a router, in any thread, how long an instance has not answered a sign of life."""
        if silent_s >= SILENT_TOO_LONG_S:
            self._silent_s[instance_id] = silent_s

    # --- observe ------------------------------------------------------------------------------------

    def _read_records(self) -> None:
        first = not self._orphans_checked
        found = {stored.value.name: stored for stored in self._records.find(Endpoint, Query())}
        running = (InstanceStatus.STARTING, InstanceStatus.READY)
        states = self._runtime.observe() if first else ()
        alive = {state.instance_id.split("/")[0] for state in states if state.status in running}
        for name in set(self._watched) - set(found):
            del self._watched[name]
        for name, stored in found.items():
            if name in self._watched:
                self._watched[name].stored = stored
            else:
                self._watched[name] = _Watched(stored, cold=first and name not in alive)

    def _observe(self) -> dict[str, list[InstanceState]]:
        states: dict[str, list[InstanceState]] = {}
        known = set()
        silent = dict(self._silent_s)
        for state in self._runtime.observe():
            if state.instance_id in silent and state.status is InstanceStatus.READY:
                state = _hung(state, silent[state.instance_id])
            states.setdefault(state.instance_id.split("/")[0], []).append(state)
            known.add(state.instance_id)
        self._stopping &= known
        for instance_id in silent.keys() - known:
            self._silent_s.pop(instance_id, None)
        return states

    def _views(self, endpoint: Endpoint, states: list[InstanceState]) -> tuple[InstanceView, ...]:
        return tuple(
            self._view(state, routed=self._publisher.in_use(state.instance_id, endpoint.name))
            for state in states
        )

    def _view(self, state: InstanceState, *, routed: bool = False) -> InstanceView:
        return InstanceView(
            instance_id=state.instance_id,
            slot=slot_of(state.instance_id),
            status=state.status,
            address=state.address,
            reason=state.reason,
            images=state.images,
            routed=routed,
            stopping=state.instance_id in self._stopping,
        )

    def _snapshot(self, watched: _Watched, states: list[InstanceState]) -> RolloutSnapshot:
        endpoint = watched.stored.value
        views = self._views(endpoint, states)
        now_s = self._clock.now_s()
        # Only those that are ready or were: what is gone is forgotten.
        watched.ready_at_s = {
            state.instance_id: watched.ready_at_s.get(state.instance_id, now_s)
            for state in states
            if state.status is InstanceStatus.READY or state.instance_id in watched.ready_at_s
        }
        return RolloutSnapshot(
            endpoint=endpoint,
            now_s=now_s,
            instances=views,
            route_acknowledged=self._publisher.acknowledged(endpoint.name, route_of(endpoint, views)),
            restart_at_s={slot: backoff.restart_at_s for slot, backoff in watched.backoff.items()},
            failures={
                slot: SlotFailures(backoff.failures, backoff.reason)
                for slot, backoff in watched.backoff.items()
            },
            alarms=self._alarms(endpoint),
            watched=self._alarms_settled(),
            cold=watched.cold,
        )

    def _alarms(self, endpoint: Endpoint) -> tuple[AlarmView, ...]:
        """Look at the alarms that the update under way names: each time anew, they change at any moment."""
        update = endpoint.update
        if update is None or update.kind != "update" or update.fleet is None:
            return ()
        views = []
        for name in plan_of(update.deployment_config).alarms:
            stored = self._records.get(Alarm, name)
            views.append(
                AlarmView(name, None)
                if stored is None
                else AlarmView(name, stored.value.state, stored.value.reason)
            )
        return tuple(views)

    # --- act ----------------------------------------------------------------------------------------

    def _settle(self, name: str, states: list[InstanceState]) -> bool:
        """Act on one endpoint until it has nothing to do now."""
        acted = False
        for _ in range(MAX_ACTIONS_PER_ROUND):
            watched = self._watched[name]
            snapshot = self._snapshot(watched, states)
            action = decide(snapshot)
            if action is None:
                break
            acted = True
            if not self._carry_out(watched, action, snapshot.now_s):
                break
            if isinstance(action, RemoveEndpoint):
                break
            if isinstance(action, SaveEndpoint):
                watched.cold = False
                self._publish_endpoint(watched.stored.value, states, action.event)
            else:
                states = self._observe().get(name, [])
        return acted

    def _carry_out(self, watched: _Watched, action: RolloutAction, decided_at_s: float) -> bool:
        """Do one action; False when the record changed meanwhile and must be read again."""
        endpoint = watched.stored.value
        if isinstance(action, StartInstance):
            self._failpoints.reach("StartInstance", "before-effect")
            self._runtime.start(self._spec(endpoint, action.slot, action.variant))
            self._failpoints.reach("StartInstance", "after-effect")
        elif isinstance(action, StopInstance):
            self._stop(watched, action)
        elif isinstance(action, SaveEndpoint):
            return self._save(watched, action, decided_at_s)
        else:
            return self._remove(watched)
        return True

    def _stop(self, watched: _Watched, action: StopInstance) -> None:
        endpoint = watched.stored.value
        self._failpoints.reach("StopInstance", "before-effect")
        self._stopping.add(action.instance_id)
        self._runtime.stop(action.instance_id, FAILED_GRACE_S if action.failed else STOP_GRACE_S)
        self._failpoints.reach("StopInstance", "after-effect")
        if not action.failed:
            return
        now_s = self._clock.now_s()
        backoff = watched.backoff.setdefault(action.slot, _Backoff())
        second_s, longest_s, steady_s = 1.0, LONGEST_RESTART_DELAY_S, STEADY_AFTER_S
        if _is_shadow(endpoint, action.slot):
            second_s, longest_s, steady_s = self._time_scale, LONGEST_SHADOW_DELAY_S, SHADOW_STEADY_AFTER_S
        if now_s - watched.ready_at_s.pop(action.instance_id, now_s) >= steady_s * second_s:
            backoff.failures = 0
        delay_s = min(FIRST_RESTART_DELAY_S * 2.0**backoff.failures, longest_s)
        # The first restart is at once: most deaths are not the model's fault.
        backoff.restart_at_s = now_s + (delay_s * second_s if backoff.failures else 0.0)
        backoff.failures += 1
        backoff.reason = action.reason
        log.warning("instance %s ended: %s", action.instance_id, action.reason)
        self._records.commit(
            [
                Event(
                    endpoint.arn,
                    "InstanceFailed",
                    now_s,
                    {"instance": action.instance_id, "reason": action.reason},
                )
            ]
        )
        if (
            endpoint.status is EndpointStatus.SYSTEM_UPDATING
            and endpoint.failure_reason != action.reason
            and not _is_shadow(endpoint, action.slot)
        ):
            # Not serving since the server started: say why where people look first.
            self._save(
                watched,
                SaveEndpoint(replace(endpoint, failure_reason=action.reason), "EndpointNotRecovering"),
                now_s,
            )

    def _save(self, watched: _Watched, action: SaveEndpoint, decided_at_s: float) -> bool:
        """Write it; its line tells the time from which its waits count: the trail shows them whole."""
        stored = watched.stored
        event = Event(stored.value.arn, action.event, decided_at_s, action.detail)
        self._failpoints.reach(action.event, "before-intent")
        try:
            self._records.commit([Put(action.endpoint, stored.version), event])
        except Conflict:
            self._read_records()
            return False
        self._failpoints.reach(action.event, "after-intent")
        watched.stored = Stored(action.endpoint, stored.version + 1)
        log.info("endpoint %s: %s %s", action.endpoint.name, action.event, action.detail)
        return True

    def _remove(self, watched: _Watched) -> bool:
        stored = watched.stored
        endpoint = stored.value
        changes: list[Put | Delete | Event] = [
            Delete(Endpoint, endpoint.name, stored.version),
            Event(endpoint.arn, "EndpointDeleted", self._clock.now_s(), {}),
        ]
        tags = self._records.get(Tags, endpoint.arn)
        if tags is not None:
            changes.append(Delete(Tags, endpoint.arn, tags.version))
        self._failpoints.reach("EndpointDeleted", "before-intent")
        try:
            self._records.commit(changes)
        except Conflict:
            self._read_records()
            return False
        self._failpoints.reach("EndpointDeleted", "after-intent")
        del self._watched[endpoint.name]
        log.info("endpoint %s: deleted", endpoint.name)
        return True

    def _spec(self, endpoint: Endpoint, slot: Slot, variant: FleetVariant) -> InstanceSpec:
        resources = instance_type_of(variant.instance_type)
        return InstanceSpec(
            instance_id=f"{endpoint.name}/{slot.variant_name}/{slot.fleet_id}/"
            f"{slot.number}-{self._entropy.token(4)}",
            endpoint_name=endpoint.name,
            variant_name=slot.variant_name,
            title=f"understudy worker {endpoint.name}/{slot.variant_name}/{slot.number}",
            containers=variant.containers,
            direct=variant.direct,
            instance_type=variant.instance_type,
            vcpus=resources.vcpus,
            memory_bytes=resources.memory_bytes,
            startup_timeout_s=variant.startup_timeout_s,
            download_timeout_s=variant.download_timeout_s,
            shadow=variant.shadow,
            cpu_percent=variant.cpu_percent,
            patient=endpoint.update is None
            if variant.shadow
            else endpoint.fleet is not None and slot in incoming_slots(endpoint),
        )

    def _stop_orphans(self, states: dict[str, list[InstanceState]]) -> bool:
        """Once after a start: stop instances whose endpoint is no longer known."""
        if self._orphans_checked:
            return False
        self._orphans_checked = True
        orphans = [
            state.instance_id
            for name, instances in states.items()
            if name not in self._watched
            for state in instances
        ]
        for instance_id in orphans:
            self._runtime.stop(instance_id, STOP_GRACE_S)
        return bool(orphans)

    # --- publish ------------------------------------------------------------------------------------

    def _publish(self, states: dict[str, list[InstanceState]]) -> None:
        routes: dict[str, EndpointRoute] = {}
        for name, watched in self._watched.items():
            route = self._route(watched.stored.value, states.get(name, []))
            if route is not None:
                routes[name] = route
        self._routes = routes
        self._publisher.publish(routes)

    def _publish_endpoint(self, endpoint: Endpoint, states: list[InstanceState], event: str) -> None:
        routes = dict(self._routes)
        route = self._route(endpoint, states)
        if route is None:
            routes.pop(endpoint.name, None)
        else:
            routes[endpoint.name] = route
        self._routes = routes
        self._publisher.publish(routes, lambda: self._failpoints.reach(event, "mid-effect"))
        self._failpoints.reach(event, "after-effect")

    def _route(self, endpoint: Endpoint, states: list[InstanceState]) -> EndpointRoute | None:
        if endpoint.fleet is None:
            return None
        # Which router uses an instance does not matter to its route: no need to ask.
        return route_of(endpoint, [self._view(state) for state in states])


def _is_shadow(endpoint: Endpoint, slot: Slot) -> bool:
    """Tell whether a slot of the serving fleet is a shadow's."""
    fleet = endpoint.fleet
    return (
        fleet is not None
        and fleet.fleet_id == slot.fleet_id
        and any(variant.shadow and variant.name == slot.variant_name for variant in fleet.variants)
    )


def _hung(state: InstanceState, silent_s: float) -> InstanceState:
    """A worker that lives and says nothing is of no more use than a dead one, and is replaced like one."""
    return replace(
        state,
        status=InstanceStatus.FAILED,
        address="",
        reason=f"The worker hangs: it has given no sign of life for {silent_s:.0f} s.",
    )


def slot_of(instance_id: str) -> Slot:
    """Read the slot from an instance's id ``ENDPOINT/VARIANT/FLEET/NUMBER-TOKEN``.

    >>> slot_of("churn/Variant1/f2/0-9ab1").number
    0
    """
    _, variant_name, fleet_id, rest = instance_id.split("/")
    return Slot(fleet_id, variant_name, int(rest.split("-")[0]))
