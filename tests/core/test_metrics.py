"""Summaries: merging, JSON, and the names CloudWatch gives to what routers and instances measure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.metrics import (
    RELATIVE_ERROR,
    SeriesKey,
    Summary,
    bucket_of,
    instance_data,
    router_data,
    value_of,
)

# CloudWatch's own range is +-2**360; whole numbers make sums exact in any order.
whole = st.integers(-(2**40), 2**40).map(float)
any_float = st.floats(-(2.0**360), 2.0**360).filter(lambda value: value == 0.0 or abs(value) > 1e-300)


@given(any_float)
def test_a_bucket_stands_for_its_values_within_the_promised_error(value: float) -> None:
    assert abs(value_of(bucket_of(value)) - value) <= RELATIVE_ERROR * abs(value) * (1 + 1e-9)


@given(any_float, any_float)
def test_buckets_keep_the_order_of_values(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert bucket_of(low) <= bucket_of(high)


@pytest.mark.parametrize("value", [5e-324, 1.7976931348623157e308, -1.7976931348623157e308, 1e-310])
def test_the_ends_of_the_number_line_have_buckets_with_finite_values(value: float) -> None:
    assert math.isfinite(value_of(bucket_of(value)))


@given(st.lists(st.lists(whole)))
def test_merging_parts_is_summarising_the_whole(parts: list[list[float]]) -> None:
    merged = sum((Summary.of(part) for part in parts), Summary())
    assert merged == Summary.of(value for part in parts for value in part)


@given(
    st.lists(st.lists(whole), min_size=1).flatmap(
        lambda parts: st.tuples(st.just(parts), st.permutations(parts))
    )
)
def test_the_order_of_merging_never_matters(case: tuple[list[list[float]], list[list[float]]]) -> None:
    one, other = (sum((Summary.of(part) for part in parts), Summary()) for parts in case)
    assert one == other
    left_first = [Summary.of(part) for part in case[0]]
    right_first = Summary()
    for summary in reversed(left_first):
        right_first = summary + right_first
    assert right_first == one


@given(st.lists(any_float))
def test_json_gives_back_the_same_summary(values: list[float]) -> None:
    summary = Summary.of(values)
    assert Summary.from_json(json.loads(json.dumps(summary.to_json()))) == summary


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        [1, 2, 3, 4],
        [1, 2, 3, 4, []],
        [math.nan, 2, 3, 4, {}],
        [1, math.inf, 3, 4, {}],
        [-1, 2, 3, 4, {}],
        [1, 2, 3, 4, {"x": 1}],
        [1, 2, 3, 4, {"7": -1}],
        [True, 2, 3, 4, {}],
        ["1", 2, 3, 4, {}],
    ],
)
def test_malformed_json_is_refused(bad: object) -> None:
    with pytest.raises(ValueError):
        Summary.from_json(bad)


def test_a_statistic_set_beside_samples_is_not_fully_sketched() -> None:
    samples = Summary.of([1.0, 2.0])
    assert samples.sketched
    assert not Summary().sketched
    assert not Summary(2.0, 3.0, 1.0, 2.0).sketched
    assert not (samples + Summary(2.0, 3.0, 1.0, 2.0)).sketched


ITEM = {
    "endpoint": "churn",
    "variant": "blue",
    "config": "churn-1",
    "at_s": 1_700_000_000,
    "invocations": 10,
    "errors_4xx": 2,
    "errors_5xx": 0,
    "model_errors": 1,
    "per_instance": 5.0,
    "model_latency_us": Summary.of([900.0, 1100.0]).to_json(),
    "overhead_latency_us": Summary.of([50.0]).to_json(),
}


def test_router_deltas_become_sagemaker_metrics_by_variant_and_by_config() -> None:
    data = router_data([ITEM])
    by_key = {datum.key: datum for datum in data}
    assert len(by_key) == len(data) == 14
    variant = (("EndpointName", "churn"), ("VariantName", "blue"))
    fleet = (("EndpointConfigName", "churn-1"), *variant)
    for dimensions in (variant, fleet):

        def of(metric_name: str, dimensions: tuple[tuple[str, str], ...] = dimensions) -> tuple[str, Summary]:
            datum = by_key[SeriesKey("AWS/SageMaker", metric_name, dimensions)]
            assert datum.at_s == 1_700_000_000
            return datum.unit, datum.summary

        unit, invocations = of("Invocations")
        assert (unit, invocations.count, invocations.sum) == ("Count", 10.0, 10.0)
        unit, errors = of("Invocation4XXErrors")
        assert (unit, errors.count, errors.sum, errors.minimum, errors.maximum) == (
            "Count",
            10.0,
            2.0,
            0.0,
            1.0,
        )
        assert errors.sketched
        unit, errors = of("Invocation5XXErrors")
        assert (errors.count, errors.sum, errors.maximum) == (10.0, 0.0, 0.0)
        assert of("InvocationModelErrors")[1].sum == 1.0
        assert of("InvocationsPerInstance")[1].sum == pytest.approx(5.0)
        assert of("ModelLatency") == ("Microseconds", Summary.of([900.0, 1100.0]))
        assert of("OverheadLatency") == ("Microseconds", Summary.of([50.0]))


def test_refusals_and_empty_measurements_make_no_metric() -> None:
    assert router_data([{"endpoint": "", "variant": "", "refused": {"ValidationError": 3}}]) == []
    silent = {**ITEM, "invocations": 0, "errors_4xx": 0, "model_errors": 0, "per_instance": 0.0}
    silent["model_latency_us"] = silent["overhead_latency_us"] = Summary().to_json()
    assert router_data([silent]) == []


def test_a_variant_all_of_whose_requests_failed_has_errors_and_no_model_latency() -> None:
    failed = {**ITEM, "errors_5xx": 10, "model_latency_us": Summary().to_json()}
    found = {datum.key.metric_name: datum.summary for datum in router_data([failed])}
    assert "ModelLatency" not in found
    assert found["Invocation5XXErrors"].sum == found["Invocation5XXErrors"].count == 10.0


def test_outcomes_at_shadows_and_of_capture_have_their_own_namespace() -> None:
    place = {"endpoint": "churn", "variant": "s", "at_s": 5}
    data = router_data([{**place, "shadow": {"mirrored": 3, "queue": 0}}, {**place, "capture": {"disk": 2}}])
    dimensions = (("EndpointName", "churn"), ("Outcome", "mirrored"), ("VariantName", "s"))
    assert [(one.key, one.at_s, one.unit, one.summary.sum, one.summary.count) for one in data] == [
        (SeriesKey("Understudy", "ShadowRequests", dimensions), 5, "Count", 3.0, 3.0),
        (
            SeriesKey(
                "Understudy",
                "CaptureRecords",
                (("EndpointName", "churn"), ("Outcome", "disk"), ("VariantName", "s")),
            ),
            5,
            "Count",
            2.0,
            2.0,
        ),
    ]


def test_malformed_deltas_are_refused() -> None:
    for counts in ({"mirrored": -1}, {"mirrored": math.inf}, {"mirrored": "1"}):
        with pytest.raises(ValueError, match=r"not negative|not a finite number"):
            router_data([{**ITEM, "shadow": counts}])
    with pytest.raises(ValueError):
        router_data([{**ITEM, "invocations": math.nan}])
    with pytest.raises(ValueError):
        router_data([{**ITEM, "model_latency_us": [1]}])


@dataclass(frozen=True)
class Usage:
    instance_id: str
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_percent: float | None = None


def test_instances_of_a_variant_are_samples_of_one_metric() -> None:
    data = instance_data(
        [
            Usage("churn/blue/1/0-0", cpu_percent=10.0, memory_percent=0.0),
            Usage("churn/blue/1/1-0", cpu_percent=150.0),
            Usage("churn/green/1/0-0"),
        ],
        1_700_000_000,
    )
    found = {(datum.key.metric_name, datum.unit): datum.summary for datum in data}
    assert {datum.key.namespace for datum in data} == {"/aws/sagemaker/Endpoints"}
    assert {datum.key.dimensions for datum in data} == {(("EndpointName", "churn"), ("VariantName", "blue"))}
    assert found == {
        ("CPUUtilization", "Percent"): Summary.of([10.0, 150.0]),
        ("MemoryUtilization", "Percent"): Summary.of([0.0]),  # zero is a value
    }
