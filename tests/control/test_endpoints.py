"""The endpoint loop with real records' semantics, a scripted runtime and a router over the real channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from endpoint_world import ARN, World, create, fleet

from understudy.control.endpoints import SHADOW_STEADY_AFTER_S, SILENT_TOO_LONG_S, STEADY_AFTER_S
from understudy.core.endpoints import Endpoint, EndpointStatus, PendingUpdate
from understudy.core.ports import Stored
from understudy.stores.memory import MemoryRecords


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.router.close()
    world.publisher.close()


def test_an_endpoint_goes_in_service_with_its_instances_and_images(world: World) -> None:
    create(world, a=2, b=1)
    endpoint = world.until_status(EndpointStatus.IN_SERVICE)
    assert world.router.weights() == {"a": 1.0, "b": 1.0}
    assert endpoint.fleet is not None
    assert endpoint.fleet.variants[0].images == (("xgboost:1.7-1", "xgboost:1.7-1 (in memory)", 0.0),)
    spec = world.runtime.specs[world.runtime.started[0]]
    assert spec.title == "understudy worker e/a/0" and spec.vcpus == 2 and spec.memory_bytes == 8 * 1024**3
    kinds = [event.kind for event in world.records.events(ARN, 0, 100)]
    assert kinds == ["TrafficShifting", "EndpointInService"]


def test_a_model_that_cannot_start_fails_the_create(world: World) -> None:
    world.runtime.outcome = lambda spec: "inference.py, line 3: SyntaxError"
    create(world, a=1)
    endpoint = world.until_status(EndpointStatus.FAILED)
    assert endpoint.failure_reason == "Variant a: inference.py, line 3: SyntaxError"
    world.until(lambda: not world.runtime.observe())


def test_an_update_to_such_a_model_leaves_the_old_fleet_routed_all_the_time(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    before = len(world.router.tables)
    world.runtime.outcome = lambda spec: "no such file"
    update = PendingUpdate("update", 1_000.0, fleet=fleet(2, a=1))
    world.change(lambda e: replace(e, status=EndpointStatus.UPDATING, update=update, next_fleet=3))
    endpoint = world.until_status(EndpointStatus.IN_SERVICE)
    assert endpoint.config_name == "config-1" and endpoint.failure_reason == "Variant a: no such file"
    assert len(world.router.tables) == before, "routing was touched"
    world.until(lambda: len(world.runtime.observe()) == 1)


def test_only_instances_for_which_others_answer_are_patient(world: World) -> None:
    def patient() -> list[bool]:
        return [world.runtime.specs[name].patient for name in world.runtime.started]

    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    assert patient() == [False]
    update = PendingUpdate("update", 1_000.0, fleet=fleet(2, a=1))
    world.change(lambda e: replace(e, status=EndpointStatus.UPDATING, update=update, next_fleet=3))
    world.until_status(EndpointStatus.IN_SERVICE)
    assert patient() == [False, True]
    world.until(lambda: len(world.runtime.observe()) == 1)
    world.runtime.set_failed(world.runtime.started[-1], "killed by signal 9")
    world.until(lambda: len(world.runtime.started) == 3)
    assert patient() == [False, True, False], "it is missed"


def test_a_dead_instance_is_replaced_and_recorded(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    first = world.runtime.started[0]
    world.runtime.set_failed(first, "killed by signal 9")
    world.until(lambda: len(world.runtime.started) == 2 and world.router.weights() == {"a": 1.0})
    assert world.runtime.started[1] != first
    event = world.records.events(ARN, 0, 100)[-1]
    assert event.kind == "InstanceFailed" and event.detail["reason"] == "killed by signal 9"


def test_an_instance_that_hangs_is_replaced(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    first = world.runtime.started[0]
    world.loop.suspect(first, SILENT_TOO_LONG_S - 1.0)
    for _ in range(5):
        world.loop.tick(reread=False)
    assert world.runtime.started == [first], "a model may take its 60 s"
    world.loop.suspect(first, SILENT_TOO_LONG_S)
    world.until(lambda: len(world.runtime.started) == 2 and world.router.weights() == {"a": 1.0})
    event = world.records.events(ARN, 0, 100)[-1]
    assert event.kind == "InstanceFailed" and "hangs" in event.detail["reason"]


def test_an_instance_that_keeps_dying_is_tried_ever_more_rarely(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    world.runtime.outcome = lambda spec: "out of memory"
    world.runtime.set_failed(world.runtime.started[0], "out of memory")
    for _ in range(50):
        world.loop.tick(reread=False)
    assert len(world.runtime.started) == 2, "only the first restart is at once"
    for _ in range(300):
        world.clock.at_s += 1.0
        world.loop.tick(reread=False)
    assert 6 <= len(world.runtime.started) <= 14, "0.5, 1, 2, ... 60 s"


def test_a_shadow_is_started_as_one_and_its_deaths_touch_nothing_else(world: World) -> None:
    create(world, "s", a=1, s=1)
    before = world.until_status(EndpointStatus.IN_SERVICE)
    (first,) = (name for name, spec in world.runtime.specs.items() if spec.shadow)
    assert world.runtime.specs[first].variant_name == "s"
    (sent,) = world.router.tables[-1]["endpoints"]
    assert [one["name"] for one in sent["variants"]] == ["a"]
    assert [(one["name"], one["share"], len(one["instances"])) for one in sent["shadows"]] == [("s", 1.0, 1)]
    world.runtime.set_failed(first, "killed by signal 11")
    world.until(lambda: len(world.runtime.started) == 3)
    world.until(lambda: bool(world.router.tables[-1]["endpoints"][0]["shadows"][0]["instances"]))
    assert world.runtime.specs[world.runtime.started[-1]].shadow
    assert world.endpoint() == before and world.router.weights() == {"a": 1.0}
    event = world.records.events(ARN, 0, 100)[-1]
    assert event.kind == "InstanceFailed" and event.detail["reason"] == "killed by signal 11"


def test_a_shadow_that_keeps_dying_costs_real_time(world: World) -> None:
    """However fast the clock runs: to start a worker takes as much of the processor as ever."""
    world.loop = world.new_loop(time_scale=1000.0)
    create(world, "s", a=1, s=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    (first,) = (name for name, spec in world.runtime.specs.items() if spec.shadow)
    assert not world.runtime.specs[first].patient, "somebody waits for the endpoint"
    world.runtime.outcome = lambda spec: "killed by signal 11"
    world.runtime.set_failed(first, "gone")
    for _ in range(50):
        world.loop.tick(reread=False)
    assert len(world.runtime.started) == 3, "only the first restart is at once"
    for _ in range(300):
        world.clock.at_s += 1000.0
        world.loop.tick(reread=False)
    assert 7 <= len(world.runtime.started) <= 15, "1, 2, 4 ... 300 real seconds"
    restarts = [world.runtime.specs[name] for name in world.runtime.started[2:]]
    assert all(spec.shadow and spec.patient for spec in restarts), "nobody waits for these"


def test_a_shadow_that_dies_after_a_minute_has_not_been_steady(world: World) -> None:
    """Starts cost production the processor: one that is full in a minute must not start once a minute."""
    create(world, "s", a=1, s=1)
    world.until_status(EndpointStatus.IN_SERVICE)

    def died_after(seconds: float) -> float:
        """Let the shadow live, end it, and return how long its next start took."""
        before = len(world.runtime.started)
        (living,) = (
            name
            for name, spec in world.runtime.specs.items()
            if spec.shadow and name in {one.instance_id for one in world.runtime.observe()}
        )
        world.clock.at_s += seconds
        world.loop.tick(reread=False)
        world.runtime.set_failed(living, "killed by signal 9")
        ended_s = world.clock.at_s
        while len(world.runtime.started) == before:
            world.clock.at_s += 1.0
            world.loop.tick(reread=False)
        waited_s = world.clock.at_s - ended_s
        for _ in range(3):
            world.loop.tick(reread=False)
        return waited_s

    waits = [died_after(60.0) for _ in range(11)]
    assert waits == sorted(waits) and waits[0] <= 2.0 and 290.0 <= waits[-1] <= 310.0
    assert died_after(SHADOW_STEADY_AFTER_S) <= 2.0


def test_after_a_restart_of_the_server_a_shadow_that_fails_is_no_reason(world: World) -> None:
    create(world, "s", a=1, s=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    for instance_id in list(world.runtime.started):
        world.runtime.lose(instance_id)
    world.runtime.outcome = lambda spec: "no such file" if spec.shadow else None
    world.loop = world.new_loop()
    world.until_status(EndpointStatus.SYSTEM_UPDATING)
    for _ in range(20):
        world.loop.tick(reread=True)
    waiting = world.endpoint()
    assert waiting is not None and waiting.failure_reason is None
    assert waiting.status is EndpointStatus.SYSTEM_UPDATING, "production does not serve yet"
    (answering,) = (name for name in world.runtime.started[2:] if not world.runtime.specs[name].shadow)
    world.runtime.set_ready(answering)
    recovered = world.until_status(EndpointStatus.IN_SERVICE)
    assert recovered.failure_reason is None


def test_an_instance_that_served_a_while_before_it_died_is_replaced_at_once(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    for died in range(1, 8):
        world.loop.tick(reread=False)
        world.clock.at_s += STEADY_AFTER_S
        world.runtime.set_failed(world.runtime.started[-1], "killed by signal 9")
        world.until(lambda died=died: len(world.runtime.started) == died + 1)  # type: ignore[misc]
        world.until(lambda: world.router.weights() == {"a": 1.0})


def test_delete_stops_everything_and_drops_the_record(world: World) -> None:
    create(world, a=2)
    world.until_status(EndpointStatus.IN_SERVICE)
    update = PendingUpdate("delete", 1_000.0)
    world.change(lambda e: replace(e, status=EndpointStatus.DELETING, update=update))
    world.until(lambda: world.endpoint() is None)
    assert world.runtime.observe() == [] and world.router.tables[-1]["endpoints"] == []


def test_a_new_controller_goes_on_where_the_old_one_was(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    world.loop = world.new_loop()
    for _ in range(5):
        world.loop.tick(reread=True)
    endpoint = world.endpoint()
    assert endpoint is not None and endpoint.status is EndpointStatus.IN_SERVICE
    assert len(world.runtime.started) == 1, "the living instance is kept"
    # And when nothing survived: SystemUpdating until all serve again.
    world.runtime.lose(world.runtime.started[0])
    world.runtime.outcome = lambda spec: None
    world.loop = world.new_loop()
    world.until_status(EndpointStatus.SYSTEM_UPDATING)
    world.runtime.set_ready(world.runtime.started[-1])
    world.until_status(EndpointStatus.IN_SERVICE)
    assert world.router.weights() == {"a": 1.0}


def test_instances_of_unknown_endpoints_are_stopped_at_the_start(world: World) -> None:
    create(world, a=1)
    world.until_status(EndpointStatus.IN_SERVICE)
    world.records = MemoryRecords()
    world.loop = world.new_loop()
    world.until(lambda: not world.runtime.observe())


def test_a_record_that_changed_meanwhile_is_read_again(world: World) -> None:
    create(world, a=1)
    world.loop.tick(reread=True)
    stored: Stored[Endpoint] | None = world.records.get(Endpoint, "e")
    assert stored is not None
    update = PendingUpdate("delete", 1_000.0)
    world.change(lambda e: replace(e, status=EndpointStatus.DELETING, update=update))
    world.until(lambda: world.endpoint() is None)
