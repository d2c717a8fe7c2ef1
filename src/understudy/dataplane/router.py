"""From a read request to an instance and back: routing, retry, timeouts, the answers and their counts.

Owns :class:`Router`, which every client connection and every link of one process shares.  Refuses to wait:
whatever can't be handed to an instance now is answered now.  No task, future or timer per request.
Main function: :meth:`Router.invoke`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.core.errors import (
    ApiError,
    ServiceUnavailable,
    ValidationError,
)
from understudy.dataplane import answers
from understudy.dataplane.accounting import CLIENT_GONE, Ledger
from understudy.dataplane.assignment import AssignmentLog
from understudy.dataplane.assignment import Spool as LogSpool
from understudy.dataplane.calls import Call, Caller
from understudy.dataplane.capturing import Spool, Tap
from understudy.dataplane.deaths import DEADLY, DeadlyBodies
from understudy.dataplane.dice import splitmix64
from understudy.dataplane.holding import Holding
from understudy.dataplane.instances import InstanceLink
from understudy.dataplane.invocation import MAX_BODY_BYTES, Invocation
from understudy.dataplane.table import MAX_TEMPLATES, Switchboard, Variant
from understudy.dataplane.tee import Tee
from understudy.worker import wire

if TYPE_CHECKING:
    from understudy.dataplane.connection import ClientConnection
    from understudy.dataplane.familiar import Familiar
    from understudy.dataplane.gate import Gate
    from understudy.dataplane.guard import Head

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 8192
FAMILIAR_FOR_S = 5.0
MAX_UNREAD_BYTES = 512 * 1024 * 1024  # of answers whose callers are behind


class Router:
    """What the connections of one router process share.

    Attributes:
        heads: Unsigned invoke heads already read, by their bytes: a keep-alive client repeats itself.
        familiar: The same for SDKs' heads, signed ones too, by what :func:`familiar.cut` leaves of them.
        stopping: Answers carry ``Connection: close``.
        max_connections: Further ones are answered 503.
        reserved_bytes: Of bodies that are still coming in.
    """

    def __init__(
        self,
        *,
        gate: Gate,
        draw: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        controller_path: Path,
        on_table_change: Callable[[], None],
        on_suspect: Callable[[str, str, float], None],
        wall_s: Callable[[], float] = time.monotonic,
        open_spool: Callable[[], Spool] | None = None,
        open_log: Callable[[], LogSpool] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.gate = gate
        self.loop = loop
        self.controller_path = controller_path
        self.ledger = Ledger() if ledger is None else ledger
        own_draw = splitmix64(int.from_bytes(os.urandom(8), "big"))
        self.tap = Tap(self.ledger, loop, draw=own_draw, wall_s=wall_s, open_spool=open_spool)
        self.tee = Tee(self, self.ledger, self.tap, loop, draw=own_draw)
        self.assignments = AssignmentLog(self.ledger, wall_s=wall_s, open_spool=open_log)
        self.board = Switchboard(self, self.ledger, loop, on_table_change, self.tee, self.assignments)
        self._holding = Holding(loop, self._release)
        self.heads: dict[bytes, Head] = {}
        self.familiar: dict[bytes, Familiar] = {}
        self._familiar_since_s = 0.0
        self.connections: set[ClientConnection] = set()
        self.stopping = False
        self.max_connections = MAX_CONNECTIONS
        self.reserved_bytes = 0
        self._unread: dict[ClientConnection, int] = {}  # who is behind, for the longest time first
        self._unread_bytes = 0
        self._draw = draw
        self._on_suspect = on_suspect
        self._deaths = DeadlyBodies()
        seed = os.urandom(16).hex()
        # A version 4 UUID whose last group counts: unique, and free of dice per request.
        self._ids = f"{seed[:8]}-{seed[8:12]}-4{seed[12:15]}-8{seed[15:18]}-".encode()
        self._number = int.from_bytes(os.urandom(4), "big")

    def request_id(self) -> bytes:
        """Name one request, for ``x-amzn-RequestId``."""
        self._number += 1
        return self._ids + b"%012x" % self._number

    # --- requests in -------------------------------------------------------------------------------

    def invoke(self, caller: ClientConnection, invocation: Invocation, body: bytes, started_ns: int) -> None:
        """Hand a request to an instance, or answer why not.

        Args:
            caller: Authenticated, or authentication is off.
            started_ns: Monotonic time of its first byte.
        """
        endpoint = self.board.endpoints.get(invocation.endpoint)
        if endpoint is None:
            self._unrouted(caller, invocation)
            return
        target = invocation.target_variant
        if target is not None:
            green = endpoint.green
            variant = (
                endpoint.targets.get(target) if green is None else endpoint.targeted(target, self._draw())
            )
        elif endpoint.sticky is None:
            variant = endpoint.only or endpoint.choose(self._draw())
        else:
            variant = endpoint.sticky.choose(invocation) or endpoint.choose(self._draw())
        if variant is None:
            self._no_variant(caller, invocation)
            return
        chosen, kept, exposure = variant, endpoint.log, None
        if kept is not None and (kept.takes_all or invocation.is_identified):
            exposure = kept.expose(chosen, invocation)
            variant = exposure.variant
        if invocation.fault is not None:
            self._refuse_counted(caller, variant, ValidationError(invocation.fault), handed=False)
            return
        link = chosen.choose_link()
        if link is None:
            self._refuse_counted(caller, variant, _no_instance(endpoint.name, variant.name), handed=False)
            return
        if link.is_full:
            self._refuse_as_full(caller, endpoint.name, variant)
            chosen.refusal = variant.refusal
            return
        handed_ns = time.monotonic_ns()
        call = Call(caller, invocation, variant, body, started_ns, handed_ns)
        caller.call = call
        if self._deaths and self._deaths.is_deadly(endpoint.name, body, handed_ns / 1e9):
            call.handed_ns = 0
            self._fail_by_model(call, 0, _DEADLY, handed_ns)
            return
        head = invocation.heads.get(variant.name)
        link.submit(call, head or invocation.wire_head(variant.name), body)
        branch = endpoint.branch
        if branch is not None:
            branch.take(call)
            if exposure is not None and call.event is not None:
                exposure.event_id = call.event.event_id

    def _unrouted(self, caller: ClientConnection, invocation: Invocation) -> None:
        error: ApiError
        if invocation.fault is not None:
            error = ValidationError(invocation.fault)
        elif not self.board.known:
            error = ServiceUnavailable("The server is starting and has no routing table yet. Try again.")
        else:
            account = self.gate.place.account_id
            error = ValidationError(f"Endpoint {invocation.endpoint} of account {account} not found.")
        self.refuse(caller, error)

    def _no_variant(self, caller: ClientConnection, invocation: Invocation) -> None:
        if invocation.fault is not None:
            message = invocation.fault
        elif invocation.target_variant is not None:
            message = f"Variant {invocation.target_variant} not found for Endpoint {invocation.endpoint}."
        else:
            message = (
                f"Endpoint {invocation.endpoint} has no variant with a weight above 0: set TargetVariant."
            )
        self.refuse(caller, ValidationError(message))

    def refuse(self, caller: Caller, error: ApiError) -> None:
        """Answer an error that belongs to no variant."""
        self.ledger.refuse(error.code)
        caller.finish(answers.render_error(error, self.request_id(), closes=not caller.keep_alive))

    def _refuse_counted(
        self, caller: Caller, variant: Variant, error: ApiError, *, handed: bool = True
    ) -> None:
        variant.tally.failed(
            variant.share, error.status, by_model=False, model_us=None, overhead_us=None, handed=handed
        )
        caller.finish(answers.render_error(error, self.request_id(), closes=not caller.keep_alive))

    def _refuse_as_full(self, caller: ClientConnection, endpoint: str, variant: Variant) -> None:
        """Refuse at the least cost: in an overload most requests come this way."""
        template = variant.refusal
        if not template or not caller.keep_alive:
            text = f"Variant {variant.name} of endpoint {endpoint} has too many requests in its queues."
            error = ServiceUnavailable(text)
            if not caller.keep_alive:
                self._refuse_counted(caller, variant, error, handed=False)
                return
            template = variant.refusal = answers.error_template(error, self._ids)
        variant.tally.failed(
            variant.share, 503, by_model=False, model_us=None, overhead_us=None, handed=False
        )
        self._number = number = self._number + 1
        caller.finish(template % number)

    def caller_gone(self, call: Call) -> None:
        """Tell the worker that nobody waits for this answer any more."""
        call.caller = None
        variant = call.variant
        variant.tally.failed(variant.share, CLIENT_GONE, by_model=False, model_us=None, overhead_us=None)
        if call.link is not None:
            call.link.forget(call)
        if call.event is not None:
            call.event.drop()

    def note_unread(self, connection: ClientConnection, size_bytes: int) -> None:
        """Note how much of its answers a slow caller has not read yet; 0: it has caught up, or is gone.

        Where all of them together would take too much memory, those who are behind for the longest time
        are cut off: the others' answers, and the requests that come, have done nothing to deserve it.
        """
        unread = self._unread
        self._unread_bytes += size_bytes - unread.get(connection, 0)
        if size_bytes:
            unread[connection] = size_bytes
        else:
            unread.pop(connection, None)
        while self._unread_bytes > MAX_UNREAD_BYTES and len(unread) > 1:
            slowest = next(iter(unread))
            self._unread_bytes -= unread.pop(slowest)
            slowest.abort()

    def reader_behind(self, call: Call, behind: bool) -> None:
        """Have a stream wait while its caller is behind, at the model itself: nothing piles up on the way.

        Args:
            behind: False when the caller has caught up.
        """
        if call.streaming and call.link is not None and call.waits != behind:
            call.waits = behind
            if behind:
                call.link.pause(call)
            else:
                call.due_ns = time.monotonic_ns() + call.variant.timeout_ns
                call.link.resume(call)

    # --- answers out (Desk) ------------------------------------------------------------------------

    def take_responses(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Finish the calls that a frame answers."""
        pending = link.pending
        for request_id, status, head, body in wire.decode_responses(payload):
            call = pending.pop(request_id, None)
            if call is None:
                continue  # cancelled
            link.outstanding_bytes -= len(call.body)
            variant = call.variant
            caller = call.caller
            assert caller is not None  # a call whose caller is gone is not pending
            if (
                200 <= status < 300
                and caller.keep_alive
                and len(body) <= MAX_BODY_BYTES
                and not call.invocation.streams
            ):
                template = variant.templates.get(head) or self._template(call, head, received_ns)
                if template is None:
                    continue
                self._number = number = self._number + 1
                event = call.event
                if event is not None and event.holds:
                    self._hold(call, head, body, template % (number, len(body), body), received_ns)
                    continue
                large = len(body) >= wire.LARGE_BYTES
                answer = template % (number, len(body), b"" if large else body)
                # Counted before it leaves: a caller of a killed router has no answer that is not counted.
                model_us = (received_ns - call.handed_ns) // 1000
                total_us = (time.monotonic_ns() - call.started_ns) // 1000
                told = () if event is None else event.told(call)
                variant.tally.answered(variant.share, model_us, total_us - model_us, told)
                if event is not None:
                    self.tap.take(event, call, head, body)
                caller.finish(answer, body if large else b"")
                if self._deaths:
                    self._deaths.clear(call.invocation.endpoint, call.body)
            else:
                self._answer(call, status, head, body, received_ns)

    def _template(self, call: Call, head: bytes, received_ns: int) -> bytes | None:
        templates = call.variant.templates
        try:
            template = answers.success_template(call.variant.name, head, self._ids, closes=False)
        except answers.UnsafeHead as error:
            self._fail_by_model(call, 0, str(error), received_ns)
            return None
        if len(templates) >= MAX_TEMPLATES:
            templates.clear()
        templates[head] = template
        return template

    def _answer(self, call: Call, status: int, head: bytes, body: bytes, received_ns: int) -> None:
        """Answer errors, the last request of a connection, and whole bodies where a stream was asked for."""
        if not 200 <= status < 300:
            container = _container_of(head) or call.variant.container
            message = body.decode("utf-8", "replace")
            if not message and status == wire.STATUS_MODEL_GONE:
                message = answers.timeout_message(container)
            elif status == wire.STATUS_MODEL_GONE and call.link is not None:
                self._after_death(call, call.link, message, received_ns, container)
                return
            self._fail_by_model(call, status, message, received_ns, container)
            return
        if len(body) > MAX_BODY_BYTES:
            message = f"The model's answer of {len(body)} bytes exceeds the limit of {MAX_BODY_BYTES} bytes."
            self._fail_by_model(call, 0, message, received_ns)
            return
        caller = call.caller
        assert caller is not None
        try:
            if call.invocation.streams:
                self._begin_stream(call, head)
                last = _framed(caller, answers.event_message(body) if body else b"", last=True)
            else:
                closes = not caller.keep_alive
                template = answers.success_template(call.variant.name, head, self._ids, closes=closes)
                self._number += 1
                last = template % (self._number, len(body), body)
        except answers.UnsafeHead as error:
            self._fail_by_model(call, 0, str(error), received_ns)
            return
        event = call.event
        if event is not None and event.holds:
            self._hold(call, head, body, last, received_ns)
            return
        self._count_answered(call, received_ns)
        if event is not None:
            self.tap.take(event, call, head, body)
        caller.finish(last)

    def _hold(self, call: Call, head: bytes, body: bytes, answer: bytes, received_ns: int) -> None:
        """Keep the record first: capture is durable."""
        event = call.event
        assert event is not None
        event.count(call)
        self._holding.hold(call, answer, received_ns, lambda told: event.keep(call, head, body, told))

    def _release(self, call: Call, answer: bytes, received_ns: int, kept: bool) -> None:
        """Let a held answer go, or say that it can't be given without its record."""
        caller, variant = call.caller, call.variant
        if caller is None:
            return  # gone, and counted so
        if kept:
            self._count_answered(call, received_ns)
            caller.finish(answer)
        elif call.streaming:
            broken = answers.exception_message("StreamBroken", _NOT_KEPT)
            variant.tally.failed(variant.share, 503, by_model=False, model_us=None, overhead_us=None)
            caller.finish(_framed(caller, broken, last=True))
        else:
            self._refuse_counted(caller, variant, ServiceUnavailable(_NOT_KEPT))

    def _count_answered(self, call: Call, received_ns: int) -> None:
        variant, event = call.variant, call.event
        model_us = (received_ns - call.handed_ns) // 1000
        total_us = (time.monotonic_ns() - call.started_ns) // 1000
        # One that was held has counted its record.
        told = () if event is None or event.holds else event.told(call)
        variant.tally.answered(variant.share, model_us, total_us - model_us, told)
        if self._deaths:
            self._deaths.clear(call.invocation.endpoint, call.body)

    def _begin_stream(self, call: Call, head: bytes) -> None:
        caller = call.caller
        assert caller is not None
        headers = answers.success_headers(call.variant.name, head, streams=True)
        if caller.minor == 0:
            caller.keep_alive = False
        framing = b"Transfer-Encoding: chunked\r\n" if caller.minor else b""
        closes = b"" if caller.keep_alive else answers.NEEDS_CLOSE
        caller.send(
            b"HTTP/1.1 200 OK\r\n%bx-amzn-RequestId: %b\r\n%b%b\r\n"
            % (headers, self.request_id(), framing, closes)
        )
        call.streaming = True

    def take_chunk(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Pass on a piece of a streamed answer."""
        piece = wire.decode_chunk(payload)
        call = link.pending.pop(piece.request_id, None)
        if call is None:
            return
        ends = piece.flags & (wire.CHUNK_LAST | wire.CHUNK_FAILED)
        if not ends:
            call.due_ns = received_ns + call.variant.timeout_ns
            link.pending[piece.request_id] = call  # at the end: the oldest due comes first
        else:
            link.outstanding_bytes -= len(call.body)
        caller = call.caller
        assert caller is not None
        if piece.flags & wire.CHUNK_FAILED:
            self._fail_by_model(call, piece.status, piece.data.decode("utf-8", "replace"), received_ns)
            return
        if not call.streaming:
            if not call.invocation.streams or not 200 <= piece.status < 300:
                link.forget(call)
                container = _container_of(piece.head) or call.variant.container
                text = piece.data.decode("utf-8", "replace")
                self._fail_by_model(call, piece.status, text, received_ns, container)
                return
            try:
                self._begin_stream(call, piece.head)
            except answers.UnsafeHead as error:
                link.forget(call)
                self._fail_by_model(call, 0, str(error), received_ns)
                return
        data = answers.event_message(piece.data) if piece.data else b""
        event = call.event
        if event is not None:
            event.join(piece.head, piece.data)
        if ends:
            last = _framed(caller, data, last=True)
            if event is not None and event.holds:
                self._holding.hold(call, last, received_ns, functools.partial(event.keep_held, call))
                return
            self._count_answered(call, received_ns)
            if event is not None:
                event.keep_joined(call)
            caller.finish(last)
        elif data:
            caller.send(_framed(caller, data, last=False))

    # --- what goes wrong ---------------------------------------------------------------------------

    def _fail_by_model(
        self, call: Call, status: int, message: str, now_ns: int, container: str | None = None
    ) -> None:
        """Answer ModelError, or end a stream with ModelStreamError."""
        caller, variant = call.caller, call.variant
        assert caller is not None
        if call.streaming:
            code = "ModelInvocationTimeExceeded" if now_ns >= call.due_ns else "StreamBroken"
            caller.finish(_framed(caller, answers.exception_message(code, message), last=True))
        else:
            error = answers.model_error(
                self.gate.place, call.invocation.endpoint, container or variant.container, status, message
            )
            caller.finish(answers.render_error(error, self.request_id(), closes=not caller.keep_alive))
        model_us = (now_ns - call.handed_ns) // 1000 if call.handed_ns else None
        overhead_us = None
        if model_us is not None:
            overhead_us = max(0, (time.monotonic_ns() - call.started_ns) // 1000 - model_us)
        variant.tally.failed(
            variant.share,
            status,
            by_model=True,
            model_us=model_us,
            overhead_us=overhead_us,
            handed=call.handed_ns != 0,
        )
        if call.event is not None:
            call.event.drop()

    def take_loss(self, link: InstanceLink, unsent: list[Call], sent: list[Call]) -> None:
        """Find another instance for the calls of a dead worker, once each."""
        now_ns = time.monotonic_ns()
        for call in unsent:
            if not self._try_elsewhere(call, link):
                assert call.caller is not None
                refusal = _no_instance(call.invocation.endpoint, call.variant.name)
                self._refuse_counted(call.caller, call.variant, refusal)
        for call in sent:
            self._after_death(call, link, _CRASHED, now_ns)

    def _after_death(
        self, call: Call, link: InstanceLink, message: str, now_ns: int, container: str | None = None
    ) -> None:
        """Go on with a call that a model's process had when it ended.

        Args:
            message: What to tell the caller when nobody else can answer.
        """
        deaths = self._deaths.note(call.invocation.endpoint, call.body, link.instance_id, now_ns / 1e9)
        if call.streaming:
            self._fail_by_model(call, 0, "The model's process ended within the stream.", now_ns)
        elif deaths >= DEADLY:
            self._fail_by_model(call, 0, _DEADLY, now_ns, container)
        elif self._try_elsewhere(call, link):
            pass
        elif call.variant.wanted > 1:
            # The others are missing only for the moment, and who tries again finds one: 503 says so.
            assert call.caller is not None
            refusal = _no_instance(call.invocation.endpoint, call.variant.name)
            self._refuse_counted(call.caller, call.variant, refusal)
            if call.event is not None:
                call.event.drop()
        else:
            self._fail_by_model(call, 0, message, now_ns, container)

    def _try_elsewhere(self, call: Call, failed: InstanceLink) -> bool:
        """Hand a call to another instance, once; False when there is none."""
        endpoint = self.board.endpoints.get(call.invocation.endpoint)
        if call.retried:
            return False
        for variant in (*(() if endpoint is None else endpoint.again(call.variant)), call.variant):
            link = variant.choose_link(failed)
            if link is None or link.is_full:
                continue
            call.retried = True
            # In an update it may be the other fleet's: it is counted as it was assigned, or a fleet that
            # loses its requests would look as good as the one that answers them.
            call.variant = variant.counted_by(call.variant.tally)
            call.handed_ns = time.monotonic_ns()
            call.due_ns = call.handed_ns + variant.timeout_ns
            link.submit(call, call.invocation.wire_head(variant.name), call.body)
            return True
        return False

    def link_settled(self, link: InstanceLink) -> None:
        """See :class:`Desk`."""
        self.board.settled(link)

    def link_suspect(self, link: InstanceLink, reason: str, silent_s: float = 0.0) -> None:
        """See :class:`Desk`."""
        if not link.retired:
            self._on_suspect(link.instance_id, reason, silent_s)

    # --- housekeeping ------------------------------------------------------------------------------

    def end_overdue(self, now_ns: int) -> None:
        """Answer the calls whose model has taken too long, and tell the workers."""
        for link in self.board.all_links():
            overdue = []
            for call in link.pending.values():
                if call.waits:
                    continue
                if call.due_ns > now_ns:
                    break
                overdue.append(call)
            for call in overdue:
                link.forget(call)
                link.desk.take_overdue(call, now_ns)
        self._holding.end_overdue(now_ns)

    def take_overdue(self, call: Call, now_ns: int) -> None:
        """See :class:`Desk`."""
        self._fail_by_model(call, 0, answers.timeout_message(call.variant.container), now_ns)

    def ping_links(self) -> None:
        """Ask every worker whether it is alive."""
        for link in self.board.all_links():
            link.ping()

    def sweep(self, now_s: float) -> None:
        """Once a second: look after slow, idle and stuck callers."""
        self._deaths.expire(now_s)
        if now_s - self._familiar_since_s >= FAMILIAR_FOR_S:
            self._familiar_since_s = now_s
            self.familiar.clear()  # signed heads carry their second: older ones would only pile up
        for connection in list(self.connections):
            try:
                connection.sweep()
            except Exception:  # one broken connection must not end the housekeeping of all
                log.exception("a connection's housekeeping failed")
                connection.abort()

    def stop_keeping_alive(self) -> None:
        """Let every connection's next answer be its last."""
        self.stopping = self.tee.stopping = True
        for connection in self.connections:
            connection.keep_alive = False


_CRASHED = "The model's process ended while it had this request. Its log says why."
_DEADLY = "The model's process ended twice while it worked on this request. Look into the endpoint's log."
_NOT_KEPT = "The answer can't be given without its capture record, which could not be written. Try again."


def _no_instance(endpoint: str, variant: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"No instance of variant {variant} of endpoint {endpoint} can answer now. Try again."
    )


def _container_of(head: bytes) -> str:
    return wire.decode_response_head(head).container


def _framed(caller: Caller, data: bytes, *, last: bool) -> bytes:
    """Frame a part of a streamed answer as the caller's protocol version has it."""
    if caller.minor == 0:
        return data
    framed = answers.chunk(data) if data else b""
    return framed + answers.LAST_CHUNK if last else framed
