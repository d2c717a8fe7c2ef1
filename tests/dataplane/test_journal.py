"""Counts that outlive their router: whatever moment it is killed at, what it counted is read back once."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.dataplane import journal as journals
from understudy.dataplane.accounting import Ledger, Noted, read_back
from understudy.dataplane.journal import Journal, read_journal

KEYS = [("e", "v", "c"), ("e", "w", "c"), ("f", "v", "d")]
OUTCOMES = [("shadow", "mirrored"), ("capture", "queue"), ("capture", "sampling"), ("capture", "disk")]


def tallied(items: list[dict[str, Any]]) -> Counter[str]:
    """Add up items of batches to plain numbers."""
    total: Counter[str] = Counter()
    for item in items:
        place = f"{item['endpoint']}/{item['variant']}"
        for member in ("invocations", "errors_4xx", "errors_5xx", "model_errors"):
            total[f"{place}/{member}"] += item.get(member, 0)
        for member in ("model_latency_us", "overhead_latency_us"):
            if member in item:
                total[f"{place}/{member}/count"] += item[member][0]
                total[f"{place}/{member}/sum"] += item[member][1]
        for member in ("shadow", "capture", "refused"):
            for word, count in item.get(member, {}).items():
                total[f"{place}/{member}/{word}"] += count
    return +total


OPERATION = st.one_of(
    st.tuples(st.just("answered"), st.integers(0, 2), st.integers(0, 2**31), st.sampled_from([1.0, 0.5])),
    st.tuples(st.just("handed"), st.integers(0, 2), st.just(1.0), st.just(0)),
    st.tuples(st.just("copied"), st.integers(0, 2), st.sampled_from([1.0, 0.5]), st.integers(0, 2)),
    st.tuples(st.just("kept"), st.integers(0, 2), st.integers(0, 2**31), st.booleans()),
    st.tuples(st.just("failed"), st.integers(0, 2), st.sampled_from([0, 400, 503]), st.booleans()),
    st.tuples(st.just("noted"), st.integers(0, 2), st.sampled_from(OUTCOMES), st.integers(1, 3)),
    st.tuples(st.just("expected"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("refused"), st.sampled_from(["A", "B"]), st.just(0), st.just(0)),
    st.tuples(st.just("second"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("sent"), st.just(0), st.booleans(), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATION, max_size=80), st.booleans())
def test_whatever_was_counted_is_handed_in_once(steps: list[Any], small: bool) -> None:
    """A controller that keeps what it is sent, by sequence, has every count once in the end."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if small:  # room for few cells: snapshots come often
            patch.setattr(journals, "CELLS_BYTES", 2 * journals._LONGEST_NAME_BYTES + 512)
        path = Path(folder) / "counts" / "0-ab.counts"
        now_s = 100
        ledger = Ledger(Journal(path), lambda: now_s)
        plain, kept = Ledger(), {}
        opened: list[tuple[int, float]] = []
        expected: Counter[tuple[str, str, str]] = Counter()
        for kind, which, one, two in steps:
            both = (ledger, plain)
            if kind == "answered":
                ledger.tally(*KEYS[which]).begin(two)
                for each in both:
                    each.tally(*KEYS[which]).answered(two, one, one // 2)
            elif kind == "handed":
                ledger.tally(*KEYS[which]).begin(one)
                opened.append((which, one))
            elif kind == "copied":  # handed over, for two shadows; of one the outcome is not known any more
                place = KEYS[which][:2]
                also = tuple(ledger.expectation("shadow", *place[:1], name) for name in ("s", "t"))
                ledger.tally(*KEYS[which]).begin(one, also)
                opened.append((which, one))
                if two == 2:  # the copy has no result
                    mirrored = Noted(ledger, "shadow", place[0], "s", "mirrored")
                    ledger.tally(place[0], "s", "c").begin(one, (mirrored,))
                    plain.note("shadow", place[0], "s", "mirrored")
                    plain.tally(place[0], "s", "c").failed(
                        one, 503, by_model=False, model_us=None, overhead_us=None, handed=False
                    )
                elif two:
                    ledger.note("shadow", place[0], "s", "queue")
                    plain.note("shadow", place[0], "s", "queue")
                else:
                    plain.note("shadow", place[0], "s", "shutdown")
                plain.note("shadow", place[0], "t", "shutdown")
            elif kind == "kept":  # answered, and a record is to come, or was not drawn
                place = KEYS[which][:2]
                told = (
                    ledger.expectation("capture", *place)
                    if two
                    else Noted(ledger, "capture", *place, "sampling")
                )
                ledger.tally(*KEYS[which]).begin(1.0)
                ledger.tally(*KEYS[which]).answered(1.0, one, 7, (told,))
                plain.tally(*KEYS[which]).answered(1.0, one, 7)
                if two:
                    expected["capture", *place] += 1
                else:
                    plain.note("capture", *place, "sampling")
            elif kind == "failed":
                for each in both:
                    each.tally(*KEYS[which]).failed(
                        1.0,
                        one,
                        by_model=two,
                        model_us=5 if two else None,
                        overhead_us=None,
                        handed=False,
                    )
            elif kind == "noted":
                for each in both:
                    each.note(one[0], *KEYS[which][:2], one[1], two)
                if one in (("capture", "queue"), ("capture", "disk")):
                    expected["capture", *KEYS[which][:2]] -= two
            elif kind == "expected":
                ledger.expect("capture", *KEYS[which][:2])
                expected["capture", *KEYS[which][:2]] += 1
            elif kind == "refused":
                for each in both:
                    each.refuse(which)
            elif kind == "second":
                now_s += 1
                ledger.tick(now_s)
                ledger.close_second(now_s)
            else:
                batch = ledger.next_batch(now_s)
                if batch is not None and one:
                    kept[batch["seq"]] = batch["data"]
                    if two:
                        ledger.acknowledge(batch["seq"])
        # What has no result when the router is killed has failed.
        for which, share in opened:
            plain.tally(*KEYS[which]).failed(
                share, 503, by_model=False, model_us=None, overhead_us=None, handed=False
            )
        assert ledger.journal is not None
        content = path.read_bytes()  # as a kill -9 leaves it
        ledger.journal.close()
        dead = Path(folder) / "dead"
        dead.write_bytes(content)
        with dead.open("rb") as file:
            found = read_journal(file.fileno())
        assert found is not None and found.at_s == now_s
        batches, still_expected = read_back(found)
        for batch in batches:
            kept.setdefault(batch["seq"], batch["data"])
        plain.close_second(now_s)
        whole = plain.next_batch(now_s)
        told = tallied([item for data in kept.values() for item in data])
        assert told == tallied([] if whole is None else whole["data"])
        assert still_expected == {place: count for place, count in expected.items() if count}


def test_a_cell_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "counts" / "0-ab.counts"
    ledger = Ledger(Journal(path), lambda: 5)
    assert ledger.journal is not None
    tally = ledger.tally("e", "v", "c")
    tally.answered(1.0, 10, 1)
    before = ledger.journal.at
    tally.answered(1.0, 20, 2)
    content = bytearray(path.read_bytes())
    for torn in range(16):  # the last cell, written up to some byte
        copy = bytearray(content)
        copy[before + torn : before + 16] = bytes(16 - torn)
        (tmp_path / "torn").write_bytes(copy)
        with (tmp_path / "torn").open("rb") as file:
            found = read_journal(file.fileno())
        assert found is not None
        [batch] = read_back(found)[0]
        # Its last field, the generation (1), has its only byte that is not 0 at 12.
        assert batch["data"][0]["invocations"] == (2 if torn > 12 else 1)


def test_a_snapshot_that_is_not_whole_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "counts" / "0-ab.counts"
    ledger = Ledger(Journal(path), lambda: 5)
    assert ledger.journal is not None
    ledger.tally("e", "v", "c").answered(1.0, 10, 1)
    before = path.read_bytes()
    assert ledger.next_batch(5) is not None
    after = path.read_bytes()
    assert struct.unpack_from("=I", after, 0) != struct.unpack_from("=I", before, 0)
    changed = [at for at in range(journals.AREA_BYTES) if before[at] != after[at]]
    for cut in (changed[0], changed[0] + 3, changed[len(changed) // 2], changed[-1]):
        mixed = after[:cut] + before[cut : journals.AREA_BYTES] + after[journals.AREA_BYTES :]
        (tmp_path / "mixed").write_bytes(mixed)
        with (tmp_path / "mixed").open("rb") as file:
            found = read_journal(file.fileno())
        assert found is not None
        [batch] = read_back(found)[0]
        assert (batch["seq"], batch["data"][0]["invocations"]) == (1, 1)


def test_a_full_disk_later_on_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "counts" / "0-ab.counts"
    Journal(path).close()
    assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_what_does_not_fit_any_more_ends_the_journal_and_not_the_router(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "AREA_BYTES", 2048)
    ledger = Ledger(Journal(tmp_path / "counts" / "0-ab.counts"), lambda: 5)
    for number in range(100):
        ledger.tally("e", f"v{number}", "c").answered(1.0, 10, 1)
    assert ledger.next_batch(5) is not None
    assert ledger.journal is None
    ledger.tally("e", "v", "c").answered(1.0, 10, 1)


def test_a_killed_writer_frees_the_lock_and_leaves_its_counts(tmp_path: Path) -> None:
    program = tmp_path / "writer.py"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from understudy.dataplane.accounting import Ledger\n"
        "from understudy.dataplane.journal import Journal\n"
        "ledger = Ledger(Journal(Path(sys.argv[1])), lambda: 7)\n"
        "tally = ledger.tally('e', 'v', 'c')\n"
        "for number in range(1, 10**9):\n"
        "    tally.answered(1.0, 1, 0)\n"
        "    if number % 1000 == 0:\n"
        "        print(number, flush=True)\n"
        "    if number % 7777 == 0:\n"
        "        batch = ledger.next_batch(7)\n"
        "        ledger.acknowledge(batch['seq'])\n"
        "        print('sent', sum(item['invocations'] for item in batch['data']), flush=True)\n"
    )
    path = tmp_path / "counts" / "3-ab.counts"
    with subprocess.Popen([sys.executable, str(program), str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with path.open("rb+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for _ in range(30):
            writer.stdout.readline()
        time.sleep(0.0123)
        os.kill(writer.pid, signal.SIGKILL)
        lines = writer.stdout.read().split(b"\n")
    assert lines
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = read_journal(file.fileno())
    assert found is not None
    batches, _ = read_back(found)
    under_way = sum(item["invocations"] for batch in batches for item in batch["data"])
    assert 0 < under_way < 3 * 7777
