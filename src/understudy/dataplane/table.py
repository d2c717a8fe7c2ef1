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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from understudy.core.routing import EndpointRoute, RoutingTable, ShadowRoute, VariantRoute, noise_routes
from understudy.dataplane.accounting import Ledger
from understudy.dataplane.instances import Desk, InstanceLink

if TYPE_CHECKING:
    from understudy.dataplane.tee import Branch, Tee

MAX_TEMPLATES = 256


class Variant:
    """One variant as the request path needs it.

    Attributes:
        share: 1 / instances, for InvocationsPerInstance; 0.0 without instances.
        templates: Success templates by a worker's answer head.
    """

    __slots__ = (
        "_turn",
        "config_name",
        "container",
        "links",
        "name",
        "only_link",
        "share",
        "tally",
        "templates",
        "timeout_ns",
    )

    def __init__(
        self, route: VariantRoute | ShadowRoute, endpoint: str, links: list[InstanceLink], ledger: Ledger
    ) -> None:
        self.name = route.name
        self.config_name = route.config_name
        self.container = route.containers[0] if route.containers else "primary"
        self.links = links
        self.only_link = links[0] if len(links) == 1 else None
        self.share = 1.0 / len(links) if links else 0.0
        self.timeout_ns = int(route.timeout_s * 1e9)
        self.tally = ledger.tally(endpoint, route.name, route.config_name)
        self.templates: dict[bytes, bytes] = {}
        self._turn = 0

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
        only: The variant that answers everything untargeted, when just one has weight.
        branch: Shadows and capture; None without.
    """

    __slots__ = ("_positive", "_total", "branch", "name", "only", "variants")

    def __init__(self, route: EndpointRoute, variants: list[Variant], branch: Branch | None = None) -> None:
        self.name = route.name
        self.branch = branch
        self.variants = {variant.name: variant for variant in variants}
        self._positive = [
            (one.weight, variant)
            for one, variant in zip(route.variants, variants, strict=True)
            if one.weight > 0.0
        ]
        self._total = sum(one.weight for one in route.variants)
        self.only = self._positive[0][1] if len(self._positive) == 1 else None

    def choose(self, draw: float) -> Variant | None:
        """Pick by weight, as ``core.routing.choose_variant`` does; None when no weight is positive."""
        point = draw * self._total
        chosen = None
        for weight, variant in self._positive:
            chosen = variant
            if point < weight:
                break
            point -= weight
        return chosen


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
    ) -> None:
        self._desk = desk
        self._tee = tee
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
        keys = set()
        for route in table.endpoints.values():
            variants = []
            for variant in route.variants:
                mine = [self._link(links, one.instance_id, one.address) for one in variant.instances]
                keys.add((route.name, variant.name, variant.config_name))
                variants.append(Variant(variant, route.name, mine, self._ledger))
            branch = None
            if self._tee is not None:
                branch = self._tee.branch(route, functools.partial(self._shadow_links, links))
                copied = (*route.shadows, *noise_routes(route).values())
                keys.update((route.name, one.name, one.config_name) for one in copied)
            endpoints[route.name] = Endpoint(route, variants, branch)
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
        for variant in route.variants:
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
