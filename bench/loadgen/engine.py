"""The loops: closed (N connections, each sends when it has its answer) and open (Poisson arrivals).

Owns sockets, times and counts.  Refuses nothing: whatever a server does is counted by kind.
Main function: :func:`run`.

In the open loop a latency counts from the moment at which the request was due, so that a server (or this
generator) that stalls pays for everything that came due meanwhile; how late sends were is reported beside it.
Source: G. Tene, "How NOT to Measure Latency" (coordinated omission).
"""

from __future__ import annotations

import ctypes
import errno
import random
import resource
import select
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.loadgen.histogram import Histogram
from bench.loadgen.plans import Item
from bench.loadgen.responses import MalformedResponse, ResponseReader

RECEIVE_BYTES = 1 << 18
SWEEP_NS = 50_000_000
CONNECT_PATIENCE_S = 5.0
PR_SET_TIMERSLACK = 29
REFUSALS = (429, 503)
MAX_EXAMPLES = 3
_OK = b"HTTP/1.1 200"
_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT


@dataclass(frozen=True)
class Load:
    """What to do.

    Attributes:
        connections: Closed loop: all of them busy.  Open loop: opened beforehand; more on demand.
        max_connections: Open loop only: beyond them requests wait here, their latency running.
        rate_per_s: None is the closed loop.
        duration_s: After the warm-up.
        timeout_s: A request without its answer for so long is an error and its connection is closed.
        seed: Of the arrivals.
    """

    host: str
    port: int
    connections: int
    duration_s: float
    warm_up_s: float = 0.0
    rate_per_s: float | None = None
    max_connections: int = 4096
    timeout_s: float = 10.0
    seed: int = 1


class _Connection:
    __slots__ = ("due_ns", "item", "left", "reader", "reused", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.item: Item | None = None  # None: idle
        self.due_ns = 0
        self.left: memoryview | None = None  # of the request, still to be sent
        self.reader: ResponseReader | None = None
        self.reused = False


class Engine:
    """One load; use :func:`run`."""

    def __init__(self, load: Load, plan: list[Item]) -> None:
        self.load = load
        self.plan = plan
        self.turn = 0
        self.epoll = select.epoll()
        self.by_fd: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()
        self.waiting: deque[int] = deque()  # due times of requests that found no connection
        self.errors: Counter[str] = Counter()
        self.examples: list[str] = []
        self.ok = self.sent = self.answered = self.reconnects = self.waited = 0
        self.latency, self.refused, self.lateness = Histogram(), Histogram(), Histogram()
        self.from_ns = self.to_ns = self.next_sweep_ns = 0
        self.is_open = load.rate_per_s is not None

    # --- connections ---------------------------------------------------------------------------------

    def connect(self) -> _Connection | None:
        """Open a connection, waiting for it (the kernel accepts for the server at once)."""
        try:
            opened = socket.create_connection((self.load.host, self.load.port), CONNECT_PATIENCE_S)
        except TimeoutError:
            self.errors["connect timeout"] += 1
            return None
        except OSError as error:
            self.errors["connect " + errno.errorcode.get(error.errno or 0, "failed").lower()] += 1
            return None
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        connection = _Connection(opened)
        self.by_fd[opened.fileno()] = connection
        self.epoll.register(opened.fileno(), _READ)
        return connection

    def drop(self, connection: _Connection) -> None:
        """Close a connection; in the closed loop another takes its place."""
        fd = connection.socket.fileno()
        if self.by_fd.pop(fd, None) is not None:
            self.epoll.unregister(fd)
            connection.socket.close()

    # --- requests ------------------------------------------------------------------------------------

    def send(self, connection: _Connection, due_ns: int) -> None:
        """Send the next request of the plan."""
        item = self.plan[self.turn]
        self.turn = self.turn + 1 if self.turn + 1 < len(self.plan) else 0
        connection.item = item
        connection.due_ns = due_ns
        if due_ns >= self.from_ns:
            self.sent += 1
            if self.is_open:
                self.lateness.add((time.perf_counter_ns() - due_ns) // 1000)
        try:
            count = connection.socket.send(item.data)
        except BlockingIOError:
            count = 0
        except OSError:
            self.fail(connection, "closed" if connection.reused else "reset")
            return
        if count < len(item.data):
            connection.left = memoryview(item.data)[count:]
            self.epoll.modify(connection.socket.fileno(), _READ | _WRITE)

    def send_rest(self, connection: _Connection) -> None:
        """Go on with a request that the kernel did not take at once."""
        left = connection.left
        if left is None:
            return
        try:
            count = connection.socket.send(left)
        except BlockingIOError:
            return
        except OSError:
            connection.left = None  # an answer may be there all the same: reading tells
            self.epoll.modify(connection.socket.fileno(), _READ)
            return
        connection.left = left[count:] if count < len(left) else None
        if connection.left is None:
            self.epoll.modify(connection.socket.fileno(), _READ)

    def receive(self, connection: _Connection) -> None:
        """Read what came."""
        try:
            data = connection.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.gone(connection, "reset")
            return
        if not data:
            self.gone(connection, "closed")
            return
        item = connection.item
        if item is None:
            self.errors["unasked answer"] += 1
            self.lost_idle(connection)
            return
        if (
            connection.reader is None
            and item.tail
            and data.endswith(item.tail)
            and data.startswith(_OK)
            and b"lose\r\n" not in data
        ):
            self.succeed(connection, time.perf_counter_ns())
            return
        reader = connection.reader
        if reader is None:
            reader = connection.reader = ResponseReader()
        try:
            if reader.feed(data):
                self.answer(connection, reader)
        except MalformedResponse as error:
            self.example(f"malformed: {error}")
            self.fail(connection, "malformed")

    def gone(self, connection: _Connection, kind: str) -> None:
        """Handle a connection that the server ended."""
        if connection.item is None:
            self.lost_idle(connection)
        elif connection.reader is not None and connection.reader.ended():
            self.answer(connection, connection.reader)
        else:
            self.fail(connection, kind)

    def lost_idle(self, connection: _Connection) -> None:
        """Replace a connection that ended between two requests."""
        self.drop(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.reconnects += 1
        fresh = self.connect()
        if fresh is not None:
            self.idle.append(fresh)

    # --- answers -------------------------------------------------------------------------------------

    def answer(self, connection: _Connection, reader: ResponseReader) -> None:
        """Take a complete answer that was parsed."""
        now_ns = time.perf_counter_ns()
        item = connection.item
        assert item is not None
        closes = reader.closes
        if 200 <= reader.status < 300 and item.is_right(reader.body):
            self.succeed(connection, now_ns, closes=closes)
            return
        if 200 <= reader.status < 300:
            self.example(f"{item.request.path}: got {reader.body[:80]!r}, expected {item.expect[:80]!r}")
            self.count_error(connection, "wrong answer")
        else:
            self.example(f"{item.request.path}: {reader.status} {reader.body[:120]!r}")
            self.count_error(connection, f"status {reader.status}")
            if reader.status in REFUSALS and connection.due_ns >= self.from_ns:
                self.refused.add((now_ns - connection.due_ns) // 1000)
        self.next(connection, now_ns, closes=closes)

    def succeed(self, connection: _Connection, now_ns: int, *, closes: bool = False) -> None:
        """Count a right answer."""
        due_ns = connection.due_ns
        if due_ns >= self.from_ns:
            self.ok += 1
            self.latency.add((now_ns - due_ns) // 1000)
        if self.from_ns <= now_ns < self.to_ns:
            self.answered += 1
        self.next(connection, now_ns, closes=closes)

    def next(self, connection: _Connection, now_ns: int, *, closes: bool) -> None:
        """Use the connection for what comes next."""
        connection.item = connection.reader = None
        connection.reused = True
        if connection.left is not None:  # answered before it had all: nothing of it may follow
            connection.left = None
            closes = True
        if closes:
            self.drop(connection)
            self.reconnects += 1
            fresh = self.connect()
            if fresh is None:
                return
            connection = fresh
        if self.is_open:
            limit_ns = now_ns - int(self.load.timeout_s * 1e9)
            while self.waiting and self.waiting[0] < limit_ns:  # too late before it could be sent
                self.sent += 1
                self.waiting.popleft()
                self.errors["timeout"] += 1
            if self.waiting:
                self.send(connection, self.waiting.popleft())
            else:
                self.idle.append(connection)
        elif now_ns < self.to_ns:
            self.send(connection, time.perf_counter_ns())

    def fail(self, connection: _Connection, kind: str) -> None:
        """Count a request that has no answer, and go on with a new connection."""
        self.count_error(connection, kind)
        self.next(connection, time.perf_counter_ns(), closes=True)

    def count_error(self, connection: _Connection, kind: str) -> None:
        """Count by kind; a wrong answer counts in the warm-up too."""
        if connection.due_ns >= self.from_ns or kind == "wrong answer":
            self.errors[kind] += 1

    def example(self, text: str) -> None:
        """Keep the first few."""
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)

    # --- loops ---------------------------------------------------------------------------------------

    def turn_once(self, wait_s: float) -> None:
        """Handle what is ready, waiting for it to the microsecond (epoll alone knows milliseconds)."""
        events = self.epoll.poll(0)
        if not events and wait_s > 0.0:
            select.select([self.epoll], [], [], wait_s)
            events = self.epoll.poll(0)
        for fd, event in events:
            connection = self.by_fd.get(fd)
            if connection is None:
                continue
            if event & _WRITE:
                self.send_rest(connection)
            if event & ~_WRITE:
                self.receive(connection)
        now_ns = time.perf_counter_ns()
        if now_ns > self.next_sweep_ns:
            self.next_sweep_ns = now_ns + SWEEP_NS
            limit_ns = now_ns - int(self.load.timeout_s * 1e9)
            for connection in list(self.by_fd.values()):
                if connection.item is not None and connection.due_ns < limit_ns:
                    self.fail(connection, "timeout")

    def closed_loop(self, tell: Callable[[str], None]) -> None:
        """Keep every connection busy."""
        self.window(time.perf_counter_ns())
        for _ in range(self.load.connections):
            connection = self.connect()
            if connection is not None:
                self.send(connection, time.perf_counter_ns())
        told = False
        next_try_ns = 0
        while (now_ns := time.perf_counter_ns()) < self.to_ns:
            if len(self.by_fd) < self.load.connections and now_ns > next_try_ns:
                next_try_ns = now_ns + SWEEP_NS
                fresh = self.connect()
                if fresh is not None:
                    self.idle.append(fresh)
            if not told and now_ns >= self.from_ns:
                told = True
                tell("window open")
            while self.idle:  # lost and replaced between two requests
                self.send(self.idle.popleft(), now_ns)
            self.turn_once(0.01)

    def open_loop(self, tell: Callable[[str], None]) -> None:
        """Send at the times that a Poisson process gives, whatever the server does."""
        assert self.load.rate_per_s is not None
        arrivals = random.Random(self.load.seed)
        mean_ns = 1e9 / self.load.rate_per_s
        for _ in range(self.load.connections):
            connection = self.connect()
            if connection is not None:
                self.idle.append(connection)
        self.window(time.perf_counter_ns())
        due = float(time.perf_counter_ns())
        told = False
        while due < self.to_ns:
            now_ns = time.perf_counter_ns()
            if not told and now_ns >= self.from_ns:
                told = True
                tell("window open")
            if now_ns < due:
                self.turn_once(min(0.01, (due - now_ns) / 1e9))
                continue
            # At most a few at a time, so that answers are read at the time they come.
            for _ in range(8):
                if due > now_ns or due >= self.to_ns:
                    break
                self.depart(int(due))
                due += arrivals.expovariate(1.0) * mean_ns
            self.turn_once(0.0)

    def depart(self, due_ns: int) -> None:
        """Send a request that is due, on an idle connection, else a new one, else when one gets idle."""
        if self.idle:
            self.send(self.idle.popleft(), due_ns)
            return
        if len(self.by_fd) < self.load.max_connections:
            connection = self.connect()
            if connection is not None:
                self.send(connection, due_ns)
                return
        self.waited += 1
        self.waiting.append(due_ns)

    def window(self, start_ns: int) -> None:
        """Say which requests count."""
        self.from_ns = start_ns + int(self.load.warm_up_s * 1e9)
        self.to_ns = self.from_ns + int(self.load.duration_s * 1e9)

    def drain(self) -> None:
        """Wait for what is under way: it counts, right or wrong; what never comes is an error."""
        end_ns = time.perf_counter_ns() + int((self.load.timeout_s + 0.5) * 1e9)
        while time.perf_counter_ns() < end_ns:
            if not self.waiting and all(one.item is None for one in self.by_fd.values()):
                return
            self.turn_once(0.01)
        self.errors["unanswered"] += len(self.waiting) + sum(
            one.item is not None for one in self.by_fd.values()
        )


def run(load: Load, plan: list[Item], *, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Make one load.

    Args:
        tell: Called with ``window open`` and ``window closed``.
    Returns:
        ``per_s``: right answers within the window per second; ``latency``, ``refused`` (429 and 503) and
        ``lateness`` as of :meth:`Histogram.as_json`; ``errors`` by kind; ``wrong``: wrong answers.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    if sys.platform == "linux":
        # The kernel's usual 50 us of slack would make every send late.
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    engine = Engine(load, plan)
    started_s = time.process_time()
    (engine.open_loop if engine.is_open else engine.closed_loop)(tell)
    busy_s = time.process_time() - started_s
    tell("window closed")
    engine.drain()
    for connection in list(engine.by_fd.values()):
        engine.drop(connection)
    return {
        "mode": "open" if engine.is_open else "closed",
        "connections": load.connections,
        "rate_per_s": load.rate_per_s,
        "duration_s": load.duration_s,
        "per_s": engine.answered / load.duration_s,
        "sent": engine.sent,
        "ok": engine.ok,
        "in_window": engine.answered,
        "wrong": engine.errors["wrong answer"],
        "errors": {kind: count for kind, count in engine.errors.items() if count},
        "examples": engine.examples,
        "reconnects": engine.reconnects,
        "waited_for_connection": engine.waited,
        "latency": engine.latency.as_json(),
        "refused": engine.refused.as_json(),
        "lateness": engine.lateness.as_json() if engine.is_open else None,
        # Near 1.0 the generator itself is the limit and the server is better than the figure.
        "generator_busy": busy_s / (load.duration_s + load.warm_up_s),
    }
