"""The client side: reads requests off one connection in order, and writes their answers in order.

Owns :class:`ClientConnection`.  Refuses to read ahead: while a request is in work the next ones wait in a
small buffer, then in the kernel, so that pipelining needs no queue of answers and a fast sender no memory.
All deadlines are counted in the router's one-second sweeps; no timer is made per request or connection.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import sys
import termios
import time
from enum import IntEnum
from typing import TYPE_CHECKING, cast

from understudy.core.errors import ApiError, ServiceUnavailable, ValidationError
from understudy.core.signatures import SignatureFailure
from understudy.dataplane import answers
from understudy.dataplane.familiar import Familiar, cut
from understudy.dataplane.forward import Exchange
from understudy.dataplane.guard import CHUNKED, ChunkedBody, Head, Refused, check_partial, parse_head
from understudy.dataplane.invocation import MAX_BODY_BYTES, Invocation, read_invocation

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.core.resigned import Recipe
    from understudy.dataplane.calls import Call
    from understudy.dataplane.router import Router

MAX_TURNED_AWAY = 32  # of those above the most, how many at a time may take their time to go
READ_AHEAD_BYTES = 64 * 1024
WRITE_HIGH_BYTES = 1024 * 1024
WRITE_LOW_BYTES = 768 * 1024  # near it, so that a slow reader's stream goes on before its worker gives it up
MAX_RESERVED_BYTES = 1024 * 1024 * 1024
MAX_DRAINED_BYTES = 256 * 1024 * 1024
MAX_STREAM_BACKLOG_BYTES = 8 * 1024 * 1024
HASH_INLINE_BYTES = 256 * 1024
MAX_CACHED_HEADS = 4096
MAX_CACHED_HEAD_BYTES = 2048

# In sweeps, one a second.
HEAD_DEADLINE = 10
STALLED_BODY = 5
MIN_BODY_BYTES = 1024
IDLE = 75
STALLED_READER = 15
DRAIN = 10

_END = b"\r\n\r\n"


class State(IntEnum):
    """Where a connection is."""

    HEAD = 0  # between requests, or within a head
    BODY = 1  # within an invocation's body
    BUSY = 2  # the request is whole; its answer is awaited
    FORWARD = 3  # the controller answers
    DRAIN = 4  # answered and done; what the client still sends is dropped so that it can read the answer


# Looking a member up in its enum is slow where it happens per request.
_HEAD, _BODY, _BUSY, _FORWARD, _DRAIN = State


class ClientConnection(asyncio.Protocol):
    """One client.

    Attributes:
        keep_alive: Whether another request may follow the current one.
        minor: HTTP/1.x of the current request.
        call: The invocation with a worker, if any.
        served: How many requests were answered.
    """

    __slots__ = (
        "_advancing",
        "_body",
        "_buffer",
        "_chunked",
        "_drained",
        "_eof",
        "_exchange",
        "_familiar",
        "_head",
        "_heads",
        "_missing",
        "_raw",
        "_reading_paused",
        "_received",
        "_reserved",
        "_router",
        "_seen_received",
        "_seen_served",
        "_seen_unsent",
        "_state",
        "_ticks",
        "_transport",
        "_writing_paused",
        "call",
        "keep_alive",
        "minor",
        "served",
        "started_ns",
    )

    def __init__(self, router: Router) -> None:
        self._router = router
        self._heads = router.heads
        self._familiar = router.familiar
        self._transport: asyncio.Transport | None = None
        self._state: State = _HEAD
        self._buffer = b""
        self._advancing = False
        self._head: Head | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._raw = b""  # of a signed head that may be remembered once its signature holds
        self._chunked: ChunkedBody | None = None
        self._reserved = 0
        self._exchange: Exchange | None = None
        self._eof = False
        self._reading_paused = False
        self._writing_paused = False
        self._received = self._seen_received = 0
        self._seen_served = 0
        self._seen_unsent = 0
        self._drained = 0
        self._ticks = 0
        self.call: Call | None = None
        self.keep_alive = True
        self.minor = 1
        self.served = 0
        self.started_ns = 0

    # --- bytes in ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._transport = stream
        stream.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        connections = self._router.connections
        connections.add(self)
        room = self._router.max_connections - len(connections)
        if room < 0:
            self._end_with(ServiceUnavailable("Too many connections. Try again."))
            if room < -MAX_TURNED_AWAY:
                stream.close()  # without waiting until it has read why

    def data_received(self, data: bytes) -> None:
        if self._state == 0 and not self._buffer and not self._writing_paused:
            # The usual request of a keep-alive client: a head seen before and its body, in one piece.
            self.started_ns = time.monotonic_ns()
            end = data.find(_END) + 4
            raw = data[:end]
            head = self._heads.get(raw)
            if head is None and self._familiar:
                head = self._recognised(raw, data)
            if head is not None and len(data) == end + head.length:
                self.keep_alive = not self._router.stopping
                self.minor = 1
                self._state = _BUSY
                invocation = head.invocation
                assert invocation is not None
                self._router.invoke(self, invocation, data[end:], self.started_ns)
                return
            self._buffer = data
            self._ticks = 0
        elif self._state == _DRAIN:
            self._drained += len(data)
            if self._drained > MAX_DRAINED_BYTES:
                self.abort()
            return
        else:
            self._buffer = self._buffer + data if self._buffer else data
        self._received += len(data)
        self._advance()

    def _recognised(self, raw: bytes, data: bytes) -> Head | None:
        """Find a head that is known but for what an SDK makes anew, and check its signature.

        Returns:
            None too when the signature does not hold: the long way says why.
        """
        parts = cut(raw)
        known = self._familiar.get(parts[0]) if parts is not None else None
        if parts is None or known is None:
            return None
        gate = self._router.gate
        if gate.signed:
            end = len(raw)
            if len(data) != end + known.head.length:
                return None  # not all there yet
            _, invocation_id, signature = parts
            if not gate.recognises(known, invocation_id, data[end:], signature):
                return None
        return known.head

    def _advance(self) -> None:
        """Use up what is in the buffer as far as possible."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        except Refused as refusal:
            self._router.ledger.refuse("BadRequest")
            error = ApiError(refusal.reason, code="BadRequest", status=refusal.status)
            self._end_with(error, counted=True)
        finally:
            self._advancing = False
        self._close_at_end()
        if len(self._buffer) > READ_AHEAD_BYTES and not self._reading_paused and self._state != _DRAIN:
            self.pause_reading()

    def _step(self) -> bool:
        """Take one step; return whether there may be another."""
        state = self._state
        if state == _HEAD:
            return self._read_head()
        if state == _BODY:
            return self._read_body()
        if state == _FORWARD:
            return self._forward_body()
        if state == _DRAIN:
            self._buffer = b""
        return False

    def _read_head(self) -> bool:
        buffer = self._buffer
        if not buffer or self._writing_paused:  # who does not read answers gets no further ones made
            return False
        end = buffer.find(_END) + 4
        if end < 4:
            check_partial(buffer)
            return False
        if not self.started_ns:
            self.started_ns = time.monotonic_ns()
        raw = buffer[:end]
        head = self._heads.get(raw) if self._heads else None
        if head is None:
            head = parse_head(raw)
            head.invocation = read_invocation(head)
        self._ticks = 0
        self._buffer = buffer[end:]
        self._head = head
        self._raw = b""
        self.minor = head.minor
        self.keep_alive = head.keep_alive and not self._router.stopping
        self._missing = head.length
        self._chunked = ChunkedBody() if head.length == CHUNKED else None
        invocation = head.invocation
        if invocation is None:
            self._begin_forward(head)
            return not self._reading_paused
        if head.length > MAX_BODY_BYTES:
            self._end_with(_too_large(invocation))
            return True
        if head.expects_continue and not self._buffer:
            self.send(answers.CONTINUE)
        elif (
            head.length >= 0
            and head.minor == 1
            and head.keep_alive
            and end <= MAX_CACHED_HEAD_BYTES
            and invocation.fault is None
            and not head.expects_continue
        ):
            if self._router.gate.signed:
                self._raw = raw
            else:
                self._remember(raw, head, None)
        self._state = _BODY
        return True

    def _read_body(self) -> bool:
        head = self._head
        assert head is not None
        data = self._buffer
        if self._chunked is not None:
            if not data:
                return False
            pieces, self._buffer = self._chunked.feed(data)
            size = sum(map(len, pieces))
            self._missing -= size
            self._body += pieces
            if not self._reserve(size):
                return True
            if -self._missing > MAX_BODY_BYTES + 1:  # it counts down from CHUNKED
                assert head.invocation is not None
                self._end_with(_too_large(head.invocation))
                return True
            if not self._chunked.done:
                return False
        else:
            if len(data) < self._missing:
                if not data:
                    return False
                self._body.append(data)
                self._missing -= len(data)
                self._buffer = b""
                return not self._reserve(len(data))
            self._body.append(data[: self._missing])
            self._buffer = data[self._missing :]
        self._release()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._state = _BUSY
        self._ticks = 0
        self._check_and_invoke(head, body)
        return True

    def _reserve(self, size: int) -> bool:
        self._reserved += size
        self._router.reserved_bytes += size
        if self._router.reserved_bytes > MAX_RESERVED_BYTES:
            self._end_with(ServiceUnavailable("Too many request bodies are under way. Try again."))
            return False
        return True

    def _release(self) -> None:
        self._router.reserved_bytes -= self._reserved
        self._reserved = 0

    # --- invocations -------------------------------------------------------------------------------

    def _remember(self, raw: bytes, head: Head, make_recipe: Callable[[], Recipe | None] | None) -> None:
        """Keep a head: the next one like it is not read again.

        Args:
            make_recipe: Of a signed head; it is worth its time once a second head like it comes.
        """
        parts = cut(raw)
        if parts is not None:
            familiar = self._familiar
            recurs = parts[0] in familiar
            if not recurs and len(familiar) >= MAX_CACHED_HEADS:
                familiar.clear()
            recipe = make_recipe() if make_recipe is not None and recurs else None
            familiar[parts[0]] = Familiar(head, recipe, self._router.gate.era)
        elif make_recipe is None:
            if len(self._heads) >= MAX_CACHED_HEADS:
                self._heads.clear()
            self._heads[raw] = head

    def _check_and_invoke(self, head: Head, body: bytes) -> None:
        router = self._router
        if not router.gate.signed:
            self._invoke(head, body)
        elif len(body) <= HASH_INLINE_BYTES:
            self._check_signature(head, body, hashlib.sha256(body).hexdigest())
        else:
            future = router.loop.run_in_executor(None, _sha256, body)
            future.add_done_callback(lambda done: self._hashed(head, body, done))

    def _hashed(self, head: Head, body: bytes, done: asyncio.Future[str]) -> None:
        if self._transport is not None and self._state == _BUSY:
            self._check_signature(head, body, done.result())

    def _check_signature(self, head: Head, body: bytes, body_sha256: str) -> None:
        raw, self._raw = self._raw, b""
        try:
            make_recipe = self._router.gate.check(head, body_sha256)
        except SignatureFailure as failure:
            code, status = failure.wire("json")
            self._router.refuse(self, ApiError(failure.message, code=code, status=status))
            return
        if raw:
            self._remember(raw, head, make_recipe)
        self._invoke(head, body)

    def _invoke(self, head: Head, body: bytes) -> None:
        assert head.invocation is not None
        self._router.invoke(self, head.invocation, body, self.started_ns)

    # --- forwarding --------------------------------------------------------------------------------

    def _begin_forward(self, head: Head) -> None:
        self._state = _FORWARD
        self._exchange = Exchange(self, head, self._router)
        self.pause_reading()
        self._exchange.start()

    def forward_opened(self) -> None:
        """The controller takes the request: its body may follow."""
        assert self._head is not None
        if self._head.expects_continue and not self._buffer and self._missing:
            self.send(answers.CONTINUE)
        self.resume_reading()
        self._advance()

    def _forward_body(self) -> bool:
        exchange = self._exchange
        if exchange is None or not exchange.open or exchange.body_done or exchange.paused:
            return False
        data = self._buffer
        if self._chunked is not None:
            if not data:
                return False
            pieces, self._buffer = self._chunked.feed(data)
            for piece in pieces:
                exchange.send_body(piece)
            if self._chunked.done:
                exchange.end_body()
            return True
        if self._missing == 0:
            exchange.end_body()
            return True
        if not data:
            return False
        take = data if len(data) <= self._missing else data[: self._missing]
        self._missing -= len(take)
        self._buffer = data[len(take) :]
        exchange.send_body(take)
        return True

    def forward_done(self) -> None:
        """The controller's answer has been passed on whole."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and not exchange.body_done:
            self.keep_alive = False
            self._drain()
            return
        self.finish(b"")

    def forward_failed(self, data: bytes) -> None:
        """The controller can't be reached or broke off before a byte of its answer.

        Args:
            data: The answer to give instead.
        """
        exchange, self._exchange = self._exchange, None
        self.keep_alive = False
        self.send(data)
        if exchange is not None and exchange.body_done:
            self.finish(b"")
        else:
            self._drain()

    # --- bytes out (Caller) ------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Write a part of the answer."""
        transport = self._transport
        if transport is None:
            return
        transport.write(data)
        if (
            self._writing_paused
            and self.call is not None
            and transport.get_write_buffer_size() - len(data) > MAX_STREAM_BACKLOG_BYTES
        ):
            self.abort()  # its worker does not wait for a stream's slow reader

    def finish(self, data: bytes, body: bytes = b"") -> None:
        """Write the (end of the) answer and go on to what came next."""
        self.call = None
        self.served += 1
        self.started_ns = 0
        transport = self._transport
        if transport is None:
            return
        if body:
            transport.writelines((data, body))
        elif data:
            transport.write(data)
        if not self.keep_alive:
            self._drain()
            return
        self._state = _HEAD
        if self._reading_paused and not self._writing_paused:
            self.resume_reading()
        if self._buffer:
            self._advance()
        elif self._eof:
            transport.close()

    def _close_at_end(self) -> None:
        """After the caller's end of file: close once nothing of what it sent can be answered any more."""
        if (
            self._eof
            and self._state in (_HEAD, _BODY)
            and not (self._writing_paused and self._buffer)
            and self._transport is not None
        ):
            self._transport.close()

    def _end_with(self, error: ApiError, *, counted: bool = False) -> None:
        """Answer an error before the request was read whole, and end the connection."""
        if self._state == _DRAIN or self._transport is None:
            return
        if not counted:
            self._router.ledger.refuse(error.code)
        if self._exchange is not None:
            began = self._exchange.answering
            self._exchange.cancel()
            self._exchange = None
            if began:
                self.abort()
                return
        self.keep_alive = False
        self._transport.write(answers.render_error(error, self._router.request_id(), closes=True))
        self._drain()

    def _drain(self) -> None:
        """Close so that the client can still read the answer: a close with bytes unread resets it."""
        self._state = _DRAIN
        self._release()
        self._body = []
        self._buffer = b""
        self._ticks = 0
        transport = self._transport
        if transport is None:
            return
        if self._eof or not transport.can_write_eof():
            transport.close()
            return
        if not transport.is_closing():
            transport.write_eof()
        if self._reading_paused:
            self.resume_reading()

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    # --- flow --------------------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Leave further bytes in the kernel."""
        if self._transport is not None and not self._reading_paused and not self._transport.is_closing():
            self._transport.pause_reading()
            self._reading_paused = True

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self._transport is not None and self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def pump_body(self) -> None:
        """The controller takes body bytes again."""
        self.resume_reading()
        self._advance()

    def pause_writing(self) -> None:
        self._writing_paused = True
        self._ticks = 0  # counts what stood still before
        self._seen_unsent = 0
        if self._transport is not None:
            self._router.note_unread(self, self._transport.get_write_buffer_size())
        if self.call is not None:
            self._router.reader_behind(self.call, True)
        if self._exchange is not None:
            self._exchange.pause_answer()

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._router.note_unread(self, 0)
        if self.call is not None:
            self._router.reader_behind(self.call, False)
        if self._exchange is not None:
            self._exchange.resume_answer()
        if self._state == _HEAD:
            self.resume_reading()
            self._advance()

    def eof_received(self) -> bool:
        self._eof = True
        self._ticks = 0
        # A caller that has sent its requests and shut its side down still gets answers that come soon.
        waits = self._state in (_BUSY, _FORWARD) or (self._writing_paused and bool(self._buffer))
        return waits and self._transport is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._router.connections.discard(self)
        self._router.note_unread(self, 0)
        self._release()
        self._body = []
        self._buffer = b""
        if self.call is not None:
            call, self.call = self.call, None
            self._router.caller_gone(call)
        if self._exchange is not None:
            self._exchange.cancel()
            self._exchange = None

    # --- deadlines ---------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether it is between requests."""
        return self._state == _HEAD and not self._buffer

    def sweep(self) -> None:
        """Once a second: end what has stood still for too long."""
        transport = self._transport
        if transport is None:
            return
        if self._writing_paused:
            unsent = transport.get_write_buffer_size() + _queued_by_kernel(transport)
            self._ticks = self._ticks + 1 if unsent >= self._seen_unsent else 0
            self._seen_unsent = unsent
            self._router.note_unread(self, unsent)
            if self._ticks >= STALLED_READER:
                self.abort()
            return
        self._seen_unsent = 0
        state = self._state
        if state == _DRAIN:
            self._ticks += 1
            if self._ticks >= DRAIN:
                self.abort()
        elif state == _HEAD:
            self._sweep_head()
        elif state == _BODY or (
            state == _FORWARD
            and self._exchange is not None
            and self._exchange.open
            and not self._exchange.body_done
            and not self._reading_paused
        ):
            slow = self._received - self._seen_received < MIN_BODY_BYTES
            self._ticks = self._ticks + 1 if slow else 0
            if self._ticks > STALLED_BODY:
                message = "The request's body came too slowly."
                self._end_with(ApiError(message, code="RequestTimeout", status=408))
        elif self._eof:
            self._ticks += 1
            if self._ticks > 1:
                self.abort()
        self._seen_received = self._received

    def _sweep_head(self) -> None:
        if self._buffer:
            self._ticks += 1
            if self._ticks >= HEAD_DEADLINE:
                message = "The request's head came too slowly."
                self._end_with(ApiError(message, code="RequestTimeout", status=408))
            return
        self._ticks = self._ticks + 1 if self.served == self._seen_served else 0
        self._seen_served = self.served
        if self._ticks >= IDLE and self._transport is not None:
            self._transport.close()

    def close_if_done(self) -> None:
        """End the connection unless a request is under way on it."""
        if self._transport is not None and (self.is_idle or self._state == _DRAIN):
            self._transport.close()


def _queued_by_kernel(transport: asyncio.Transport) -> int:
    """Return what the caller has not acknowledged of what was handed to the system.

    Its buffer takes megabytes and asks for more only once a third of it is free: what still waits here may
    stand still for long while a slow caller reads all the time.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return 0
    answer = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, answer)
    except OSError:
        return 0  # it has just been closed
    return int.from_bytes(answer, sys.byteorder)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _too_large(invocation: Invocation) -> ValidationError:
    return ValidationError(
        f"1 validation error detected: Value at 'body' failed to satisfy constraint: Member must have length"
        f" less than or equal to {MAX_BODY_BYTES}"
    )
