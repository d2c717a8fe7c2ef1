"""What is kept of requests and answers: draws, event ids, and records on their way to the spool.

Owns :class:`Tap` (one per router), :class:`EndpointCapture` (one per capturing endpoint of a table) and
:class:`Event` (one per sampled request and variant).  Only 2XX answers make records; failed requests are
neither captured nor counted as sampled.  One draw and one event id per production request hold for its
shadows' records too: both sides are there, or neither.  Refuses unbounded memory: what the spool does not
take is shed and counted, and streamed answers are joined within ``MAX_JOINED_BYTES`` for all of them.

Source: "Capture data from real-time endpoint", Amazon SageMaker Developer Guide.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from understudy.capture.records import CaptureRecord
from understudy.dataplane.invocation import MAX_BODY_BYTES
from understudy.worker import wire

if TYPE_CHECKING:
    from understudy.core.routing import CaptureRoute
    from understudy.dataplane.accounting import Ledger
    from understudy.dataplane.calls import Call

MAX_JOINED_BYTES = 8 * 1024 * 1024
KIND = "capture"

Acknowledge = Callable[[bool], None]


class Spool(Protocol):
    """Where records go; ``capture.spool.SpoolWriter``.  Counts itself what it sheds."""

    def offer(self, record: CaptureRecord, acknowledge: Acknowledge | None = None) -> bool:
        """Take a record without ever waiting; False when it is shed."""
        ...

    def close(self, timeout_s: float) -> None:
        """Write what was taken; shed what can't be."""
        ...


class Tap:
    """What the captures of one router share.

    Args:
        draw: Uniform in [0, 1).
        wall_s: The scaled clock's Unix time.
        open_spool: Called once, when a table captures for the first time; None: there is nowhere to keep
            records, all are shed as ``disk``.

    Attributes:
        joined_bytes: Of streamed answers whose end has not come.
    """

    def __init__(
        self,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        *,
        draw: Callable[[], float],
        wall_s: Callable[[], float],
        open_spool: Callable[[], Spool] | None,
    ) -> None:
        self.ledger = ledger
        self.draw = draw
        self.wall_s = wall_s
        self.joined_bytes = 0
        self._open_spool = open_spool
        self._spool: Spool | None = None
        self._loop = loop
        self._taken: list[tuple[Event, Call, bytes, bytes]] = []
        seed = os.urandom(16).hex()
        # Version 4 UUIDs whose last group counts, as request ids are made; of another seed.
        self._ids = f"{seed[:8]}-{seed[8:12]}-4{seed[12:15]}-8{seed[15:18]}-"
        self._number = int.from_bytes(os.urandom(4), "big")

    def captures(self, endpoint: str, route: CaptureRoute) -> EndpointCapture:
        """Prepare for a capturing endpoint of a new table."""
        if self._spool is None and self._open_spool is not None:
            self._spool = self._open_spool()
        return EndpointCapture(self, endpoint, route)

    def event_id(self) -> str:
        """Name one production request."""
        self._number += 1
        return f"{self._ids}{self._number:012x}"

    def take(self, event: Event, call: Call, head: bytes, body: bytes) -> None:
        """Count an answer; its record is made once all answers of this turn of the loop have left."""
        if not event.count(call):
            return
        if not self._taken:
            self._loop.call_soon(self._keep_taken)
        self._taken.append((event, call, head, body))

    def _keep_taken(self) -> None:
        taken, self._taken = self._taken, []
        for event, call, head, body in taken:
            event.keep(call, head, body)

    def offer(self, record: CaptureRecord, acknowledge: Acknowledge | None) -> bool:
        """Hand a record to the spool; False when it is shed, which is counted."""
        if self._spool is None:
            self.ledger.note(KIND, record.endpoint, record.variant, "disk")
            return False
        return self._spool.offer(record, acknowledge)

    def close(self, timeout_s: float) -> None:
        """Have the spool write what it has.  Blocks for ``timeout_s`` at most."""
        if self._spool is not None:
            self._spool.close(timeout_s)


class EndpointCapture:
    """The capture of one endpoint."""

    __slots__ = ("endpoint", "route", "share", "tap", "unsampled")

    def __init__(self, tap: Tap, endpoint: str, route: CaptureRoute) -> None:
        self.tap = tap
        self.endpoint = endpoint
        self.route = route
        self.share = route.sampling_percent / 100.0
        self.unsampled = Event(self, "", 0.0)

    def begin(self) -> Event:
        """Decide for one production request whether it is captured."""
        tap = self.tap
        if self.share < 1.0 and tap.draw() >= self.share:
            return self.unsampled
        return Event(self, tap.event_id(), tap.wall_s())


class Event:
    """One request as it will stand in one variant's record; also the mark of those that were not drawn.

    Attributes:
        holds: The answer may leave only after its record is on disk.
    """

    __slots__ = ("_at_s", "_capture", "_event_id", "_head", "_joined_bytes", "_overflows", "_pieces", "holds")

    def __init__(self, capture: EndpointCapture, event_id: str, at_s: float) -> None:
        self._capture = capture
        self._event_id = event_id
        self._at_s = at_s
        self._head = b""
        self._pieces: list[bytes] | None = None
        self._joined_bytes = 0
        self._overflows = False
        self.holds = capture.route.durable and bool(event_id)

    @property
    def event_id(self) -> str | None:
        """What the record will be found by; None when there will be none."""
        return self._event_id or None

    @property
    def keeps_output(self) -> bool:
        """Whether the answer's body will be in the record."""
        return bool(self._event_id) and self._capture.route.outputs

    def for_copy(self) -> Event:
        """Return the event of a shadow's copy of the same request."""
        if not self._event_id:
            return self
        return Event(self._capture, self._event_id, self._at_s)

    def count(self, call: Call) -> bool:
        """Count an answered call, before its answer leaves: as not drawn, or as one whose record is to come.

        Returns:
            False when it was not drawn: there will be no record.
        """
        capture = self._capture
        if not self._event_id:
            capture.tap.ledger.note(KIND, capture.endpoint, call.variant.name, "sampling")
            return False
        capture.tap.ledger.expect(KIND, capture.endpoint, call.variant.name)
        return True

    def keep(self, call: Call, head: bytes, body: bytes, acknowledge: Acknowledge | None = None) -> bool:
        """Make the record of an answered call that was counted.

        Args:
            head: Of the worker's answer.
            acknowledge: See :meth:`Spool.offer`.
        Returns:
            False when the record is shed; ``acknowledge`` is not called then.
        """
        capture = self._capture
        tap, route = capture.tap, capture.route
        input_type, inference_id, attributes = call.invocation.told
        record = CaptureRecord(
            destination=route.destination,
            endpoint=capture.endpoint,
            variant=call.variant.name,
            event_id=self._event_id,
            inference_id=inference_id,
            custom_attributes=attributes,
            at_s=self._at_s,
            input_type=input_type,
            input_body=call.body if route.inputs else None,
            output_type=wire.decode_response_head(head).content_type.strip() or "application/octet-stream",
            output_body=body if route.outputs else None,
            csv_types=route.csv_types,
            json_types=route.json_types,
        )
        return tap.offer(record, acknowledge)

    # --- streamed answers ----------------------------------------------------------------------------

    def join(self, head: bytes, data: bytes) -> None:
        """Take a piece of a streamed answer; what comes after the first 6 MiB is left out."""
        if not self._event_id:
            return
        if self._pieces is None:
            self._pieces, self._head = [], head
        if not self._capture.route.outputs:
            return
        data = data[: MAX_BODY_BYTES - self._joined_bytes]
        tap = self._capture.tap
        if tap.joined_bytes + len(data) > MAX_JOINED_BYTES:
            self.drop()
            self._overflows = True
        if data and not self._overflows:
            tap.joined_bytes += len(data)
            self._joined_bytes += len(data)
            self._pieces.append(data)

    def keep_joined(self, call: Call, acknowledge: Acknowledge | None = None) -> bool:
        """Count a streamed answer that has ended and make its record; see :meth:`keep`."""
        if not self.count(call):
            return True
        capture, body = self._capture, b"".join(self._pieces or ())
        self.drop()
        if self._overflows:
            capture.tap.ledger.note(KIND, capture.endpoint, call.variant.name, "queue")
            return False
        return self.keep(call, self._head, body, acknowledge)

    def drop(self) -> None:
        """Let go of what was joined: the call has ended."""
        self._capture.tap.joined_bytes -= self._joined_bytes
        self._joined_bytes = 0
        self._pieces = None
