"""What an exchange with the controller leaves behind; what it passes on is told by a real router's tests."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from understudy.dataplane.forward import Exchange

HEAD: Any = SimpleNamespace(
    method=b"GET", target=b"/healthz", path=b"/healthz", headers=[], fields={}, length=0
)


class Client:
    """The caller's connection, as an exchange sees it."""

    keep_alive = True
    minor = 1

    def __init__(self) -> None:
        self.sent = b""
        self.ended = ""

    def send(self, data: bytes) -> None:
        self.sent += data

    def forward_opened(self) -> None: ...

    def forward_done(self) -> None:
        self.ended = "done"

    def forward_failed(self, data: bytes) -> None:
        self.ended = "failed"

    def abort(self) -> None:
        self.ended = "aborted"


class Transport:
    """The connection to the controller."""

    def set_write_buffer_limits(self, high: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def abort(self) -> None: ...
    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "done"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "done"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", "aborted"),
        (b"no answer\r\n\r\n", "failed"),
        (b"", "failed"),
    ],
)
def test_nothing_is_left_for_the_collector(answer: bytes, ended: str) -> None:
    """A router collects seldom: what went in circles would pile up for minutes."""
    client: Any = Client()
    transport: Any = Transport()
    router: Any = SimpleNamespace(request_id=lambda: "r")
    exchange = Exchange(client, HEAD, router)
    gone = weakref.ref(exchange)
    gc.disable()
    try:
        exchange.connection_made(transport)
        exchange.body_done = True
        if answer:
            exchange.data_received(answer)
        exchange.connection_lost(None)
        del exchange
        assert client.ended == ended
        assert gone() is None
    finally:
        gc.enable()
