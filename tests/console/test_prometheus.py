"""``/metrics`` parses as Prometheus text and says what was counted."""

from __future__ import annotations

import re
from pathlib import Path

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
    variant = FleetVariant("v", "m", (Container("xgboost", "s3://b/m.tar.gz"),), current_weight=0.25)
    endpoint = Endpoint(
        "e", "arn", "c", EndpointStatus.IN_SERVICE, 0.0, 0.0, fleet=Fleet("f1", "c", (variant,))
    )
    records.commit([Put(endpoint, 0)])
    runtime.start(
        InstanceSpec("e/v/f1/0-ab", "e", "v", "t", variant.containers, False, "ml.m5.large", 2, 1, 1, 1)
    )
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
    (model,) = [
        (dict(labels), held) for (name, labels), held in samples.items() if name == "understudy_model_info"
    ]
    assert model == (
        {
            "endpoint": "e",
            "variant": "v",
            "model": "m",
            "container": "primary",
            "name": "m",
            "version": "000000000000",
            "digest": "0" * 64,
            "artifact": "s3://b/m.tar.gz",
            "image": "xgboost",
        },
        1,
    )
    assert samples[("understudy_refused_requests_total", frozenset({("code", "AccessDenied")}))] == 2
    assert (
        samples[("understudy_endpoint_status", frozenset({("endpoint", "e"), ("status", "InService")}))] == 1
    )


def test_the_guide_names_every_metric_and_every_label() -> None:
    text = (Path(__file__).parents[2] / "docs" / "guides" / "operating.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(understudy_\w+)` \| ([\w, ]*) \|", text, re.MULTILINE)
    told = {name: {label for label in labels.split(", ") if label} for name, labels in rows}
    found: dict[str, set[str]] = {}
    for name, labels in scrape():
        name = re.sub("_(bucket|sum|count)$", "", name)
        found.setdefault(name, set()).update({label for label, _ in labels} - {"le"})
    assert found.items() <= told.items(), found.items() - told.items()
    # What has only samples once there is a shadow, capture or a stage.
    later = {"shadow_requests", "capture_records", "assigned_requests", "assignment_records"}
    assert told.keys() - found.keys() == {f"understudy_{name}_total" for name in later}


def test_what_callers_send_makes_no_series() -> None:
    """Ids, attributes and bodies of requests are in no label."""
    names = {label for _, labels in scrape() for label, _ in labels}
    assert names == {
        *("endpoint", "variant", "model", "container", "name", "version", "digest", "artifact", "image"),
        *("status", "code", "le"),
    }
