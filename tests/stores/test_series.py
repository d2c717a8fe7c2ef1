"""The SQLite series: what survives restarts, kills and roll-ups, and what does not stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.metrics import Bucket, Datum, SeriesKey, Summary
from understudy.core.statistics import statistic
from understudy.stores import sketches
from understudy.stores.databases import sqlite_module
from understudy.stores.series import MIGRATIONS, RETENTION, SqliteSeries

DAY_S = 86_400
NOW_S = 1_700_000_400
KEY = SeriesKey("Mine", "Latency", (("a", "b"),))


def datum(at_s: int, *values: float, key: SeriesKey = KEY) -> Datum:
    return Datum(key, at_s, "None", Summary.of(values))


def counts(series: SqliteSeries, period_s: int, key: SeriesKey = KEY) -> dict[int, float]:
    return {b.start_s: b.summary.count for b in series.read(key, 0, NOW_S + DAY_S, period_s)}


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "series.db"
    series = SqliteSeries(path)
    series.record([datum(NOW_S, 1.0, 5.0)], source="boot", sequence=7)
    series.close()
    series = SqliteSeries(path)
    assert series.read(KEY, NOW_S, NOW_S + 1, 1) == [Bucket(NOW_S, "None", Summary.of([1.0, 5.0]))]
    assert not series.record([datum(NOW_S, 1.0)], source="boot", sequence=7)
    series.close()


def test_the_file_is_its_owners_and_is_synced_at_each_commit(tmp_path: Path) -> None:
    path = tmp_path / "series.db"
    series = SqliteSeries(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert series._writer.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert series._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    series.close()


WRITER = """
    import sys
    from pathlib import Path
    from understudy.core.metrics import Datum, SeriesKey, Summary
    from understudy.stores.series import SqliteSeries
    series = SqliteSeries(Path(sys.argv[1]))
    key = SeriesKey("Mine", "Latency", (("a", "b"),))
    sequence = int(sys.argv[2])
    while True:
        sequence += 1
        data = [Datum(key, 1_700_000_400 + sequence % 50, "None", Summary.of([1.0]))] * 5
        series.record(data, source="boot", sequence=sequence)
        print(sequence, flush=True)
"""


def test_a_killed_writer_loses_nothing_it_acknowledged_and_records_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "series.db"
    last = 0
    for acknowledged_before_the_kill in (1, 20, 41):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(last)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )
        assert process.stdout is not None
        for _ in range(acknowledged_before_the_kill):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        last = int(([str(last), *process.stdout.read().split()])[-1])
        process.wait()
        process.stdout.close()
        series = SqliteSeries(path)
        stored = series._writer.execute("SELECT sequence FROM sources").fetchone()[0]
        # The last one may have been on disk before its word came out: at most one more than was told.
        assert stored in (last, last + 1)
        last = stored
        assert sum(counts(series, 60).values()) == sum(counts(series, 1).values()) == 5 * stored
        assert all(b.summary.sketched for b in series.read(KEY, 0, NOW_S + 60, 60))
        series.close()


def test_a_batch_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    other = SeriesKey("Mine", "New")
    broken = Datum(KEY, NOW_S, None, Summary.of([1.0]))  # type: ignore[arg-type]
    with pytest.raises(sqlite_module().IntegrityError):
        series.record([datum(NOW_S, 1.0, key=other), broken], source="boot", sequence=1)
    assert series.keys() == []
    assert series.record([datum(NOW_S, 1.0, key=other)], source="boot", sequence=1)
    assert counts(series, 1, other) == {NOW_S: 1.0}
    series.close()


def test_resolutions_fade_as_cloudwatchs_do(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    ages_s = {
        "fresh": 60,
        "hours": 4 * 3600,
        "weeks": 20 * DAY_S,
        "months": 100 * DAY_S,
        "years": 500 * DAY_S,
    }
    keys = {age: SeriesKey("Mine", age) for age in ages_s}
    for age, age_s in ages_s.items():
        series.record([datum(NOW_S - age_s + second, 1.0, 2.0, key=keys[age]) for second in (0, 1, 2)])
    series.roll_up(NOW_S)
    series.roll_up(NOW_S)  # nothing is added twice
    samples = {
        age: [sum(counts(series, period_s, key).values()) for period_s in (1, 60, 300, 3600)]
        for age, key in keys.items()
    }
    assert samples == {
        "fresh": [6.0, 6.0, 6.0, 6.0],
        "hours": [0, 6.0, 6.0, 6.0],
        "weeks": [0, 0, 6.0, 6.0],
        "months": [0, 0, 0, 6.0],
        "years": [0, 0, 0, 0],
    }
    kept = series.keys()
    assert {key.metric_name for key, _ in kept} == set(ages_s) - {"years"}
    # A forgotten metric can come back.
    series.record([datum(NOW_S, 1.0, key=keys["years"])])
    assert counts(series, 60, keys["years"]) == {NOW_S - NOW_S % 60: 1.0}
    series.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=st.lists(
        st.tuples(st.integers(0, 90 * DAY_S), st.integers(-(10**6), 10**9).map(float)),
        min_size=1,
        max_size=40,
    ),
    steps_s=st.lists(st.integers(1, 100 * DAY_S), max_size=6),
)
def test_roll_ups_change_no_count_sum_extreme_or_percentile(
    tmp_path_factory: pytest.TempPathFactory, samples: list[tuple[int, float]], steps_s: list[int]
) -> None:
    series = SqliteSeries(tmp_path_factory.mktemp("rolled") / "series.db")
    now_s = NOW_S
    by_hour: dict[int, list[float]] = {}
    series.record([datum(NOW_S - age_s, value) for age_s, value in samples])
    for age_s, value in samples:
        by_hour.setdefault((NOW_S - age_s) // 3600 * 3600, []).append(value)
    for step_s in steps_s:
        if now_s + step_s > NOW_S + 300 * DAY_S:
            break
        now_s += step_s
        series.roll_up(now_s)
        # Data that comes late still goes where its time belongs.
        series.record([datum(NOW_S - DAY_S, 1.0)])
        by_hour.setdefault((NOW_S - DAY_S) // 3600 * 3600, []).append(1.0)
        found = {b.start_s: b.summary for b in series.read(KEY, 0, now_s + DAY_S, 3600)}
        assert found == {start_s: Summary.of(values) for start_s, values in by_hour.items()}
        for start_s, values in by_hour.items():
            assert statistic(found[start_s], "p90") == statistic(Summary.of(values), "p90")
    series.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(
        st.tuples(
            st.integers(0, 2 * 3600),  # the clock goes on
            st.lists(st.tuples(st.integers(-600, 2 * 3600), st.integers(1, 1000).map(float)), max_size=8),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_copied_periods_hold_what_comes_early_and_late(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, list[tuple[int, float]]]]
) -> None:
    series = SqliteSeries(tmp_path_factory.mktemp("copied") / "series.db")
    now_s = NOW_S
    samples: list[tuple[int, float]] = []
    for step_s, batch in batches:
        now_s += step_s
        series.roll_up(now_s)
        series.record([datum(now_s - age_s, value) for age_s, value in batch])
        samples += [(now_s - age_s, value) for age_s, value in batch]
        for period_s in (60, 300, 600, 900, 1800, 3600, 7200):
            wanted: dict[int, list[float]] = {}
            for at_s, value in samples:
                wanted.setdefault(at_s // period_s * period_s, []).append(value)
            found = {b.start_s: b.summary for b in series.read(KEY, 0, now_s + DAY_S, period_s)}
            assert found == {start_s: Summary.of(values) for start_s, values in wanted.items()}
    series.close()


def test_a_day_of_coarse_periods_is_not_read_from_minutes(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    series.record([datum(NOW_S - DAY_S + at_s, 1.0) for at_s in range(0, DAY_S, 60)])
    series.roll_up(NOW_S)
    connection = series._writer
    tail = "SELECT count(*) FROM points_{} WHERE at_s >= (SELECT until_s FROM rolled WHERE resolution_s = {})"
    assert connection.execute(tail.format(60, 300)).fetchone()[0] <= 6
    assert connection.execute(tail.format(300, 900)).fetchone()[0] <= 4
    assert connection.execute(tail.format(900, 3600)).fetchone()[0] <= 5
    assert all(sum(counts(series, period_s).values()) == DAY_S / 60 for period_s in (300, 900, 3600))
    series.close()


def test_a_file_of_the_first_schema_is_read_and_copied(tmp_path: Path) -> None:
    """Before, a row moved to the next table when it was old: each sample was in one of 60, 300 and 3600."""
    path = tmp_path / "series.db"
    SqliteSeries(path).close()
    connection = sqlite_module().connect(str(path), isolation_level=None)
    connection.execute("DROP TABLE rolled")
    connection.execute("DROP TABLE points_900")
    connection.execute("UPDATE schema_version SET version = 1")
    connection.execute(
        "INSERT INTO series (namespace, metric_name, dimensions, newest_s) VALUES (?, ?, ?, ?)",
        (KEY.namespace, KEY.metric_name, msgspec.json.encode(KEY.dimensions).decode(), NOW_S),
    )
    for table, age_s in ((60, DAY_S), (60, 14 * DAY_S), (300, 30 * DAY_S), (3600, 90 * DAY_S)):
        at_s = (NOW_S - age_s) // table * table
        connection.execute(
            f"INSERT INTO points_{table} VALUES (1, ?, 'Microseconds', 2, 3, 1, 2, ?)",
            (at_s, sketches.pack(Summary.of([1.0, 2.0]).buckets)),
        )
    connection.close()
    series = SqliteSeries(path)
    for _ in range(3):
        told = {period_s: sum(counts(series, period_s).values()) for period_s in (60, 300, 3600)}
        assert told == {60: 4.0, 300: 6.0, 3600: 8.0}
        series.roll_up(NOW_S)
    series.close()


def test_a_file_without_quarters_of_an_hour_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schema 2 copied 300 s straight into hours."""
    path = tmp_path / "series.db"
    samples = [datum(NOW_S - age_s, 1.0) for age_s in range(0, 3 * DAY_S, 600)]
    with monkeypatch.context() as patch:
        patch.setattr("understudy.stores.series.MIGRATIONS", MIGRATIONS[:2])
        patch.setattr("understudy.stores.series.COPIED", ((60, 300), (300, 3600)))
        patch.setattr("understudy.stores.series.RETENTION", tuple(one for one in RETENTION if one[0] != 900))
        series = SqliteSeries(path)
        series.record(samples)
        series.roll_up(NOW_S)
        series.close()
    series = SqliteSeries(path)
    for step in range(3):
        # Late ones come before the new table is filled, too.
        series.record([datum(NOW_S - DAY_S, 1.0)])
        for period_s in (60, 300, 900, 3600, 10_800):
            assert sum(counts(series, period_s).values()) == len(samples) + step + 1
        series.roll_up(NOW_S + step * 1800)
    filled = series._writer.execute("SELECT sum(count) FROM points_900").fetchone()[0]
    assert len(samples) - 3 <= filled <= len(samples) + 3
    series.close()


def test_sources_are_forgotten_only_after_long_silence(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    series.record([datum(NOW_S, 1.0)], source="boot", sequence=3)
    series.roll_up(NOW_S)
    series.roll_up(NOW_S + 14 * DAY_S)
    assert not series.record([datum(NOW_S, 1.0)], source="boot", sequence=3)
    assert series.record([datum(NOW_S, 1.0)], source="boot", sequence=4)
    series.roll_up(NOW_S + 28 * DAY_S)
    assert not series.record([datum(NOW_S, 1.0)], source="boot", sequence=4)
    series.roll_up(NOW_S + 44 * DAY_S)
    assert series._writer.execute("SELECT count(*) FROM sources").fetchone()[0] == 0
    series.close()


def test_old_points_are_found_by_key_and_not_by_reading_all(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    plan = series._writer.execute(
        "EXPLAIN QUERY PLAN DELETE FROM points_1 WHERE series_id IN (SELECT id FROM series) AND at_s < 5"
    ).fetchall()
    assert any("USING PRIMARY KEY (series_id=? AND at_s<?)" in row[3] for row in plan), plan
    series.close()


def test_a_newer_files_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "series.db"
    SqliteSeries(path).close()
    connection = sqlite_module().connect(str(path))
    connection.execute("UPDATE schema_version SET version = ?", (len(MIGRATIONS) + 1,))
    connection.commit()
    connection.close()
    with pytest.raises(ValueError, match="start the newer version"):
        SqliteSeries(path)


def test_a_migration_that_was_cut_off_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "series.db"
    with monkeypatch.context() as patch:
        patch.setattr("understudy.stores.series.MIGRATIONS", ((*MIGRATIONS[0], "CREATE NONSENSE"),))
        with pytest.raises(sqlite_module().OperationalError):
            SqliteSeries(path)
    series = SqliteSeries(path)
    series.record([datum(NOW_S, 1.0)])
    series.close()
    with monkeypatch.context() as patch:
        patch.setattr("understudy.stores.series.MIGRATIONS", (*MIGRATIONS, ("CREATE TABLE extra (x)",)))
        series = SqliteSeries(path)
        assert counts(series, 1) == {NOW_S: 1.0}
        assert series._writer.execute("SELECT version FROM schema_version").fetchall() == [
            (len(MIGRATIONS) + 1,)
        ]
        series.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    series = SqliteSeries(tmp_path / "series.db")
    series.close()
    series.close()
    with pytest.raises(ValueError, match="closed"):
        series.record([])
    with pytest.raises(ValueError, match="closed"):
        series.keys()


@given(
    st.dictionaries(
        st.integers(-(2**21), 2**21),
        st.one_of(st.integers(1, 10**12).map(float), st.floats(1e-9, 1e300)),
        max_size=50,
    )
)
def test_packed_sketches_are_what_was_packed(buckets: dict[int, float]) -> None:
    blob = sketches.pack(buckets)
    if blob is None:
        assert buckets == {}
        return
    packed = sketches.PackedBuckets([blob])
    assert packed == buckets
    assert sketches.pack(packed) == blob
    assert len(packed) == len(buckets)
    doubled = {bucket: count * 2 for bucket, count in buckets.items()}
    assert sketches.PackedBuckets([blob, blob]) == doubled
    assert sketches.unpack([sketches.merge(blob, blob) or b""]) == doubled


@given(
    st.dictionaries(st.integers(-(2**21), 2**21), st.integers(0, 10**6).map(float), min_size=1, max_size=40),
    st.integers(-45, 45),
)
def test_ranks_read_off_a_packed_sketch_are_those_of_its_buckets(
    buckets: dict[int, float], place: int
) -> None:
    blob = sketches.pack(buckets)
    assert blob is not None
    names, below = sketches.PackedBuckets([blob]).ranks()
    expected, expected_below = Summary(1.0, 1.0, 0.0, 1.0, buckets).ranks
    assert list(names) == expected and below == expected_below and len(names) == len(expected)
    assert names[1:3] == expected[1:3]
    if -len(expected) <= place < len(expected):
        assert names[place] == expected[place]
    else:
        with pytest.raises(IndexError):
            names[place]


def test_retention_is_cloudwatchs() -> None:
    ours = tuple(one for one in RETENTION if one[0] != 900)  # kept as long as what it is made of
    assert ours == ((1, 10_800), (60, 1_296_000), (300, 5_443_200), (3600, 39_312_000))
    assert dict(RETENTION)[900] == dict(RETENTION)[300]
