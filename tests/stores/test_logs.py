"""FileLogs: what is particular to files that other processes append to."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.names import log_group
from understudy.stores.logs import FileLogs
from understudy.system import RealClock

GROUP = log_group("churn")


class Desk:
    def __init__(self, directory: Path, **options: int) -> None:
        self.directory = directory
        self.options = options
        self.logs = self.new()

    def new(self) -> FileLogs:
        return FileLogs(self.directory, RealClock(), **self.options)

    @property
    def path(self) -> Path:
        return self.logs.path("churn", "Blue", "i-0")

    def append(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def read(self, after: int = -1) -> list[tuple[int, str]]:
        return [(e.at_ms, e.message) for e in self.logs.read(GROUP, "Blue/i-0", after)]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_line_waits_until_it_is_complete(desk: Desk) -> None:
    desk.append(b"one\ntw")
    assert desk.read() == [], "nothing is read before it is indexed"
    assert desk.logs.index_once(1000) == 1
    assert desk.read() == [(1000, "one")]
    assert desk.logs.index_once(2000) == 0
    desk.append(b"o\n")
    assert desk.logs.index_once(3000) == 1
    assert desk.read() == [(1000, "one"), (3000, "two")]


def test_the_last_words_of_an_ended_process_count(desk: Desk) -> None:
    desk.append(b"one\nSegmentation fau")
    desk.logs.index_once(1000)
    desk.logs.finish("churn", "Blue", "i-0")
    desk.logs.finish("churn", "Blue", "i-0")
    desk.logs.index_once(2000)
    assert desk.read() == [(1000, "one"), (2000, "Segmentation fau")]
    assert desk.path.read_bytes().count(b"\n") == 2


def test_bytes_that_are_no_text_are_replaced(desk: Desk) -> None:
    desk.append(b"caf\xe9 \xff\r\n\x00\n")
    desk.logs.index_once(1000)
    assert desk.read() == [(1000, "caf\ufffd \ufffd"), (1000, "\x00")]


def test_a_new_process_goes_on(desk: Desk) -> None:
    desk.append(b"one\n")
    desk.logs.index_once(1000)
    before = desk.logs.streams(GROUP)
    desk.append(b"two\n")
    desk.logs = desk.new()
    assert desk.logs.streams(GROUP) == before
    desk.logs.index_once(2000)
    assert desk.read() == [(1000, "one"), (2000, "two")]


@pytest.mark.parametrize("damage", ["no facts", "torn index", "bad facts"])
def test_damaged_sidecars_lose_no_line(desk: Desk, damage: str) -> None:
    desk.append(b"one\n")
    desk.logs.index_once(1000)
    if damage == "no facts":
        desk.path.with_suffix(".facts").unlink()
    elif damage == "bad facts":
        desk.path.with_suffix(".facts").write_text("{")
    else:
        index = desk.path.with_suffix(".index")
        index.write_bytes(index.read_bytes() + b"\1\2\3")
    desk.logs = desk.new()
    desk.append(b"two\n")
    desk.logs.index_once(2000)
    desk.append(b"three\n")
    desk.logs.index_once(3000)
    assert [message for _, message in desk.read()] == ["one", "two", "three"]
    assert desk.read()[-1] == (3000, "three")


def test_a_stream_that_grows_too_long_loses_its_oldest_half(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_stream_bytes=1 << 20)
    expected = []
    for batch in range(60):
        lines = [f"{batch:03d} {number:04d} {'x' * 80}" for number in range(400)]
        desk.append("".join(line + "\n" for line in lines).encode())
        desk.logs.index_once(1000 * (batch + 1))
        expected += lines
    events = desk.logs.read(GROUP, "Blue/i-0", limit=10**9)
    assert 5_000 < len(events) < len(expected)
    assert [event.message for event in events] == expected[-len(events) :]
    assert all(event.at_ms == 1000 * (int(event.message[:3]) + 1) for event in events)
    assert events[-1].position == len("".join(line + "\n" for line in expected[:-1]))
    [stream] = desk.logs.streams(GROUP)
    assert stream.stored_bytes <= 1 << 20
    assert desk.path.stat().st_blocks * 512 < 1.2 * (1 << 20), "the space came back"
    assert desk.path.stat().st_size > 2 << 20, "positions went on rising"
    later = desk.logs.read(GROUP, "Blue/i-0", events[100].position, 5)
    assert [event.message for event in later] == [event.message for event in events[101:106]]


def test_a_line_without_end_is_given_in_pieces(desk: Desk) -> None:
    desk.append(b"x" * 600_000 + b"\nnext\n")
    desk.logs.index_once(1000)
    messages = [message for _, message in desk.read()]
    assert "".join(messages[:-1]) == "x" * 600_000
    assert max(map(len, messages)) <= 256 * 1024
    assert messages[-1] == "next"
    events = desk.logs.read(GROUP, "Blue/i-0")
    assert desk.logs.read(GROUP, "Blue/i-0", events[0].position) == events[1:]


def test_deleting_under_a_living_worker(desk: Desk) -> None:
    with desk.path.open("ab", buffering=0) as worker:
        worker.write(b"old\n")
        desk.logs.index_once(1000)
        desk.logs.delete(GROUP)
        assert desk.logs.groups() == []
        worker.write(b"new\n")
        desk.logs.index_once(2000)
    assert desk.read() == [(2000, "new")]
    desk.logs.finish("churn", "Blue", "i-0")
    desk.logs.delete(GROUP)
    assert list(desk.directory.iterdir()) == []


def test_a_deleted_stream_without_new_lines_goes_when_its_worker_ends(desk: Desk) -> None:
    desk.append(b"old\n")
    desk.logs.index_once(1000)
    desk.logs.delete(GROUP)
    desk.logs.finish("churn", "Blue", "i-0")
    assert list(desk.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../../x", "%2E", "Ünï", "-", "a" * 63, " "])
def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    logs = FileLogs(tmp_path / "logs", RealClock())
    path = logs.path(name, name, name)
    assert path.resolve().is_relative_to(tmp_path / "logs")
    assert len(path.relative_to(tmp_path / "logs").parts) == 3
    path.write_bytes(b"hello\n")
    logs.index_once(1000)
    assert [group for group, _, _ in logs.groups()] == [log_group(name)]
    assert logs.streams(log_group(name))[0].name == f"{name}/{name}"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"x", b"\n")), max_size=12))
def test_however_it_is_cut_the_lines_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    desk = Desk(tmp_path_factory.mktemp("logs"))
    for number, piece in enumerate(pieces):
        desk.append(piece)
        desk.logs.index_once(number)
    desk.logs.finish("churn", "Blue", "i-0")
    desk.logs.index_once(99)
    whole = b"".join(pieces)
    expected = [] if not whole else whole.removesuffix(b"\n").split(b"\n")
    read = [message for _, message in desk.read()]
    assert read == [line.rstrip(b"\r\n").decode("utf-8", "replace") for line in expected]
    times = [at_ms for at_ms, _ in desk.read()]
    assert times == sorted(times)
