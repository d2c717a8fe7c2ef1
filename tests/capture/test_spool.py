"""The router's end of the spool: bounds, failing disks, acknowledgements, kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.capture.frames import read_frames
from understudy.capture.records import CaptureRecord
from understudy.capture.spool import SpoolWriter

PATIENCE_S = 20.0
WRITER = Path(__file__).parent / "spooling_writer.py"


class _Sheds:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, endpoint: str, variant: str, outcome: str, count: int) -> None:
        with self._lock:
            self.counts[outcome] += count


def _writer(spool: Path, sheds: _Sheds, **options: int) -> SpoolWriter:
    return SpoolWriter(spool, 0, "ab12", on_shed=sheds, wall_s=lambda: 1.6e9, **options)


def _kept(spool: Path) -> list[str]:
    """Event ids in the spool, in order of the segments' names."""
    return [
        json.loads(frame.line)["eventMetadata"]["eventId"]
        for path in sorted(spool.iterdir())
        for frame in read_frames(path.read_bytes())
    ]


def _until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.005)


def test_records_come_to_the_spool_in_order(spool: Path, make_record: Callable[..., CaptureRecord]) -> None:
    sheds = _Sheds()
    writer = _writer(spool, sheds)
    ids = [f"e-{number}" for number in range(3000)]
    assert all(writer.offer(make_record(one)) for one in ids)
    writer.close(PATIENCE_S)
    assert _kept(spool) == ids
    assert not sheds.counts
    assert {path.suffix for path in spool.iterdir()} == {".spool"}


def test_a_segment_is_completed_while_nothing_more_comes(
    spool: Path, make_record: Callable[..., CaptureRecord]
) -> None:
    writer = _writer(spool, _Sheds())
    writer.offer(make_record())
    _until(lambda: [path.suffix for path in spool.iterdir()] == [".spool"])
    writer.close(PATIENCE_S)


def test_acknowledged_records_are_in_the_file(spool: Path, make_record: Callable[..., CaptureRecord]) -> None:
    writer = _writer(spool, _Sheds())
    told: list[bool] = []
    for number in range(50):
        seen: list[list[str]] = []

        def acknowledge(kept: bool, seen: list[list[str]] = seen) -> None:
            told.append(kept)
            seen.append(_kept(spool))

        writer.offer(make_record(f"e-{number}"), acknowledge)
        _until(lambda seen=seen: bool(seen))  # type: ignore[misc]
        assert seen[0][-1] == f"e-{number}"
    writer.close(PATIENCE_S)
    assert told == [True] * 50


def test_what_does_not_fit_the_queue_is_shed_at_once(
    spool: Path, make_record: Callable[..., CaptureRecord]
) -> None:
    sheds = _Sheds()
    writer = _writer(spool, sheds, max_queued_bytes=1 << 20)
    large = make_record(input_body=b"x" * (2 << 20))
    told: list[bool] = []
    assert writer.offer(large, told.append) is False
    assert told == []
    taken = sum(writer.offer(make_record(f"e-{number}")) for number in range(20_000))
    assert writer.queued_bytes <= 1 << 20
    writer.close(PATIENCE_S)
    assert len(_kept(spool)) == taken
    assert sheds.counts == {"queue": 20_001 - taken}
    assert writer.queued_bytes == 0


def test_after_close_all_is_shed(spool: Path, make_record: Callable[..., CaptureRecord]) -> None:
    sheds = _Sheds()
    writer = _writer(spool, sheds)
    writer.close(PATIENCE_S)
    assert writer.offer(make_record()) is False
    assert sheds.counts == {"shutdown": 1}


def test_without_time_to_write_the_rest_is_shed_and_told(
    spool: Path, make_record: Callable[..., CaptureRecord]
) -> None:
    sheds = _Sheds()
    writer = _writer(spool, sheds)
    told: list[bool] = []
    for number in range(5000):
        writer.offer(make_record(f"e-{number}"), told.append)
    writer.close(0.0)
    kept = _kept(spool)
    assert len(kept) + sheds.counts["shutdown"] == 5000
    assert told.count(True) == len(kept) and told.count(False) == sheds.counts["shutdown"]


def test_a_spool_that_cannot_be_made_sheds_and_recovers(
    spool: Path, make_record: Callable[..., CaptureRecord]
) -> None:
    spool.rmdir()
    spool.write_bytes(b"in the way")
    sheds = _Sheds()
    writer = _writer(spool, sheds)
    told: list[bool] = []
    writer.offer(make_record("lost"), told.append)
    _until(lambda: told == [False])
    assert sheds.counts == {"disk": 1}
    spool.unlink()
    number = 0
    while True not in told:  # it looks again by itself
        before = len(told)
        writer.offer(make_record(f"e-{number}"), told.append)
        number += 1
        _until(lambda before=before: len(told) > before)  # type: ignore[misc]
    writer.close(PATIENCE_S)
    assert _kept(spool) == [f"e-{number - 1}"]
    assert sheds.counts == {"disk": number}


def test_the_disks_reserve_is_left_to_others(spool: Path, make_record: Callable[..., CaptureRecord]) -> None:
    disk = os.statvfs(spool)
    if disk.f_bavail * disk.f_frsize > disk.f_blocks * disk.f_frsize // 20:
        sheds = _Sheds()
        writer = _writer(spool, sheds, reserve_bytes=1 << 62)  # at most 5 % are kept free, and they are
        writer.offer(make_record())
        writer.close(PATIENCE_S)
        assert not sheds.counts
    else:
        pytest.skip("this disk is fuller than 95 %")


def test_a_disk_that_takes_half_a_write_leaves_no_torn_frame(spool: Path) -> None:
    """Files of the process may not grow beyond 100,000 bytes: writes end in the middle of a frame."""
    ended = subprocess.run(
        [sys.executable, str(WRITER), str(spool), "--count", "2000", "--file-limit", "100000"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = [line.split() for line in ended.stdout.splitlines()]
    acknowledged = [line[1] for line in told if line[0] == "kept"]
    refused = [line[1] for line in told if line[0] == "shed"]
    assert len(acknowledged) + len(refused) == 2000
    assert len(acknowledged) > 500 and refused, "the limit was to be met, and passed"
    assert sorted(_kept(spool)) == sorted(acknowledged)
    assert ended.stderr.splitlines()[-1] == f"sheds disk={len(refused)}"
    for path in spool.iterdir():
        *_, last = read_frames(path.read_bytes())
        assert last.end == path.stat().st_size


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_any_moment_what_was_acknowledged_is_there_once(spool: Path, seed: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, str(WRITER), str(spool), "--count", "1000000"], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for _ in range(1 + seed * 137):
        writer.stdout.readline()
    writer.kill()
    # What it had told before the kill lies in the pipe.
    acknowledged = [
        line.split()[1] for line in writer.stdout if line.endswith("\n") and line.startswith("kept")
    ]
    writer.wait()
    kept = _kept(spool)
    assert len(set(kept)) == len(kept)
    assert set(acknowledged) <= set(kept)
