"""The worker's I/O loop: reads frames of several routers, has the model answer, writes frames.

Owns the sockets. Every complete request of every connection that is there goes to the model in one batch;
nothing waits to fill one. Fast row-wise models run in the loop itself, all others in threads, so that a
PING is answered while a model thinks. Refuses to know what a model is.

Main class: ``Server``.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
import selectors
import signal
import socket
import threading
import time
from collections.abc import Sequence
from types import FrameType

from . import wire
from .calls import Call, Handler, say
from .executor import Executor, Job, Outlet, answer_all, frames_of

_READ_BYTES = 1 << 18
_READS_PER_TURN = 8
# Inline answers block the loop; a body above this goes to a thread so that PINGs stay answered.
_INLINE_BYTES = 1 << 18
# A streaming thread waits while this much is unsent on its connection.
_HIGH_WATER_BYTES = 1 << 20
_PATIENCE_S = 60.0
MAX_CALLS_PER_BATCH = 4096
_PIECES_PER_SEND = 64
_REMEMBERED_IDS = 10_000


class Connection:
    """One router's connection: its splitter, what is unsent, what is open."""

    def __init__(self, sock: socket.socket, server: Server) -> None:
        """Take over a connected, non-blocking socket."""
        self.sock = sock
        self.splitter = wire.FrameSplitter()
        self.out: collections.deque[bytes | memoryview] = collections.deque()
        self.unsent_bytes = 0
        self.closed = False
        self.wants_write = False
        self._cancelled: set[int] = set()
        self._paused: set[int] = set()
        self._server = server
        self._room = threading.Condition()
        self._waiting = 0

    def is_cancelled(self, request_id: int) -> bool:
        """Whether nobody waits for that answer any more: cancelled, or the router is gone."""
        return self.closed or request_id in self._cancelled

    def cancel(self, request_id: int) -> None:
        """Note a CANCEL."""
        _add(self._cancelled, request_id)
        self._wake_waiting()

    def pause(self, request_id: int) -> None:
        """Note a PAUSE: the thread that streams this answer waits after its next piece."""
        _add(self._paused, request_id)
        self._wake_waiting()  # should others have been forgotten for it

    def resume(self, request_id: int) -> None:
        """Note a RESUME."""
        self._paused.discard(request_id)
        self._wake_waiting()

    @property
    def remembers(self) -> bool:
        """Whether any id is known to be cancelled or paused."""
        return bool(self._cancelled or self._paused)

    def opened(self, request_id: int) -> None:
        """Note a request; an id that comes again is a new one."""
        self._cancelled.discard(request_id)
        self._paused.discard(request_id)

    def send_from_thread(self, frame: bytes, finished: int) -> None:
        """Hand a frame to the loop; never waits, so that one slow router holds up no other's answers."""
        self._server.post(self, frame, finished)

    def wait_for_room(self, request_id: int) -> None:
        """Wait, in a streaming thread, while the router does not read or has that stream wait for its caller.

        Raises:
            TimeoutError: it has not for ``_PATIENCE_S``; the stream is given up and the thread freed.
        """
        with self._room:
            self._waiting += 1  # before it looks: who changes what it waits for looks at this afterwards
            try:
                if not self._room.wait_for(lambda: self._has_room(request_id), _PATIENCE_S):
                    raise TimeoutError("the stream was not read")
            finally:
                self._waiting -= 1

    def _has_room(self, request_id: int) -> bool:
        if self.is_cancelled(request_id):
            return True  # there is nothing to wait for
        return self.unsent_bytes <= _HIGH_WATER_BYTES and request_id not in self._paused

    def queue(self, frame: bytes) -> None:
        """Append a frame to what is to be sent; loop only."""
        if frame and not self.closed:
            self.out.append(frame)
            self.unsent_bytes += len(frame)

    def flush(self) -> bool:
        """Send what the socket takes now; False when the connection broke."""
        out = self.out
        try:
            while out:
                # A few pieces a call, uncopied: joining all that is unsent each time costs its square.
                sent = self.sock.sendmsg(itertools.islice(out, _PIECES_PER_SEND))
                self.unsent_bytes -= sent
                while sent:
                    piece = out.popleft()
                    if sent < len(piece):
                        out.appendleft(memoryview(piece)[sent:])
                    sent -= min(sent, len(piece))
        except BlockingIOError:
            pass
        except OSError:
            return False
        if self.unsent_bytes <= _HIGH_WATER_BYTES:
            self._wake_waiting()
        return True

    def _wake_waiting(self) -> None:
        if self._waiting:
            with self._room:
                self._room.notify_all()

    def close(self) -> None:
        """Close the socket and let waiting threads go."""
        with self._room:
            self.closed = True
            self.out.clear()
            self.unsent_bytes = 0
            self._room.notify_all()
        self.sock.close()


def _add(ids: set[int], request_id: int) -> None:
    """Add an id; ids are reused only after 2**32 requests, so a set that grew may simply be emptied."""
    if len(ids) > _REMEMBERED_IDS:
        ids.clear()
    ids.add(request_id)


class Server:
    """Serves one handler on a listening socket, or on one given connection, until told to stop."""

    def __init__(
        self,
        handler: Handler,
        *,
        listener: socket.socket | None = None,
        connection: socket.socket | None = None,
    ) -> None:
        """Prepare; nothing is accepted before ``run``."""
        self._handler = handler
        self._executor = Executor(handler, MAX_CALLS_PER_BATCH)
        self._selector = selectors.DefaultSelector()
        self._connections: set[Connection] = set()
        self._posted: collections.deque[tuple[Connection, bytes, int]] = collections.deque()
        self._woken = False
        self._pending = 0  # calls in threads, not yet answered
        self._stopping = False
        self._end_at_s = math.inf
        self._listener = listener
        self._only = connection
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)

    def stop(self, within_s: float = math.inf) -> None:
        """Finish what is in hand, then return from ``run``; may be called from a signal handler or thread.

        Args:
            within_s: Return then at the latest, whatever is in hand.
        """
        self._end_at_s = min(self._end_at_s, time.monotonic() + within_s)
        self._stopping = True
        self._wake()

    def post(self, connection: Connection, frame: bytes, finished: int) -> None:
        """Take a frame from a model's thread."""
        self._posted.append((connection, frame, finished))
        if not self._woken:
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: the loop is about to wake anyway
            self._wake_writer.send(b"\0")

    def run(self) -> None:
        """Serve until ``stop`` (or, with one given connection, until its EOF)."""
        selector = self._selector
        selector.register(self._wake_reader, selectors.EVENT_READ, None)
        if self._listener is not None:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ, self._listener)
        if self._only is not None:
            self._adopt(self._only)
        while not (self._stopping and (self._is_finished() or self._is_orphaned() or self._is_overdue())):
            self._turn(selector.select(0.05 if self._stopping else None))
        for connection in list(self._connections):
            self._drop(connection)
        selector.close()

    def _turn(self, events: Sequence[tuple[selectors.SelectorKey, int]]) -> None:
        jobs: list[Job] = []
        touched: set[Connection] = set()
        for key, mask in events:
            target = key.data
            if isinstance(target, Connection):
                if mask & selectors.EVENT_WRITE:
                    touched.add(target)
                if mask & selectors.EVENT_READ and not self._read(target, jobs):
                    self._drop(target)
                touched.add(target)
            elif target is None:
                self._drain_wake()
            else:
                self._accept(target)
        if self._stopping:
            self._stop_accepting()
        if jobs:
            self._dispatch(jobs)
        while self._posted:
            connection, frame, finished = self._posted.popleft()
            self._pending -= finished
            connection.queue(frame)
            touched.add(connection)
        for connection in touched:
            if not connection.closed:
                self._flush(connection)

    def _drain_wake(self) -> None:
        try:
            while len(self._wake_reader.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        self._woken = False  # before the posted frames are taken: a later post wakes again

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                say(f"accept failed: {error}")
                return
            self._adopt(sock)

    def _adopt(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection = Connection(sock, self)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            self._accept(self._listener)  # who connected before the stop is still heard
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _read(self, connection: Connection, jobs: list[Job]) -> bool:
        try:
            for _ in range(_READS_PER_TURN):
                data = connection.sock.recv(_READ_BYTES)
                if not data:
                    return False
                for kind, payload in connection.splitter.feed(data):
                    self._take_frame(connection, kind, payload, jobs)
                if len(data) < _READ_BYTES:
                    break
        except BlockingIOError:
            pass
        except wire.WireError as error:
            say(f"a router's connection is closed: {error}")
            return False
        except MemoryError:
            say("a router's connection is closed: no memory for its requests")
            return False
        except OSError:
            return False
        return True

    def _take_frame(self, connection: Connection, kind: int, payload: bytes, jobs: list[Job]) -> None:
        if kind == wire.REQUESTS:
            decode_head, may_recur = wire.decode_request_head, connection.remembers
            for request_id, head, body in wire.decode_requests(payload):
                if may_recur:
                    connection.opened(request_id)
                jobs.append(Job(connection, request_id, Call(decode_head(head), body)))
        elif kind == wire.PING:
            connection.queue(wire.PONG_FRAME)
        elif kind == wire.CANCEL:
            connection.cancel(wire.decode_request_id(payload))
        elif kind == wire.PAUSE:
            connection.pause(wire.decode_request_id(payload))
        elif kind == wire.RESUME:
            connection.resume(wire.decode_request_id(payload))
        else:
            raise wire.WireError(f"frame of kind {kind} is not for a worker")

    def _dispatch(self, jobs: list[Job]) -> None:
        handler = self._handler
        if not (
            handler.inline
            and self._executor.is_idle
            and sum(len(job.call.body) for job in jobs) <= _INLINE_BYTES
        ):
            self._pending += len(jobs)
            self._executor.submit(jobs)
            return
        for start in range(0, len(jobs), MAX_CALLS_PER_BATCH):
            self._answer_inline(jobs[start : start + MAX_CALLS_PER_BATCH])

    def _answer_inline(self, jobs: list[Job]) -> None:
        answers = answer_all(self._handler, [call for _, _, call in jobs])
        by_connection: dict[Outlet, list[tuple[int, int, bytes, bytes]]] = {}
        known: Outlet | None = None
        for (outlet, request_id, _), (status, head, body, _) in zip(jobs, answers):  # noqa: B905 - equal by construction
            if outlet is not known:  # most come from one router
                responses = by_connection.setdefault(outlet, [])
                known = outlet
            responses.append((request_id, status, head, body))
        for outlet, responses in by_connection.items():
            assert isinstance(outlet, Connection)
            for frame, _ in frames_of(responses):
                outlet.queue(frame)

    def _flush(self, connection: Connection) -> None:
        if not connection.flush():
            self._drop(connection)
            return
        wants_write = bool(connection.out)
        if wants_write != connection.wants_write:
            connection.wants_write = wants_write
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wants_write else 0)
            self._selector.modify(connection.sock, events, connection)

    def _drop(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.close()
        if self._only is not None:
            self._stopping = True

    def _is_orphaned(self) -> bool:
        """The one connection it lived for is gone."""
        return self._only is not None and not self._connections

    def _is_overdue(self) -> bool:
        return time.monotonic() >= self._end_at_s

    def _is_finished(self) -> bool:
        """Nothing at work in threads, nothing unsent, and no half request half read."""
        return (
            self._listener is None
            and self._pending == 0
            and not self._posted
            and not any(connection.out for connection in self._connections)
        )


def stop_on_sigterm(server: Server) -> None:
    """Let SIGTERM end the server once what is in hand is answered. Main thread only."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.stop()

    signal.signal(signal.SIGTERM, stop)
