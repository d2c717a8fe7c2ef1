"""Choices equal core's; links live across tables; a broken table changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from understudy.core.routing import (
    EndpointRoute,
    GreenRoute,
    InstanceRoute,
    RoutingTable,
    ShadowRoute,
    VariantRoute,
    choose_variant,
)
from understudy.dataplane.accounting import Ledger
from understudy.dataplane.calls import Call
from understudy.dataplane.capturing import Tap
from understudy.dataplane.dice import splitmix64
from understudy.dataplane.instances import InstanceLink, LinkState
from understudy.dataplane.shadow_link import FAILURES_TO_OPEN
from understudy.dataplane.table import BadTable, Endpoint, Switchboard, Variant, load_table, parse_table
from understudy.dataplane.tee import RETIRED_GRACE_NS, Tee


class QuietDesk:
    """Takes what links report, for tests that look at links alone."""

    def __init__(self) -> None:
        self.suspects: list[str] = []
        self.lost: list[Call] = []

    def take_responses(self, link: InstanceLink, payload: bytes, received_ns: int) -> None:
        raise AssertionError("no answers here")

    take_chunk = take_responses

    def take_overdue(self, call: Call, now_ns: int) -> None:
        raise AssertionError("no deadlines here")

    def take_loss(self, link: InstanceLink, unsent: list[Call], sent: list[Call]) -> None:
        self.lost += unsent + sent

    def link_settled(self, link: InstanceLink) -> None:
        pass

    def link_suspect(self, link: InstanceLink, reason: str, silent_s: float = 0.0) -> None:
        self.suspects.append(link.instance_id)


def endpoint_of(route: EndpointRoute) -> Endpoint:
    ledger = Ledger()

    def fleet(variants: tuple[VariantRoute, ...]) -> list[tuple[float, Variant]]:
        return [(one.weight, Variant(one, route.name, [], ledger)) for one in variants]

    green = None if route.green is None else Endpoint(route.name, fleet(route.green.variants))
    share = 0.0 if route.green is None else route.green.share
    return Endpoint(route.name, fleet(route.variants), green=green, green_share=share)


weights = st.one_of(st.just(0.0), st.floats(1e-9, 1e9), st.sampled_from([1.0, 3.0, 0.1, 0.2, 0.7]))


@given(st.lists(weights, min_size=1, max_size=10), st.floats(0.0, 1.0, exclude_max=True))
def test_choices_equal_core(values: list[float], draw: float) -> None:
    assume(sum(values) > 0)
    route = EndpointRoute(
        "e", tuple(VariantRoute(f"v{number}", value, "c") for number, value in enumerate(values))
    )
    endpoint = endpoint_of(route)
    chosen = endpoint.only or endpoint.choose(draw)
    assert chosen is not None
    assert chosen.name == choose_variant(route, draw).name


two_weights = st.lists(weights, min_size=1, max_size=4).filter(lambda values: sum(values) > 0)
draws = st.floats(0.0, 1.0, exclude_max=True)
shares = st.floats(0.0, 1.0, exclude_min=True)


@given(two_weights, two_weights, shares, draws)
def test_choices_of_two_fleets_equal_core(
    blue: list[float], green: list[float], share: float, draw: float
) -> None:
    route = EndpointRoute(
        "e",
        tuple(VariantRoute(f"v{number}", value, "old") for number, value in enumerate(blue)),
        green=GreenRoute(
            share, tuple(VariantRoute(f"v{number}", value, "new") for number, value in enumerate(green))
        ),
    )
    endpoint = endpoint_of(route)
    assert endpoint.only is None
    chosen, expected = endpoint.choose(draw), choose_variant(route, draw)
    assert chosen is not None
    assert (chosen.name, chosen.config_name) == (expected.name, expected.config_name)
    targeted, expected = endpoint.targeted("v0", draw), choose_variant(route, draw, "v0")
    assert targeted is not None
    assert (targeted.name, targeted.config_name) == (expected.name, expected.config_name)
    assert [one.config_name for one in endpoint.again(targeted)] == [
        expected.config_name,
        "old" if expected.config_name == "new" else "new",
    ]
    assert expected.config_name == ("new" if draw < share else "old")


def test_two_fleets_share_every_variant_exactly_and_a_weight_of_zero_stays_zero() -> None:
    def fleet(config: str) -> tuple[VariantRoute, ...]:
        return (
            VariantRoute("a", 3.0, config),
            VariantRoute("b", 1.0, config),
            VariantRoute("z", 0.0, config),
        )

    endpoint, draw = (
        endpoint_of(EndpointRoute("e", fleet("old"), green=GreenRoute(0.2, fleet("new")))),
        splitmix64(11),
    )
    counts: dict[tuple[str, str], int] = {}
    trials = 40_000
    for _ in range(trials):
        chosen = endpoint.choose(draw())
        assert chosen is not None
        key = (chosen.name, chosen.config_name)
        counts[key] = counts.get(key, 0) + 1
    expected = {("a", "old"): 0.6, ("b", "old"): 0.2, ("a", "new"): 0.15, ("b", "new"): 0.05}
    assert counts.keys() == expected.keys()
    for key, share in expected.items():
        assert abs(counts[key] - share * trials) < 7 * (trials * share * (1 - share)) ** 0.5
    targeted = [endpoint.targeted("z", draw()) for _ in range(trials)]
    new = sum(one is not None and one.config_name == "new" for one in targeted)
    assert abs(new - 0.2 * trials) < 7 * (trials * 0.16) ** 0.5


def test_zero_weight_gets_exactly_none() -> None:
    route = EndpointRoute("e", (VariantRoute("z", 0.0, "c"), VariantRoute("a", 1.0, "c")))
    route = EndpointRoute("e", (*route.variants, VariantRoute("b", 1.0, "c"), VariantRoute("y", 0.0, "c")))
    endpoint, draw = endpoint_of(route), splitmix64(7)
    counts = {"z": 0, "a": 0, "b": 0, "y": 0}
    for _ in range(20_000):
        chosen = endpoint.choose(draw())
        assert chosen is not None
        counts[chosen.name] += 1
    assert counts["z"] == counts["y"] == 0
    assert abs(counts["a"] - 10_000) < 500  # seven standard deviations


def test_no_positive_weight_chooses_nobody() -> None:
    endpoint = endpoint_of(EndpointRoute("e", (VariantRoute("a", 0.0, "c"),)))
    assert endpoint.only is None
    assert endpoint.choose(0.3) is None


def links(count: int, loop: asyncio.AbstractEventLoop) -> list[InstanceLink]:
    made = []
    for number in range(count):
        link = InstanceLink(f"i{number}", "w/none.sock", QuietDesk(), loop)
        link.state, link.ready = LinkState.READY, True
        made.append(link)
    return made


def test_the_least_outstanding_instance_is_chosen() -> None:
    loop = asyncio.new_event_loop()
    try:
        one, two, three = made = links(3, loop)
        variant = Variant(VariantRoute("v", 1.0, "c"), "e", made, Ledger())
        call: Any = object()
        one.pending = {1: call, 2: call}
        two.pending = {1: call}
        three.pending = {1: call, 2: call, 3: call}
        assert variant.choose_link() is two
        assert variant.choose_link(two) is one
        two.ready = False  # silent: worse than any ready one
        assert variant.choose_link() is one
        one.state = three.state = LinkState.LOST
        assert variant.choose_link() is two
        two.state = LinkState.LOST
        assert variant.choose_link() is None
    finally:
        loop.close()


def test_idle_instances_take_turns() -> None:
    loop = asyncio.new_event_loop()
    try:
        variant = Variant(VariantRoute("v", 1.0, "c"), "e", links(3, loop), Ledger())
        seen = [variant.choose_link() for _ in range(9)]
        assert all(seen.count(link) == 3 for link in variant.links)
    finally:
        loop.close()


def table(version: int, **instances: str) -> RoutingTable:
    routes = tuple(InstanceRoute(name, address) for name, address in instances.items())
    return RoutingTable(version, {"e": EndpointRoute("e", (VariantRoute("v", 1.0, "c", routes),))})


def test_links_live_across_tables_unless_their_address_changes() -> None:
    async def scenario() -> None:
        board = Switchboard(QuietDesk(), Ledger(), asyncio.get_running_loop(), lambda: None)
        board.swap(table(1, a="w/a.sock", b="w/b.sock"))
        first = dict(board.links)
        board.swap(table(2, a="w/a.sock", b="w/b2.sock", c="w/c.sock"))
        assert board.links["a"] is first["a"]
        assert board.links["b"] is not first["b"]
        assert first["b"].state == LinkState.CLOSED
        busy = board.links["a"]
        call: Any = object()
        busy.pending[1] = call
        board.swap(table(3, c="w/c.sock"))
        assert board.draining() == ["a"]
        assert busy.state != LinkState.CLOSED
        busy.pending.clear()
        busy.end_if_retired()
        assert busy.state == LinkState.CLOSED
        for link in board.all_links():
            link.close()
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_promoted_shadows_instance_gets_a_link_of_productions() -> None:
    instance = InstanceRoute("b", "w/b.sock")
    shadow = ShadowRoute("s", 1.0, "c", (instance,))
    production = VariantRoute("s", 1.0, "c", (instance,))

    async def scenario() -> None:
        desk, ledger, loop = QuietDesk(), Ledger(), asyncio.get_running_loop()
        tap = Tap(ledger, loop, draw=lambda: 0.0, wall_s=lambda: 0.0, open_spool=None)
        tee = Tee(desk, ledger, tap, loop, draw=lambda: 0.0)
        board = Switchboard(desk, ledger, loop, lambda: None, tee)
        board.swap(RoutingTable(1, {"e": EndpointRoute("e", (VariantRoute("v", 1.0, "c"),), (shadow,))}))
        copies = board.links["b"]
        assert copies.desk is tee
        branch = board.endpoints["e"].branch
        assert branch is not None and branch.capture is None
        [before] = branch.shadows
        board.swap(RoutingTable(2, {"e": EndpointRoute("e", (VariantRoute("v", 1.0, "d"),), (shadow,))}))
        branch = board.endpoints["e"].branch
        assert branch is not None
        assert board.links["b"] is copies and branch.shadows[0].breaker is before.breaker
        for _ in range(FAILURES_TO_OPEN):
            before.breaker.failed(0)
        for version, replaced in ((3, ()), (4, (InstanceRoute("b2", "b2.sock"),)), (5, (instance,))):
            # Its worker ended and another one is there: the breaker knows, and gives each one copy.
            route = EndpointRoute("e", (VariantRoute("v", 1.0, "d"),), (replace(shadow, instances=replaced),))
            board.swap(RoutingTable(version, {"e": route}))
            branch = board.endpoints["e"].branch
            assert branch is not None and branch.shadows[0].breaker is before.breaker
            assert before.breaker.admits(1) == bool(replaced)
            assert before.breaker.is_open and not before.breaker.admits(2)
        copies = board.links["b"]
        call: Any = Call(None, None, before, b"", 0, 0)  # type: ignore[arg-type]
        copies.pending[1] = call
        board.swap(RoutingTable(6, {"e": EndpointRoute("e", (production,))}))
        assert board.endpoints["e"].branch is None
        assert board.links["b"] is not copies and board.links["b"].desk is desk
        assert copies.retired and board.draining() == []
        assert call.due_ns < time.monotonic_ns() + 2 * RETIRED_GRACE_NS
        copies.pending.clear()
        for link in board.all_links():
            link.close()
        await asyncio.sleep(0)

    asyncio.run(scenario())


RENDERED = {
    "version": 4,
    "endpoints": [
        {
            "name": "e",
            "variants": [
                {
                    "name": "v",
                    "weight": 0.0,
                    "config_name": "c",
                    "timeout_s": 60.0,
                    "containers": ["primary"],
                    "instances": [{"instance_id": "i", "address": "w/a.sock"}],
                }
            ],
        }
    ],
}


def test_a_table_is_read_from_json() -> None:
    read = parse_table(RENDERED)
    assert read.version == 4
    assert read.endpoints["e"].variants[0].instances == (InstanceRoute("i", "w/a.sock"),)


@pytest.mark.parametrize(
    "crooked",
    [
        {},
        {"version": "x", "endpoints": []},
        {"version": 1, "endpoints": [{"name": "e"}]},
        {"version": 1, "endpoints": [{"name": "e", "variants": [{"name": "v", "weight": -1.0}]}]},
        {
            "version": 1,
            "endpoints": [
                {"name": "e", "variants": [{"name": "v", "weight": -1.0, "config_name": "c"}]},
            ],
        },
        {
            "version": 1,
            "endpoints": [
                {"name": "e", "variants": [], "shadows": [{"name": "s", "share": 1.5, "config_name": "c"}]},
            ],
        },
        {
            "version": 1,
            "endpoints": [
                {
                    "name": "e",
                    "variants": [],
                    "capture": {
                        "destination": "s3://b",
                        "sampling_percent": 101,
                        "inputs": True,
                        "outputs": True,
                    },
                },
            ],
        },
    ],
)
def test_crooked_tables_are_refused(crooked: dict[str, Any]) -> None:
    with pytest.raises(BadTable):
        parse_table(crooked)


def test_the_stored_table_needs_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert load_table(path) is None
    canonical = json.dumps(RENDERED, separators=(",", ":"), sort_keys=True).encode()
    document = {"sha256": hashlib.sha256(canonical).hexdigest(), "table": RENDERED}
    path.write_text(json.dumps(document))
    assert load_table(path) == parse_table(RENDERED)
    path.write_text(json.dumps(document).replace('"v"', '"w"'))
    assert load_table(path) is None
    path.write_text("{")
    assert load_table(path) is None
