"""What killed routers leave: handed in once, records that died with them counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from understudy.control.leftovers import Leftovers
from understudy.control.recording import Recorder
from understudy.dataplane.accounting import Ledger
from understudy.dataplane.journal import AREA_BYTES, CELLS_BYTES, Journal
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_series import MemorySeries
from understudy.system import RealClock


class Spooled:
    """What came out of the spool, as a test has it."""

    def __init__(self) -> None:
        self.counts: dict[str, Mapping[tuple[str, str], int] | None] = {}
        self.remembered: list[set[str]] = []

    def taken(self, boot: str) -> Mapping[tuple[str, str], int] | None:
        return self.counts.get(boot, {})

    def remember(self, boots: Collection[str]) -> None:
        self.remembered.append(set(boots))


class Rig:
    """A recorder, a folder of journals, and who hands them in."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "counts"
        self.recorder = Recorder(MemorySeries(), RealClock(), MemoryEvidence())
        self.spooled = Spooled()
        self.leftovers = Leftovers(self.folder, {"capture": self.spooled}, self.recorder.on_metrics)

    def router(self, boot: str) -> Ledger:
        return Ledger(Journal(self.folder / f"0-{boot}.counts"), lambda: 1_700_000_000)

    def totals(self, variant: str = "v") -> Any:
        return self.recorder.totals()[0].get(("e", variant))


def die(ledger: Ledger) -> None:
    assert ledger.journal is not None
    ledger.journal.close()


def test_counts_of_a_dead_router_are_handed_in_once_and_of_a_living_one_never(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    living, dead = rig.router("aa"), rig.router("bb")
    living.tally("e", "v", "c").answered(1.0, 10, 1)
    dead.tally("e", "v", "c").answered(1.0, 10, 1)
    batch = dead.next_batch(1_700_000_000)
    assert batch is not None
    rig.recorder.on_metrics("bb", batch["seq"], batch["data"])  # recorded, the acknowledgement was lost
    dead.tally("e", "v", "c").answered(1.0, 30, 1)
    dead.note("shadow", "e", "w", "mirrored")
    dead.refuse("ValidationError")
    die(dead)
    for _ in range(3):
        rig.leftovers.hand_in()
    assert rig.totals().invocations == 2
    assert rig.totals().model_latency_us.sum == 40
    assert rig.totals("w").shadow == {"mirrored": 1}
    assert rig.recorder.totals()[1] == {"ValidationError": 1}
    assert [path.name for path in rig.folder.iterdir()] == ["0-aa.counts"]
    assert rig.spooled.remembered[-1] == {"aa"}
    die(living)


def test_records_that_never_came_out_of_the_spool_are_counted_once_all_have(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    ledger = rig.router("cc")
    for _ in range(10):
        ledger.expect("capture", "e", "v")
    ledger.note("capture", "e", "v", "queue", 3)
    die(ledger)
    rig.spooled.counts["cc"] = None  # more may come
    rig.leftovers.hand_in()
    assert rig.totals().capture == {"queue": 3}
    rig.spooled.counts["cc"] = {("e", "v"): 5}
    rig.leftovers.hand_in()
    rig.leftovers.hand_in()
    assert rig.totals().capture == {"queue": 3, "shutdown": 2}
    assert not list(rig.folder.iterdir())


def test_a_controller_that_is_killed_between_the_steps_changes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    ledger = rig.router("dd")
    ledger.tally("e", "v", "c").answered(1.0, 10, 1)
    ledger.expect("capture", "e", "v")
    die(ledger)
    path = rig.folder / "0-dd.counts"
    content = path.read_bytes()
    for _ in range(3):  # as if the file had not been removed yet
        path.write_bytes(content)
        Leftovers(rig.folder, {"capture": rig.spooled}, rig.recorder.on_metrics).hand_in()
    assert rig.totals().invocations == 1
    assert rig.totals().capture == {"shutdown": 1}


def test_a_file_that_says_nothing_is_removed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.folder.mkdir()
    (rig.folder / "0-ee.counts").write_bytes(bytes(2 * AREA_BYTES + CELLS_BYTES))
    (rig.folder / "0-ff.counts").write_bytes(b"")
    rig.leftovers.hand_in()
    assert not list(rig.folder.iterdir())
