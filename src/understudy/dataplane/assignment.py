"""Who answers which unit, and the log of who answered what.

Owns :class:`Sticky` (the mapping of ``core.assignment.choose_for_unit``, made ready for one table) and the
assignment log: :class:`AssignmentLog` (one per router), :class:`EndpointLog` (one per logging endpoint of a
table) and :class:`Exposure` (one per logged request).  Refuses unbounded memory and never waits: what the
spool does not take is shed and counted.

An exposure stands where the request's tally would: whatever ends the request counts it there, so that each
logged request has exactly one record, with the status and the time that were counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from understudy.capture.assignments import AssignmentRecord
from understudy.core.assignment import LOG_ALL, LOG_OFF, hash_prefix, waiting_time
from understudy.core.routing import weighted_variants
from understudy.core.stages import Source
from understudy.dataplane.accounting import ASSIGNMENT

if TYPE_CHECKING:
    from understudy.core.routing import EndpointRoute
    from understudy.dataplane.accounting import Also, Counter, Key, Ledger
    from understudy.dataplane.invocation import Invocation
    from understudy.dataplane.table import Variant

_UNIT = str(Source.UNIT)  # looking a member up in its enum is slow where it happens per request


class Sticky:
    """The sticky assignment of one endpoint.

    Args:
        variants: Those of ``core.routing.weighted_variants``.

    Attributes:
        variants: Those that may answer, counted as chosen by a unit.
    """

    __slots__ = ("_names", "_sticky", "variants")

    def __init__(self, route: EndpointRoute, variants: Sequence[Variant]) -> None:
        self._sticky = route.sticky
        self.variants: list[Variant] = []
        names: dict[str, list[tuple[bytes, float, Variant]]] = {}
        for (one, weight), variant in zip(weighted_variants(route), variants, strict=True):
            if weight > 0.0:
                counted = variant.counted_by(variant.tally.of_source(Source.UNIT))
                prefix = hash_prefix(route.name, one.name, one.fleet_id)
                names.setdefault(one.name, []).append((prefix, weight, counted))
                self.variants.append(counted)
        self._names = [
            (hash_prefix(route.name, name), sum(weight for _, weight, _ in fleets), fleets)
            for name, fleets in names.items()
        ]

    def choose(self, invocation: Invocation) -> Variant | None:
        """Pick the variant of a request's unit; None when it names no unit, or no weight is positive."""
        unit = invocation.unit(self._sticky)
        if unit is None or not self._names:
            return None
        key = unit.encode("utf-8", "surrogatepass")
        _, _, fleets = min(self._names, key=lambda name: waiting_time(name[0], key, name[1]))
        if len(fleets) == 1:
            return fleets[0][2]
        return min(fleets, key=lambda fleet: waiting_time(fleet[0], key, fleet[1]))[2]


class Spool(Protocol):
    """Where records go; ``capture.spool.SpoolWriter``.  Counts itself what it sheds."""

    def offer(self, record: AssignmentRecord) -> bool:
        """Take a record without ever waiting; False when it is shed."""
        ...

    def close(self, timeout_s: float) -> None:
        """Write what was taken; shed what can't be."""
        ...


class AssignmentLog:
    """What the logs of one router share.

    Args:
        wall_s: The scaled clock's Unix time.
        open_spool: Called once, when a request is logged for the first time; None: there is nowhere to keep
            records, all are shed as ``disk``.
    """

    def __init__(
        self, ledger: Ledger, *, wall_s: Callable[[], float], open_spool: Callable[[], Spool] | None
    ) -> None:
        self.wall_s = wall_s
        self._ledger = ledger
        self._open_spool = open_spool
        self._spool: Spool | None = None

    def of_endpoint(self, route: EndpointRoute) -> EndpointLog | None:
        """Prepare for an endpoint of a new table; None when none of its requests are logged."""
        return None if route.assignments == LOG_OFF else EndpointLog(self, route)

    def offer(self, record: AssignmentRecord) -> None:
        """Hand a record to the spool; what is shed is counted."""
        self._ledger.expect(ASSIGNMENT, record.endpoint, record.variant)
        if self._spool is None:
            if self._open_spool is None:
                self._ledger.note(ASSIGNMENT, record.endpoint, record.variant, "disk")
                return
            self._spool = self._open_spool()
        self._spool.offer(record)

    def close(self, timeout_s: float) -> None:
        """Have the spool write what it has.  Blocks for ``timeout_s`` at most."""
        if self._spool is not None:
            self._spool.close(timeout_s)


class EndpointLog:
    """The log of one endpoint.

    Attributes:
        takes_all: Requests without an InferenceId are logged too.
    """

    __slots__ = ("log", "sticky", "takes_all")

    def __init__(self, log: AssignmentLog, route: EndpointRoute) -> None:
        self.log = log
        self.sticky = route.sticky
        self.takes_all = route.assignments == LOG_ALL

    def expose(self, variant: Variant, invocation: Invocation) -> Exposure:
        """Begin the record of a request whose variant has been chosen."""
        return Exposure(self, variant, invocation)


class Exposure:
    """Counts one logged request in its variant's tally, and keeps its record when it is counted.

    Attributes:
        variant: The chosen one, counted by this.
        event_id: Of the captured record, if there will be one.
    """

    __slots__ = ("_at_s", "_invocation", "_log", "_tally", "event_id", "variant")

    def __init__(self, log: EndpointLog, variant: Variant, invocation: Invocation) -> None:
        self._log = log
        self._tally = variant.tally
        self._invocation = invocation
        self._at_s = log.log.wall_s()
        self.event_id: str | None = None
        self.variant = variant.counted_by(self)

    @property
    def key(self) -> Key:
        """Whose counts it adds to."""
        return self._tally.key

    def of_source(self, source: str) -> Counter:
        """Return the counts of the same variant by another source."""
        return self._tally.of_source(source)

    def begin(self, share: float, also: Also = ()) -> None:
        """See :meth:`Tally.begin`."""
        self._tally.begin(share, also)

    def answered(self, share: float, model_us: int, overhead_us: int, also: Also = ()) -> None:
        """See :meth:`Tally.answered`."""
        self._tally.answered(share, model_us, overhead_us, also)
        self._keep(200, model_us)

    def failed(
        self,
        share: float,
        status: int,
        *,
        by_model: bool,
        model_us: int | None,
        overhead_us: int | None,
        handed: bool = True,
    ) -> None:
        """See :meth:`Tally.failed`."""
        self._tally.failed(
            share, status, by_model=by_model, model_us=model_us, overhead_us=overhead_us, handed=handed
        )
        self._keep(424 if by_model else status, model_us)

    def _keep(self, status: int, model_us: int | None) -> None:
        key, log, invocation = self._tally.key, self._log, self._invocation
        log.log.offer(
            AssignmentRecord(
                key.endpoint,
                key.variant,
                self._at_s,
                key.config,
                key.fleet,
                key.stage,
                key.source,
                status,
                model_us,
                self.event_id,
                invocation.told[1],
                invocation.unit(log.sticky) if key.source == _UNIT else None,
            )
        )
