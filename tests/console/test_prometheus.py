"""``/metrics`` parses as Prometheus text and says what was counted."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from understudy.console.prometheus import UnderstudyCollector, render
from understudy.control.recording import Recorder
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant
from understudy.core.metrics import Summary
from understudy.core.models import Container
from understudy.core.ports import InstanceSpec, Put
from understudy.runtimes.memory import MemoryRuntime
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_series import MemorySeries
from understudy.system import RealClock


def scrape() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    records, runtime = MemoryRecords(), MemoryRuntime()
    variant = FleetVariant("v", "m", (Container("xgboost"),), current_weight=0.25)
    endpoint = Endpoint(
        "e", "arn", "c", EndpointStatus.IN_SERVICE, 0.0, 0.0, fleet=Fleet("f1", "c", (variant,))
    )
    records.commit([Put(endpoint, 0)])
    runtime.start(InstanceSpec("e/v/f1/0-ab", "e", "v", "t", (), False, "ml.m5.large", 2, 1, 1, 1))
    recorder = Recorder(MemorySeries(), RealClock(), MemoryEvidence())
    latencies = Summary.of([200.0, 700.0, 9e7]).to_json()
    delta = {
        "endpoint": "e",
        "variant": "v",
        "config": "c",
        "at_s": 1,
        "invocations": 3,
        "errors_4xx": 1,
        "errors_5xx": 0,
        "model_errors": 1,
        "per_instance": 3.0,
        "model_latency_us": latencies,
        "overhead_latency_us": latencies,
    }
    recorder.on_metrics("b", 1, [delta, {"endpoint": "", "variant": "", "refused": {"AccessDenied": 2}}])
    text = render(UnderstudyCollector(recorder, records, runtime)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_latencies_weights_and_instances() -> None:
    samples = scrape()
    labels = {"endpoint": "e", "variant": "v"}

    def value(name: str, **more: str) -> float:
        return samples[(name, frozenset({**labels, **more}.items()))]

    assert value("understudy_invocations_total") == 3
    assert value("understudy_invocation_4xx_errors_total") == 1
    assert value("understudy_variant_weight") == 0.25
    assert value("understudy_instances", status="Ready") == 1
    assert value("understudy_model_latency_seconds_bucket", le="0.00025") == 1
    assert value("understudy_model_latency_seconds_bucket", le="0.001") == 2
    assert value("understudy_model_latency_seconds_bucket", le="60.0") == 2
    assert value("understudy_model_latency_seconds_bucket", le="+Inf") == 3
    assert abs(value("understudy_model_latency_seconds_sum") - 90.0009) < 1e-9
    assert samples[("understudy_refused_requests_total", frozenset({("code", "AccessDenied")}))] == 2
    assert (
        samples[("understudy_endpoint_status", frozenset({("endpoint", "e"), ("status", "InService")}))] == 1
    )
