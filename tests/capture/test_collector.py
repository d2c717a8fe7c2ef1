"""The controller's end of the spool: every record in its file once, whatever step a crash interrupts."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from understudy.capture import collector as collecting
from understudy.capture import growing, ledger
from understudy.capture.collector import Collector
from understudy.capture.reader import ObjectSource, read_window
from understudy.capture.records import CaptureRecord
from understudy.capture.segments import Segments
from understudy.core.errors import ApiError
from understudy.core.object_errors import insufficient_storage
from understudy.core.ports import Objects
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.objects import DiskObjects

PROGRAMS = Path(__file__).parent
KEY = re.compile(
    r"data/capture/churn/AllTraffic/2021/02/05/04/15-00-871-"
    r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\.jsonl"
)
HOUR_S = 3600.0


class _Reports:
    """Receives counts as the series do: once per source and number."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.newest: dict[str, int] = {}
        self.repeated = 0

    def __call__(self, source: str, number: int, counts: Mapping[tuple[str, str], int]) -> None:
        if number <= self.newest.get(source, 0):
            self.repeated += 1
            return
        self.newest[source] = number
        self.counts.update(counts)


class _Killed(BaseException):
    """The process dies here."""


class _Deadly:
    """Objects that kill before or after their n-th change."""

    def __init__(self, objects: Any) -> None:
        self._objects = objects
        self.fuse = float("inf")
        self.changes = 0

    def _step(self) -> None:
        self.changes += 1
        self.fuse -= 1
        if self.fuse < 0:
            self.fuse = float("inf")
            raise _Killed

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._objects, name)
        if name not in ("put", "delete"):
            return method

        def change(*arguments: Any, **named: Any) -> Any:
            self._step()
            try:
                return method(*arguments, **named)
            finally:
                self._step()

        return change


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Any, make_entropy: Any) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryObjects(clock)
    else:
        disk = DiskObjects(tmp_path / "objects", clock, make_entropy("disk"))
        yield disk
        disk.close()


@pytest.fixture
def spooled(
    spool: Path, make_record: Callable[..., CaptureRecord], make_frame: Callable[[CaptureRecord], bytes]
) -> Callable[..., None]:
    """Put records into the spool as one complete segment."""
    count = 0

    def put(*ids: str, suffix: str = ".spool", tail: bytes = b"", **changes: Any) -> None:
        nonlocal count
        count += 1
        frames = b"".join(make_frame(make_record(one, **changes)) for one in ids)
        (spool / f"{count:015d}-0-ab-{count}{suffix}").write_bytes(frames + tail)

    return put


def _ids(store: Objects, bucket: str = "box", prefix: str = "data/capture/churn/AllTraffic/") -> list[str]:
    ids = []
    for info in store.list(bucket, prefix):
        assert info.key.endswith(".jsonl")
        body = b"".join(store.read(bucket, info.key))
        assert body.endswith(b"\n")
        ids += [json.loads(line)["eventMetadata"]["eventId"] for line in body.splitlines()]
    return ids


def test_records_come_into_a_file_of_their_hour_and_it_grows(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None]
) -> None:
    reports = _Reports()
    collector = Collector(spool, store, store, clock, make_entropy(""), reports)
    spooled("e-1", "e-2")
    assert collector.collect_once() is False
    (first,) = store.list("box")
    assert KEY.fullmatch(first.key)
    assert _ids(store) == ["e-1", "e-2"]
    spooled("e-3")
    collector.collect_once()
    assert [one.key for one in store.list("box")] == [first.key]
    assert _ids(store) == ["e-1", "e-2", "e-3"]
    assert reports.counts == {("churn", "AllTraffic"): 3}
    assert [path.name for path in spool.iterdir()] == ["ledger.json"]
    assert store.list(growing.SCRATCH) == []


def test_endpoints_variants_and_hours_have_files_of_their_own(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None]
) -> None:
    reports = _Reports()
    spooled("a")
    spooled("b", variant="Shadow-01")
    spooled("c", at_s=clock.at_s + HOUR_S)
    spooled("d", destination="s3://other")
    Collector(spool, store, store, clock, make_entropy(""), reports).collect_once()
    folders = [one.key.rpartition("/")[0] for one in store.list("box")]
    assert folders == [
        "data/capture/churn/AllTraffic/2021/02/05/04",
        "data/capture/churn/AllTraffic/2021/02/05/05",
        "data/capture/churn/Shadow-01/2021/02/05/04",
    ]
    assert _ids(store, "other", "churn/AllTraffic/") == ["d"]
    assert reports.counts == {("churn", "AllTraffic"): 3, ("churn", "Shadow-01"): 1}


def test_a_finished_file_has_a_manifest_where_no_reader_lists(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(growing, "REWRITE_BYTES", 1)  # grows by joining
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    for number in range(3):
        spooled(f"e-{number}", at_s=clock.at_s + number)
        collector.collect_once()
    (file,) = store.list("box")
    assert "-" in file.etag
    clock.at_s += HOUR_S
    collector.collect_once()
    manifest_info, file = store.list("box")
    body = b"".join(store.read("box", file.key))
    assert file.etag == hashlib.md5(body).hexdigest()  # one piece again
    name = file.key.rpartition("/")[2].removesuffix(".jsonl")
    folder = "data/capture/.manifests/churn/AllTraffic/2021/02/05/04"
    assert manifest_info.key == f"{folder}/{name}.manifest.json"
    assert json.loads(b"".join(store.read("box", manifest_info.key))) == {
        "file": file.key,
        "records": 3,
        "bytes": len(body),
        "firstTime": "2021-02-05T04:15:00.871Z",
        "lastTime": "2021-02-05T04:15:02.871Z",
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    spooled("late")
    collector.collect_once()
    assert len(store.list("box", "data/capture/churn/")) == 2  # a finished file stays as it is
    assert sorted(_ids(store)) == ["e-0", "e-1", "e-2", "late"]


def test_a_large_file_that_never_grew_is_finished_as_it_is(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(growing, "REWRITE_BYTES", 1)  # counts as large
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    spooled("e-1", at_s=clock.at_s)
    collector.collect_once()
    (before,) = store.list("box")
    assert before.etag.endswith("-1")
    clock.at_s += HOUR_S
    collector.collect_once()
    manifest_info, file = store.list("box")
    assert file == before and manifest_info.key.endswith(".manifest.json")


def test_a_file_in_large_pieces_is_finished_as_it_is(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(growing, "REWRITE_BYTES", 1)
    monkeypatch.setattr(growing, "LARGE_PIECE_BYTES", 1)
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    for number in range(3):
        spooled(f"e-{number}")
        collector.collect_once()
    (grown,) = store.list("box")
    clock.at_s += HOUR_S
    collector.collect_once()
    manifest_info, file = store.list("box")
    assert file == grown
    manifest = json.loads(b"".join(store.read("box", manifest_info.key)))
    assert manifest["sha256"] == hashlib.sha256(b"".join(store.read("box", file.key))).hexdigest()


def test_files_roll_by_size(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(collecting, "ROLL_BYTES", 1500)
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    for number in range(9):
        spooled(f"e-{number}")
        collector.collect_once()
    assert len(store.list("box", "data/capture/churn/")) == 2
    assert len(store.list("box", "data/capture/.manifests/")) == 1
    assert sorted(_ids(store)) == [f"e-{number}" for number in range(9)]


def test_torn_segments_of_routers_that_are_gone_are_taken_over(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None],
    make_record: Callable[..., CaptureRecord], make_frame: Callable[[CaptureRecord], bytes],
) -> None:  # fmt: skip
    torn = make_frame(make_record("torn"))[:-3]
    spooled("e-1", "e-2", suffix=".open", tail=torn)
    spooled(suffix=".open", tail=torn)
    spooled(suffix=".open")
    reports = _Reports()
    Collector(spool, store, store, clock, make_entropy(""), reports).collect_once()
    assert _ids(store) == ["e-1", "e-2"]
    assert reports.counts == {("churn", "AllTraffic"): 2}
    assert [path.name for path in spool.iterdir()] == ["ledger.json"]


def test_a_living_routers_segment_is_left_alone(
    spool: Path, store: Any, clock: Any, make_entropy: Any, make_record: Callable[..., CaptureRecord],
    make_frame: Callable[[CaptureRecord], bytes],
) -> None:  # fmt: skip

    segments = Segments(spool, "0-ab", lambda: 1.6e9, 0)
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    assert segments.append([[make_frame(make_record("e-1"))]], sync=False) == 1
    collector.collect_once()
    assert len(list(spool.glob("*.open"))) == 1
    assert segments.append([[make_frame(make_record("e-2"))]], sync=False) == 1
    segments.rotate()
    collector.collect_once()
    assert _ids(store) == ["e-1", "e-2"]


def test_damage_in_a_complete_segment_is_kept_aside(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None]
) -> None:
    spooled("e-1", tail=b"\0" * 100)
    Collector(spool, store, store, clock, make_entropy(""), _Reports()).collect_once()
    assert _ids(store) == ["e-1"]
    (kept,) = spool.glob("*.damaged")
    assert kept.read_bytes() == b"\0" * 100


def test_files_that_somebody_removed_or_changed_are_not_touched_again(
    spool: Path, store: Any, clock: Any, make_entropy: Any, spooled: Callable[..., None]
) -> None:
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    spooled("e-1")
    collector.collect_once()
    (first,) = store.list("box")
    store.delete("box", first.key)
    spooled("e-2")
    collector.collect_once()
    (second,) = store.list("box")
    assert _ids(store) == ["e-2"]
    store.put("box", second.key, [b"mine\n"])
    spooled("e-3")
    collector.collect_once()
    assert b"".join(store.read("box", second.key)) == b"mine\n"
    store.delete("box", second.key)
    assert _ids(store) == ["e-3"]
    store.delete("box", *[one.key for one in store.list("box")])
    store.delete_bucket("box")
    spooled("e-4")
    collector.collect_once()
    assert _ids(store) == ["e-4"]


def test_a_bad_destination_holds_up_nobody(
    spool: Path, clock: Any, make_entropy: Any, spooled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reports = MemoryObjects(clock), _Reports()
    create_bucket = store.create_bucket

    def refusing(bucket: str) -> bool:
        if bucket == "others":
            raise ApiError("not yours", code="AccessDenied", status=403)
        return create_bucket(bucket)

    monkeypatch.setattr(store, "create_bucket", refusing)
    monkeypatch.setattr(collecting, "RETRY_S", 0.0)
    collector = Collector(spool, store, store, clock, make_entropy(""), reports)
    spooled("e-1")
    spooled("f-1", destination="s3://others/p", variant="F")
    for _ in range(3):
        collector.collect_once()
    spooled("e-2")
    spooled("f-2", destination="s3://others/p", variant="F")
    collector.collect_once()
    assert _ids(store) == ["e-1", "e-2"]
    assert reports.counts == {("churn", "AllTraffic"): 2}
    assert list(spool.glob("*.spool"))
    monkeypatch.setattr(store, "create_bucket", create_bucket)
    reborn = Collector(spool, store, store, clock, make_entropy("again"), reports)
    reborn.collect_once()
    assert sorted(_ids(store, "others", "p/churn/F/")) == ["f-1", "f-2"]
    assert reports.counts == {("churn", "AllTraffic"): 2, ("churn", "F"): 2}
    assert not list(spool.glob("*.spool"))


def test_a_full_store_leaves_the_spool_and_goes_on_once_there_is_room(
    spool: Path, clock: Any, make_entropy: Any, spooled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reports = MemoryObjects(clock), _Reports()
    collector = Collector(spool, store, store, clock, make_entropy(""), reports)
    spooled("e-0")
    collector.collect_once()
    put = store.put

    def full(bucket: str, key: str, body: Any, **named: Any) -> Any:
        raise insufficient_storage()

    monkeypatch.setattr(store, "put", full)
    for number in range(1, 6):
        spooled(f"e-{number}")
        assert collector.collect_once() is False
    assert len(list(spool.glob("*.spool"))) == 5
    monkeypatch.setattr(store, "put", put)
    while len(list(spool.glob("*.spool"))):
        collector.collect_once()
    assert len(store.list("box")) == 1  # not one file per attempt
    assert _ids(store) == [f"e-{number}" for number in range(6)]
    assert reports.counts == {("churn", "AllTraffic"): 6}


@pytest.mark.parametrize("rewrite_bytes", [1, 1 << 20])
def test_killed_at_every_step_each_record_is_there_once_and_counted_once(
    tmp_path: Path, clock: Any, make_entropy: Any, make_record: Callable[..., CaptureRecord],
    make_frame: Callable[[CaptureRecord], bytes], monkeypatch: pytest.MonkeyPatch, rewrite_bytes: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(growing, "REWRITE_BYTES", rewrite_bytes)
    monkeypatch.setattr(collecting, "ROLL_BYTES", 2000)
    ids = [f"e-{number}" for number in range(14)]

    def story(fuse: float) -> int:
        """Collect seven segments, die at one step and go on; return how many steps there were."""
        place = tmp_path / f"{rewrite_bytes}-{fuse}"
        spool = place / "spool"
        spool.mkdir(parents=True)
        store, reports = MemoryObjects(clock), _Reports()
        deadly = _Deadly(store)
        deadly.fuse = fuse

        def saving(directory: Path, value: ledger.Ledger) -> None:
            deadly._step()
            ledger.save(directory, value)
            deadly._step()

        def report(source: str, number: int, counts: Mapping[tuple[str, str], int]) -> None:
            deadly._step()
            reports(source, number, counts)
            deadly._step()

        unlink = Path.unlink

        def unlinking(path: Path, missing_ok: bool = False) -> None:
            deadly._step()
            unlink(path, missing_ok)

        collector = Collector(spool, deadly, store, clock, make_entropy("0"), report)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(collecting, "save", saving)
            patch.setattr(Path, "unlink", unlinking)
            for number in range(7):
                pair = ids[2 * number : 2 * number + 2]
                frames = [
                    make_frame(make_record(pair[0])),
                    make_frame(make_record(pair[1], variant="AllTraffic" if number % 2 else "Shadow-01")),
                ]
                (spool / f"{number:03d}.spool").write_bytes(b"".join(frames))
                try:
                    collector.collect_once()
                except _Killed:
                    collector = Collector(  # type: ignore[arg-type]
                        spool, deadly, store, clock, make_entropy(f"reborn {fuse}"), report
                    )
            collector.collect_once()
        found = _ids(store) + _ids(store, prefix="data/capture/churn/Shadow-01/")
        assert sorted(found) == sorted(ids), f"killed at step {fuse}"
        assert sum(reports.counts.values()) == len(ids), f"killed at step {fuse}"
        assert reports.counts["churn", "Shadow-01"] == 4
        assert not list(spool.glob("*.spool"))
        assert store.list(growing.SCRATCH) == []
        for info in store.list("box", "data/capture/.manifests/"):
            manifest = json.loads(b"".join(store.read("box", info.key)))
            body = b"".join(store.read("box", manifest["file"]))
            assert hashlib.sha256(body).hexdigest() == manifest["sha256"]
            assert body.count(b"\n") == manifest["records"]
        return deadly.changes

    steps = story(float("inf"))
    assert steps > 60
    for fuse in range(steps):
        story(fuse)


@pytest.mark.parametrize("seed", range(3))
def test_killed_writers_and_a_killed_collector_lose_and_double_nothing(
    tmp_path: Path, clock: Any, make_entropy: Any, seed: int
) -> None:
    """Real processes, really killed: what was acknowledged is in the files, once, and counted."""
    spool, objects, counts = tmp_path / "spool", tmp_path / "objects", tmp_path / "counts"
    acknowledged: set[str] = set()
    collector: subprocess.Popen[bytes] | None = None

    def collect() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(PROGRAMS / "spool_collector.py"), str(spool), str(objects), str(counts)]
        )

    for round_number in range(4):
        writer = subprocess.Popen(
            [
                sys.executable, str(PROGRAMS / "spooling_writer.py"), str(spool),
                "--count", "100000", "--boot", f"b{round_number}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert writer.stdout is not None
        collector = collect()
        for _ in range(100 + 997 * ((seed + round_number) % 4)):
            writer.stdout.readline()
        collector.kill()
        collector.wait()
        writer.kill()
        for line in writer.stdout:
            if line.endswith("\n") and line.startswith("kept"):
                acknowledged.add(line.split()[1])
        writer.wait()
    collector = collect()
    deadline_s = time.monotonic() + 60.0
    while list(spool.glob("*.spool")) or list(spool.glob("*.open")):
        assert time.monotonic() < deadline_s and collector.poll() is None
        time.sleep(0.05)
    collector.terminate()
    assert collector.wait() == 0
    store = DiskObjects(objects, clock, make_entropy("look"))
    source = ObjectSource(store, "box")
    found = [
        one.event_id
        for variant in "AB"
        for one in read_window(source, "s3://box/data", "churn", variant, 0.0, 4e9)
    ]
    store.close()
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    told = _Reports()
    for line in counts.read_text().splitlines():
        name, number, rendered = line.split(" ", 2)
        told(name, int(number), {("churn", variant): n for variant, n in json.loads(rendered).items()})
    assert sum(told.counts.values()) == len(found)


def test_a_destination_that_refuses_never_raises(
    spool: Path, clock: Any, make_entropy: Any, spooled: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryObjects(clock)

    def refuse(bucket: str) -> bool:
        raise ApiError("no", code="AccessDenied", status=403)

    monkeypatch.setattr(store, "create_bucket", refuse)
    spooled("e-1")
    collector = Collector(spool, store, store, clock, make_entropy(""), _Reports())
    assert collector.collect_once() is False
    assert len(list(spool.glob("*.spool"))) == 1
