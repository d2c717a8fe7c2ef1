"""The routing table made ready for the request path, and the links to the instances it names.

Owns :class:`Routes` (one version, replaced whole) and :class:`Switchboard` (which swaps them and keeps one
link per instance across versions).  Refuses to reuse a link for a changed address.  Choices are those of
``core.routing.choose_variant`` to the bit; only what does not depend on the draw is computed beforehand.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from understudy.core.routing import EndpointRoute, RoutingTable, ShadowRoute, VariantRoute, noise_routes
from understudy.core.stages import Source
from understudy.dataplane.accounting import Counter, Key, Ledger
from understudy.dataplane.assignment import Sticky
from understudy.dataplane.instances import Desk, InstanceLink

if TYPE_CHECKING:
    from understudy.dataplane.assignment import AssignmentLog, EndpointLog
    from understudy.dataplane.tee import Branch, Tee

MAX_TEMPLATES = 256


class Variant:
    """One variant as the request path needs it.

    Args:
        stage: Of the table.
        source: Who chose it (``core.stages.Source``); empty for shadows.

    Attributes:
        share: 1 / instances, for InvocationsPerInstance; 0.0 without instances.
        templates: Success templates by a worker's answer head.
        refusal: Template of the answer to a request that finds the queues full; made with the first.
        wanted: How many instances there should be.
    """

    __slots__ = (
        "_turn",
        "config_name",
        "container",
        "links",
        "name",
        "only_link",
        "refusal",
        "share",
        "tally",
        "templates",
        "timeout_ns",
        "wanted",
    )

    def __init__(
        self,
        route: VariantRoute | ShadowRoute,
        endpoint: str,
        links: list[InstanceLink],
        ledger: Ledger,
        *,
        stage: int = 0,
        source: str = "",
    ) -> None:
        self.name = route.name
        self.config_name = route.config_name
        self.container = route.containers[0] if route.containers else "primary"
        self.links = links
        self.only_link = links[0] if len(links) == 1 else None
        self.share = 1.0 / len(links) if links else 0.0
        self.wanted = route.wanted if isinstance(route, VariantRoute) else 1
        self.timeout_ns = int(route.timeout_s * 1e9)
        fleet = route.fleet_id if isinstance(route, VariantRoute) else ""
        self.tally: Counter = ledger.tally(
            endpoint, route.name, route.config_name, fleet=fleet, stage=stage, source=source
        )
        self.templates: dict[bytes, bytes] = {}
        self.refusal = b""
        self._turn = 0

    def counted_by(self, counter: Counter) -> Variant:
        """Return the same variant, whose requests are counted elsewhere."""
        other = Variant.__new__(Variant)  # once per logged request: one by one is thrice as fast as a loop
        other._turn = self._turn
        other.config_name = self.config_name
        other.container = self.container
        other.links = self.links
        other.name = self.name
        other.only_link = self.only_link
        other.refusal = self.refusal
        other.share = self.share
        other.templates = self.templates
        other.timeout_ns = self.timeout_ns
        other.wanted = self.wanted
        other.tally = counter
        return other

    def choose_link(self, avoid: InstanceLink | None = None) -> InstanceLink | None:
        """Pick the instance with the fewest requests outstanding, ready ones before all others.

        Args:
            avoid: The instance that has just failed the request.
        Returns:
            None when no instance is, or may soon be, reachable.
        """
        only = self.only_link
        if only is not None and only.ready and only is not avoid:
            return only
        best: InstanceLink | None = None
        best_load = math.inf
        count = len(self.links)
        self._turn = turn = (self._turn + 1) % count if count else 0
        for step in range(count):
            link = self.links[(turn + step) % count]
            if link is avoid or link.state > 1:
                continue
            # A silent or still connecting worker is better than none, and worse than any other.
            load = len(link.pending) + (0 if link.ready else 1_000_000)
            if load < best_load:
                best, best_load = link, load
        return best


class Endpoint:
    """One endpoint as the request path needs it.

    Attributes:
        targets: Variants by name, counted as named by the caller.
        only: The variant that answers everything drawn, when just one has weight and one fleet serves.
        branch: Shadows and capture; None without.
        green: The second fleet while two serve: an endpoint of its own that answers a share.
        sticky: Chooses by the request's unit; None: every request is drawn.
        log: Keeps who was assigned what; None where no request is logged.
    """

    __slots__ = (
        "_positive",
        "_share",
        "_total",
        "branch",
        "green",
        "log",
        "name",
        "only",
        "sticky",
        "targets",
        "variants",
    )

    def __init__(
        self,
        name: str,
        variants: list[tuple[float, Variant]],
        branch: Branch | None = None,
        *,
        green: Endpoint | None = None,
        green_share: float = 0.0,
        sticky: Sticky | None = None,
        log: EndpointLog | None = None,
    ) -> None:
        """Prepare the choice.

        Args:
            variants: With their weights.
            green_share: See :class:`core.routing.GreenRoute`.
        """
        self.name = name
        self.branch = branch
        self.green = green
        self.sticky = sticky
        self.log = log
        self.variants = {variant.name: variant for _, variant in variants}
        self.targets = {
            variant.name: variant.counted_by(variant.tally.of_source(Source.TARGET))
            for _, variant in variants
        }
        self._share = green_share
        self._positive = [one for one in variants if one[0] > 0.0]
        self._total = sum(weight for weight, _ in variants)
        self.only = self._positive[0][1] if len(self._positive) == 1 and green is None else None

    def keys(self) -> Iterator[Key]:
        """Name everything that its requests may be counted in."""
        for variant in (*self.variants.values(), *self.targets.values()):
            yield variant.tally.key
        if self.sticky is not None:
            for variant in self.sticky.variants:
                yield variant.tally.key
        if self.green is not None:
            yield from self.green.keys()

    def choose(self, draw: float) -> Variant | None:
        """Pick as ``core.routing.choose_variant`` does; None when no weight is positive."""
        if self.green is not None:
            if draw < self._share:
                return self.green.choose(draw / self._share)
            draw = (draw - self._share) / (1.0 - self._share)
        point = draw * self._total
        chosen = None
        for weight, variant in self._positive:
            chosen = variant
            if point < weight:
                break
            point -= weight
        return chosen

    def targeted(self, name: str, draw: float) -> Variant | None:
        """Find a TargetVariant in the fleet that the draw picks; None when it has none of that name."""
        if self.green is not None and draw < self._share:
            return self.green.targets.get(name)
        return self.targets.get(name)

    def again(self, variant: Variant) -> Iterator[Variant]:
        """Yield who else may answer a request that ``variant`` had: its own configuration first."""
        fleets = (self,) if self.green is None else (self, self.green)
        found = [fleet.variants[variant.name] for fleet in fleets if variant.name in fleet.variants]
        yield from sorted(found, key=lambda one: one.config_name != variant.config_name)


class Switchboard:
    """The current routes and every link, retired ones that still have calls included.

    Attributes:
        endpoints: By name: what requests are routed by.
        known: A table has been loaded at all.
    """

    def __init__(
        self,
        desk: Desk,
        ledger: Ledger,
        loop: asyncio.AbstractEventLoop,
        on_change: Callable[[], None],
        tee: Tee | None = None,
        log: AssignmentLog | None = None,
    ) -> None:
        self._desk = desk
        self._tee = tee
        self._log = log
        self._ledger = ledger
        self._loop = loop
        self._on_change = on_change
        self.table = RoutingTable(version=-1)
        self.known = False
        self.endpoints: dict[str, Endpoint] = {}
        self.links: dict[str, InstanceLink] = {}
        self.retired: set[InstanceLink] = set()

    def swap(self, table: RoutingTable) -> None:
        """Route by ``table`` from now on; new links connect, unnamed ones end with their last call."""
        if self.known and table == self.table:
            return
        links: dict[str, InstanceLink] = {}
        endpoints: dict[str, Endpoint] = {}
        keys: set[Key] = set()
        for route in table.endpoints.values():
            fleets: list[list[tuple[float, Variant]]] = []
            for routes in (route.variants, () if route.green is None else route.green.variants):
                fleet = []
                for one in routes:
                    mine = [self._link(links, each.instance_id, each.address) for each in one.instances]
                    variant = Variant(
                        one, route.name, mine, self._ledger, stage=route.stage, source=Source.WEIGHT
                    )
                    fleet.append((one.weight, variant))
                fleets.append(fleet)
            branch = None
            if self._tee is not None:
                branch = self._tee.branch(route, functools.partial(self._shadow_links, links))
                copied = (*route.shadows, *noise_routes(route).values())
                keys.update(Key(route.name, one.name, one.config_name) for one in copied)
            everybody = [variant for fleet in fleets for _, variant in fleet]
            endpoints[route.name] = endpoint = Endpoint(
                route.name,
                fleets[0],
                branch,
                green=None if route.green is None else Endpoint(route.name, fleets[1]),
                green_share=0.0 if route.green is None else route.green.share,
                sticky=Sticky(route, everybody) if route.sticky else None,
                log=None if self._log is None else self._log.of_endpoint(route),
            )
            keys.update(endpoint.keys())
        gone = [link for key, link in self.links.items() if links.get(key) is not link]
        self.endpoints, self.links, self.table, self.known = endpoints, links, table, True
        self._ledger.keep_only(keys)
        if self._tee is not None:
            self._tee.keep_only(list(table.endpoints.values()))
        for link in gone:
            link.retired = True
            if link.pending:
                if self._tee is not None and link.desk is self._tee:
                    self._tee.retire(link)
                self.retired.add(link)
            else:
                link.close()

    def _shadow_links(
        self, links: dict[str, InstanceLink], route: ShadowRoute, purpose: str = ""
    ) -> list[InstanceLink]:
        """Link a shadow's instances; those of production get connections of their own for second answers."""
        return [
            self._link(links, one.instance_id, one.address, self._tee, purpose) for one in route.instances
        ]

    def _link(
        self,
        links: dict[str, InstanceLink],
        instance_id: str,
        address: str,
        tee: Tee | None = None,
        purpose: str = "",
    ) -> InstanceLink:
        key = instance_id + purpose
        link = links.get(key) or self.links.get(key)
        # A promoted shadow's instance lives on, but its answers are for callers now.
        if link is None or link.address != address or link.desk is not (tee or self._desk):
            if tee is not None:
                link = tee.link(instance_id, address)
            else:
                link = InstanceLink(instance_id, address, self._desk, self._loop)
            link.connect()
        links[key] = link
        return link

    def settled(self, link: InstanceLink) -> None:
        """Note that a link has connected, failed for the first time, or ended."""
        if link.retired and not link.pending:
            self.retired.discard(link)
        self._on_change()

    @property
    def is_settled(self) -> bool:
        """Whether each instance of the table has a connection or has failed its first attempt."""
        return all(link.settled for link in self.links.values())

    def draining(self) -> list[str]:
        """Return instances that no table names and that still have requests."""
        gone = {link.instance_id for link in self.retired if link.pending}
        return sorted(gone - self.links.keys())  # a promoted shadow's old link is no instance that ends

    def all_links(self) -> list[InstanceLink]:
        """Return every link that may hold calls."""
        return [*self.links.values(), *self.retired]


class BadTable(ValueError):
    """A table that can't be read; what was served before stays."""


def parse_table(rendered: Any) -> RoutingTable:
    """Read a table from JSON.

    Raises:
        BadTable: its shape is wrong, or a weight, share or percentage is out of range.
    """
    try:
        routes = msgspec.convert(rendered["endpoints"], list[EndpointRoute])
        table = RoutingTable(int(rendered["version"]), {route.name: route for route in routes})
    except (KeyError, TypeError, ValueError) as error:
        raise BadTable(f"the routing table can't be read: {error}") from error
    for route in routes:
        green = route.green
        if green is not None and not 0.0 < green.share <= 1.0:
            raise BadTable(f"share {green.share} of the second fleet of {route.name}")
        for variant in (*route.variants, *(() if green is None else green.variants)):
            if not (variant.weight >= 0.0 and math.isfinite(variant.weight)):
                raise BadTable(f"weight {variant.weight} of {route.name}/{variant.name}")
        for shadow in route.shadows:
            if not 0.0 <= shadow.share <= 1.0:
                raise BadTable(f"share {shadow.share} of shadow {route.name}/{shadow.name}")
        if not 0.0 <= route.noise_share <= 1.0:
            raise BadTable(f"share {route.noise_share} of second answers of {route.name}")
        if route.capture is not None and not 0.0 <= route.capture.sampling_percent <= 100.0:
            raise BadTable(f"sampling percentage {route.capture.sampling_percent} of {route.name}")
    return table


def load_table(path: Path) -> RoutingTable | None:
    """Read the table that the controller left on disk.

    Returns:
        None when there is none, or its checksum does not fit.
    """
    try:
        document = json.loads(path.read_bytes())
        canonical = json.dumps(document["table"], separators=(",", ":"), sort_keys=True).encode()
        if hashlib.sha256(canonical).hexdigest() != document["sha256"]:
            return None
        return parse_table(document["table"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
