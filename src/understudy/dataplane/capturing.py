"""What is kept of requests and answers: draws, event ids, and records on their way to the spool.

Owns :class:`Tap` (one per router), :class:`EndpointCapture` (one per capturing endpoint of a table),
:class:`Gathering` (one per variant of it) and :class:`Event` (one per sampled request and variant).  Small
records are gathered and packed together, which costs a tenth of a microsecond each; large ones, and those
that an answer waits for, go by themselves.  Only 2XX answers make records; failed requests are
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

from understudy.capture.batches import Batch, Packed
from understudy.capture.records import CaptureRecord
from understudy.dataplane.accounting import Also, Noted
from understudy.dataplane.invocation import MAX_BODY_BYTES
from understudy.worker import wire

if TYPE_CHECKING:
    from understudy.core.routing import CaptureRoute
    from understudy.dataplane.accounting import Ledger
    from understudy.dataplane.calls import Call

MAX_JOINED_BYTES = 8 * 1024 * 1024
KIND = "capture"
GATHER_S = 0.02  # how long small records are gathered before they are packed
GATHERED_BYTES = 256 * 1024  # and how much of them, of all endpoints together
SMALL_BYTES = 16 * 1024  # request and answer together
TUPLE_BYTES = 256  # of a gathered record with empty bodies; about

Acknowledge = Callable[[bool], None]


class Spool(Protocol):
    """Where records go; ``capture.spool.SpoolWriter``.  Counts itself what it sheds."""

    def offer(self, record: CaptureRecord | Batch, acknowledge: Acknowledge | None = None) -> bool:
        """Take a record, or some, without ever waiting; False when it is shed."""
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
        ids: What event ids begin with.
        number: Of the newest production request that was drawn; the event id ends in it.
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
        self._gathered: list[Gathering] = []
        self._gathered_bytes = 0
        seed = os.urandom(16).hex()
        # Version 4 UUIDs whose last group counts, as request ids are made; of another seed.
        self.ids = f"{seed[:8]}-{seed[8:12]}-4{seed[12:15]}-8{seed[15:18]}-"
        self.number = int.from_bytes(os.urandom(4), "big")

    def captures(self, endpoint: str, route: CaptureRoute) -> EndpointCapture:
        """Prepare for a capturing endpoint of a new table."""
        if self._spool is None and self._open_spool is not None:
            self._spool = self._open_spool()
        return EndpointCapture(self, endpoint, route)

    def take(self, event: Event, call: Call, head: bytes, body: bytes) -> None:
        """Keep what the record of an answer is made of that has been counted with ``Event.told``; what costs
        more is done once all answers of this turn of the loop have left.
        """
        if not event.number:
            return
        gathering = event.gathering(call)
        request = call.body
        size_bytes = len(request) + len(body)
        if size_bytes > SMALL_BYTES:
            if not self._taken:
                self._loop.call_soon(self._keep_taken)
            self._taken.append((event, call, head, body))
            return
        if not gathering.records:
            if not self._gathered:
                self._loop.call_later(GATHER_S, self.pack)
            self._gathered.append(gathering)
        gathering.keep(event, call.invocation.told, request, head, body)
        self._gathered_bytes += size_bytes + TUPLE_BYTES
        if self._gathered_bytes > GATHERED_BYTES:
            self._gathered_bytes = 0
            self._loop.call_soon(self.pack)

    def _keep_taken(self) -> None:
        taken, self._taken = self._taken, []
        for event, call, head, body in taken:
            event.keep(call, head, body)

    def pack(self) -> None:
        """Hand what is gathered to the spool."""
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        for gathering in gathered:
            self.offer(gathering.batch(), None)

    def offer(self, record: CaptureRecord | Batch, acknowledge: Acknowledge | None) -> bool:
        """Hand a record, or some, to the spool; False when it is shed, which is counted."""
        if self._spool is None:
            self.ledger.note(KIND, record.endpoint, record.variant, "disk", record.count)
            return False
        return self._spool.offer(record, acknowledge)

    def close(self, timeout_s: float) -> None:
        """Have the spool write what it has.  Blocks for ``timeout_s`` at most."""
        if self._spool is not None:
            self._spool.close(timeout_s)


class EndpointCapture:
    """The capture of one endpoint.

    Attributes:
        gatherings: By variant.
    """

    __slots__ = ("_not_drawn", "durable", "endpoint", "gatherings", "route", "share", "tap", "unsampled")

    def __init__(self, tap: Tap, endpoint: str, route: CaptureRoute) -> None:
        self.tap = tap
        self.endpoint = endpoint
        self.route = route
        self.share = route.sampling_percent / 100.0
        self.durable = route.durable
        self.unsampled = Event(self, 0, 0.0)
        self.gatherings: dict[str, Gathering] = {}
        self._not_drawn: dict[str, Also] = {}

    def begin(self) -> Event:
        """Decide for one production request whether it is captured."""
        tap = self.tap
        if self.share < 1.0 and tap.draw() >= self.share:
            return self.unsampled
        tap.number = number = tap.number + 1
        return Event(self, number, tap.wall_s())

    def gathering(self, variant: str) -> Gathering:
        """Begin to gather the records of a variant."""
        made = self.gatherings[variant] = Gathering(self, variant)
        return made

    def not_drawn(self, variant: str) -> Also:
        """Return what is counted with an answer that is not kept."""
        told = self._not_drawn.get(variant)
        if told is None:
            told = self._not_drawn[variant] = (
                Noted(self.tap.ledger, KIND, self.endpoint, variant, "sampling"),
            )
        return told


class Gathering:
    """Small records of one variant that are not packed yet.

    Attributes:
        expected: The variant's records that are to come.
        told: Counts one of them together with its answer.
    """

    __slots__ = ("_capture", "_inputs", "_kinds", "_outputs", "_variant", "expected", "records", "told")

    def __init__(self, capture: EndpointCapture, variant: str) -> None:
        self.expected = capture.tap.ledger.expectation(KIND, capture.endpoint, variant)
        self.told: Also = (self.expected,)
        self.records: list[Packed] = []
        self._capture = capture
        self._variant = variant
        self._inputs, self._outputs = capture.route.inputs, capture.route.outputs
        self._kinds: dict[tuple[str, bytes], int] = {}  # by the request's type and the answer's head

    def keep(
        self, event: Event, told: tuple[str, str | None, str | None], request: bytes, head: bytes, body: bytes
    ) -> None:
        """Keep what the record of an answered call is made of.

        Args:
            told: See ``Invocation.told``.
            request: Its body.
            head: Of the worker's answer.
        """
        input_type, inference_id, attributes = told
        kinds = self._kinds
        kind = kinds.get((input_type, head))
        if kind is None:
            kind = kinds[input_type, head] = len(kinds)
        self.records.append(
            (
                event.number,
                event.at_s,
                kind,
                request if self._inputs else None,
                body if self._outputs else None,
                inference_id,
                attributes,
            )
        )

    def batch(self) -> Batch:
        """Pack what there is and begin anew."""
        records, self.records = self.records, []
        kinds, self._kinds = self._kinds, {}
        capture = self._capture
        route = capture.route
        types = [(input_type, _content_type(head)) for input_type, head in kinds]
        return Batch(
            route.destination,
            capture.endpoint,
            self._variant,
            capture.tap.ids,
            route.csv_types,
            route.json_types,
            types,
            records,
        )


class Event:
    """One request as it will stand in one variant's record; also the mark of those that were not drawn.

    Attributes:
        number: Of its event id; 0: it was not drawn.
        at_s: Unix time of the request.
        holds: The answer may leave only after its record is on disk.
    """

    __slots__ = ("_capture", "_streamed", "at_s", "holds", "number")

    def __init__(self, capture: EndpointCapture, number: int, at_s: float) -> None:
        self._capture = capture
        self.number = number
        self.at_s = at_s
        self._streamed: _Streamed | None = None
        self.holds = capture.durable and number != 0

    @property
    def event_id(self) -> str | None:
        """What the record will be found by; None when there will be none."""
        return f"{self._capture.tap.ids}{self.number:012x}" if self.number else None

    @property
    def keeps_output(self) -> bool:
        """Whether the answer's body will be in the record."""
        return self.number != 0 and self._capture.route.outputs

    def for_copy(self) -> Event:
        """Return the event of a shadow's copy of the same request."""
        return Event(self._capture, self.number, self.at_s) if self.number else self

    def gathering(self, call: Call) -> Gathering:
        """Return where the record of an answered call that was drawn is to be kept."""
        capture, name = self._capture, call.variant.name
        return capture.gatherings.get(name) or capture.gathering(name)

    def told(self, call: Call) -> Also:
        """Return what is counted with an answer: that it was not drawn, or that a record is to come."""
        if self.number:
            return self.gathering(call).told
        return self._capture.not_drawn(call.variant.name)

    def count(self, call: Call) -> None:
        """Count the record of an answer that waits for it."""
        self.gathering(call).expected.add()

    def keep(self, call: Call, head: bytes, body: bytes, acknowledge: Acknowledge | None = None) -> bool:
        """Make the record of an answered call that was counted, by itself.

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
            event_id=f"{tap.ids}{self.number:012x}",
            inference_id=inference_id,
            custom_attributes=attributes,
            at_s=self.at_s,
            input_type=input_type,
            input_body=call.body if route.inputs else None,
            output_type=_content_type(head),
            output_body=body if route.outputs else None,
            csv_types=route.csv_types,
            json_types=route.json_types,
        )
        return tap.offer(record, acknowledge)

    # --- streamed answers ----------------------------------------------------------------------------

    def join(self, head: bytes, data: bytes) -> None:
        """Take a piece of a streamed answer; what comes after the first 6 MiB is left out."""
        if not self.number:
            return
        streamed = self._streamed
        if streamed is None:
            streamed = self._streamed = _Streamed(head)
        if not self._capture.route.outputs:
            return
        data = data[: MAX_BODY_BYTES - streamed.size_bytes]
        tap = self._capture.tap
        if tap.joined_bytes + len(data) > MAX_JOINED_BYTES:
            self._let_go(streamed)
            streamed.overflows = True
        if data and not streamed.overflows:
            tap.joined_bytes += len(data)
            streamed.size_bytes += len(data)
            streamed.pieces.append(data)

    def keep_held(self, call: Call, acknowledge: Acknowledge | None = None) -> bool:
        """Count a streamed answer whose end waits for its record, and make that; see :meth:`keep`."""
        self.count(call)
        return self.keep_joined(call, acknowledge)

    def keep_joined(self, call: Call, acknowledge: Acknowledge | None = None) -> bool:
        """Make the record of a streamed answer that has ended and was counted; see :meth:`keep`."""
        if not self.number:
            return True
        streamed = self._streamed
        assert streamed is not None  # its last piece has been joined
        capture, body = self._capture, b"".join(streamed.pieces)
        self.drop()
        if streamed.overflows:
            capture.tap.ledger.note(KIND, capture.endpoint, call.variant.name, "queue")
            return False
        return self.keep(call, streamed.head, body, acknowledge)

    def drop(self) -> None:
        """Let go of what was joined: the call has ended."""
        if self._streamed is not None:
            self._let_go(self._streamed)
            self._streamed = None

    def _let_go(self, streamed: _Streamed) -> None:
        self._capture.tap.joined_bytes -= streamed.size_bytes
        streamed.size_bytes, streamed.pieces = 0, []


class _Streamed:
    """What has come of a streamed answer."""

    __slots__ = ("head", "overflows", "pieces", "size_bytes")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.pieces: list[bytes] = []
        self.size_bytes = 0
        self.overflows = False


def _content_type(head: bytes) -> str:
    return wire.decode_response_head(head).content_type.strip() or "application/octet-stream"
