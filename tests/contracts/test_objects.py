"""The contract of the ports Buckets and Objects, held against every implementation."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from understudy.core.errors import ApiError, Conflict
from understudy.core.ports import Joined
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.objects import DiskObjects
from understudy.stores.objects_s3 import PART_BYTES, S3Objects


class _TickingClock:
    """Each look is a quarter of a second later."""

    def __init__(self) -> None:
        self.at_s = 1_700_000_000.0

    def now_s(self) -> float:
        self.at_s += 0.25
        return self.at_s

    def monotonic_s(self) -> float:
        return self.now_s()


class _CountingEntropy:
    def __init__(self) -> None:
        self._count = 0

    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        self._count += 1
        return hashlib.sha256(str(self._count).encode()).hexdigest()[: 2 * length_bytes]


@dataclass
class _Case:
    store: Any
    foreign: bool = False  # a service of its own: own ETags, own clock, short facts in lists


@pytest.fixture(params=["memory", "disk", "s3"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Case]:
    if request.param == "memory":
        yield _Case(MemoryObjects(_TickingClock()))
    elif request.param == "disk":
        disk = DiskObjects(tmp_path / "objects", _TickingClock(), _CountingEntropy())
        yield _Case(disk)
        disk.close()
    else:
        url = request.getfixturevalue("foreign_s3")
        yield _Case(S3Objects(endpoint_url=url, access_key_id="test", secret_access_key="test"), foreign=True)


def _refused(code: str, status: int, call: Any, *arguments: Any, **named: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments, **named)
    assert (caught.value.code, caught.value.status) == (code, status)
    return caught.value


def test_buckets_come_and_go(case: _Case) -> None:
    store = case.store
    assert store.list_buckets() == []
    assert store.create_bucket("beta") is True
    assert store.create_bucket("alpha") is True
    assert store.create_bucket("beta") is False
    names = store.list_buckets()
    assert [name for name, _ in names] == ["alpha", "beta"]
    assert all(created_at_s > 1_600_000_000 for _, created_at_s in names)
    store.put("beta", "k", [b"x"])
    _refused("BucketNotEmpty", 409, store.delete_bucket, "beta")
    store.delete("beta", "k")
    store.delete_bucket("beta")
    assert [name for name, _ in store.list_buckets()] == ["alpha"]
    _refused("NoSuchBucket", 404, store.delete_bucket, "beta")


def test_scratch_buckets_work_but_are_not_listed(case: _Case) -> None:
    store = case.store
    assert store.create_bucket(".scratch") is True
    store.put(".scratch", "k", [b"x"])
    assert [one.key for one in store.list(".scratch")] == ["k"]
    assert store.list_buckets() == []


def test_missing_buckets_and_keys(case: _Case) -> None:
    store = case.store
    store.create_bucket("here")
    for call in (store.head, store.read):
        assert _refused("NoSuchKey", 404, call, "here", "k").members["Key"] == "k"
        assert _refused("NoSuchBucket", 404, call, "gone", "k").members["BucketName"] == "gone"
    _refused("NoSuchBucket", 404, store.put, "gone", "k", [b"x"])
    _refused("NoSuchBucket", 404, store.list, "gone")
    _refused("NoSuchBucket", 404, store.delete, "gone", "k")
    store.delete("here", "k")


def test_what_was_put_is_read(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    headers = {"content-type": "text/csv", "cache-control": "no-store", "x-amz-tagging": "a=b"}
    metadata = {"plain": "value", "umlaut": "größe", "blanks": "  x  "}
    put = store.put("box", "k", [b"hello ", b"", b"world"], headers=headers, metadata=metadata)
    info = store.head("box", "k")
    assert info == put
    assert (info.bucket, info.key, info.size_bytes) == ("box", "k", 11)
    assert info.etag == hashlib.md5(b"hello world").hexdigest()
    assert info.headers == headers
    assert info.metadata == metadata
    reading = store.read("box", "k")
    assert reading.info == info
    assert b"".join(reading) == b"hello world"
    reading.close()


def test_checksums_are_looked_at_after_the_body(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    checksums: dict[str, str] = {}

    def body() -> Iterator[bytes]:
        yield b"hello"
        checksums["CRC32"] = "NhCmhg=="

    store.put("box", "k", body(), checksums=checksums)
    assert store.head("box", "k").checksums == {"CRC32": "NhCmhg=="}


def test_ranges(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    store.put("box", "k", [b"0123456789"])
    assert b"".join(store.read("box", "k", 3)) == b"3456789"
    assert b"".join(store.read("box", "k", 3, 4)) == b"3456"
    assert b"".join(store.read("box", "k", 0, 1)) == b"0"
    assert b"".join(store.read("box", "k", 8, 100)) == b"89"
    assert b"".join(store.read("box", "k", 10, 5)) == b""
    assert b"".join(store.read("box", "k", 4, 0)) == b""
    assert store.read("box", "k", 3, 4).info.size_bytes == 10


def test_empty_objects(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    store.put("box", "empty", [])
    assert store.head("box", "empty").size_bytes == 0
    assert store.head("box", "empty").etag == "d41d8cd98f00b204e9800998ecf8427e"
    assert list(store.read("box", "empty")) == []


def test_bodies_larger_than_a_part(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    piece = hashlib.sha256(b"seed").digest() * 4096  # 128 KiB
    count = PART_BYTES // len(piece) + 3
    store.put("box", "large", (piece for _ in range(count)), metadata={"a": "b"})
    info = store.head("box", "large")
    assert info.size_bytes == count * len(piece)
    assert info.metadata == {"a": "b"}
    digest = hashlib.sha256()
    for got in store.read("box", "large"):
        assert len(got) <= 1 << 20
        digest.update(got)
    assert digest.digest() == hashlib.sha256(piece * count).digest()


def test_replacing_and_deleting(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    store.put("box", "k", [b"old"], metadata={"a": "1"})
    store.put("box", "k", [b"new"])
    assert b"".join(store.read("box", "k")) == b"new"
    assert store.head("box", "k").metadata == {}
    assert len(store.list("box")) == 1
    store.put("box", "l", [b"x"])
    store.put("box", "m", [b"x"])
    store.delete("box", "k", "m", "never-was")
    assert [one.key for one in store.list("box")] == ["l"]


def test_readers_see_the_old_bytes_to_the_end(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    old = b"o" * (3 << 20)
    store.put("box", "k", [old])
    reading = store.read("box", "k")
    first = next(reading)
    store.put("box", "k", [b"n" * (3 << 20)])
    store.delete("box", "k")
    assert first + b"".join(reading) == old


def test_conditions(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    _refused("NoSuchKey", 404, store.put, "box", "k", [b"x"], if_match="0" * 32)
    first = store.put("box", "k", [b"one"], if_absent=True)
    _refused("PreconditionFailed", 412, store.put, "box", "k", [b"x"], if_absent=True)
    _refused("PreconditionFailed", 412, store.put, "box", "k", [b"x"], if_match="0" * 32)
    assert b"".join(store.read("box", "k")) == b"one"
    second = store.put("box", "k", [b"two"], if_match=first.etag)
    assert b"".join(store.read("box", "k")) == b"two"
    _refused("PreconditionFailed", 412, store.delete, "box", "k", if_match=first.etag)
    store.delete("box", "k", if_match=second.etag)
    store.delete("box", "k", if_match=second.etag)
    assert store.list("box") == []


def test_one_of_many_creators_wins(case: _Case) -> None:
    if case.foreign:
        pytest.skip("the foreign service decides that")
    store = case.store
    store.create_bucket("box")
    outcomes: list[str] = []

    def create(number: int) -> None:
        try:
            store.put("box", "k", [str(number).encode()], if_absent=True)
        except ApiError as error:
            outcomes.append(error.code)
        else:
            outcomes.append(f"won {number}")

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [one for one in outcomes if one.startswith("won")]
    assert len(winners) == 1 and outcomes.count("PreconditionFailed") == 7
    assert b"".join(store.read("box", "k")).decode() == winners[0].split()[1]


ODD_KEYS = [
    "a",
    "a b",
    "a+b",
    "a%2Fb",
    "a//b",
    "a/../../b",
    "../up",
    "/lead",
    "trail/",
    "_%",
    "z'\"<&>",
    "Ä",
    "\uffff",
    "\U00010000",
    "😀",
    "k" * 1024,
]


def test_keys_are_listed_in_the_order_of_their_bytes(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    keys = [key for key in ODD_KEYS if not (case.foreign and (key == "\uffff" or ".." in key))]
    for key in keys:
        store.put("box", key, [key.encode()])
    ordered = sorted(keys, key=str.encode)
    assert [one.key for one in store.list("box")] == ordered
    for key in keys:
        assert b"".join(store.read("box", key)) == key.encode()
    paged: list[str] = []
    while page := store.list("box", after=paged[-1] if paged else "", limit=3):
        assert len(page) <= 3
        paged += [one.key for one in page]
    assert paged == ordered
    for prefix in ("a", "a/", "_", "%", "😀", "Ä", "kk", "zz"):
        assert [one.key for one in store.list("box", prefix)] == [
            key for key in ordered if key.startswith(prefix)
        ]
    assert [one.key for one in store.list("box", "a", after="a+b")] == [
        key for key in ordered if key.startswith("a") and key.encode() > b"a+b"
    ]


def test_nul_and_other_control_characters_in_keys(case: _Case) -> None:
    if case.foreign:
        pytest.skip("XML 1.0 cannot carry them")
    store = case.store
    store.create_bucket("box")
    keys = ["\0", "a\0b", "a\nb", "a\x7fb", "\x01"]
    for key in keys:
        store.put("box", key, [key.encode()])
    assert [one.key for one in store.list("box")] == sorted(keys)
    assert [one.key for one in store.list("box", "a\0")] == ["a\0b"]
    assert b"".join(store.read("box", "a\0b")) == b"a\0b"


def test_buckets_do_not_mix(case: _Case) -> None:
    store = case.store
    store.create_bucket("box1")
    store.create_bucket("box2")
    store.put("box1", "k", [b"1"])
    store.put("box2", "k", [b"2"])
    store.delete("box1", "k")
    assert b"".join(store.read("box2", "k")) == b"2"
    assert store.list("box1") == []


def test_joining(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    parts = tuple(store.put("box", f"part{n}", [str(n).encode() * 3]) for n in range(3))
    info = store.put("box", "whole", Joined(parts), metadata={"a": "b"})
    assert b"".join(store.read("box", "whole")) == b"000111222"
    assert info.size_bytes == 9
    assert info.etag == hashlib.md5(b"000111222").hexdigest()
    assert b"".join(store.read("box", "whole", 2, 5)) == b"01112"
    assert b"".join(store.read("box", "whole", 3, 3)) == b"111"
    assert len(store.list("box")) == 4
    again = store.put("box", "copy", Joined((info,)))
    assert again.etag == info.etag
    store.delete("box", "whole", "part0", "part1", "part2")
    assert b"".join(store.read("box", "copy")) == b"000111222"


def test_joining_with_an_etag_of_its_own(case: _Case) -> None:
    if case.foreign:
        pytest.skip("the service's own ETags count")
    store = case.store
    store.create_bucket("box")
    part = store.put("box", "part", [b"xyz"])
    assert store.put("box", "whole", Joined((part,)), etag="abc-1").etag == "abc-1"
    assert store.head("box", "whole").etag == "abc-1"
    copy = store.put("box", "copy", Joined((store.head("box", "whole"),)))
    assert copy.etag == hashlib.md5(b"xyz").hexdigest()


def test_joining_by_moving(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    store.create_bucket(".parts")
    parts = tuple(store.put(".parts", f"{n}", [str(n).encode()]) for n in range(3))
    store.put("box", "whole", Joined(parts, move=True))
    assert store.list(".parts") == []
    assert b"".join(store.read("box", "whole")) == b"012"


def test_joining_an_object_with_itself(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    info = store.put("box", "k", [b"abc"], metadata={"a": "old"})
    store.put("box", "k", Joined((info,)), metadata={"a": "new"})
    assert store.head("box", "k").metadata == {"a": "new"}
    assert b"".join(store.read("box", "k")) == b"abc"
    info = store.head("box", "k")
    if not case.foreign:
        store.put("box", "k", Joined((info,), move=True))
        assert b"".join(store.read("box", "k")) == b"abc"


def test_joining_what_changed_is_a_conflict(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    info = store.put("box", "k", [b"abc"])
    store.put("box", "k", [b"abcd"])
    with pytest.raises(Conflict):
        store.put("box", "whole", Joined((info,)))
    store.delete("box", "k")
    with pytest.raises(Conflict):
        store.put("box", "whole", Joined((info,)), etag="x-1")
    assert store.list("box") == []


def test_a_body_that_fails_leaves_the_old_object(case: _Case) -> None:
    store = case.store
    store.create_bucket("box")
    store.put("box", "k", [b"old"])

    def body() -> Iterator[bytes]:
        yield b"x" * (PART_BYTES + 1)
        raise ConnectionResetError("client went away")

    with pytest.raises(ConnectionResetError):
        store.put("box", "k", body())
    assert b"".join(store.read("box", "k")) == b"old"
    assert len(store.list("box")) == 1
