"""One connection to one instance's worker: frames, natural micro-batching, pings, reconnecting.

Owns :class:`InstanceLink`.  Refuses meaning: what an answer is for a caller is :class:`Desk`'s business.
Nothing waits for a timer to fill a batch: a request that is alone leaves at the end of the loop's turn it
came in, one of several after a turn that brought no further one.  Only while the worker has ``FRAMES_AHEAD``
frames before it do further ones gather, for ``LONGEST_HOLD_S`` at most, and then leave in one frame.  How
many may wait follows from the worker's pace: not more than it answers in ``LONGEST_WAIT_NS``.

Source: the layout is ``understudy.worker.wire``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from enum import IntEnum
from typing import Protocol, cast

from understudy.dataplane.calls import Call
from understudy.worker import wire

FRAMES_AHEAD = 2  # one being worked on, one waiting: the worker never idles for the wire's sake
LONGEST_HOLD_S = 0.002  # a worker that takes many requests at once is kept supplied
GATHERED_CALLS = 16  # with more calls than that under way frames are large by themselves
LONGEST_TURN_NS = 300_000
FIRST_TRY_S = 1.0
RECONNECT_FIRST_S = 0.02
RECONNECT_LONGEST_S = 1.0
PING_EVERY_S = 1.5  # a silent worker is out of rotation after three at the latest
MISSED_PINGS = 2
REPORT_EVERY_PINGS = 4  # of a silence that goes on, so that control can end it
MAX_OUTSTANDING = 1024
# Below this a queue is never too long, however slow the model: callers of slow models expect to wait.
MIN_OUTSTANDING = 256
LONGEST_WAIT_NS = 500_000_000
MAX_OUTSTANDING_BYTES = 64 * 1024 * 1024
WRITE_HIGH_BYTES = 8 * 1024 * 1024
MAX_FRAME_BYTES = 512 * 1024 * 1024


class LinkState(IntEnum):
    """The life of a link."""

    CONNECTING = 0  # its first attempt is under way: requests wait in its queue
    READY = 1
    LOST = 2  # it tries again and again; gets no requests
    CLOSED = 3


class Desk(Protocol):
    """Where a link takes what comes from its worker."""

    def take_responses(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Finish the calls that a RESPONSES frame answers."""
        ...

    def take_chunk(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Pass on a piece of a streamed answer."""
        ...

    def take_overdue(self, call: Call, now_ns: int) -> None:
        """Answer a call whose model has taken too long; its link has forgotten it."""
        ...

    def take_loss(self, link: InstanceLink, unsent: list[Call], sent: list[Call]) -> None:
        """Find another way for calls whose worker is gone."""
        ...

    def link_settled(self, link: InstanceLink) -> None:
        """Note that a link's first attempt has ended, one way or the other."""
        ...

    def link_suspect(self, link: InstanceLink, reason: str, silent_s: float = 0.0) -> None:
        """Tell the controller that an instance can't be reached, or for how long it has been silent."""
        ...


class InstanceLink(asyncio.Protocol):
    """The connection to one worker and the calls that are with it.

    Attributes:
        pending: Calls by request id, oldest first.
        ready: Connected and answering pings: takes requests.
        retired: In no table any more: ends with its last call.
    """

    __slots__ = (
        "_credits",
        "_delay_s",
        "_flushing",
        "_gathered",
        "_has_large",
        "_hold",
        "_last_heard_s",
        "_limit",
        "_loop",
        "_next_id",
        "_pace_ns",
        "_paced_since_ns",
        "_paused",
        "_retry",
        "_splitter",
        "_task",
        "_transport",
        "_turn_began_ns",
        "_turn_ns",
        "_waiting",
        "address",
        "desk",
        "instance_id",
        "missed_pings",
        "outstanding_bytes",
        "pending",
        "ready",
        "retired",
        "settled",
        "state",
    )

    def __init__(self, instance_id: str, address: str, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        self.instance_id = instance_id
        self.address = address
        self.desk = desk
        self.pending: dict[int, Call] = {}
        self.outstanding_bytes = 0
        self.state = LinkState.CONNECTING
        self.ready = False
        self.retired = False
        self.settled = False
        self.missed_pings = 0
        self._loop = loop
        self._limit = MAX_OUTSTANDING
        self._pace_ns = 0.0  # between two answers while there is something to answer
        self._paced_since_ns = 0  # the last answer, when it left something to answer; else 0
        self._next_id = 0
        self._waiting: list[tuple[int, bytes, bytes]] = []
        self._credits = FRAMES_AHEAD
        self._flushing = False
        self._gathered = 0  # calls that waited before the turn under way
        self._turn_began_ns = 0
        self._turn_ns = 0  # of the last turn that was waited for
        self._has_large = False  # among those waiting
        self._paused = False
        self._hold: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._splitter = wire.FrameSplitter(MAX_FRAME_BYTES)
        self._delay_s = RECONNECT_FIRST_S
        self._last_heard_s = 0.0

    # --- connecting ---------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect; comes back to itself until closed."""
        self._retry = None
        if self.state != LinkState.CLOSED:
            self._task = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(FIRST_TRY_S):
                if self.address.startswith("/") or ":" not in self.address:
                    await self._loop.create_unix_connection(lambda: self, self.address)
                else:
                    host, _, port = self.address.rpartition(":")
                    await self._loop.create_connection(lambda: self, host.strip("[]"), int(port))
        except (OSError, TimeoutError) as error:
            self._lost(f"can't connect to {self.address}: {error or 'timed out'}")
        finally:
            self._task = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclasses
        if self.state == LinkState.CLOSED:
            stream.abort()
            return
        stream.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        self._transport = stream
        self._splitter = wire.FrameSplitter(MAX_FRAME_BYTES)
        self._credits = FRAMES_AHEAD
        self._delay_s = RECONNECT_FIRST_S
        self._limit, self._pace_ns, self._paced_since_ns = MAX_OUTSTANDING, 0.0, 0
        self._paused = False
        self._last_heard_s = time.monotonic()
        self.missed_pings = 0
        self.state = LinkState.READY
        self.ready = True
        self._settle()
        if self._waiting:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.state != LinkState.CLOSED:
            self._lost(f"the connection ended: {exc or 'closed by the worker'}")

    def _lost(self, reason: str) -> None:
        first_try_failed = not self.settled
        was_ready = self.state == LinkState.READY
        self.state = LinkState.LOST
        self.ready = False
        if self.pending:
            unsent_ids = {request_id for request_id, _, _ in self._waiting}
            calls, self.pending = self.pending, {}
            self._waiting = []
            self.outstanding_bytes = 0
            unsent = [call for request_id, call in calls.items() if request_id in unsent_ids]
            sent = [call for request_id, call in calls.items() if request_id not in unsent_ids]
            self.desk.take_loss(self, unsent, sent)
        self._waiting = []
        if was_ready or first_try_failed:
            self.desk.link_suspect(self, reason)
        self._settle()
        if self.retired:
            self.close()
            self.desk.link_settled(self)
        else:
            self._retry = self._loop.call_later(self._delay_s, self.connect)
            self._delay_s = min(self._delay_s * 2, RECONNECT_LONGEST_S)

    def _settle(self) -> None:
        if not self.settled:
            self.settled = True
            self.desk.link_settled(self)

    def close(self) -> None:
        """Let go of the connection for good; nothing may be pending."""
        self.state = LinkState.CLOSED
        self.ready = False
        if self._retry is not None:
            self._retry.cancel()
        if self._hold is not None:
            self._hold.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.close()

    # --- sending ------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether another request would have to wait too long: it is better told so now."""
        return len(self.pending) >= self._limit or self.outstanding_bytes >= MAX_OUTSTANDING_BYTES

    def submit(self, call: Call, head: bytes, body: bytes) -> None:
        """Put a call into the next frame."""
        self._next_id = request_id = (self._next_id + 1) & 0xFFFFFFFF
        call.request_id = request_id
        call.link = self
        self.pending[request_id] = call
        size = len(body)
        self.outstanding_bytes += size
        if size >= wire.LARGE_BYTES:
            self._has_large = True
        self._waiting.append((request_id, head, body))
        if self._credits > 0:
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._gather)
        elif self._hold is None:
            self._hold = self._loop.call_later(LONGEST_HOLD_S, self._hold_over)

    def _hold_over(self) -> None:
        self._hold = None
        if self._waiting:
            self._flush()

    def _gather(self) -> None:
        """Send what waits, once a turn of the loop brings nothing more.

        Clients that were answered together ask again together, some microseconds apart, and a frame costs
        router and worker as much as several calls.  Not where there are many calls anyway, nor where turns
        are long: then a turn costs more than it brings.
        """
        count = len(self._waiting)
        if self._gathered:
            self._turn_ns = time.monotonic_ns() - self._turn_began_ns
        if self._turn_ns > LONGEST_TURN_NS:
            self._turn_ns -= self._turn_ns // 16  # to be tried again after some frames
        elif self._gathered < count and 1 < len(self.pending) <= GATHERED_CALLS:
            self._gathered = count
            self._turn_began_ns = time.monotonic_ns()
            self._loop.call_soon(self._gather)
            return
        self._flush()

    def _flush(self) -> None:
        self._flushing = False
        self._gathered = 0
        transport = self._transport
        if transport is None or self._paused or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        self._credits -= 1
        if len(waiting) > wire.MAX_ITEMS_PER_FRAME:
            self._waiting = waiting[wire.MAX_ITEMS_PER_FRAME :]
            del waiting[wire.MAX_ITEMS_PER_FRAME :]
            self._loop.call_soon(self._flush)
        if self._has_large:
            self._has_large = bool(self._waiting)
            transport.writelines(wire.request_buffers(waiting))
        else:
            transport.write(wire.encode_requests(waiting))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._waiting:
            self._flush()

    def forget(self, call: Call) -> None:
        """Take a call back: its caller is gone or has waited long enough."""
        request_id = call.request_id
        if self.pending.pop(request_id, None) is None:
            return
        self.outstanding_bytes -= len(call.body)
        for position, entry in enumerate(self._waiting):
            if entry[0] == request_id:
                del self._waiting[position]
                break
        else:
            if self._transport is not None and not self._paused:
                self._transport.write(wire.encode_cancel(request_id))
        self.end_if_retired()

    def pause(self, call: Call) -> None:
        """Have the worker wait with the rest of a stream: its caller reads more slowly than it comes."""
        if call.request_id in self.pending and self._transport is not None:
            self._transport.write(wire.encode_pause(call.request_id))

    def resume(self, call: Call) -> None:
        """Have the worker go on with a stream, whose time limit begins anew."""
        request_id = call.request_id
        if self.pending.pop(request_id, None) is not None and self._transport is not None:
            self.pending[request_id] = call  # at the end: the oldest due comes first
            self._transport.write(wire.encode_resume(request_id))

    def end_if_retired(self) -> None:
        """Close a link that no table names once it has no calls left."""
        if self.retired and not self.pending and self.state != LinkState.CLOSED:
            self.close()
            self.desk.link_settled(self)

    # --- receiving ----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        received_ns = time.monotonic_ns()
        self._last_heard_s = received_ns / 1e9
        self.missed_pings = 0
        try:
            for kind, payload in self._splitter.feed(data):
                if kind == wire.RESPONSES:
                    self._credits = FRAMES_AHEAD
                    self._note_pace(int.from_bytes(payload[:2], "big"), received_ns)
                    self.desk.take_responses(self, payload, received_ns)
                elif kind == wire.CHUNK:
                    self._credits = FRAMES_AHEAD
                    self.desk.take_chunk(self, payload, received_ns)
                elif kind != wire.PONG:
                    raise wire.WireError(f"frame of unknown kind {kind}")
        except wire.WireError:
            # The two sides have lost step: nothing further on this connection can be believed.
            if self._transport is not None:
                self._transport.abort()
            return
        if self.state == LinkState.READY:
            self.ready = True
        if self._waiting and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._gather)
        if self.retired:
            self.end_if_retired()

    def _note_pace(self, answers: int, now_ns: int) -> None:
        """Learn how fast the worker gets through its queue, and from that how long the queue may be."""
        if self._paced_since_ns and answers:
            interval_ns = (now_ns - self._paced_since_ns) / answers
            weight = min(0.5, answers / 64)
            self._pace_ns += (interval_ns - self._pace_ns) * (weight if self._pace_ns else 1.0)
            wanted = int(LONGEST_WAIT_NS / self._pace_ns) if self._pace_ns else MAX_OUTSTANDING
            self._limit = min(MAX_OUTSTANDING, max(MIN_OUTSTANDING, wanted))
        self._paced_since_ns = now_ns if len(self.pending) > answers else 0

    def ping(self) -> None:
        """Ask whether the worker's input loop is alive; take it out of rotation when it keeps silent."""
        if self.state != LinkState.READY or self._transport is None:
            return
        missed = self.missed_pings
        if missed >= MISSED_PINGS and (self.ready or missed % REPORT_EVERY_PINGS == 0):
            self.ready = False
            silent_s = time.monotonic() - self._last_heard_s
            self.desk.link_suspect(self, f"{missed} pings unanswered", silent_s)
        self.missed_pings += 1
        if not self._paused:
            with contextlib.suppress(RuntimeError):  # closing just now: connection_lost follows
                self._transport.write(wire.PING_FRAME)
