"""The connection to a shadow's instance, and the breaker that keeps copies from a sick shadow.

Owns :class:`ShadowLink` and :class:`Breaker`.  A shadow is sick when it does not answer; its errors are
answers, and what a shadow is there to show.  Refuses production's time: copies gather, large ones leave in
slices, and answers are read at a bounded rate.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import cast

from understudy.dataplane.calls import Call
from understudy.dataplane.instances import Desk, InstanceLink
from understudy.dataplane.skimming import Skimmer

log = logging.getLogger(__name__)

GATHER_S = 0.005  # nobody waits for a shadow: fewer, larger frames save a fifth of all processor time
FAILURES_TO_OPEN = 5
FULL_TO_OPEN_NS = 1_000_000_000
OPEN_NS = 5_000_000_000
# One that dies again and again costs production its starts, and what it does before it dies (40 ms a copy, if
# each has it fill 64 MiB).  So after each death but the first it proves that it lives, on copies that take a
# hundredth of its time.  A death and a start cost seconds; by the fourth they are a hundredth as well.
PROOFS_NS = (30_000_000_000, 120_000_000_000, 600_000_000_000)
FORGIVEN_NS = 60_000_000_000  # a death so long after the last one and its proof is a first one
TRIAL_NS = 500_000_000  # at least between copies while it proves
TRIAL_SHARE = 100  # as many times what the last of these copies took
LONGEST_TRIAL_NS = 60_000_000_000
WRITE_HIGH_BYTES = 1024 * 1024
# Copying large bodies out and reading large answers is work of production's loop: a slice at a time.
WRITE_SLICE_BYTES = 1024 * 1024
READ_SLICE_BYTES = 2 * 1024 * 1024
READ_PAUSE_S = 0.02


class Breaker:
    """Keeps copies from a shadow that does not answer.

    It opens after ``FAILURES_TO_OPEN`` copies in a row were lost or timed out, or when the shadow's queue has
    been full for ``FULL_TO_OPEN_NS`` without one answer; then one copy each ``OPEN_NS`` tries it, and one
    each new set of instances: one that crashes at every copy gets one per life.  Any answer closes it; unless
    it was opened by deaths: then answers must go on coming for as long as the number of deaths asks for
    (``PROOFS_NS``), and the slower they are, the fewer are asked for.

    Attributes:
        is_open: No copies but the one that tries.
    """

    __slots__ = (
        "_answers_since_ns",
        "_deaths",
        "_failures",
        "_full_since_ns",
        "_proof_ns",
        "_retry_ns",
        "_title",
        "_tried_ns",
        "_trusted_ns",
        "is_open",
    )

    def __init__(self, title: str) -> None:
        self._title = title
        self._failures = 0
        self._full_since_ns: int | None = None
        self._retry_ns = 0
        self._tried_ns = 0  # when the copy left that is under way while open; 0: none is
        self._deaths = 0
        self._trusted_ns = 0  # since the last death or, where one was asked for, the proof that followed it
        self._proof_ns = 0
        self._answers_since_ns: int | None = None
        self.is_open = False

    def refuses(self, now_ns: int) -> bool:
        """Tell whether no copy may go, not even one that tries."""
        return self.is_open and now_ns < self._retry_ns

    def admits(self, now_ns: int) -> bool:
        """Tell whether the next copy may go; while open, that is asked for at most one each ``OPEN_NS``."""
        if self.refuses(now_ns):
            return False
        if self.is_open:
            self._tried_ns = now_ns
            self._retry_ns = now_ns + OPEN_NS
        return True

    def renewed(self) -> None:
        """Note that the shadow has other instances than before: the next copy may try them at once."""
        self._retry_ns = 0

    def answered(self, now_ns: int) -> None:
        """Note an answer, be it an error."""
        self._failures = 0
        self._full_since_ns = None
        if not self.is_open:
            return
        if self._answers_since_ns is None:
            self._answers_since_ns = now_ns
        if now_ns - self._answers_since_ns < self._proof_ns:
            took_ns = now_ns - self._tried_ns if self._tried_ns else 0
            self._tried_ns = 0
            self._retry_ns = now_ns + min(max(TRIAL_NS, TRIAL_SHARE * took_ns), LONGEST_TRIAL_NS)
            return
        self.is_open = False
        self._trusted_ns = now_ns
        self._proof_ns = 0
        log.info("%s answers again", self._title)

    def failed(self, now_ns: int) -> None:
        """Note that a copy was lost or not answered in time."""
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN:
            self._open(now_ns, f"{self._failures} requests in a row without an answer")

    def died(self, now_ns: int) -> None:
        """Note that an instance ended, or its connection."""
        forgiven = not self.is_open and now_ns - self._trusted_ns >= FORGIVEN_NS
        self._deaths = 1 if forgiven else self._deaths + 1
        self._trusted_ns = now_ns
        if self._deaths > 1:
            self._proof_ns = PROOFS_NS[min(self._deaths - 2, len(PROOFS_NS) - 1)]
            self._open(now_ns, f"it has died {self._deaths} times in short order")

    def full(self, now_ns: int) -> None:
        """Note that a copy found the queue full."""
        if self._full_since_ns is None:
            self._full_since_ns = now_ns
        elif now_ns - self._full_since_ns >= FULL_TO_OPEN_NS:
            self._open(now_ns, "its queue is full and nothing is answered")

    def _open(self, now_ns: int, reason: str) -> None:
        self._retry_ns = now_ns + OPEN_NS
        self._tried_ns = 0
        self._answers_since_ns = None
        if not self.is_open:
            self.is_open = True
            log.warning("%s is left out for now: %s", self._title, reason)


class ShadowLink(InstanceLink):
    """A link whose requests gather, and whose answers may not keep the loop from production."""

    __slots__ = ("_read_bytes", "_stream")

    def __init__(self, instance_id: str, address: str, desk: Desk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(instance_id, address, desk, loop)
        self._stream: asyncio.Transport | None = None
        self._read_bytes = 0

    def submit(self, call: Call, head: bytes, body: bytes) -> None:
        """Put a call into the frame that leaves ``GATHER_S`` after its first."""
        if self._credits > 0 and not self._flushing:
            self._flushing = True
            self._loop.call_later(GATHER_S, self._flush)
        super().submit(call, head, body)

    def _flush(self) -> None:
        waiting, rest = self._waiting, []
        if waiting and self._transport is not None and not self._paused:
            now_ns, size = time.monotonic_ns(), 0
            for position, (request_id, _, body) in enumerate(waiting):
                size += len(body)
                if size > WRITE_SLICE_BYTES and position:
                    self._waiting, rest = waiting[:position], waiting[position:]
                    break
                # ModelLatency counts from when the worker is given a request, as production's does.
                self.pending[request_id].handed_ns = now_ns
        super()._flush()
        if rest:
            self._waiting = rest
            self._flushing = True
            self._loop.call_soon(self._flush)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._transport is not None:
            self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
            self._splitter = Skimmer(self._wants_body)
            self._stream = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
            self._read_bytes = 0

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream = None
        super().connection_lost(exc)

    def _wants_body(self, request_id: int) -> bool:
        call = self.pending.get(request_id)
        return call is not None and call.event is not None and call.event.keeps_output

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._read_bytes += len(data)
        if self._read_bytes < READ_SLICE_BYTES or self._stream is None or self._stream.is_closing():
            return
        self._read_bytes = 0
        self._stream.pause_reading()
        self._loop.call_later(READ_PAUSE_S, self._read_on, self._stream)

    def _read_on(self, stream: asyncio.Transport) -> None:
        if stream is self._stream and not stream.is_closing():
            stream.resume_reading()
