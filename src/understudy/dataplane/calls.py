"""One InvokeEndpoint request on its way: :class:`Call`, and who is to get the answer: :class:`Caller`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from understudy.dataplane.capturing import Event
    from understudy.dataplane.instances import InstanceLink
    from understudy.dataplane.invocation import Invocation
    from understudy.dataplane.table import Variant


class Caller(Protocol):
    """The client connection a call came from."""

    keep_alive: bool
    minor: int

    def finish(self, data: bytes, body: bytes = b"") -> None:
        """Write the whole answer (or its end) and go on to the next request.

        Args:
            body: Follows ``data``; apart, where a copy of it costs more than a second buffer.
        """
        ...

    def send(self, data: bytes) -> None:
        """Write a part of the answer."""
        ...

    def abort(self) -> None:
        """Break the connection: the caller must not take what it has for the whole answer."""
        ...


class Call:
    """One request from the moment its variant is known until it is answered.

    Attributes:
        caller: None once it is gone; a shadow's copy never has one.
        started_ns: Monotonic time of the request's first byte.
        handed_ns: When it was handed to ``link``.
        due_ns: When its model has taken too long.
        retried: It was handed to a second instance.
        streaming: A part of the answer has been passed on.
        waits: Its stream waits for its caller to read: the model is not to blame.
        event: What is to be captured; None where the endpoint captures nothing.
    """

    __slots__ = (
        "body",
        "caller",
        "due_ns",
        "event",
        "handed_ns",
        "invocation",
        "link",
        "request_id",
        "retried",
        "started_ns",
        "streaming",
        "variant",
        "waits",
    )

    def __init__(
        self,
        caller: Caller | None,
        invocation: Invocation,
        variant: Variant,
        body: bytes,
        started_ns: int,
        handed_ns: int,
    ) -> None:
        self.caller = caller
        self.invocation = invocation
        self.variant = variant
        self.body = body
        self.started_ns = started_ns
        self.handed_ns = handed_ns
        self.due_ns = handed_ns + variant.timeout_ns
        self.retried = False
        self.streaming = False
        self.waits = False
        self.request_id = 0
        self.link: InstanceLink | None = None
        self.event: Event | None = None
