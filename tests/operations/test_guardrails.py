"""The linter on an endpoint's stored traffic: its two calls, and what an update's audit trail is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import msgspec
import pytest

from understudy.core.alarms import Alarm, AlarmState, alarm_arn
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.errors import ValidationException
from understudy.core.metrics import Summary, router_data
from understudy.core.names import Place
from understudy.core.ports import Put
from understudy.operations.guardrails import events_for
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnRequest
from understudy.operations.understudy.guardrails import get_guardrails, post_guardrails
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_series import MemorySeries

NOW_S = 1_700_000_000
CANARY = {
    "BlueGreenUpdatePolicy": {
        "TrafficRoutingConfiguration": {
            "Type": "CANARY",
            "WaitIntervalInSeconds": 600,
            "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 10},
        }
    },
    "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "aws"}, {"AlarmName": "gone"}]},
}


class FixedClock:
    def now_s(self) -> float:
        return float(NOW_S)

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def services() -> Services:
    """An endpoint that has answered ten requests a second for an hour, one in a hundred with an error."""
    records, series, unused = MemoryRecords(), MemorySeries(), cast(Any, None)
    latency = Summary.of([20_000.0, 25_000.0, 30_000.0, 40_000.0] * 150).to_json()
    items = [
        {
            "endpoint": "churn",
            "variant": "v",
            "config": "churn-1",
            "at_s": NOW_S - 60 * minute,
            "invocations": 600,
            "errors_5xx": 6,
            "model_latency_us": latency,
        }
        for minute in range(1, 61)
    ]
    series.record(router_data(items))
    fleet = Fleet("f1", "churn-1", (FleetVariant("v", "m", ()),))
    endpoint = Endpoint("churn", "arn:churn", "churn-1", EndpointStatus.IN_SERVICE, 0.0, 0.0, fleet=fleet)
    request = {
        "AlarmName": "aws",
        "Namespace": "AWS/SageMaker",
        "MetricName": "Invocation5XXErrors",
        "Dimensions": [{"Name": "EndpointName", "Value": "churn"}, {"Name": "VariantName", "Value": "v"}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }
    alarm = Alarm("aws", alarm_arn(Place(), "aws"), request, False, 0.0, AlarmState.OK)
    records.commit([Put(endpoint, 0), Put(alarm, 0)])
    return Services(
        records=records,
        buckets=unused,
        objects=unused,
        series=series,
        logs=unused,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=FixedClock(),
        entropy=unused,
        place=Place(),
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )


def ask(services: Services, body: dict[str, Any] | None = None) -> dict[str, Any]:
    request = OwnRequest({"endpoint": "churn"}, {}, body or {})
    answer = post_guardrails(services, request) if body is not None else get_guardrails(services, request)
    return cast(dict[str, Any], json.loads(msgspec.json.encode(answer)))


def codes(report: dict[str, Any]) -> dict[str, list[str]]:
    return {alarm["name"]: [one["code"] for one in alarm["findings"]] for alarm in report["alarms"]}


def test_a_deployment_is_judged_before_it_is_used(services: Services) -> None:
    report = ask(services, {"deployment_config": CANARY, "endpoint_config_name": "churn-2"})
    assert report["steps"] == [{"share": 0.1, "duration_s": 600.0}, {"share": 1.0, "duration_s": 600.0}]
    assert report["requests_per_minute"]["v"] == pytest.approx(600.0, rel=0.02)
    assert report["worst"] == "error"
    assert codes(report)["gone"] == ["missing-alarm"]
    never = next(one for one in report["alarms"][0]["findings"] if one["code"] == "never-fires")
    better = never["call"]
    assert {"Name": "EndpointConfigName", "Value": "churn-2"} in better["Dimensions"]
    assert better["Threshold"] < 0.5


def test_without_a_body_the_update_under_way_is_judged(services: Services) -> None:
    assert ask(services)["alarms"] == [] and ask(services)["worst"] is None
    stored = services.records.get(Endpoint, "churn")
    assert stored is not None
    fleet = Fleet("f2", "churn-2", (FleetVariant("v", "m", ()),))
    update = PendingUpdate("update", 0.0, fleet, CANARY)
    services.records.commit([Put(replace(stored.value, update=update), stored.version)])
    report = ask(services)
    assert report["deployment_config"] == CANARY
    assert "never-fires" in codes(report)["aws"]


def test_an_updates_audit_trail(services: Services) -> None:
    stored = services.records.get(Endpoint, "churn")
    assert stored is not None
    events = events_for(services, stored.value, CANARY, "churn-2", 5.0)
    assert {event.kind for event in events} == {"GuardrailFinding"}
    assert {event.subject for event in events} == {"arn:churn"}
    assert {event.detail["code"] for event in events} >= {"never-fires", "missing-alarm"}
    services.records.commit(events)  # what is told can be kept


def broken(**members: Any) -> dict[str, Any]:
    routing = CANARY["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert isinstance(routing, dict)
    changed = {name: value for name, value in {**routing, **members}.items() if value is not None}
    return {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": changed}}


@pytest.mark.parametrize(
    "deployment",
    [
        "CANARY",
        [],
        {"BlueGreenUpdatePolicy": {}},
        {"Nonsense": 1},
        broken(Type="SIDEWAYS"),
        broken(CanarySize=None),
        broken(CanarySize={"Type": "CAPACITY_PERCENT", "Value": 101}),
        broken(CanarySize={"Type": "PARTS", "Value": 1}),
        broken(WaitIntervalInSeconds="long"),
        {"AutoRollbackConfiguration": {"Alarms": "aws"}},
    ],
)
def test_what_is_no_deployment(services: Services, deployment: Any) -> None:
    with pytest.raises(ValidationException):
        ask(services, {"deployment_config": deployment})


def test_an_unknown_endpoint(services: Services) -> None:
    with pytest.raises(ValidationException, match="Could not find endpoint"):
        get_guardrails(services, OwnRequest({"endpoint": "gone"}))
