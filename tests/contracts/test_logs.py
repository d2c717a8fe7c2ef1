"""The contract of the port Logs, held against every implementation."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.core.names import log_group
from understudy.core.ports import LogEvent, Logs
from understudy.stores.logs import FileLogs
from understudy.stores.memory_logs import MemoryLogs


class _StillClock:
    def __init__(self) -> None:
        self.at_s = 1.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class Writer:
    """A store and the means to write to it as a worker does."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.clock = _StillClock()
        self.memory = MemoryLogs()
        self.files = FileLogs(directory, self.clock)
        self.logs: Logs = self.memory if kind == "memory" else self.files

    def write(self, endpoint: str, stream: str, at_ms: int, *lines: str) -> None:
        if self.logs is self.memory:
            self.memory.append(log_group(endpoint), stream, at_ms, *lines)
            return
        self.clock.at_s = at_ms / 1000
        with self.files.path(endpoint, *stream.split("/")).open("ab") as file:
            file.write("".join(line + "\n" for line in lines).encode())
        self.files.index_once(at_ms)


@pytest.fixture(params=["memory", "files"])
def writer(request: pytest.FixtureRequest, tmp_path: Path) -> Writer:
    return Writer(request.param, tmp_path)


def test_nothing_is_there_at_first(writer: Writer) -> None:
    assert writer.logs.groups() == []
    assert writer.logs.streams(log_group("churn")) == []
    assert writer.logs.read(log_group("churn"), "Blue/i-0") == []
    writer.logs.delete(log_group("churn"))


def test_lines_come_back_with_their_times(writer: Writer) -> None:
    writer.write("churn", "Blue/i-0", 1000, "one", "zwei — drei")
    writer.write("churn", "Blue/i-0", 2000, "", "four")
    events = writer.logs.read(log_group("churn"), "Blue/i-0")
    assert [(event.at_ms, event.message) for event in events] == [
        (1000, "one"),
        (1000, "zwei — drei"),
        (2000, ""),
        (2000, "four"),
    ]
    positions = [event.position for event in events]
    assert positions == sorted(set(positions))
    assert positions[0] == 0


def test_reading_goes_on_where_it_stopped(writer: Writer) -> None:
    for number in range(20):
        writer.write("churn", "Blue/i-0", 1000 * (number // 3 + 1), f"line {number}")
    every = writer.logs.read(log_group("churn"), "Blue/i-0")
    paged: list[LogEvent] = []
    while page := writer.logs.read(log_group("churn"), "Blue/i-0", paged[-1].position if paged else -1, 3):
        assert len(page) <= 3
        paged += page
    assert paged == every
    assert [event.message for event in every] == [f"line {number}" for number in range(20)]
    assert writer.logs.read(log_group("churn"), "Blue/i-0", -1, 0) == []


def test_groups_and_streams(writer: Writer) -> None:
    writer.write("churn", "Green/i-1", 3000, "g")
    writer.write("churn", "Blue/i-0", 1000, "a")
    writer.write("churn", "Blue/i-0", 2000, "bc")
    writer.write("a-first", "V/i-0", 5000, "x")
    assert writer.logs.groups() == [(log_group("a-first"), 5000, 2), (log_group("churn"), 1000, 7)]
    blue, green = writer.logs.streams(log_group("churn"))
    assert (blue.name, blue.created_at_ms, blue.first_event_ms, blue.last_event_ms, blue.stored_bytes) == (
        "Blue/i-0",
        1000,
        1000,
        2000,
        5,
    )
    assert green.name == "Green/i-1"


@pytest.mark.parametrize("group", ["", "churn", "/aws/sagemaker/Endpoints/", "/aws/other/churn"])
def test_other_groups_are_unknown(writer: Writer, group: str) -> None:
    writer.write("churn", "Blue/i-0", 1000, "a")
    assert writer.logs.streams(group) == []
    assert writer.logs.read(group, "Blue/i-0") == []
    writer.logs.delete(group)
    assert len(writer.logs.groups()) == 1


@pytest.mark.parametrize(
    "stream", ["", "/", "Blue", "Blue/", "/i-0", "Blue/i-1", "Blue/i-0/x", "../Blue/i-0"]
)
def test_other_streams_are_empty(writer: Writer, stream: str) -> None:
    writer.write("churn", "Blue/i-0", 1000, "a")
    assert writer.logs.read(log_group("churn"), stream) == []


def test_a_deleted_group_is_gone(writer: Writer) -> None:
    writer.write("churn", "Blue/i-0", 1000, "a")
    writer.write("other", "Blue/i-0", 1000, "b")
    writer.logs.delete(log_group("churn"))
    assert [name for name, _, _ in writer.logs.groups()] == [log_group("other")]
    assert writer.logs.streams(log_group("churn")) == []
    assert writer.logs.read(log_group("churn"), "Blue/i-0") == []


def test_a_deleted_group_comes_back_with_new_lines_only(writer: Writer) -> None:
    writer.write("churn", "Blue/i-0", 1000, "a")
    writer.logs.delete(log_group("churn"))
    writer.write("churn", "Blue/i-0", 2000, "b")
    assert [e.message for e in writer.logs.read(log_group("churn"), "Blue/i-0")] == ["b"]
    assert len(writer.logs.streams(log_group("churn"))) == 1
