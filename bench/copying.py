"""What copies cost production: a shadow of everything, capture of everything, and both with A/B.

Each mode is as those of ``bench.modes``.  The last one is held against nginx's ``mirror``, in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from bench.contestants import PEERS, start_peer
from bench.environments import NotInstalled
from bench.measuring import Measurement, measure
from bench.modes import Bench, Row, in_turn
from bench.processes import StartFailed
from bench.understudy import Variant

A, B, SHADOW = Variant("A", "churn"), Variant("B", "churn"), Variant("S", "churn")


def shadow(bench: Bench) -> Iterator[Row]:
    """100 % of production copied to a shadow of one instance, against none."""
    bench.server.deploy("shadowed", A, shadow=SHADOW)
    try:
        yield from _against_one(bench, "shadow", "100 % copied to a shadow", "shadowed")
    finally:
        bench.server.delete("shadowed")


def capture(bench: Bench) -> Iterator[Row]:
    """100 % of requests and answers captured, against none."""
    bench.server.deploy("captured", A, captures=True)
    try:
        yield from _against_one(bench, "capture", "100 % captured", "captured")
    finally:
        bench.server.delete("captured")


def _against_one(bench: Bench, mode: str, name: str, endpoint: str) -> Iterator[Row]:
    for connections in (16, 64):
        load = bench.schedule.load(connections)
        settings = {
            "without": partial(measure, bench.endpoint("one"), load),
            name: partial(measure, bench.endpoint(endpoint), load),
        }
        yield from in_turn(bench, settings, mode, connections)


def together(bench: Bench) -> Iterator[Row]:
    """A/B, a shadow of everything and capture of everything at once, against nginx's mirror."""
    (peer,) = (one for one in PEERS if one.group == "nginx mirror")
    bench.server.deploy("together", A, B, shadow=SHADOW, captures=True)
    try:
        mirror = start_peer(peer, bench.work)
    except (NotInstalled, StartFailed) as error:
        yield Row("together", peer.name, {}, f"not measured: {' '.join(str(error).split())[-200:]}")
        bench.server.delete("together")
        return
    try:
        load = bench.schedule.load(16)
        settings: dict[str, Callable[[], Measurement]] = {
            "nginx mirror, 2 uvicorn": partial(measure, mirror, load),
            "A/B + shadow 100 % + capture 100 %": partial(measure, bench.endpoint("together"), load),
        }
        yield from in_turn(bench, settings, "together", 16)
    finally:
        mirror.stop()
        bench.server.delete("together")
