"""Streams a request that is not an invocation to the controller, and its answer back.

Owns :class:`Exchange`: one request, one connection to the controller's Unix socket.  Refuses to hold bodies:
each side is paused while the other can't take more.  The caller's framing is never passed on, it is made
anew; so is the answer's.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, cast

import httptools

from understudy.dataplane import answers
from understudy.dataplane.guard import CHUNKED, Head

if TYPE_CHECKING:
    from understudy.dataplane.connection import ClientConnection
    from understudy.dataplane.router import Router

CONNECT_TIMEOUT_S = 5.0
HIGH_BYTES = 1024 * 1024
# RFC 9110 section 7.6.1, and the framing, which is ours on either side.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_DOWN = "The control plane is restarting. Try again."


class Exchange(asyncio.Protocol):
    """One forwarded request.

    Attributes:
        open: The controller takes body bytes.
        paused: It takes no more for the moment.
        body_done: It has the whole body.
        answering: A part of its answer has been passed on.
    """

    def __init__(self, client: ClientConnection, head: Head, router: Router) -> None:
        self._client: ClientConnection | None = client
        self._head = head
        self._router = router
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._task: asyncio.Task[None] | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._chunks = False
        self._until_end = False
        self._interim = False
        self._complete = False
        self.open = False
        self.paused = False
        self.body_done = False
        self.answering = False

    # --- the request -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._task = self._router.loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._router.loop.create_unix_connection(
                    lambda: self, str(self._router.controller_path)
                )
        except (OSError, TimeoutError):
            self._fail()
        finally:
            self._task = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._transport = stream
        client = self._client
        if client is None:
            stream.abort()
            return
        stream.set_write_buffer_limits(high=HIGH_BYTES)
        head = self._head
        lines = [b"%b %b HTTP/1.1\r\n" % (head.method, head.target)]
        lines += [b"%b: %b\r\n" % (name, value) for name, value in head.headers if name not in _HOP_BY_HOP]
        if b"host" not in head.fields:
            lines.append(b"host: localhost\r\n")
        if head.length == CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        elif b"content-length" in head.fields:
            lines.append(b"content-length: %d\r\n" % head.length)
        lines.append(b"connection: close\r\n\r\n")
        stream.write(b"".join(lines))
        self._parser = httptools.HttpResponseParser(self)
        self.open = True
        client.forward_opened()

    def send_body(self, data: bytes) -> None:
        """Pass on a piece of the request's body."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answers.chunk(data) if self._head.length == CHUNKED else data)

    def end_body(self) -> None:
        """Note that the request's body has been passed on whole."""
        self.body_done = True
        if self._head.length == CHUNKED and self._transport is not None:
            self._transport.write(answers.LAST_CHUNK)

    def pause_writing(self) -> None:
        self.paused = True
        if self._client is not None:
            self._client.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        if self._client is not None:
            self._client.pump_body()

    # --- the answer --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or self._complete:
            return
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail()

    def on_status(self, status: bytes) -> None:
        self._reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        client, parser = self._client, self._parser
        assert parser is not None
        status = parser.get_status_code()
        headers, self._headers = self._headers, []
        reason, self._reason = self._reason, b""
        self._interim = status < 200
        if client is None or self._interim:
            return
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        length: bytes | None = None
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                length = value
            elif lowered not in _HOP_BY_HOP:
                lines.append(b"%b: %b\r\n" % (name, value))
        bodiless = self._head.method == b"HEAD" or status in (204, 304)
        if length is not None:
            lines.append(b"Content-Length: %b\r\n" % length)
        elif not bodiless:
            if client.minor == 1:
                self._chunks = True
                lines.append(b"Transfer-Encoding: chunked\r\n")
            else:
                client.keep_alive = False
            self._until_end = not any(name.lower() == b"transfer-encoding" for name, _ in headers)
        if not self.body_done:
            client.keep_alive = False
        if not client.keep_alive:
            lines.append(answers.NEEDS_CLOSE)
        lines.append(b"\r\n")
        self.answering = True
        client.send(b"".join(lines))
        if self._head.method == b"HEAD":
            self._finish()

    def on_body(self, data: bytes) -> None:
        if self._client is not None and not self._complete:
            self._client.send(answers.chunk(data) if self._chunks else data)

    def on_message_complete(self) -> None:
        if not self._interim:
            self._finish()

    def pause_answer(self) -> None:
        """The caller reads more slowly than the controller writes."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_answer(self) -> None:
        """The caller has caught up."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._complete and self._client is not None:
            if self.answering and self._until_end and exc is None:
                self._finish()
            else:
                self._fail()

    # --- ends --------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._complete:
            return
        self._complete = True
        client, self._client = self._client, None
        if client is not None:
            if self._chunks:
                client.send(answers.LAST_CHUNK)
            client.forward_done()
        self._close()

    def _fail(self) -> None:
        """The controller is not there, or broke off."""
        if self._complete:
            return
        self._complete = True
        client, self._client = self._client, None
        if client is not None:
            if self.answering:
                client.abort()  # never a clean end of a partial answer
            else:
                client.forward_failed(self._substitute())
        self._close()

    def _substitute(self) -> bytes:
        head = self._head
        if head.method == b"GET" and head.path == b"/healthz":
            state = {"status": "degraded", "reason": "controller unreachable; endpoints are served"}
            body = json.dumps(state).encode()
            return (
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
                b"Connection: close\r\n\r\n%b" % (len(body), body)
            )
        fields = head.fields
        data = answers.unavailable(
            fields.get(b"content-type", b""),
            fields.get(b"authorization", b""),
            _DOWN,
            self._router.request_id(),
        )
        return data[: data.find(b"\r\n\r\n") + 4] if head.method == b"HEAD" else data

    def cancel(self) -> None:
        """The caller is gone."""
        self._complete = True
        self._client = None
        if self._task is not None:
            self._task.cancel()
        self._close()

    def _close(self) -> None:
        self._parser = None  # it knows this exchange: without the circle both go at once
        if self._transport is not None:
            self._transport.abort()
