"""How long a link lets its queue become, and what it sends together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.dataplane import instances
from understudy.dataplane.instances import GATHERED_CALLS, MAX_OUTSTANDING, MIN_OUTSTANDING, InstanceLink
from understudy.worker import wire

MS = 1_000_000


class Desk:
    """Takes answers off the link's books."""

    def take_responses(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        for response in wire.decode_responses(payload):
            link.pending.pop(response.request_id, None)


class Clock:
    """Stands in for ``time``."""

    now_ns = 1000 * MS

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(instances, "time", clock)
    return clock


@pytest.fixture
def link(loop: asyncio.AbstractEventLoop) -> InstanceLink:
    desk: Any = Desk()
    return InstanceLink("e/v/f1/a", "w/a.sock", desk, loop)


def fill(link: InstanceLink, count: int) -> None:
    call: Any = object()
    for number in range(count):
        link.pending[number] = call


def answer(link: InstanceLink, clock: Clock, count: int, each_ns: int) -> None:
    clock.now_ns += count * each_ns
    ids = list(link.pending)[:count]
    link.data_received(wire.encode_responses([(one, 200, b"", b"") for one in ids]))


def test_a_fast_worker_may_have_a_long_queue(link: InstanceLink, clock: Clock) -> None:
    for _ in range(20):
        fill(link, MAX_OUTSTANDING)
        answer(link, clock, 64, 20_000)
    fill(link, MAX_OUTSTANDING - 1)
    del link.pending[MAX_OUTSTANDING - 2]
    assert not link.is_full
    fill(link, MAX_OUTSTANDING)
    assert link.is_full


def test_a_slow_workers_queue_is_what_it_answers_in_half_a_second(link: InstanceLink, clock: Clock) -> None:
    fill(link, 1000)
    for _ in range(200):
        answer(link, clock, 1, MS)
    assert len(link.pending) == 800 and link.is_full
    link.pending.clear()
    fill(link, 480)
    assert not link.is_full


def test_a_very_slow_worker_still_has_a_queue(link: InstanceLink, clock: Clock) -> None:
    fill(link, 300)
    for _ in range(40):
        answer(link, clock, 1, 100 * MS)
    assert len(link.pending) == 260 and link.is_full
    link.pending.clear()
    fill(link, MIN_OUTSTANDING - 1)
    assert not link.is_full


def test_idle_time_is_not_taken_for_slowness(link: InstanceLink, clock: Clock) -> None:
    for _ in range(50):
        fill(link, 1)
        answer(link, clock, 1, 5000 * MS)
    fill(link, MAX_OUTSTANDING - 1)
    assert not link.is_full


def test_it_recovers_with_the_worker(link: InstanceLink, clock: Clock) -> None:
    fill(link, 1000)
    for _ in range(100):
        answer(link, clock, 1, 10 * MS)
    fill(link, 600)
    assert link.is_full
    for _ in range(30):
        fill(link, 900)
        answer(link, clock, 64, 20_000)
    fill(link, 1000)
    assert not link.is_full


class Wire:
    """Keeps the frames of a link."""

    def __init__(self) -> None:
        self.frames: list[int] = []  # calls in each

    def set_write_buffer_limits(self, high: int) -> None: ...

    def write(self, data: bytes) -> None:
        ((kind, payload),) = wire.FrameSplitter(1 << 20).feed(data)
        assert kind == wire.REQUESTS
        self.frames.append(len(wire.decode_requests(payload)))


class Gathering:
    """A link whose frames can be watched turn by turn."""

    def __init__(self, link: InstanceLink, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        self._link, self._loop, self._clock = link, loop, clock
        link.desk.link_settled = lambda _: None  # type: ignore[method-assign]
        self.wire: Any = Wire()
        link.connection_made(self.wire)

    def turn(self, calls: int = 0, took_ns: int = 50_000) -> list[int]:
        """Submit calls within a turn of the loop; return the frames so far."""
        for _ in range(calls):
            call: Any = SimpleNamespace(body=b"1")
            self._link.submit(call, b"", b"1")
        self._clock.now_ns += took_ns
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()
        return list(self.wire.frames)


@pytest.fixture
def gathering(link: InstanceLink, loop: asyncio.AbstractEventLoop, clock: Clock) -> Gathering:
    return Gathering(link, loop, clock)


def test_a_call_that_is_alone_leaves_at_the_end_of_its_turn(gathering: Gathering) -> None:
    assert gathering.turn(1) == [1]


def test_several_calls_leave_after_a_turn_that_brought_no_further_one(gathering: Gathering) -> None:
    assert gathering.turn(2) == []
    assert gathering.turn(3) == []
    assert gathering.turn(1) == []
    assert gathering.turn() == [6]
    assert gathering.turn() == [6]


def test_many_calls_do_not_wait_for_more(gathering: Gathering) -> None:
    assert gathering.turn(GATHERED_CALLS + 1) == [GATHERED_CALLS + 1]


def test_where_turns_are_long_none_is_waited_for_until_some_frames_later(
    gathering: Gathering, link: InstanceLink, clock: Clock
) -> None:
    assert gathering.turn(2) == []
    assert gathering.turn(took_ns=2 * MS) == [2]
    frames = 1
    while True:
        answer(link, clock, len(link.pending), 0)
        sent = gathering.turn(2)
        if len(sent) == frames:
            break
        frames += 1
        assert sent[-1] == 2 and frames < 100
    assert frames > 20
    assert gathering.turn() == [2] * (frames + 1)
