"""Assignments from spool to store: whole, once, whatever is interrupted; and what is odd in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.capture.assignments import (
    AssignmentCollector,
    AssignmentRecord,
    parse_assignment,
    render_assignment,
)
from understudy.capture.frames import pack_frame
from understudy.core.assignment import Assignment
from understudy.stores.assignments import SqliteAssignments

NAME = "000001700000000-0-b00t-{:d}.spool"


def record(inference_id: str | None = None, variant: str = "A", unit: str | None = None) -> AssignmentRecord:
    return AssignmentRecord(
        "e", variant, 1_700_000_000.25, "c", "f1", 3, "unit", 200, 120, None, inference_id, unit
    )


def segment(*records: AssignmentRecord) -> bytes:
    frames = [
        pack_frame(one.destination, one.endpoint, one.variant, "2023/11/14/22/13-20-250", one.pieces())
        for one in records
    ]
    return b"".join(b"".join(frame) for frame in frames)


class Place:
    """A spool, a store, and what was reported: by (source, number), as the series keeps it."""

    def __init__(self, folder: Path) -> None:
        self.spool = folder / "spool"
        self.spool.mkdir()
        self.store = SqliteAssignments(folder / "a.db")
        self.told: dict[tuple[str, int], Mapping[tuple[str, str], int]] = {}

    def collector(self, on_logged: Callable[..., None] | None = None) -> AssignmentCollector:
        return AssignmentCollector(self.spool, self.store, on_logged or self.on_logged)

    def on_logged(self, source: str, number: int, counts: Mapping[tuple[str, str], int]) -> None:
        assert self.told.setdefault((source, number), dict(counts)) == counts

    def write(self, number: int, data: bytes) -> None:
        (self.spool / NAME.format(number)).write_bytes(data)

    def kept(self) -> list[str | None]:
        return [one.assignment.inference_id for one in self.store.read("e")]


@given(
    inference_id=st.none() | st.text(max_size=64),
    unit=st.none() | st.text(st.characters(codec=None), max_size=64),
    status=st.integers(100, 599),
    latency=st.none() | st.integers(0, 2**40),
)
def test_a_line_is_read_as_it_was_written(
    inference_id: str | None, unit: str | None, status: int, latency: int | None
) -> None:
    wanted = Assignment("e", 17.5, "A", "c", "f1", 3, "unit", status, latency, "ev", inference_id, unit)
    made = AssignmentRecord("e", "A", 17.5, *wanted[3:])
    line = render_assignment(made)
    assert b"\n" not in line
    found = parse_assignment("e", "A", line)
    assert found._replace(inference_id=None, unit=None) == wanted._replace(inference_id=None, unit=None)
    for text, read in ((inference_id, found.inference_id), (unit, found.unit)):
        if text is None or not any("\ud800" <= one <= "\udfff" for one in text):
            assert read == text


def test_complete_segments_are_moved_and_counted(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(1, segment(record("i-1"), record("i-2", "B")))
    place.write(2, segment(record("i-3")))
    collector = place.collector()
    assert collector.taken("b00t") is None
    assert collector.collect_once() is False
    assert place.kept() == ["i-1", "i-2", "i-3"]
    assert list(place.told.values()) == [{("e", "A"): 1, ("e", "B"): 1}, {("e", "A"): 1}]
    assert list(place.spool.iterdir()) == []
    assert collector.taken("b00t") == {("e", "A"): 2, ("e", "B"): 1}
    collector.remember(set())
    assert collector.taken("b00t") == {}
    place.store.close()


def test_a_kill_between_any_two_steps_doubles_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path)
    data = segment(record("i-1"), record("i-2"))
    place.write(1, data)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # kept, not reported
        place.collector(killed).collect_once()

    def reported_and_killed(*arguments: Any) -> None:
        place.on_logged(*arguments)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # reported, not removed
        place.collector(reported_and_killed).collect_once()
    place.collector().collect_once()
    assert place.kept() == ["i-1", "i-2"]
    assert list(place.told.values()) == [{("e", "A"): 2}]
    assert list(place.spool.iterdir()) == []
    place.store.close()


def test_the_open_segment_of_a_dead_router_is_taken_up_to_its_last_whole_frame(tmp_path: Path) -> None:
    place = Place(tmp_path)
    data = segment(record("i-1"), record("i-2"))
    (place.spool / NAME.format(1).replace(".spool", ".open")).write_bytes(data[:-5])
    place.collector().collect_once()
    assert place.kept() == ["i-1"]
    place.store.close()


def test_a_damaged_segment_gives_what_can_be_read_and_keeps_the_rest(tmp_path: Path) -> None:
    place = Place(tmp_path)
    good = segment(record("i-1"))
    place.write(1, good + b"\0" * 100)
    place.collector().collect_once()
    assert place.kept() == ["i-1"]
    assert [path.suffix for path in place.spool.iterdir()] == [".damaged"]
    assert place.collector().taken("b00t") is not None  # nothing more will come out of it
    place.store.close()
