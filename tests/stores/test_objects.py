"""The store on disk: what survives crashes, full disks and hostile names; and how much memory it takes."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from understudy.core.errors import ApiError
from understudy.core.ports import Joined
from understudy.stores import objects as objects_module
from understudy.stores.objects import DiskObjects

SOURCE = Path(objects_module.__file__).parents[2]


class _Clock:
    def now_s(self) -> float:
        return 1_700_000_000.0

    def monotonic_s(self) -> float:
        return 0.0


class _Entropy:
    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        return os.urandom(length_bytes).hex()


def _open(root: Path) -> DiskObjects:
    return DiskObjects(root, _Clock(), _Entropy())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def store(root: Path) -> Iterator[DiskObjects]:
    opened = _open(root)
    opened.create_bucket("box")
    yield opened
    opened.close()


def _data_files(root: Path) -> list[Path]:
    return [path for folder in ("data", "incoming") for path in (root / folder).rglob("*") if path.is_file()]


def _content(store: DiskObjects, key: str) -> bytes:
    return b"".join(store.read("box", key))


def test_everything_survives_a_restart(store: DiskObjects, root: Path) -> None:
    info = store.put("box", "k", [b"data"], headers={"content-type": "a/b"}, metadata={"a": "ü"})
    store.close()
    again = _open(root)
    assert again.head("box", "k") == info
    assert _content(again, "k") == b"data"
    assert [name for name, _ in again.list_buckets()] == ["box"]
    again.close()


def test_the_folder_is_opened_once_at_a_time(store: DiskObjects, root: Path) -> None:
    with pytest.raises(RuntimeError, match="open in another process"):
        _open(root)


def test_an_index_of_another_version_is_refused(store: DiskObjects, root: Path) -> None:
    store._index._writer.execute("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(RuntimeError, match="schema 99"):
        _open(root)


def test_names_never_become_paths(store: DiskObjects, root: Path, tmp_path: Path) -> None:
    for key in ("../../escape", "/etc/escape", "a/../../escape", "escape\0", "..", "escape/" * 100):
        store.put("box", key, [b"x"])
    assert not list(tmp_path.rglob("*escape*"))
    assert all(len(path.name) == 32 and path.parent.parent.name == "data" for path in _data_files(root))


def test_replaced_and_deleted_bytes_leave_the_disk(store: DiskObjects, root: Path) -> None:
    store.put("box", "k", [b"one"])
    store.put("box", "k", [b"two"])
    assert len(_data_files(root)) == 1
    store.delete("box", "k")
    assert _data_files(root) == []


def test_empty_objects_take_no_file(store: DiskObjects, root: Path) -> None:
    store.put("box", "k", [])
    assert _data_files(root) == []


def test_copies_and_joins_share_their_bytes(store: DiskObjects, root: Path) -> None:
    one = store.put("box", "one", [b"1" * 1000])
    two = store.put("box", "two", [b"2" * 1000])
    store.put("box", "both", Joined((one, two, one)))
    assert len(_data_files(root)) == 2
    store.delete("box", "one", "two")
    assert _content(store, "both") == b"1" * 1000 + b"2" * 1000 + b"1" * 1000
    store.delete("box", "both")
    assert _data_files(root) == []


def test_bytes_being_read_go_with_their_last_reader(store: DiskObjects, root: Path) -> None:
    one = store.put("box", "one", [b"1" * (2 << 20)])
    two = store.put("box", "two", [b"2" * (2 << 20)])
    store.put("box", "k", Joined((one, two), move=True))
    first, second, unread = (store.read("box", "k") for _ in range(3))
    next(first)
    store.delete("box", "k")
    assert len(_data_files(root)) == 2
    assert b"".join(first) == b"1" * (1 << 20) + b"2" * (2 << 20)
    second.close()
    assert len(_data_files(root)) == 2
    del unread  # never even begun
    assert _data_files(root) == []


def test_a_failing_body_leaves_nothing(store: DiskObjects, root: Path) -> None:
    def body() -> Iterator[bytes]:
        yield b"x" * 100
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put("box", "k", body())
    assert _data_files(root) == []


def test_a_refused_put_leaves_nothing(store: DiskObjects, root: Path) -> None:
    with pytest.raises(ApiError):
        store.put("box", "k", [b"x"], if_match="0")
    assert _data_files(root) == []

    def body() -> Iterator[bytes]:
        yield b"x"
        store.delete_bucket("box")

    with pytest.raises(ApiError) as caught:
        store.put("box", "k", body())
    assert caught.value.code == "NoSuchBucket"
    assert _data_files(root) == []


def test_the_start_sweeps_what_a_crash_left(store: DiskObjects, root: Path) -> None:
    store.put("box", "k", [b"kept"])
    store.close()
    (root / "incoming" / "half").write_bytes(b"half")
    (root / "data" / "ab" / ("ab" * 16)).write_bytes(b"renamed, never indexed")
    again = _open(root)
    assert len(_data_files(root)) == 1
    assert _content(again, "k") == b"kept"
    again.close()


def test_data_without_its_index_is_left_alone(store: DiskObjects, root: Path) -> None:
    store.put("box", "k", [b"precious"])
    store.close()
    (root / "index.db").rename(root / "saved")
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"index\.db is missing"):
            _open(root)
    (root / "saved").rename(root / "index.db")
    again = _open(root)
    assert _content(again, "k") == b"precious"
    again.close()


def test_a_damaged_data_file_is_never_a_short_answer(store: DiskObjects, root: Path) -> None:
    store.put("box", "k", [b"0123456789"])
    os.truncate(_data_files(root)[0], 4)
    with pytest.raises(OSError, match="shorter than the index says"):
        _content(store, "k")


# --- full disks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_and_leaves_the_old_object(
    store: DiskObjects, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put("box", "k", [b"old"])

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(objects_module.os, "fsync", full)
        with pytest.raises(ApiError) as caught:
            store.put("box", "k", [b"new"])
    assert (caught.value.code, caught.value.status) == ("InsufficientStorage", 503)
    assert _content(store, "k") == b"old"
    assert len(_data_files(root)) == 1
    store.put("box", "k", [b"new"])
    assert _content(store, "k") == b"new"


def test_other_disk_errors_are_not_taken_for_a_full_disk(
    store: DiskObjects, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(objects_module.os, "fsync", broken)
        with pytest.raises(OSError, match="I/O error"):
            store.put("box", "k", [b"new"])
    assert store.list("box") == []
    assert _data_files(root) == []


def test_an_index_without_room_is_told(store: DiskObjects, root: Path) -> None:
    writer = store._index._writer
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ApiError) as caught:
        for number in itertools.count():
            store.put("box", f"{number}", [b"x"], metadata={"filler": "y" * 1000})
    assert (caught.value.code, caught.value.status) == ("InsufficientStorage", 503)
    stored = store.list("box")
    assert len(_data_files(root)) == len(stored)
    writer.execute("PRAGMA max_page_count = 1000000")
    store.put("box", "later", [b"x"])
    assert _content(store, "later") == b"x"


def test_a_really_full_file_system(tmp_path: Path) -> None:
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(mounted)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount program")
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        store = _open(mounted / "objects")
        store.create_bucket("box")
        store.put("box", "old", [b"old"])
        for _ in range(3):
            with pytest.raises(ApiError) as caught:
                store.put("box", "large", (b"x" * (1 << 20) for _ in range(8)))
            assert caught.value.code == "InsufficientStorage"
        assert [one.key for one in store.list("box")] == ["old"]
        assert len(_data_files(mounted / "objects")) == 1
        store.put("box", "small", [b"fits"])
        assert _content(store, "small") == b"fits"
        store.close()
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


# --- crashes ------------------------------------------------------------------------------------

_CRASHING = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from understudy.core.ports import Joined
    from understudy.stores import objects

    class Clock:
        def now_s(self): return 1.0
        def monotonic_s(self): return 1.0

    class Entropy:
        def uniform(self): return 0.5
        def token(self, length_bytes): return os.urandom(length_bytes).hex()

    store = objects.DiskObjects(Path(sys.argv[2]), Clock(), Entropy())
    store.create_bucket("box")
    store.put("box", "k", [b"old" * 1000])
    print("ready", flush=True)
    remaining = int(sys.argv[3])

    def counted(function):
        def run(*arguments, **named):
            global remaining
            for boundary in range(2):  # before and after
                remaining -= 1
                if remaining == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                if boundary == 0:
                    result = function(*arguments, **named)
            return result
        return run

    objects.os.fsync = counted(os.fsync)
    Path.rename = counted(Path.rename)
    Path.unlink = counted(Path.unlink)
    store._index.put = counted(store._index.put)
    store._index.delete = counted(store._index.delete)

    info = store.put("box", "k", [b"new" * 1000])
    print("put", flush=True)
    store.put("box", "copy", Joined((info,), move=True))
    print("moved", flush=True)
    store.delete("box", "copy")
    print("deleted", flush=True)
"""


def test_a_kill_at_any_boundary_leaves_old_or_new(tmp_path: Path) -> None:
    reached = []
    for boundary in itertools.count(1):
        root = tmp_path / f"at-{boundary}"
        child = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_CRASHING), str(SOURCE), str(root), str(boundary)],
            capture_output=True,
            text=True,
            check=False,
        )
        said = child.stdout.split()
        assert said and said[0] == "ready", child.stderr
        store = _open(root)
        found = {one.key: _content(store, one.key) for one in store.list("box")}
        old, new = b"old" * 1000, b"new" * 1000
        allowed: dict[str, list[dict[str, bytes]]] = {
            "ready": [{"k": old}, {"k": new}],
            "put": [{"k": new}, {"copy": new}],
            "moved": [{"copy": new}, {}],
            "deleted": [{}],
        }
        assert found in allowed[said[-1]]
        assert len(_data_files(root)) == len(found)
        store.close()
        reached.append(said[-1])
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert set(reached) == {"ready", "put", "moved", "deleted"}
    assert len(reached) > 15


# --- load ---------------------------------------------------------------------------------------


def test_large_bodies_stream(store: DiskObjects) -> None:
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        info = store.put("box", "k", (piece for _ in range(64)))
        size_bytes = sum(len(got) for got in store.read("box", "k"))
        copy = store.put("box", "copy", Joined((info, info)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size_bytes == 64 << 20
    assert copy.size_bytes == 128 << 20
    assert peak_bytes < 8 << 20


def test_many_threads_at_once(store: DiskObjects, root: Path) -> None:
    """Writers replace a few keys while readers read them: every body is whole, and nothing is left over."""
    failures: list[str] = []
    done = threading.Event()

    def body(number: int) -> bytes:
        return hashlib.sha256(str(number).encode()).digest() * 4096

    def write(number: int) -> None:
        for turn in range(15):
            store.put("box", f"k{turn % 3}", [body(number * 100 + turn)])
            if turn % 5 == 4:
                store.delete("box", f"k{turn % 3}")

    def read() -> None:
        while not done.is_set():
            for key in ("k0", "k1", "k2"):
                try:
                    reading = store.read("box", key)
                except ApiError as error:
                    if error.code != "NoSuchKey":
                        failures.append(error.code)
                    continue
                data = b"".join(reading)
                if hashlib.md5(data).hexdigest() != reading.info.etag:
                    failures.append("torn")

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            for writer in writers:
                writer.result()
        finally:
            done.set()
        for reader in readers:
            reader.result()
    assert failures == []
    assert len(_data_files(root)) == len(store.list("box"))


def test_more_keys_than_a_statement_takes(store: DiskObjects, root: Path) -> None:
    store.create_bucket("other")
    parts = tuple(store.put("box", f"{number:04}", [b"x"]) for number in range(1100))
    store.put("other", "whole", Joined(parts, move=True))
    assert store.list("box", limit=2000) == []
    assert b"".join(store.read("other", "whole")) == b"x" * 1100
    again = tuple(store.put("box", f"{number:04}", []) for number in range(1100))
    store.delete("box", *(one.key for one in again))
    assert store.list("box") == []
    store.delete("other", "whole")
    assert _data_files(root) == []
