"""Reporting outcomes: what is accepted, refused, counted; and ground truth read by control."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from understudy.control.ground_truth import GroundTruthLoop
from understudy.core.endpoints import Endpoint, EndpointStatus
from understudy.core.errors import ApiError, ValidationException
from understudy.core.ground_truth import GroundTruth
from understudy.core.names import Place
from understudy.core.ports import Delete, Put
from understudy.operations.services import Services
from understudy.operations.understudy.calls import OwnRequest
from understudy.operations.understudy.outcomes import (
    delete_ground_truth,
    get_outcomes,
    post_outcomes,
    put_ground_truth,
)
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_outcomes import MemoryOutcomes

NOW_S = 1_700_000_000.0


class SetClock:
    def __init__(self) -> None:
        self.at_s = NOW_S

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


@pytest.fixture
def services() -> Services:
    unused, clock, records = cast(Any, None), SetClock(), MemoryRecords()
    objects = MemoryObjects(clock)
    objects.create_bucket("truth")
    endpoint = Endpoint("e", Place().arn("endpoint", "e"), "c", EndpointStatus.IN_SERVICE, NOW_S, NOW_S)
    records.commit([Put(endpoint, 0)])
    return Services(
        records=records,
        buckets=objects,
        objects=objects,
        series=unused,
        logs=unused,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=MemoryOutcomes(),
        clock=clock,
        entropy=unused,
        place=Place(),
        endpoint_url="",
        nudge=lambda: None,
        nudge_alarms=lambda: None,
        webhooks=(),
    )


def report(services: Services, *outcomes: Any) -> dict[str, Any]:
    return post_outcomes(services, OwnRequest({"endpoint": "e"}, body={"outcomes": list(outcomes)}))


def test_outcomes_of_every_kind(services: Services) -> None:
    told = report(
        services,
        {"inference_id": "57", "label": 1},
        {"event_id": "b2c5", "label": "churned", "at": "2026-11-21T08:00:00Z"},
        {"unit": "user-1", "metric": "revenue", "value": 9.5, "at": NOW_S - 60},
        {"inference_id": 58, "label": False},
        {"inference_id": "57", "label": "1.0"},
        {"inference_id": "57", "label": 0},
    )
    assert (told["accepted"], told["duplicates"], told["conflicting"]) == (4, 1, 1)
    assert told["conflicts"] == [{"id": "57", "metric": "label", "stands": 1.0, "reported": 0.0}]
    kept = services.outcomes.find("e", "label", ["57", "58", "b2c5"])
    assert {id_: one.outcome.value for id_, one in kept.items()} == {"57": 1.0, "58": 0.0, "b2c5": "churned"}
    assert kept["57"].outcome.at_s == NOW_S and kept["b2c5"].outcome.at_s == 1795248000.0
    told = get_outcomes(services, OwnRequest({"endpoint": "e"}))
    assert [(one["metric"], one["subject"], one["kept"]) for one in told["outcomes"]] == [
        ("label", "id", 3),
        ("revenue", "unit", 1),
    ]
    assert told["ground_truth"] is None


@pytest.mark.parametrize(
    "bad",
    [
        7,
        {},
        {"inference_id": "1"},
        {"label": 1},
        {"inference_id": "1", "event_id": "2", "label": 1},
        {"inference_id": "", "label": 1},
        {"inference_id": "x" * 257, "label": 1},
        {"inference_id": True, "label": 1},
        {"inference_id": "1", "label": None},
        {"inference_id": "1", "label": {}},
        {"inference_id": "1", "label": []},
        {"inference_id": "1", "label": [[1]]},
        {"inference_id": "1", "label": float("inf")},
        {"inference_id": "1", "label": 10**400},
        {"inference_id": "1", "label": "x" * 2000},
        {"inference_id": "1", "label": 1, "value": 2},
        {"inference_id": "1", "label": 1, "metric": "m"},
        {"inference_id": "1", "value": 1},
        {"inference_id": "1", "value": "much", "metric": "m"},
        {"inference_id": "1", "value": 1, "metric": "label"},
        {"inference_id": "1", "label": 1, "at": "yesterday"},
        {"inference_id": "1", "label": 1, "at": -1},
        {"inference_id": "1", "label": 1, "at": 1e300},
        {"inference_id": "1", "label": 1, "when": 1},
    ],
)
def test_a_bad_outcome_refuses_its_batch(services: Services, bad: Any) -> None:
    with pytest.raises(ValidationException, match=r"outcomes\[1\]"):
        report(services, {"inference_id": "good", "label": 1}, bad)
    assert services.outcomes.tallies("e") == []


@pytest.mark.parametrize("body", [{}, {"outcomes": []}, {"outcomes": {}}, {"outcomes": [{}] * 10_001}])
def test_a_bad_batch_is_refused(services: Services, body: Any) -> None:
    with pytest.raises(ValidationException, match="outcomes must"):
        post_outcomes(services, OwnRequest({"endpoint": "e"}, body=body))


def test_an_endpoint_that_is_not_there(services: Services) -> None:
    with pytest.raises(ValidationException, match="Could not find endpoint"):
        post_outcomes(services, OwnRequest({"endpoint": "f"}, body={"outcomes": []}))


# --- ground truth ------------------------------------------------------------------------------------


def truth_line(id_: str, label: object) -> bytes:
    return json.dumps(
        {
            "groundTruthData": {"data": str(label), "encoding": "CSV"},
            "eventMetadata": {"eventId": id_},
            "eventVersion": "0",
        }
    ).encode()


def put(services: Services, **body: Any) -> dict[str, Any]:
    return put_ground_truth(services, OwnRequest({"endpoint": "e"}, body=body))


def write(services: Services, key: str, *lines: bytes) -> None:
    services.objects.put("truth", key, [b"\n".join(lines)])


def loop_of(services: Services) -> GroundTruthLoop:
    return GroundTruthLoop(services.records, services.objects, services.outcomes, services.clock)


def test_ground_truth_is_read_as_files_come_and_grow(services: Services) -> None:
    put(services, s3_uri="s3://truth/gt")
    loop = loop_of(services)
    write(services, "gt/2026/01/01/00/0000.jsonl", truth_line("1", 1), b"nothing", truth_line("2", 0))
    assert not loop.tick()
    write(services, "gt/2026/01/01/00/0000.jsonl", truth_line("1", 1), truth_line("2", 0), truth_line("3", 1))
    write(services, "gt/2026/01/01/01/0000.jsonl", truth_line("1", 0), truth_line("4", 1))
    for _ in range(3):
        assert not loop_of(services).tick()  # a controller that has just started goes on where the last was
    told = get_outcomes(services, OwnRequest({"endpoint": "e"}))
    assert told["outcomes"] == [
        {
            "metric": "label",
            "subject": "id",
            "kept": 4,
            "duplicates": 1,  # line 3 of the first file became line 2
            "conflicting": 1,
            "newest_at": NOW_S,
        }
    ]
    truth = told["ground_truth"]
    assert (truth["files"], truth["lines"], truth["bad_lines"]) == (2, 8, 1)
    assert "0000.jsonl:2" in truth["problems"][0]


def test_reading_goes_on_where_its_time_was_over(services: Services) -> None:
    put(services, s3_uri="s3://truth/gt/")
    for number in range(20):
        write(services, f"gt/{number:02}.jsonl", truth_line(str(number), 1))
    loop, rounds = loop_of(services), 0
    while loop.tick(budget_s=0.0005):
        rounds += 1
        assert rounds < 5000
    assert services.outcomes.tallies("e")[0].kept == 20
    assert services.outcomes.tallies("e")[0].duplicates == 0


def test_old_files_are_forgotten_but_not_read_again(services: Services) -> None:
    clock = cast(SetClock, services.clock)
    put(services, s3_uri="s3://truth")
    for day in range(5):
        clock.at_s = NOW_S + day * 86_400.0
        write(services, f"{day}.jsonl", truth_line(str(day), 1))
        loop_of(services).tick()
    stored = services.records.get(GroundTruth, "e")
    assert stored is not None and sorted(stored.value.read) == ["3.jsonl", "4.jsonl"]
    assert stored.value.files == 5
    write(services, "0.jsonl", truth_line("late", 1))  # an old name, written now
    loop_of(services).tick()
    assert services.outcomes.tallies("e")[0].kept == 6


def test_a_bucket_that_vanishes_is_told(services: Services) -> None:
    put(services, s3_uri="s3://truth/gt")
    services.buckets.delete_bucket("truth")
    for _ in range(3):
        loop_of(services).tick()
    told = get_outcomes(services, OwnRequest({"endpoint": "e"}))["ground_truth"]
    assert len(told["problems"]) == 1 and "can't be read" in told["problems"][0]


@pytest.mark.parametrize(
    "uri", [None, 7, "", "s3://", "truth/gt", "https://x/y", "s3://T_/x", "s3://nowhere/x"]
)
def test_bad_sources_are_refused(services: Services, uri: Any) -> None:
    with pytest.raises(ApiError) as refused:
        put(services, s3_uri=uri)
    assert refused.value.status in (400, 404)


def test_a_source_can_be_changed_and_removed(services: Services) -> None:
    write(services, "a/1", truth_line("1", 1))
    write(services, "b/1", truth_line("2", 1))
    for uri in ("s3://truth/a", "s3://truth/a", "s3://truth/b"):
        put(services, s3_uri=uri)
        loop_of(services).tick()
    assert services.outcomes.tallies("e")[0].kept == 2
    for _ in range(2):
        delete_ground_truth(services, OwnRequest({"endpoint": "e"}))
    assert services.records.get(GroundTruth, "e") is None


def test_the_source_goes_with_its_endpoint(services: Services) -> None:
    put(services, s3_uri="s3://truth/gt")
    services.records.commit([Delete(Endpoint, "e", 1)])
    loop_of(services).tick()
    assert services.records.get(GroundTruth, "e") is None
