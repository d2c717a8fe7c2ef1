"""Any history of operations leaves records that control can carry out, and every store tells the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.errors import ApiError
from understudy.core.ports import Query
from understudy.core.rollout_terms import NEXT_PHASES
from understudy.stores.memory import MemoryRecords
from understudy.stores.records import open_records

ENDPOINTS = st.sampled_from(["ep", "EP", "other"])
CONFIGS = st.sampled_from(["one", "two"])
VARIANTS = st.sampled_from(["blue", "green"])
WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])


def variant(name: str, weight: float | None) -> dict[str, Any]:
    made = {
        "VariantName": name,
        "ModelName": "churn",
        "InstanceType": "ml.m5.large",
        "InitialInstanceCount": 1,
    }
    return made if weight is None else {**made, "InitialVariantWeight": weight}


def request(
    operation: str, **members: st.SearchStrategy[Any]
) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(operation), st.fixed_dictionaries(members))


TAGS = st.lists(
    st.builds(lambda key: {"Key": key, "Value": "v"}, st.sampled_from(["a", "b", "aws:c"])), max_size=2
)
STEPS = st.one_of(
    request("CreateModel", ModelName=st.just("churn"), PrimaryContainer=st.just({"Image": "i"}), Tags=TAGS),
    request("DeleteModel", ModelName=st.just("churn")),
    request(
        "CreateEndpointConfig",
        EndpointConfigName=CONFIGS,
        ProductionVariants=st.lists(
            st.builds(variant, VARIANTS, st.none() | WEIGHTS), min_size=1, max_size=3
        ),
        Tags=TAGS,
    ),
    request("DeleteEndpointConfig", EndpointConfigName=CONFIGS),
    request("CreateEndpoint", EndpointName=ENDPOINTS, EndpointConfigName=CONFIGS),
    request(
        "UpdateEndpoint",
        EndpointName=ENDPOINTS,
        EndpointConfigName=CONFIGS,
        RetainAllVariantProperties=st.booleans(),
    ),
    request(
        "UpdateEndpointWeightsAndCapacities",
        EndpointName=ENDPOINTS,
        DesiredWeightsAndCapacities=st.lists(
            st.fixed_dictionaries(
                {"VariantName": VARIANTS},
                optional={"DesiredWeight": WEIGHTS, "DesiredInstanceCount": st.integers(0, 3)},
            ),
            min_size=1,
            max_size=2,
        ),
    ),
    request("DeleteEndpoint", EndpointName=ENDPOINTS),
    request("DescribeEndpoint", EndpointName=ENDPOINTS),
    request(
        "ListEndpoints",
        MaxResults=st.integers(1, 3),
        SortBy=st.sampled_from(["Name", "CreationTime", "Status"]),
    ),
    st.tuples(
        st.just("settle"), st.fixed_dictionaries({"name": ENDPOINTS, "fail": st.sampled_from(["", "broken"])})
    ),
)


def play(aws: Any, steps: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Run a history; write down every answer and refusal."""
    told = []
    for operation, members in steps:
        try:
            answer: Any = aws.settle(**members) if operation == "settle" else aws(operation, **members)
        except ApiError as error:
            assert error.status == 400, error
            answer = [error.code, error.message]
        told.append(json.dumps(answer, sort_keys=True))
        for stored in aws.records.find(Endpoint, Query()):
            check(stored.value)
    return told


def check(endpoint: Endpoint) -> None:
    """What must hold of every endpoint's record at any time."""
    changing = {
        EndpointStatus.CREATING: "create",
        EndpointStatus.UPDATING: ("update", "weights"),
        EndpointStatus.DELETING: "delete",
    }
    if endpoint.update is None:
        assert endpoint.status in (EndpointStatus.IN_SERVICE, EndpointStatus.FAILED)
    else:
        assert endpoint.update.kind in changing[endpoint.status]
        assert endpoint.update.phase in NEXT_PHASES[endpoint.update.kind]
    if endpoint.status in (EndpointStatus.IN_SERVICE, EndpointStatus.UPDATING):
        assert endpoint.fleet is not None
    fleets = [endpoint.fleet, *endpoint.retiring, endpoint.update.fleet if endpoint.update else None]
    numbers = [int(fleet.fleet_id[1:]) for fleet in fleets if fleet is not None]
    assert len(set(numbers)) == len(numbers)
    assert all(number < endpoint.next_fleet for number in numbers)
    for fleet in fleets:
        if fleet is not None:
            assert fleet.variants
            assert all(one.desired_count >= 1 and one.desired_weight >= 0.0 for one in fleet.variants)


@given(steps=st.lists(STEPS, max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_history(caller: Any, tmp_path_factory: Any, steps: list[tuple[str, dict[str, Any]]]) -> None:
    prepared = [
        ("CreateModel", {"ModelName": "churn", "PrimaryContainer": {"Image": "i"}}),
        (
            "CreateEndpointConfig",
            {"EndpointConfigName": "one", "ProductionVariants": [variant("blue", None)]},
        ),
        ("CreateEndpoint", {"EndpointName": "ep", "EndpointConfigName": "one"}),
        ("settle", {"name": "ep", "fail": ""}),
        *steps,
    ]
    path: Path = tmp_path_factory.mktemp("history")
    on_disk = open_records(f"sqlite:///{path}/records.db")
    in_memory = MemoryRecords()
    assert play(caller(on_disk), prepared) == play(caller(in_memory), prepared)
    events = [(one.subject, one.kind, one.at_s, one.detail) for one in on_disk.events(None, 0, 1000)]
    assert events == [
        (one.subject, one.kind, one.at_s, one.detail) for one in in_memory.events(None, 0, 1000)
    ]
    on_disk.close()
