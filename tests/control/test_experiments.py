"""The shadow tests' loop over real stores: one commit per step, and others' changes win."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.control.experiments import ExperimentLoop
from understudy.core.endpoints import Endpoint, EndpointConfig, EndpointStatus, Fleet, FleetVariant
from understudy.core.errors import Conflict
from understudy.core.experiments import ExperimentStatus, InferenceExperiment, StopWish
from understudy.core.models import Tags
from understudy.core.names import Place
from understudy.core.ports import Delete, Event, Put, Records, Stored
from understudy.stores.memory import MemoryRecords
from understudy.stores.records import open_records

S = ExperimentStatus
PLACE = Place()


class FakeClock:
    at_s = 1_000.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


@pytest.fixture(params=["memory", "sqlite"])
def records(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Records]:
    if request.param == "memory":
        yield MemoryRecords()
        return
    store = open_records(f"sqlite:///{tmp_path}/records.db")
    yield store
    store.close()


def add(records: Records, name: str = "x", status: S = S.CREATING, **members: Any) -> None:
    mode = {
        "SourceModelVariantName": "prod",
        "ShadowModelVariants": [{"ShadowModelVariantName": "shadow", "SamplingPercentage": 40}],
    }
    request = {"EndpointName": "e", "ShadowModeConfig": mode, "ModelVariants": []}
    planned = Fleet("f0", f"{name}-test-ab", (FleetVariant("shadow", "new", (), shadow=True),))
    arn = PLACE.arn("inference-experiment", name)
    made = InferenceExperiment(
        name, arn, status, request, "ab", planned, 5.0, 100.0, 10_000.0, 1.0, 1.0, **members
    )
    records.commit([Put(made, 0)])


def add_endpoint(records: Records) -> None:
    fleet = Fleet("f1", "before", (FleetVariant("prod", "old", (), current_count=1),))
    status = EndpointStatus.IN_SERVICE
    made = Endpoint("e", "arn:e", "before", status, 5.0, 5.0, fleet=fleet, next_fleet=2)
    wire = {"VariantName": "prod", "ModelName": "old", "RoutingConfig": {"RoutingStrategy": "RANDOM"}}
    config = EndpointConfig(
        "before", "arn:before", {"ProductionVariants": [wire]}, 1.0, 1.0, {"shadows": "many"}
    )
    records.commit([Put(made, 0), Put(config, 0)])


def test_of(records: Records, name: str = "x") -> Stored[InferenceExperiment]:
    stored = records.get(InferenceExperiment, name)
    assert stored is not None
    return stored


test_of.__test__ = False  # type: ignore[attr-defined]


def endpoint_of(records: Records) -> Stored[Endpoint]:
    stored = records.get(Endpoint, "e")
    assert stored is not None
    return stored


def serve(records: Records) -> None:
    """Carry the endpoint's wish out."""
    stored = endpoint_of(records)
    wished = stored.value
    assert wished.update is not None and wished.update.fleet is not None
    served = replace(
        wished,
        status=EndpointStatus.IN_SERVICE,
        fleet=wished.update.fleet,
        config_name=wished.update.fleet.config_name,
        update=None,
    )
    records.commit([Put(served, stored.version)])


def test_a_life_in_commits(records: Records) -> None:
    add_endpoint(records)
    add(records)
    loop = ExperimentLoop(records, FakeClock(), PLACE)
    assert loop.tick(reread=True)
    assert test_of(records).value.status is S.STARTING
    wished = endpoint_of(records).value
    assert wished.status is EndpointStatus.UPDATING and wished.update is not None
    config = records.get(EndpointConfig, "x-test-ab")
    assert config is not None and config.value.extensions == {"shadows": "many"}
    (production,) = config.value.request["ProductionVariants"]
    assert production["RoutingConfig"] == {"RoutingStrategy": "RANDOM"}, "what a test does not touch stays"
    assert not loop.tick(reread=False)

    serve(records)
    assert loop.tick(reread=False), "what the endpoint became is looked at without a nudge"
    assert test_of(records).value.status is S.RUNNING
    tags = Tags(config.value.arn, {"a": "b"}, 1.0, 1.0)
    records.commit([Put(tags, 0)])
    FakeClock.at_s = 10_000.0
    try:
        assert loop.tick(reread=False), "the end of a schedule needs no nudge either"
        serve(records)
        assert loop.tick(reread=False)
    finally:
        FakeClock.at_s = 1_000.0
    assert test_of(records).value.status is S.COMPLETED
    assert records.get(EndpointConfig, "x-test-ab") is None and records.get(Tags, tags.name) is None
    kinds = [event.kind for event in records.events("arn:e", 0, 100)]
    assert kinds == ["UpdateRequested", "UpdateRequested"]
    assert not loop.tick(reread=True)


def test_an_update_between_look_and_commit_wins(records: Records) -> None:
    add_endpoint(records)
    add(records)

    class Interfering:
        """Somebody else changes the endpoint right before the step's commit."""

        done = False

        def __getattr__(self, name: str) -> Any:
            return getattr(records, name)

        def commit(self, changes: Sequence[Put | Delete | Event]) -> None:
            wishes = [one for one in changes if isinstance(one, Put) and isinstance(one.value, Endpoint)]
            if wishes and not self.done:
                self.done = True
                stored = endpoint_of(records)
                records.commit([Put(replace(stored.value, modified_at_s=77.0), stored.version)])
                with pytest.raises(Conflict):
                    records.commit(changes)
                raise Conflict("endpoint e")
            records.commit(changes)

    interfering: Any = Interfering()
    loop = ExperimentLoop(interfering, FakeClock(), PLACE)
    loop.tick(reread=True)
    assert test_of(records).value.test_fleet_id is None, "nothing of the step was kept"
    assert records.get(EndpointConfig, "x-test-ab") is None
    loop.tick(reread=False)
    assert test_of(records).value.test_fleet_id == "f2"


def test_the_first_of_two_tests_gets_the_endpoint(records: Records) -> None:
    add_endpoint(records)
    add(records, "x", S.STARTING)
    add(records, "y", S.STARTING)
    loop = ExperimentLoop(records, FakeClock(), PLACE)
    loop.tick(reread=True)
    serve(records)
    loop.tick(reread=True)
    states = {name: test_of(records, name).value.status for name in ("x", "y")}
    assert sorted(states.values()) == [S.RUNNING, S.STARTING]
    winner, loser = sorted(states, key=lambda name: states[name])
    stored = test_of(records, winner)
    records.commit([Put(replace(stored.value, status=S.STOPPING, stop=StopWish()), stored.version)])
    loop.tick(reread=True)
    serve(records)
    loop.tick(reread=True)
    loop.tick(reread=True)
    assert test_of(records, winner).value.status is S.COMPLETED
    assert test_of(records, loser).value.test_fleet_id is not None, "then it is the other's turn"


def test_ended_tests_are_not_looked_at(records: Records) -> None:
    add(records, "x", S.COMPLETED)
    add(records, "y", S.CANCELLED)
    loop = ExperimentLoop(records, FakeClock(), PLACE)
    assert not loop.tick(reread=True)
    assert test_of(records).version == 1
