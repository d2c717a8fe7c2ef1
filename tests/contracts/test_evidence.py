"""Every evidence store gives the same answers: memory and a SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from understudy.core.metrics import Summary
from understudy.core.stages import Arm, Counts, Source, Stage
from understudy.stores.evidence import EXACT_S, KEPT_S, SqliteEvidence
from understudy.stores.memory_evidence import MemoryEvidence

T0 = 1_700_000_040
ARMS = (Arm("A", "c1", "f1", 0.9), Arm("B", "c1", "f1", 1e9 / 3))
Open = Callable[[], Any]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store as a controller does that has just started."""
    opened: list[Any] = []
    memory = MemoryEvidence()

    def open_store() -> Any:
        for store in opened:
            store.close()
        opened[:] = [memory if request.param == "memory" else SqliteEvidence(tmp_path / "evidence.db")]
        return opened[0]

    yield open_store
    for store in opened:
        store.close()


def counts(requests: int = 2, at_s: int = T0, **members: Any) -> Counts:
    latency = Summary.of([float(100 + number) for number in range(requests)])
    one = Counts("e", 1, at_s, "A", "c1", "f1", Source.WEIGHT, requests, 1, 0, 0, latency)
    return replace(one, **members)


def test_stages_are_numbered_for_ever(reopen: Open) -> None:
    store = reopen()
    assert store.open() == [] and store.find("e") == []
    first = store.begin("e", ARMS, "", 10.0)
    assert first == Stage("e", 1, 10.0, ARMS)
    assert store.begin("e", ARMS[:1], "session-id", 20.0) == Stage("e", 2, 20.0, ARMS[:1], "session-id")
    store.begin("other", ARMS, "", 25.0)
    store = reopen()
    assert store.find("e") == [
        Stage("e", 1, 10.0, ARMS, ended_at_s=20.0),
        Stage("e", 2, 20.0, ARMS[:1], "session-id"),
    ]
    assert [(one.endpoint, one.number) for one in store.open()] == [("e", 2), ("other", 1)]
    store.end("e", 30.0)
    store.end("e", 40.0)
    store.end("nobody", 40.0)
    assert [one.ended_at_s for one in store.find("e")] == [20.0, 30.0]
    assert [one.endpoint for one in store.open()] == ["other"]
    assert store.begin("e", ARMS, "", 50.0).number == 3


def test_counts_come_back_in_order_of_arrival(reopen: Open) -> None:
    store = reopen()
    late = counts(3, at_s=T0 - 60)
    assert store.record([counts(), counts(5, at_s=T0 + 1)], source="r0", sequence=1)
    assert store.record([counts(endpoint="other")], source="r1", sequence=1)
    assert store.record([late], source="r1", sequence=2)
    store = reopen()
    kept = store.read("e")
    assert [one.counts for one in kept] == [counts(), counts(5, at_s=T0 + 1), late]
    numbers = [one.sequence for one in kept]
    assert numbers == sorted(set(numbers))
    assert [one.counts.requests for one in store.read("e", after=numbers[0])] == [5, 3]
    assert [one.counts.requests for one in store.read("e", after=numbers[0], limit=1)] == [5]
    assert store.read("e", after=numbers[-1]) == []
    assert store.read("nobody") == []


def test_each_delta_counts_once(reopen: Open) -> None:
    store = reopen()
    assert store.record([counts()], source="r0", sequence=1)
    assert not store.record([counts()], source="r0", sequence=1)
    store = reopen()
    assert not store.record([counts()], source="r0", sequence=1)
    assert store.record([counts()], source="r0", sequence=3)
    assert not store.record([counts()], source="r0", sequence=2)
    assert store.record([counts()], source="r1", sequence=1)
    assert [one.requests for one in store.totals("e")] == [6]
    assert len(store.read("e")) == 3


def test_totals_are_kept_apart_by_stage_arm_and_source(reopen: Open) -> None:
    store = reopen()
    many = [
        counts(),
        counts(4, at_s=T0 + 5, caller_errors=2, abandoned=1),
        counts(stage=2),
        counts(variant="B"),
        counts(config_name="c2"),
        counts(fleet_id="f2"),
        counts(source=Source.TARGET),
        counts(1, model_latency_us=Summary()),
    ]
    store.record(many, source="r0", sequence=1)
    totals = reopen().totals("e")
    assert len(totals) == 6
    first = next(
        one
        for one in totals
        if (one.stage, one.variant, one.config_name, one.fleet_id, one.source)
        == (1, "A", "c1", "f1", Source.WEIGHT)
    )
    assert (first.requests, first.failures, first.caller_errors, first.abandoned) == (7, 3, 2, 1)
    assert first.at_s == T0 + 5
    assert first.model_latency_us.count == 6
    assert first.model_latency_us.minimum == 100.0
    assert [one.stage for one in totals] == sorted(one.stage for one in totals)


# --- SQLite alone ------------------------------------------------------------------------------------


def test_what_is_a_day_older_than_the_newest_is_merged_and_nothing_is_lost(tmp_path: Path) -> None:
    store = SqliteEvidence(tmp_path / "evidence.db")
    start_s = T0 // 60 * 60
    for number in range(180):
        at_s = start_s + number
        batch = [counts(1 + number % 3, at_s), counts(2, at_s, variant="B")]
        store.record(batch, source="r0", sequence=number + 1)
    store.record([counts(endpoint="young", at_s=start_s + EXACT_S * 2)], source="r0", sequence=999)
    before, totals = store.read("e", limit=10_000), store.totals("e")
    store.roll_up(start_s + 60.0 * EXACT_S)  # the endpoint's own newest second counts
    assert len(store.read("e", limit=10_000)) == 360
    newest = counts(at_s=start_s + EXACT_S + 120)
    store.record([newest], source="r0", sequence=1000)
    for _ in range(2):
        store.roll_up(0.0)
        after = store.read("e", limit=10_000)
        assert len(after) == 2 * 2 + 2 * 60 + 1  # two minutes merged, the third whole, the newest
    for variant in ("A", "B"):
        sums = [
            sum(one.counts.requests for one in kept if one.counts.variant == variant)
            for kept in (before, after[:-1])
        ]
        assert sums[0] == sums[1]
        latencies = [one.counts.model_latency_us for one in after[:-1] if one.counts.variant == variant]
        assert sum(one.count for one in latencies) == sums[0]
    assert store.totals("e")[1] == totals[1]
    numbers = [one.sequence for one in after]
    assert numbers == sorted(set(numbers))
    store.close()


def test_what_is_too_old_is_forgotten_but_not_how_far_stages_were_numbered(tmp_path: Path) -> None:
    store = SqliteEvidence(tmp_path / "evidence.db")
    store.begin("e", ARMS, "", float(T0))
    store.begin("e", ARMS[:1], "", T0 + 1.0)
    store.end("e", T0 + 2.0)
    store.record([counts()], source="r0", sequence=1)
    store.roll_up(T0 + KEPT_S + 10.0)
    assert store.totals("e") == [] and store.read("e") == []
    assert [one.number for one in store.find("e")] == [2]
    assert store.begin("e", ARMS, "", T0 + KEPT_S + 20.0).number == 3
    store.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    SqliteEvidence(tmp_path / "evidence.db").close()
    import sqlite3

    with sqlite3.connect(tmp_path / "evidence.db") as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    connection.close()
    with pytest.raises(ValueError, match="start the newer version"):
        SqliteEvidence(tmp_path / "evidence.db")
