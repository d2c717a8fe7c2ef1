"""Every assignment store gives the same answers: memory and a SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.core.assignment import Assignment
from understudy.stores import assignments as sqlite_assignments
from understudy.stores.assignments import KEPT_S, SqliteAssignments
from understudy.stores.memory_assignments import MemoryAssignments

T0 = 1_700_000_000.0
Open = Callable[[], Any]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store as a controller does that has just started."""
    opened: list[Any] = []
    memory = MemoryAssignments()

    def open_store() -> Any:
        for store in opened:
            store.close()
        opened[:] = [memory if request.param == "memory" else SqliteAssignments(tmp_path / "a.db")]
        return opened[0]

    yield open_store
    for store in opened:
        store.close()


def assigned(inference_id: str | None = None, **members: Any) -> Assignment:
    one = Assignment("e", T0, "A", "c1", "f1", 1, "weight", 200, 120, None, inference_id, None)
    return one._replace(**members)


def test_assignments_come_back_whole_and_in_order(reopen: Open) -> None:
    store = reopen()
    some = [
        assigned("i-1"),
        assigned(None, event_id="ev-2", unit="ann", source="unit", variant="B", stage=2),
        assigned("i-3", status=503, model_latency_us=None),
    ]
    store.add("one", "boot", some)
    store.add("two", "boot", [assigned("i-4", endpoint="other"), assigned("i-5")])
    store = reopen()
    kept = store.read("e")
    assert [one.assignment for one in kept] == [*some, assigned("i-5")]
    numbers = [one.sequence for one in kept]
    assert numbers == sorted(set(numbers))
    assert [one.assignment.inference_id for one in store.read("e", after=numbers[1], limit=1)] == ["i-3"]
    assert store.read("nobody") == []


def test_a_batch_is_added_once_until_it_is_forgotten(reopen: Open) -> None:
    store = reopen()
    first = store.add("one", "boot", [assigned("i-1")])
    assert store.add("one", "boot", [assigned("i-1")]) == first
    store = reopen()
    assert store.add("one", "boot", [assigned("i-1")]) == first
    assert len(store.read("e")) == 1
    store.forget_batch("one")
    store.forget_batch("never added")
    second = store.add("two", "boot", [assigned("i-2")])
    assert second.source == first.source
    assert second.number > first.number  # a number is never given out twice


def test_requests_are_found_by_either_id(reopen: Open) -> None:
    store = reopen()
    store.add(
        "one", "boot", [assigned("i-1", event_id="ev-1"), assigned("i-2"), assigned("i-9", endpoint="other")]
    )
    found = store.find("e", ["i-1", "ev-1", "i-2", "i-9", "unknown"])
    assert {key: one.inference_id for key, one in found.items()} == {
        "i-1": "i-1",
        "ev-1": "i-1",
        "i-2": "i-2",
    }
    assert store.find("e", []) == {}
    assert store.find("nobody", ["i-1"]) == {}
    many = [assigned(f"n-{number}") for number in range(2000)]
    store.add("two", "boot", many)
    assert store.find("e", [f"n-{number}" for number in range(2000)]).keys() == {
        one.inference_id for one in many
    }


def test_of_several_with_one_id_the_first_to_be_routed_is_found(reopen: Open) -> None:
    store = reopen()
    store.add("one", "boot", [assigned("i", at_s=T0 + 2, variant="late")])
    store.add(
        "two", "boot", [assigned("i", at_s=T0, variant="first"), assigned("i", at_s=T0 + 1, variant="B")]
    )
    assert store.find("e", ["i"])["i"].variant == "first"


def test_what_came_of_a_writer_is_known_until_nobody_asks(reopen: Open) -> None:
    store = reopen()
    store.add("one", "r0", [assigned(), assigned(), assigned(variant="B")])
    store.add("two", "r0", [assigned(), assigned(endpoint="other")])
    store.add("two", "r0", [assigned()])  # the same batch again
    store.add("three", "r1", [assigned()])
    store = reopen()
    assert store.taken("r0") == {("e", "A"): 3, ("e", "B"): 1, ("other", "A"): 1}
    assert store.taken("r9") == {}
    store.remember({"r1", "r9"})
    assert (store.taken("r0"), store.taken("r1")) == ({}, {("e", "A"): 1})


# --- SQLite alone ------------------------------------------------------------------------------------


def test_what_is_old_or_too_much_is_forgotten_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_assignments, "FORGOTTEN_AT_ONCE", 5)
    monkeypatch.setattr(sqlite_assignments, "MOST_ROWS", 20)
    store = SqliteAssignments(tmp_path / "a.db")
    store.forget_old(T0)
    store.add("old", "boot", [assigned(f"i-{n}", at_s=T0 + n) for n in range(12)])
    store.add("new", "boot", [assigned(f"j-{n}", at_s=T0 + 2 * KEPT_S) for n in range(20)])
    left = []
    for _ in range(5):
        store.forget_old(T0 + KEPT_S + 6.5)  # seven of the old ones are too old, and there are 12 too many
        left.append(len(store.read("e", limit=100)))
    assert left == [27, 22, 20, 20, 20]
    store.forget_old(T0 + 4 * KEPT_S)
    assert len(store.read("e", limit=100)) == 15
    store.close()
