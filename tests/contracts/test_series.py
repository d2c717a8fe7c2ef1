"""Every Series store gives the same answers: memory and a SQLite file."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.metrics import Bucket, Datum, SeriesKey, Summary
from understudy.core.ports import Series
from understudy.core.statistics import statistic
from understudy.stores.memory_series import MemorySeries
from understudy.stores.series import SqliteSeries

T0 = 1_699_999_200  # a multiple of 3600
LATENCY = SeriesKey("AWS/SageMaker", "ModelLatency", (("EndpointName", "churn"), ("VariantName", "blue")))
OTHER = SeriesKey("AWS/SageMaker", "ModelLatency", (("EndpointName", "churn"), ("VariantName", "green")))
Open = Callable[[], Series]


def datum(at_s: int, *values: float, key: SeriesKey = LATENCY, unit: str = "Microseconds") -> Datum:
    return Datum(key, at_s, unit, Summary.of(values))


@pytest.fixture(params=["memory", "sqlite"])
def new_series(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    opened: list[Series] = []

    def new() -> Series:
        opened.append(
            MemorySeries() if request.param == "memory" else SqliteSeries(tmp_path / f"{len(opened)}.db")
        )
        return opened[-1]

    yield new
    for series in opened:
        series.close()


def test_the_hour_used_here_is_one() -> None:
    assert T0 % 3600 == 0


def test_nothing_is_known_of_what_was_never_recorded(new_series: Open) -> None:
    series = new_series()
    assert series.read(LATENCY, 0, 2**31, 60) == []
    assert series.keys() == []
    assert series.record([])


def test_samples_come_back_by_second_and_by_minute(new_series: Open) -> None:
    series = new_series()
    assert series.record([datum(T0 + 1, 5.0), datum(T0 + 59, 7.0, 9.0), datum(T0 + 60, 11.0)])
    assert series.read(LATENCY, T0, T0 + 120, 1) == [
        Bucket(T0 + 1, "Microseconds", Summary.of([5.0])),
        Bucket(T0 + 59, "Microseconds", Summary.of([7.0, 9.0])),
        Bucket(T0 + 60, "Microseconds", Summary.of([11.0])),
    ]
    assert series.read(LATENCY, T0, T0 + 120, 60) == [
        Bucket(T0, "Microseconds", Summary.of([5.0, 7.0, 9.0])),
        Bucket(T0 + 60, "Microseconds", Summary.of([11.0])),
    ]
    assert series.read(LATENCY, T0, T0 + 120, 3600) == [
        Bucket(T0, "Microseconds", Summary.of([5.0, 7.0, 9.0, 11.0]))
    ]


def test_periods_that_start_inside_are_whole_and_others_absent(new_series: Open) -> None:
    series = new_series()
    series.record([datum(T0 + s, 1.0) for s in range(180)])
    assert [(b.start_s - T0, b.summary.count) for b in series.read(LATENCY, T0 + 1, T0 + 61, 60)] == [
        (60, 60.0)
    ]
    assert [(b.start_s - T0, b.summary.count) for b in series.read(LATENCY, T0 + 1, T0 + 11, 5)] == [
        (5, 5.0),
        (10, 5.0),
    ]
    assert series.read(LATENCY, T0 + 60, T0 + 60, 60) == []
    assert series.read(LATENCY, T0 + 60, T0, 60) == []


def test_later_samples_of_a_second_are_merged_into_it(new_series: Open) -> None:
    series = new_series()
    series.record([datum(T0, 1.0), datum(T0, 3.0)])
    series.record([datum(T0, -2.0)])
    (bucket,) = series.read(LATENCY, T0, T0 + 1, 1)
    assert bucket.summary == Summary.of([1.0, 3.0, -2.0])


def test_units_are_kept_apart(new_series: Open) -> None:
    series = new_series()
    series.record([datum(T0, 1.0, unit="Seconds"), datum(T0, 2.0, unit="None")])
    assert [(b.unit, b.summary.sum) for b in series.read(LATENCY, T0, T0 + 60, 60)] == [
        ("None", 2.0),
        ("Seconds", 1.0),
    ]


def test_a_statistic_set_stays_without_a_sketch(new_series: Open) -> None:
    series = new_series()
    series.record([Datum(LATENCY, T0, "None", Summary(4.0, 10.0, 1.0, 4.0))])
    series.record([Datum(LATENCY, T0, "None", Summary.of([2.0]))])
    (bucket,) = series.read(LATENCY, T0, T0 + 60, 60)
    assert (bucket.summary.count, bucket.summary.sum) == (5.0, 12.0)
    assert statistic(bucket.summary, "p50") is None


def test_fractional_counts_survive(new_series: Open) -> None:
    series = new_series()
    series.record([Datum(LATENCY, T0, "None", Summary.repeated(3.0, 0.25))])
    (bucket,) = series.read(LATENCY, T0, T0 + 1, 1)
    assert bucket.summary == Summary.repeated(3.0, 0.25)


def test_a_sequence_of_a_source_is_recorded_once(new_series: Open) -> None:
    series = new_series()
    assert series.record([datum(T0, 1.0)], source="boot-a", sequence=0)
    assert not series.record([datum(T0, 1.0)], source="boot-a", sequence=0)
    assert series.record([datum(T0, 1.0)], source="boot-a", sequence=5)
    assert not series.record([datum(T0, 1.0)], source="boot-a", sequence=4)
    assert series.record([datum(T0, 1.0)], source="boot-b", sequence=4)
    assert series.record([], source="boot-b", sequence=5)
    assert not series.record([datum(T0, 1.0)], source="boot-b", sequence=5)
    assert series.record([datum(T0, 1.0)]) and series.record([datum(T0, 1.0)])
    assert sum(b.summary.count for b in series.read(LATENCY, T0, T0 + 60, 60)) == 5.0


def test_keys_are_found_by_namespace_and_name_with_their_newest_sample(new_series: Open) -> None:
    series = new_series()
    cpu = SeriesKey("/aws/sagemaker/Endpoints", "CPUUtilization", LATENCY.dimensions)
    plain = SeriesKey("Mine", "ModelLatency")
    series.record(
        [datum(T0 + 9, 1.0), datum(T0 + 3, 1.0), datum(T0, 1.0, key=cpu), datum(T0 + 1, 1.0, key=plain)]
    )
    series.record([datum(T0 + 4, 1.0)])
    assert series.keys() == [(cpu, T0), (LATENCY, T0 + 9), (plain, T0 + 1)]
    assert series.keys("AWS/SageMaker") == [(LATENCY, T0 + 9)]
    assert series.keys(metric_name="ModelLatency") == [(LATENCY, T0 + 9), (plain, T0 + 1)]
    assert series.keys("Mine", "CPUUtilization") == []


@pytest.mark.parametrize("hostile", ["'; DROP TABLE series; --", '"]', "\\", "é\u0000", "%", "_"])
def test_any_text_can_name_a_metric(new_series: Open, hostile: str) -> None:
    series = new_series()
    key = SeriesKey(hostile, hostile, ((hostile, hostile),))
    series.record([datum(T0, 1.0, key=key), datum(T0, 2.0)])
    assert [b.summary.sum for b in series.read(key, T0, T0 + 60, 60)] == [1.0]
    assert series.keys(hostile) == [(key, T0)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.tuples(
            st.sampled_from([LATENCY, OTHER]),
            st.integers(0, 7200),
            st.lists(st.integers(-1000, 10**9).map(float), min_size=1, max_size=5),
        ),
        max_size=30,
    ),
    batch=st.integers(1, 10),
    period_s=st.sampled_from([1, 5, 10, 30, 60, 120, 300, 900, 3600, 7200]),
    start=st.integers(-100, 4000),
    length=st.integers(0, 8000),
)
def test_reading_is_grouping(
    new_series: Open,
    data: list[tuple[SeriesKey, int, list[float]]],
    batch: int,
    period_s: int,
    start: int,
    length: int,
) -> None:
    series = new_series()
    for at in range(0, len(data), batch):
        series.record([datum(T0 + second, *values, key=key) for key, second, values in data[at : at + batch]])
    for key in (LATENCY, OTHER):
        expected: dict[int, Summary] = {}
        for found, second, values in data:
            period = (T0 + second) // period_s * period_s
            if found == key and T0 + start <= period < T0 + start + length:
                expected[period] = expected.get(period, Summary()) + Summary.of(values)
        assert series.read(key, T0 + start, T0 + start + length, period_s) == [
            Bucket(period, "Microseconds", summary) for period, summary in sorted(expected.items())
        ]


def test_threads_lose_nothing_and_repeat_nothing(new_series: Open) -> None:
    series = new_series()
    deliveries = [(f"boot-{source}", sequence) for source in range(4) for sequence in range(25)]
    # Each source's messages come in order, each of them twice, from several threads at once.
    by_source = [list(group) for _, group in itertools.groupby(deliveries, key=lambda pair: pair[0])]

    def deliver(messages: list[tuple[str, int]]) -> int:
        taken = 0
        for source, sequence in messages:
            for _ in range(2):
                data = [datum(T0 + random.randrange(60), 1.0, key=key) for key in (LATENCY, OTHER)]
                taken += series.record(data, source=source, sequence=sequence)
                series.read(LATENCY, T0, T0 + 60, 60)
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(deliver, by_source)) == 100
    for key in (LATENCY, OTHER):
        assert sum(b.summary.sum for b in series.read(key, T0, T0 + 60, 60)) == 100.0
        assert sum(b.summary.sum for b in series.read(key, T0, T0 + 60, 1)) == 100.0
