"""Copies of production's requests for shadows: bounded, never awaited, each accounted for.

Owns :class:`Tee`, the desk of the links to shadows, :class:`Shadow` and :class:`Echo`.  A copy is offered
once production's own request has been handed to an instance (a request that is refused before has none); what
becomes of it is exactly one of mirrored, sampling, queue, breaker, size and shutdown.  A mirrored copy is
counted once as an invocation of the shadow, answered or failed; it is never tried again, and its answer is
measured, captured and dropped.  Refuses production's memory: per shadow ``MAX_OUTSTANDING`` copies of
``MAX_OUTSTANDING_BYTES`` are unanswered at most, of all shadows ``MAX_ALL_BYTES``.
Main function: :meth:`Tee.offer`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from understudy.core.routing import EndpointRoute, ShadowRoute, noise_routes
from understudy.dataplane import accounting, answers
from understudy.dataplane.accounting import Also, Ledger
from understudy.dataplane.calls import Call
from understudy.dataplane.instances import Desk, InstanceLink, LinkState
from understudy.dataplane.invocation import MAX_BODY_BYTES, MIRRORED_KEY
from understudy.dataplane.shadow_link import Breaker, ShadowLink
from understudy.dataplane.table import MAX_TEMPLATES, Variant
from understudy.worker import wire

if TYPE_CHECKING:
    from understudy.dataplane.capturing import EndpointCapture, Tap

KIND = accounting.SHADOW
MIRRORED = "mirrored"
ECHO = "#again"  # of the connections to production's instances that second answers come by
MAX_OUTSTANDING = 256
MAX_OUTSTANDING_BYTES = 16 * 1024 * 1024
MAX_ALL_BYTES = 16 * 1024 * 1024  # of all shadows of a router together
RETIRED_GRACE_NS = 5_000_000_000

_Sick = tuple[str, str, str]  # endpoint, variant and configuration


class Shadow(Variant):
    """One shadow of an endpoint.

    Attributes:
        sampled: Probability that a production request is copied.
        expected: Its requests whose outcome is not known yet.
        head_key: Where invocations keep the wire head of its copies.
        mirrored: Counted together with a copy's beginning.
        told_name: The variant's name as its instances know it.
    """

    __slots__ = ("breaker", "endpoint", "expected", "head_key", "mirrored", "sampled", "told_name")

    MAX_OUTSTANDING = MAX_OUTSTANDING
    MAX_OUTSTANDING_BYTES = MAX_OUTSTANDING_BYTES

    def __init__(
        self,
        route: ShadowRoute,
        endpoint: str,
        links: list[InstanceLink],
        ledger: Ledger,
        breaker: Breaker,
    ) -> None:
        super().__init__(route, endpoint, links, ledger)
        self.endpoint = endpoint
        self.sampled = route.share
        self.told_name = route.name
        self.head_key = MIRRORED_KEY + route.name
        self.breaker = breaker
        self.expected = ledger.expectation(KIND, endpoint, route.name)
        self.mirrored: Also = (accounting.Noted(ledger, KIND, endpoint, route.name, MIRRORED),)

    def takes(self, call: Call, draw: Callable[[], float]) -> bool:
        """Draw whether a production request is to be copied."""
        return self.sampled >= 1.0 or draw() < self.sampled

    def link_for(self, call: Call) -> InstanceLink | None:
        """Pick the instance for a copy."""
        return self.choose_link()

    def has_room(self, body_bytes: int) -> bool:
        """Tell whether another copy may be outstanding at this shadow."""
        count = size = 0
        for link in self.links:
            count += len(link.pending)
            size += link.outstanding_bytes
        return count < self.MAX_OUTSTANDING and size + body_bytes <= self.MAX_OUTSTANDING_BYTES


class Echo(Shadow):
    """A production variant that some of its own requests go to a second time: how often does it differ?

    It is a shadow that lives in production's instances, so little may be outstanding; only requests that are
    captured are copied.
    """

    __slots__ = ()

    MAX_OUTSTANDING = 32
    MAX_OUTSTANDING_BYTES = 8 * 1024 * 1024

    def __init__(
        self,
        variant_name: str,
        route: ShadowRoute,
        endpoint: str,
        links: list[InstanceLink],
        ledger: Ledger,
        breaker: Breaker,
    ) -> None:
        super().__init__(route, endpoint, links, ledger, breaker)
        self.told_name = variant_name
        self.head_key = MIRRORED_KEY + variant_name

    def takes(self, call: Call, draw: Callable[[], float]) -> bool:
        """Draw, among captured requests that this very variant answers, not its namesake of another fleet."""
        return (
            call.event is not None
            and call.event.event_id is not None
            and call.variant.config_name == self.config_name
            and super().takes(call, draw)
        )

    def link_for(self, call: Call) -> InstanceLink | None:
        """Pick another instance than has the request, where there is one."""
        here = call.link.instance_id if call.link is not None else ""
        same = next((link for link in self.links if link.instance_id == here), None)
        return self.choose_link(same if len(self.links) > 1 else None)


class Branch:
    """What else is done with the requests of one endpoint: capture and copies."""

    __slots__ = ("_all", "_by_variant", "_tee", "capture", "shadows")

    def __init__(
        self, tee: Tee, capture: EndpointCapture | None, shadows: list[Shadow], echoes: dict[str, Echo]
    ) -> None:
        self._tee = tee
        self.capture = capture
        self.shadows = shadows
        self._all = _expecting(shadows)
        self._by_variant = {name: _expecting([*shadows, echo]) for name, echo in echoes.items()}

    def take(self, call: Call) -> None:
        """Look at a request that has just been handed to a production instance."""
        variant = call.variant
        shadows, expected = self._by_variant.get(variant.name, self._all)
        variant.tally.begin(variant.share, expected)
        if self.capture is not None:
            call.event = self.capture.begin()
        if shadows:
            self._tee.take(shadows, call)


class Tee:
    """The desk of the links to shadows, and what all shadows of one router share.

    Args:
        home: Production's desk: hears of links that connect or are lost.
        draw: Uniform in [0, 1); one of its own, so that shadows do not change who gets which request.
        max_body_bytes: Longer bodies are not copied.

    Attributes:
        stopping: No more copies: the router ends.
    """

    def __init__(
        self,
        home: Desk,
        ledger: Ledger,
        tap: Tap,
        loop: asyncio.AbstractEventLoop,
        *,
        draw: Callable[[], float],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.stopping = False
        self.link_settled = home.link_settled
        self._home = home
        self._ledger = ledger
        self._tap = tap
        self._loop = loop
        self._draw = draw
        self._max_body_bytes = max_body_bytes
        self._breakers: dict[_Sick, tuple[Breaker, tuple[str, ...]]] = {}
        self._taken: list[tuple[list[Shadow], Call]] = []
        self._unanswered_bytes = 0

    # --- tables ------------------------------------------------------------------------------------

    def link(self, instance_id: str, address: str) -> ShadowLink:
        """Make the link to a shadow's instance."""
        return ShadowLink(instance_id, address, self, self._loop)

    def branch(
        self, route: EndpointRoute, links_of: Callable[[ShadowRoute, str], list[InstanceLink]]
    ) -> Branch | None:
        """Prepare for an endpoint of a new table; None when it has neither shadows nor capture."""
        if not route.shadows and route.capture is None:
            return None
        capture = None if route.capture is None else self._tap.captures(route.name, route.capture)
        shadows = [
            Shadow(one, route.name, links_of(one, ""), self._ledger, self._breaker(route.name, one))
            for one in route.shadows
        ]
        echoes = {
            name: Echo(
                name, one, route.name, links_of(one, ECHO), self._ledger, self._breaker(route.name, one)
            )
            for name, one in noise_routes(route).items()
        }
        return Branch(self, capture, shadows, echoes)

    def _breaker(self, endpoint: str, route: ShadowRoute) -> Breaker:
        """Find the breaker of the same shadow in the table before; new instances are tried at once."""
        key = (endpoint, route.name, route.config_name)
        instances = tuple(one.instance_id for one in route.instances)
        breaker, before = self._breakers.get(key) or (
            Breaker(f"shadow {route.name} of endpoint {endpoint}"),
            (),
        )
        if not set(instances) <= set(before):
            breaker.renewed()
        self._breakers[key] = breaker, instances or before
        return breaker

    def keep_only(self, routes: list[EndpointRoute]) -> None:
        """Forget the breakers of shadows that no table names any more."""
        if self._breakers:
            keys = {
                (route.name, shadow.name, shadow.config_name)
                for route in routes
                for shadow in (*route.shadows, *noise_routes(route).values())
            }
            self._breakers = {key: one for key, one in self._breakers.items() if key in keys}

    def retire(self, link: InstanceLink) -> None:
        """Bring the end of a link near whose instance is in no table any more."""
        due_ns = time.monotonic_ns() + RETIRED_GRACE_NS
        for call in link.pending.values():
            call.due_ns = min(call.due_ns, due_ns)

    # --- copies out --------------------------------------------------------------------------------

    def take(self, shadows: list[Shadow], call: Call) -> None:
        """Note a request to be copied once production's frames of this turn of the loop have left."""
        if not self._taken:
            self._loop.call_soon(self._offer_taken)
        self._taken.append((shadows, call))

    def _offer_taken(self) -> None:
        taken, self._taken = self._taken, []
        counts: dict[tuple[Shadow, str], int] = {}
        for shadows, call in taken:
            for shadow in shadows:
                outcome = self.offer(shadow, call)
                if outcome is not MIRRORED:
                    told = shadow, outcome
                    counts[told] = counts.get(told, 0) + 1
        for (shadow, outcome), count in counts.items():  # once a turn: it costs as much as the rest of a copy
            self._ledger.note(KIND, shadow.endpoint, shadow.name, outcome, count)

    def offer(self, shadow: Shadow, call: Call) -> str:
        """Copy a production request to a shadow, or not.

        Args:
            call: Has been handed to a production instance.
        Returns:
            What became of it, to be counted; ``MIRRORED`` is.
        """
        if not shadow.takes(call, self._draw):
            return "sampling"
        if self.stopping:
            return "shutdown"
        if len(call.body) > self._max_body_bytes:
            return "size"
        if shadow.breaker.refuses(call.handed_ns):
            return "breaker"
        return self._hand(shadow, call)

    def _hand(self, shadow: Shadow, call: Call) -> str:
        link = shadow.link_for(call)
        if link is None:
            return "shutdown"
        breaker, now_ns = shadow.breaker, call.handed_ns
        if not breaker.admits(now_ns):
            return "breaker"
        if not link.ready and link.state != LinkState.CONNECTING:
            return "breaker"  # connected, but its pings are unanswered
        if not shadow.has_room(len(call.body)):
            breaker.full(now_ns)
            return "breaker" if breaker.is_open else "queue"
        if self._unanswered_bytes + len(call.body) > MAX_ALL_BYTES:
            return "queue"  # others' doing: no reason to think ill of this one
        invocation = call.invocation
        copy = Call(None, invocation, shadow, call.body, now_ns, now_ns)
        if call.event is not None:
            copy.event = call.event.for_copy()
        head = invocation.heads.get(shadow.head_key)
        shadow.tally.begin(shadow.share, shadow.mirrored)
        self._unanswered_bytes += len(call.body)
        link.submit(copy, head or invocation.wire_head(shadow.told_name, mirrored=True), call.body)
        return MIRRORED

    # --- answers in (Desk) -------------------------------------------------------------------------

    def take_responses(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Measure and capture the answers of a frame."""
        pending = link.pending
        for request_id, status, head, body in wire.decode_responses(payload):
            call = pending.pop(request_id, None)
            if call is None:
                continue  # cancelled
            link.outstanding_bytes -= len(call.body)
            self._answered(call, status, head, body, received_ns)

    def _answered(self, call: Call, status: int, head: bytes, body: bytes, received_ns: int) -> None:
        # What would not be an answer of production's is none here either.
        if not 200 <= status < 300 or len(body) > MAX_BODY_BYTES or not _is_safe(call.variant, head):
            alive = status != wire.STATUS_MODEL_GONE
            self._failed(call, 0 if 200 <= status < 300 else status, received_ns, alive=alive)
            return
        self._count_answered(call, received_ns)
        if call.event is not None:
            self._tap.take(call.event, call, head, body)

    def _count_answered(self, call: Call, received_ns: int) -> None:
        variant = call.variant
        assert isinstance(variant, Shadow)
        self._unanswered_bytes -= len(call.body)
        variant.breaker.answered(received_ns)
        model_us, overhead_us = _latencies(call, received_ns)
        told = () if call.event is None else call.event.told(call)
        variant.tally.answered(variant.share, model_us, overhead_us, told)

    def take_chunk(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        """Measure and join the pieces of a streamed answer."""
        piece = wire.decode_chunk(payload)
        call = link.pending.pop(piece.request_id, None)
        if call is None:
            return
        good = 200 <= piece.status < 300 if not call.streaming else True
        ends = piece.flags & (wire.CHUNK_LAST | wire.CHUNK_FAILED)
        if not ends:
            call.due_ns = received_ns + call.variant.timeout_ns
            link.pending[piece.request_id] = call  # at the end: the oldest due comes first
        else:
            link.outstanding_bytes -= len(call.body)
        if not good or piece.flags & wire.CHUNK_FAILED:
            if not ends:
                link.forget(call)
            alive = call.streaming or piece.status != wire.STATUS_MODEL_GONE
            self._failed(call, piece.status, received_ns, alive=alive)
            return
        call.streaming = True
        if call.event is not None:
            call.event.join(piece.head, piece.data)
        if ends:
            self._count_answered(call, received_ns)
            if call.event is not None:
                call.event.keep_joined(call)

    # --- what goes wrong ---------------------------------------------------------------------------

    def _failed(self, call: Call, status: int, now_ns: int, *, alive: bool = True) -> None:
        """Count a copy that its shadow failed.

        Args:
            status: The model's own; 0: none.
            alive: Something did answer.
        """
        variant = call.variant
        assert isinstance(variant, Shadow)
        self._unanswered_bytes -= len(call.body)
        if alive:
            variant.breaker.answered(now_ns)
        else:
            variant.breaker.failed(now_ns)
        model_us, overhead_us = _latencies(call, now_ns)
        variant.tally.failed(variant.share, status, by_model=True, model_us=model_us, overhead_us=overhead_us)
        if call.event is not None:
            call.event.drop()

    def take_overdue(self, call: Call, now_ns: int) -> None:
        """Give up on a copy that took too long; its link has forgotten it."""
        self._failed(call, 0, now_ns, alive=False)

    def take_loss(self, link: InstanceLink, unsent: list[Call], sent: list[Call]) -> None:
        """Count the copies of a dead worker; nobody tries them again."""
        now_ns = time.monotonic_ns()
        for call in sent:
            self._failed(call, 0, now_ns, alive=False)
        for call in unsent:
            self._give_up(call)

    def _give_up(self, call: Call) -> None:
        """Count a copy that no model is to blame for."""
        variant = call.variant
        self._unanswered_bytes -= len(call.body)
        variant.tally.failed(variant.share, 503, by_model=False, model_us=None, overhead_us=None)
        if call.event is not None:
            call.event.drop()

    def link_suspect(self, link: InstanceLink, reason: str, silent_s: float = 0.0) -> None:
        """Tell the controller, and the breaker of a shadow whose instance or connection has ended."""
        if not silent_s and not link.retired:
            for breaker, instances in self._breakers.values():
                if link.instance_id in instances:
                    breaker.died(time.monotonic_ns())
        self._home.link_suspect(link, reason, silent_s)

    # --- the end -----------------------------------------------------------------------------------

    def outstanding(self, links: list[InstanceLink]) -> int:
        """Count the copies that are not answered yet."""
        return sum(len(link.pending) for link in links if link.desk is self)

    def abandon(self, links: list[InstanceLink]) -> None:
        """Count what is not answered yet as failed: the router ends."""
        for link in links:
            if link.desk is self:
                for call in list(link.pending.values()):
                    link.forget(call)
                    self._give_up(call)


def _expecting(shadows: list[Shadow]) -> tuple[list[Shadow], Also]:
    return shadows, tuple(shadow.expected for shadow in shadows)


def _latencies(call: Call, now_ns: int) -> tuple[int, int]:
    """Return ModelLatency and OverheadLatency of a copy: the latter from production's hand-off on."""
    model_us = (now_ns - call.handed_ns) // 1000
    return model_us, max(0, (time.monotonic_ns() - call.started_ns) // 1000 - model_us)


def _is_safe(variant: Variant, head: bytes) -> bool:
    """Tell whether production could pass on an answer of this head."""
    templates = variant.templates
    if head not in templates:
        try:
            answers.success_headers(variant.name, head, streams=False)
        except answers.UnsafeHead:
            return False
        if len(templates) >= MAX_TEMPLATES:
            templates.clear()
        templates[head] = b""
    return True
