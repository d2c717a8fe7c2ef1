"""Router deltas become CloudWatch series and running totals, exactly once."""

from __future__ import annotations

from typing import Any

from understudy.control.recording import Recorder
from understudy.core.metrics import SeriesKey, Summary
from understudy.core.ports import InstanceState, InstanceStatus
from understudy.stores.memory_series import MemorySeries


class StoppedClock:
    def now_s(self) -> float:
        return 1_000.0

    def monotonic_s(self) -> float:
        return 1_000.0


def item(invocations: int, errors_5xx: int = 0, variant: str = "v") -> dict[str, Any]:
    latencies = Summary.of([1_000.0] * invocations).to_json()
    return {
        "endpoint": "e",
        "variant": variant,
        "config": "c",
        "at_s": 990,
        "invocations": invocations,
        "errors_4xx": 0,
        "errors_5xx": errors_5xx,
        "model_errors": errors_5xx,
        "per_instance": invocations / 2,
        "model_latency_us": latencies,
        "overhead_latency_us": latencies,
    }


def total(series: MemorySeries, metric_name: str) -> float:
    key = SeriesKey("AWS/SageMaker", metric_name, (("EndpointName", "e"), ("VariantName", "v")))
    return sum(bucket.summary.sum for bucket in series.read(key, 0, 2_000, 60))


def test_a_delta_that_is_sent_again_counts_once() -> None:
    series = MemorySeries()
    recorder = Recorder(series, StoppedClock())
    for _ in range(3):
        recorder.on_metrics("boot", 1, [item(5, errors_5xx=2)])
    recorder.on_metrics("boot", 2, [item(1)])
    recorder.on_metrics("other boot", 1, [item(4)])
    assert total(series, "Invocations") == 10
    assert total(series, "Invocation5XXErrors") == 2
    variants, _ = recorder.totals()
    totals = variants[("e", "v")]
    assert (totals.invocations, totals.errors_5xx, totals.model_latency_us.count) == (10, 2, 10.0)


def test_refusals_are_counted_by_code_and_make_no_series() -> None:
    series = MemorySeries()
    recorder = Recorder(series, StoppedClock())
    recorder.on_metrics("boot", 1, [{"endpoint": "", "variant": "", "refused": {"ValidationError": 3}}])
    assert recorder.totals() == ({}, {"ValidationError": 3})
    assert series.keys() == []


def test_totals_of_deleted_endpoints_are_forgotten() -> None:
    recorder = Recorder(MemorySeries(), StoppedClock())
    recorder.on_metrics("boot", 1, [item(1)])
    recorder.forget({"e"})
    assert recorder.totals()[0]
    recorder.forget({"another"})
    assert recorder.totals()[0] == {}


def test_instances_report_their_use_of_the_machine() -> None:
    series = MemorySeries()
    state = InstanceState("e/v/f1/0-ab", InstanceStatus.READY, cpu_percent=150.0, memory_percent=12.5)
    Recorder(series, StoppedClock()).on_instances([state])
    dimensions = (("EndpointName", "e"), ("VariantName", "v"))
    key = SeriesKey("/aws/sagemaker/Endpoints", "CPUUtilization", dimensions)
    assert [bucket.summary.maximum for bucket in series.read(key, 0, 2_000, 60)] == [150.0]
