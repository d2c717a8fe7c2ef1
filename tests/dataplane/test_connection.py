"""Deadlines of slow, idle and stuck callers, counted in sweeps; no clock is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.dataplane.connection import (
    DRAIN,
    HEAD_DEADLINE,
    IDLE,
    MAX_TURNED_AWAY,
    STALLED_BODY,
    STALLED_READER,
    ClientConnection,
)
from understudy.dataplane.gate import BadCredentials, Gate
from understudy.dataplane.router import FAMILIAR_FOR_S, Router


class Wire:
    """A transport that keeps what is written and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = ""
        self.unsent = 0
        self.reading = True
        self.socket: socket.socket | None = None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = self.ended or "eof"

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> Any:
        assert name == "socket"
        return self.socket


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    facts = {"access_key_id": "A", "secret_access_key": "s", "region": "r", "account_id": "1"}
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps(facts))
    loop = asyncio.new_event_loop()
    yield Router(
        gate=Gate(path, signed=False, now_s=lambda: 0.0),
        draw=lambda: 0.0,
        loop=loop,
        controller_path=tmp_path / "none.sock",
        on_table_change=lambda: None,
        on_suspect=lambda *_: None,
    )
    loop.close()


@pytest.fixture
def client(router: Router) -> tuple[ClientConnection, Wire]:
    connection, transport = ClientConnection(router), Wire()
    stand_in: Any = transport
    connection.connection_made(stand_in)
    return connection, transport


SIGNED = b"Authorization: AWS4-HMAC-SHA256 Credential=A/x, Signature=" + b"0" * 64 + b"\r\n"
HEAD = b"POST /endpoints/e/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


def test_a_slow_head_is_408(client: tuple[ClientConnection, Wire]) -> None:
    connection, transport = client
    for _ in range(IDLE - 1):
        connection.sweep()
    for step in range(HEAD_DEADLINE):
        assert not transport.data
        connection.data_received(HEAD[step : step + 1])
        connection.sweep()
    assert transport.data.startswith(b"HTTP/1.1 408 ")
    assert transport.ended == "eof"


def test_a_stalled_body_is_408_and_a_steady_one_is_not(
    client: tuple[ClientConnection, Wire], router: Router
) -> None:
    connection, transport = client
    connection.data_received(HEAD)
    connection.sweep()
    for _ in range(40):
        connection.data_received(b"x" * 1024)
        connection.sweep()
    assert not transport.data
    assert router.reserved_bytes == 40 * 1024  # what has come
    for _ in range(STALLED_BODY + 1):
        connection.data_received(b"x")
        connection.sweep()
    assert transport.data.startswith(b"HTTP/1.1 408 ")
    assert router.reserved_bytes == 0


def test_an_idle_connection_is_closed(client: tuple[ClientConnection, Wire]) -> None:
    connection, transport = client
    for _ in range(IDLE):
        assert not transport.ended
        connection.sweep()
    assert (transport.ended, transport.data) == ("closed", b"")


def test_a_reader_that_stands_still_is_cut_off(client: tuple[ClientConnection, Wire]) -> None:
    connection, transport = client
    transport.unsent = 5_000_000
    connection.pause_writing()
    for _ in range(100):
        transport.unsent -= 1000
        connection.sweep()
    assert not transport.ended
    for _ in range(STALLED_READER):
        connection.sweep()
    assert transport.ended == "aborted"


def test_a_reader_that_reads_what_the_system_holds_does_not_stand_still(
    client: tuple[ClientConnection, Wire],
) -> None:
    connection, transport = client
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as reader, listener.accept()[0] as sender:
        sender.setblocking(False)
        held = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                held += sender.send(bytes(65_536))
        transport.socket, transport.unsent = sender, 1000
        connection.pause_writing()
        for _ in range(3 * STALLED_READER):
            reader.recv(held // (4 * STALLED_READER), socket.MSG_WAITALL)
            connection.sweep()
        assert not transport.ended
        for _ in range(STALLED_READER + 1):
            connection.sweep()
    assert transport.ended == "aborted"


def test_idling_before_a_large_answer_does_not_count_as_standing_still(
    client: tuple[ClientConnection, Wire],
) -> None:
    connection, transport = client
    for _ in range(IDLE - 1):
        connection.sweep()
    transport.unsent = 5_000_000
    connection.pause_writing()
    for _ in range(STALLED_READER - 1):
        connection.sweep()
        assert not transport.ended
    connection.sweep()
    assert transport.ended == "aborted"


def test_an_answered_client_that_stays_is_cut_off(client: tuple[ClientConnection, Wire]) -> None:
    connection, transport = client
    connection.data_received(b"GET / HTTP/1.1\r\n\r\n")
    assert transport.data.startswith(b"HTTP/1.1 400 ")
    connection.data_received(b"more and more")
    for _ in range(DRAIN):
        assert transport.ended == "eof"
        connection.sweep()
    assert transport.ended == "aborted"


def test_bodies_under_way_are_bounded(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.dataplane.connection.MAX_RESERVED_BYTES", 250_000)
    wires = []
    for _ in range(3):
        connection, transport = ClientConnection(router), Wire()
        stand_in: Any = transport
        connection.connection_made(stand_in)
        connection.data_received(HEAD)  # to announce much takes nothing from others
        connection.data_received(b"x" * 99_999)
        wires.append(transport)
    assert [transport.data[:12] for transport in wires] == [b"", b"", b"HTTP/1.1 503"]
    assert router.reserved_bytes == 199_998


def test_answers_that_nobody_reads_are_bounded(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.dataplane.router.MAX_UNREAD_BYTES", 250)
    made = []
    for _ in range(4):
        connection, transport = ClientConnection(router), Wire()
        stand_in: Any = transport
        connection.connection_made(stand_in)
        transport.unsent = 100
        made.append((connection, transport))
    first, second, third, fourth = made
    for connection, _ in (first, second):
        connection.pause_writing()
    first[0].resume_writing()
    first[0].pause_writing()
    third[0].pause_writing()
    # The second is behind for the longest time: it was never seen to read.
    assert [transport.ended for _, transport in made] == ["", "aborted", "", ""]
    second[0].connection_lost(None)
    first[1].unsent = 20
    first[0].sweep()
    fourth[0].pause_writing()
    assert [transport.ended for _, transport in made] == ["", "aborted", "", ""]


def test_a_stream_that_waits_for_its_reader_is_not_overdue(
    router: Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Link:
        def __init__(self) -> None:
            self.pending: dict[int, Any] = {}
            self.desk = self
            self.said: list[str] = []
            self.overdue: list[int] = []

        def pause(self, call: Any) -> None:
            self.said.append("pause")

        def resume(self, call: Any) -> None:
            self.said.append("resume")

        def forget(self, call: Any) -> None:
            del self.pending[call.request_id]

        def take_overdue(self, call: Any, now_ns: int) -> None:
            self.overdue.append(call.request_id)

    link: Any = Link()
    for number in range(3):
        call: Any = SimpleNamespace(
            streaming=number == 0,
            waits=False,
            link=link,
            request_id=number,
            due_ns=10,
            variant=SimpleNamespace(timeout_ns=60_000_000_000),
        )
        link.pending[number] = call
    for behind in (True, True):
        router.reader_behind(link.pending[0], behind)
    router.reader_behind(link.pending[1], True)  # not a stream, or not yet
    assert link.said == ["pause"]
    monkeypatch.setattr(router.board, "all_links", lambda: [link])
    router.end_overdue(11)
    assert link.overdue == [1, 2]
    router.reader_behind(link.pending[0], False)
    assert link.said == ["pause", "resume"] and link.pending[0].due_ns > 60_000_000_000


def test_connections_are_bounded(router: Router) -> None:
    router.max_connections = 1
    wires = []
    for _ in range(MAX_TURNED_AWAY + 2):
        connection, transport = ClientConnection(router), Wire()
        stand_in: Any = transport
        connection.connection_made(stand_in)
        wires.append(transport)
    assert [transport.data[:12] for transport in wires] == [b"", *[b"HTTP/1.1 503"] * (MAX_TURNED_AWAY + 1)]
    assert [transport.ended for transport in wires] == ["", *["eof"] * MAX_TURNED_AWAY, "closed"]


def test_signed_heads_of_past_seconds_are_forgotten(router: Router) -> None:
    connection = ClientConnection(router)
    stand_in: Any = Wire()
    connection.connection_made(stand_in)
    for second in range(3 * int(FAMILIAR_FOR_S)):
        date = b"X-Amz-Date: 20260101T0000%02dZ\r\n" % second
        head = HEAD.replace(b"Content-Length: 100000", date + SIGNED + b"Content-Length: 0")
        for _ in range(3):
            connection.data_received(head)
        router.sweep(float(second))
    assert 1 <= len(router.familiar) <= FAMILIAR_FOR_S + 1


def test_bad_credentials_are_told_and_the_old_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    with pytest.raises(BadCredentials):
        Gate(path, signed=True, now_s=lambda: 0.0)
    path.write_text('{"access_key_id": "A", "secret_access_key": "s", "region": "r", "account_id": "7"}')
    gate = Gate(path, signed=True, now_s=lambda: 0.0)
    assert not gate.refresh()
    path.write_text("{")
    with pytest.raises(BadCredentials):
        gate.refresh()
    assert gate.place.account_id == "7"
