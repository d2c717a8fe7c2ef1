"""What pages read of the stores: exact over any window, newest first, bounded."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.console import captures, reads
from understudy.console.reads import _parts, lineage, newest_events, window_statistics
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant
from understudy.core.metrics import router_data
from understudy.core.models import Container, Model
from understudy.core.ports import Event, Put

NOW_S = 1_700_000_000.0


@given(start=st.floats(0, 1e7), length=st.floats(0.5, 4e6), age=st.floats(0, 4e6))
def test_parts_are_whole_and_do_not_overlap(start: float, length: float, age: float) -> None:
    parts = _parts(start, start + length, start + length + age)
    assert parts and parts[0][0] <= start and parts[-1][1] >= start + length
    for (_, end, _), (begin, _, _) in itertools.pairwise(parts):
        assert end == begin
    for begin, end, period_s in parts:
        assert begin < end and begin % period_s == 0 and end % period_s == 0


def metrics(at_s: float, invocations: int, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": "churn",
        "variant": "v",
        "config": "c",
        "at_s": int(at_s),
        "invocations": invocations,
        "errors_4xx": 0,
        "errors_5xx": 0,
        "model_errors": 0,
        "per_instance": float(invocations),
        **more,
    }


def test_statistics_hold_what_is_inside_the_window(scene: Any) -> None:
    shadow = {"shadow": {"mirrored": 2, "sampling": 1}}
    items = [metrics(NOW_S - 100 + at, 3, **shadow) for at in range(100)]
    scene.services.series.record(router_data(items))
    told = window_statistics(scene.services.series, "churn", ["v", "none"], NOW_S - 71, NOW_S - 3, NOW_S)
    inside = told["variants"]["v"]
    assert inside["metrics"]["Invocations"]["Sum"] == 68 * 3
    assert inside["shadow"]["mirrored"] == 136 and inside["shadow"]["sampling"] == 68
    assert inside["metrics"]["ModelLatency"]["p99"] is None
    assert told["variants"]["none"]["metrics"]["Invocations"]["Sum"] == 0


def line(number: int, at_s: float, score: float) -> str:
    side = {"observedContentType": "text/csv", "encoding": "CSV"}
    return json.dumps(
        {
            "captureData": {
                "endpointInput": {**side, "mode": "INPUT", "data": f"{number}"},
                "endpointOutput": {**side, "mode": "OUTPUT", "data": f"{score}"},
            },
            "eventMetadata": {
                "eventId": f"event-{number}",
                "inferenceId": f"row-{number % 7}",
                "inferenceTime": datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            },
            "eventVersion": "0",
        }
    )


def capture(objects: Any, variant: str, times_s: list[float], shift: float = 0.0) -> None:
    files: dict[str, list[str]] = {}
    for number, at_s in enumerate(times_s):
        hour = datetime.fromtimestamp(at_s, UTC)
        files.setdefault(f"p/churn/{variant}/{hour:%Y/%m/%d/%H}/{hour:%M}-x.jsonl", []).append(
            line(number, at_s, number + shift)
        )
    for key, lines in files.items():
        objects.put("b", key, ["\n".join(lines).encode()])


@pytest.fixture
def captured(scene: Any) -> Any:
    objects = scene.services.objects
    scene.services.buckets.create_bucket("b")
    times_s = [NOW_S - 5 * 3600 + at * 60 for at in range(300)]
    capture(objects, "v", times_s)
    capture(objects, "s", times_s, shift=0.5)
    return objects


def browse(objects: Any, **more: Any) -> Any:
    window = {
        "start_s": NOW_S - 86400,
        "end_s": NOW_S,
        "now_s": NOW_S,
        "inference_id": None,
        "limit": 20,
    } | more
    return captures.browse(objects, "s3://b/p", "churn", ["v", "s"], **window)


def test_captures_come_newest_first(captured: Any) -> None:
    told = browse(captured)
    times = [one["at_s"] for one in told["records"]]
    assert len(times) == 20 and times == sorted(times, reverse=True) and told["more"]
    assert {one["variant"] for one in told["records"]} == {"v", "s"}
    assert told["records"][0]["input"]["text"] == "299"
    every = browse(captured, limit=700)
    assert len(every["records"]) == 600 and not every["more"]


def test_captures_by_time_and_inference_id(captured: Any) -> None:
    told = browse(captured, start_s=NOW_S - 7200, end_s=NOW_S - 3600, limit=500)
    assert {NOW_S - 7200 <= one["at_s"] < NOW_S - 3600 for one in told["records"]} == {True}
    assert len(told["records"]) == 120
    told = browse(captured, inference_id="row-3", limit=500)
    assert {one["inference_id"] for one in told["records"]} == {"row-3"} and len(told["records"]) == 86


def test_reading_captures_is_bounded(captured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "MAX_READ_BYTES", 5_000)
    monkeypatch.setattr(captures.Reading, "__init__", lambda self: _reading(self, 5_000))
    told = browse(captured, limit=500)
    assert 0 < len(told["records"]) < 600 and told["stopped_at_s"] is not None


def _reading(self: Any, left: int) -> None:
    self.left_bytes, self.bad, self.stopped_at_s = left, [], None


def test_differences_of_answers(captured: Any) -> None:
    told = captures.differing(
        captured,
        "s3://b/p",
        "churn",
        ("v", "s"),
        start_s=NOW_S - 86400,
        end_s=1e12,
        now_s=NOW_S,
        threshold=None,
    )
    assert told["pairs"] == 300 and told["differing"] == 300 and not told["only_baseline"]
    assert told["examples"][0]["baseline_answer"] and told["fields"][0]["mean_gap"] == pytest.approx(0.5)


def test_lineage_from_artifact_to_endpoint(scene: Any) -> None:
    services = scene.services
    services.buckets.create_bucket("b")
    info = services.objects.put("b", "m.tar.gz", [b"model"])
    request = {"ModelName": "m", "PrimaryContainer": {"Image": "i", "ModelDataUrl": "s3://b/m.tar.gz"}}
    gone = {"ModelName": "g", "PrimaryContainer": {"Image": "i", "ModelDataUrl": "s3://b/none"}}
    variant = FleetVariant("v", "m", (Container("i", "s3://b/m.tar.gz"),), images=(("i", "python", 1.0),))
    ghost = FleetVariant("w", "ghost", (Container("i"),))
    endpoint = Endpoint(
        "e", "arn", "c", EndpointStatus.IN_SERVICE, 1.0, 1.0, fleet=Fleet("f1", "c", (variant, ghost))
    )
    changes = [Put(Model(one["ModelName"], "a", one, 1.0, 1.0), 0) for one in (request, gone)]
    services.records.commit([*changes, Put(endpoint, 0)])
    artifacts = [{"digest": "ab", "name": "churn", "version": "1.4"}]
    described = {"endpoints": [{"name": "e", "variants": [{"name": "v", "artifacts": artifacts}]}]}
    told = lineage(services.records, services.objects, described)
    by_name = {one["name"]: one for one in told["models"]}
    assert by_name["m"]["containers"][0]["etag"] == info.etag
    assert by_name["m"]["running"][0]["endpoint"] == "e"
    assert by_name["m"]["running"][0]["loaded"] == artifacts
    assert by_name["g"]["containers"][0]["missing"] and not by_name["g"]["running"]
    assert [one["name"] for one in told["deleted"]] == ["ghost"]


def test_events_newest_first(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "EVENTS_PAGE", 3)
    records = scene.services.records
    records.commit([Event("a" if at % 2 else "b", f"Kind{at}", float(at)) for at in range(20)])
    told = newest_events(records, "a", 4)
    assert [one["kind"] for one in told] == ["Kind19", "Kind17", "Kind15", "Kind13"]
    assert newest_events(records, "none", 4) == []
