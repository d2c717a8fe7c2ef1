"""Every request is counted once, whatever happens to the controller."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.metrics import Summary
from understudy.dataplane.accounting import MAX_ITEMS, Ledger, merge_items, summarise
from understudy.dataplane.deaths import BLOCKED_S, DeadlyBodies


@given(st.lists(st.integers(0, 10**8)))
def test_summaries_equal_core(values: list[int]) -> None:
    expected = Summary.of(float(value) for value in values)
    count, total, low, high, buckets = summarise(values)
    assert (count, total) == (expected.count, expected.sum)
    assert {int(bucket): n for bucket, n in buckets.items()} == expected.buckets
    if values:
        assert (low, high) == (expected.minimum, expected.maximum)
    assert Summary.from_json([count, total, low, high, buckets]) == expected


def test_counts_move_from_second_to_second() -> None:
    ledger = Ledger()
    tally = ledger.tally("e", "v", "c")
    tally.answered(0.5, 100, 20)
    tally.answered(0.5, 300, 30)
    tally.failed(0.5, 400, by_model=False, model_us=None, overhead_us=None)
    ledger.close_second(10)
    tally.failed(0.5, 0, by_model=True, model_us=900, overhead_us=5)
    ledger.close_second(11)
    batch = ledger.next_batch(11)
    assert batch is not None
    first, second = batch["data"]
    assert (first["at_s"], first["invocations"], first["errors_4xx"], first["per_instance"]) == (
        10,
        3,
        1,
        1.5,
    )
    assert first["model_latency_us"][:4] == [2, 400, 100, 300]
    assert (second["at_s"], second["invocations"], second["errors_5xx"], second["model_errors"]) == (
        11,
        1,
        1,
        1,
    )


def test_a_batch_stays_the_same_until_it_is_acknowledged() -> None:
    ledger = Ledger()
    tally = ledger.tally("e", "v", "c")
    tally.answered(1.0, 1, 1)
    ledger.close_second(1)
    batch = ledger.next_batch(1)
    tally.answered(1.0, 1, 1)
    ledger.close_second(2)
    assert ledger.next_batch(2) is batch
    assert batch is not None
    ledger.acknowledge(batch["seq"] + 7)
    assert ledger.next_batch(2) is batch
    ledger.acknowledge(batch["seq"])
    later = ledger.next_batch(2)
    assert later is not None
    assert (later["seq"], [item["at_s"] for item in later["data"]]) == (batch["seq"] + 1, [2])
    ledger.acknowledge(later["seq"])
    assert ledger.next_batch(2) is None
    assert ledger.is_empty


def test_a_day_without_controller_stays_bounded_and_exact() -> None:
    ledger = Ledger()
    for second in range(86_400):
        ledger.tally("e", "v", "c").answered(1.0, second % 7, 1)
        ledger.close_second(second)
        assert len(ledger._closed) <= MAX_ITEMS
    batch = ledger.next_batch(86_400)
    assert batch is not None
    assert sum(item["invocations"] for item in batch["data"]) == 86_400
    assert sum(item["model_latency_us"][0] for item in batch["data"]) == 86_400


def test_tallies_that_are_routed_no_more_still_count() -> None:
    ledger = Ledger()
    old = ledger.tally("e", "v", "c")
    ledger.keep_only(set())
    assert ledger.tally("e", "v", "c") is not old
    ledger.tally("e", "v", "c").answered(1.0, 1, 1)
    old.answered(1.0, 1, 1)
    ledger.close_second(3)
    batch = ledger.next_batch(3)
    assert batch is not None
    assert [item["invocations"] for item in batch["data"]] == [2]


def test_refusals_have_no_endpoint() -> None:
    ledger = Ledger()
    ledger.refuse("ValidationError")
    ledger.refuse("ValidationError")
    batch = ledger.next_batch(9)
    assert batch is not None
    assert batch["data"] == [{"endpoint": "", "variant": "", "at_s": 9, "refused": {"ValidationError": 2}}]


def test_merging_keeps_sums_and_extremes() -> None:
    ledger = Ledger()
    tally = ledger.tally("e", "v", "c")
    tally.answered(1.0, 5, 1)
    one = tally.take(1)
    two = tally.take(1)
    assert two["model_latency_us"] == [0, 0, 0, 0, {}]
    tally.answered(1.0, 9, 1)
    merged = merge_items(merge_items(one, two), tally.take(1))
    assert merged["model_latency_us"][:4] == [2, 14, 5, 9]
    assert merged["invocations"] == 2
    assert math.isclose(merged["per_instance"], 2.0)


def test_two_deaths_make_a_body_deadly_for_a_minute() -> None:
    deaths = DeadlyBodies()
    assert not deaths
    assert deaths.note("e", b"x", "i1", 0.0) == 1
    assert not deaths.is_deadly("e", b"x", 0.0)
    assert deaths.note("e", b"x", "i2", 1.0) == 2
    assert deaths.is_deadly("e", b"x", 1.0 + BLOCKED_S)
    assert not deaths.is_deadly("other", b"x", 1.0)
    assert not deaths.is_deadly("e", b"y", 1.0)
    assert not deaths.is_deadly("e", b"x", 1.1 + BLOCKED_S)
    deaths.expire(1.1 + BLOCKED_S)
    assert not deaths


def test_one_worker_dies_once_however_often_it_had_the_body() -> None:
    deaths = DeadlyBodies()
    assert [deaths.note("e", b"x", "i1", at_s) for at_s in (0.0, 0.1, 0.2)] == [1, 1, 1]
    assert not deaths.is_deadly("e", b"x", 0.2)
    assert deaths.note("e", b"x", "i2", 0.3) == 2


def test_a_success_clears_a_body() -> None:
    deaths = DeadlyBodies()
    deaths.note("e", b"x", "i1", 0.0)
    deaths.clear("e", b"x")
    assert deaths.note("e", b"x", "i2", 1.0) == 1


@pytest.mark.parametrize("count", [5000])
def test_the_list_of_deadly_bodies_is_bounded(count: int) -> None:
    deaths = DeadlyBodies()
    for number in range(count):
        deaths.note("e", b"%d" % number, "i1", 0.0)
    assert len(deaths._deaths) <= 4096


def test_outcomes_are_told_once_and_zero_ones_not_at_all() -> None:
    ledger = Ledger()
    assert ledger.is_empty
    ledger.note("shadow", "e", "s", "mirrored")
    ledger.note("shadow", "e", "s", "mirrored")
    ledger.note("shadow", "e", "s", "queue")
    ledger.note("capture", "e", "s", "sampling", 3)
    assert not ledger.is_empty
    batch = ledger.next_batch(10)
    assert batch is not None and batch["data"] == [
        {"endpoint": "e", "variant": "s", "at_s": 10, "shadow": {"mirrored": 2, "queue": 1}},
        {"endpoint": "e", "variant": "s", "at_s": 10, "capture": {"sampling": 3}},
    ]
    ledger.note("shadow", "e", "s", "mirrored")
    assert ledger.next_batch(11) is batch  # under way: sent again unchanged
    ledger.acknowledge(batch["seq"])
    batch = ledger.next_batch(12)
    assert batch is not None and batch["data"][0]["shadow"] == {"mirrored": 1}
    ledger.acknowledge(batch["seq"])
    assert ledger.is_empty
