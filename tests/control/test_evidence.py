"""Which changes of a route begin a stage, over restarts; and that the publisher waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from understudy.control.evidence import StageBook
from understudy.control.publisher import Publisher, read_table
from understudy.core.routing import (
    CaptureRoute,
    EndpointRoute,
    GreenRoute,
    InstanceRoute,
    ShadowRoute,
    VariantRoute,
)
from understudy.stores.memory_evidence import MemoryEvidence


class SteppingClock:
    def __init__(self) -> None:
        self.at_s = 100.0

    def now_s(self) -> float:
        self.at_s += 1.0
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


def variant(name: str, weight: float, fleet: str = "f1") -> VariantRoute:
    return VariantRoute(name, weight, f"config-{fleet}", fleet_id=fleet)


ROUTE = EndpointRoute("e", (variant("A", 1.0), variant("B", 1.0)))


@pytest.fixture
def store() -> MemoryEvidence:
    return MemoryEvidence()


def test_what_changes_shares_begins_a_stage_and_nothing_else_does(store: MemoryEvidence) -> None:
    book = StageBook(store, SteppingClock())

    def stage_of(route: EndpointRoute) -> int:
        return book.stamp({"e": route})["e"].stage

    assert stage_of(ROUTE) == 1
    served = replace(
        ROUTE,
        variants=(replace(ROUTE.variants[0], instances=(InstanceRoute("i", "w/i"),)), ROUTE.variants[1]),
        shadows=(ShadowRoute("S", 0.5, "config-f1"),),
        capture=CaptureRoute("s3://b/p", 10.0, True, True),
        assignments="all",
        stage=77,
    )
    assert stage_of(served) == 1
    weighed = replace(ROUTE, variants=(variant("A", 1.0), variant("B", 2.0)))
    assert stage_of(weighed) == 2
    assert stage_of(ROUTE) == 3  # back again: another stretch of time
    assert stage_of(replace(ROUTE, sticky="session-id")) == 4
    assert stage_of(replace(ROUTE, variants=(variant("A", 1.0, "f2"), variant("B", 1.0, "f2")))) == 5
    shifting = replace(ROUTE, green=GreenRoute(0.1, (variant("A", 1.0, "f2"),)))
    assert stage_of(shifting) == 6
    assert stage_of(replace(shifting, green=GreenRoute(0.2, (variant("A", 1.0, "f2"),)))) == 7
    stages = store.find("e")
    assert [stage.ended_at_s for stage in stages] == [stage.started_at_s for stage in stages[1:]] + [None]


def test_a_new_controller_goes_on_with_the_stage(store: MemoryEvidence) -> None:
    clock = SteppingClock()
    assert StageBook(store, clock).stamp({"e": ROUTE})["e"].stage == 1
    assert StageBook(store, clock).stamp({"e": ROUTE})["e"].stage == 1
    assert StageBook(store, clock).stamp({"e": replace(ROUTE, sticky="session-id")})["e"].stage == 2
    assert len(store.find("e")) == 2


def test_an_endpoint_that_is_made_again_begins_a_stage(store: MemoryEvidence) -> None:
    clock = SteppingClock()
    book = StageBook(store, clock)
    assert book.stamp({"e": ROUTE, "other": replace(ROUTE, name="other")})["other"].stage == 1
    book.stamp({"other": replace(ROUTE, name="other")})
    assert store.find("e")[-1].ended_at_s is not None
    assert book.stamp({"e": ROUTE, "other": replace(ROUTE, name="other")})["e"].stage == 2
    # ... also when nobody was there to see it go.
    StageBook(store, clock).stamp({})
    assert store.open() == []


class FullDisk(MemoryEvidence):
    """A store that can't be written for a while."""

    full = True

    def begin(self, *arguments: object) -> object:  # type: ignore[override]
        if self.full:
            raise OSError("no space left on device")
        return super().begin(*arguments)  # type: ignore[arg-type]


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[Publisher, FullDisk, Path]]:
    store = FullDisk()
    made = Publisher(
        tmp_path,
        0,
        on_metrics=lambda boot, sequence, items: None,
        on_change=lambda: None,
        on_suspect=lambda instance_id, silent_s: None,
        stamp=StageBook(store, SteppingClock()).stamp,
    )
    yield made, store, tmp_path
    made.close()


def test_no_route_is_published_before_its_stage_is_kept(
    publisher: tuple[Publisher, FullDisk, Path],
) -> None:
    made, store, run_dir = publisher
    with pytest.raises(OSError, match="no space"):
        made.publish({"e": ROUTE})
    assert read_table(run_dir / "table.json") is None
    assert not made.acknowledged("e", ROUTE)
    store.full = False
    made.publish({"e": ROUTE})
    table = read_table(run_dir / "table.json")
    assert table is not None and table.endpoints["e"] == replace(ROUTE, stage=1)
    assert made.acknowledged("e", ROUTE)  # as control knows it: without its stage
    version = table.version
    made.publish({"e": ROUTE})
    again = read_table(run_dir / "table.json")
    assert again is not None and again.version == version
