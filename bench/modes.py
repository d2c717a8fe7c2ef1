"""What is measured of Understudy alone: A/B, signatures, open loop, overload, large bodies, crowds.

Each mode is a function from a :class:`Bench` to rows of figures; ``bench.catalogue`` lists them all.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bench.contestants import Started
from bench.figures import median, paired_ratio
from bench.loadgen.engine import Load
from bench.loadgen.plans import Request, write_plan
from bench.loadgen.remote import ROOT
from bench.measuring import Measurement, measure
from bench.router_rig import RouterRig
from bench.understudy import ECHO, SLOW, Understudy, Variant
from bench.work import Work

BODY_256_KB = 256 * 1024
BODY_6_MB = 6 * 1024 * 1024
OVERLOAD = 3.0
COPIES = 100  # 200 rows a hundred times: 20,000 requests with signatures of their own
MILLION = 1_000_000
CSV = {"Content-Type": "text/csv"}


@dataclass(frozen=True)
class Schedule:
    """How long and how often.

    Attributes:
        connections: Of the closed loops against peers.
        edges: Further numbers of connections, in fewer rounds.
        many: How many variants the flat-cost mode goes up to.
        served: How many requests the mode of that name makes.
    """

    rounds: int
    seconds: float
    warm_up_s: float
    connections: tuple[int, ...]
    edges: tuple[int, ...]
    many: int
    served: int = MILLION

    def load(self, connections: int, **more: Any) -> Load:
        """Return a closed loop of this schedule."""
        return Load("", 0, connections, self.seconds, self.warm_up_s, **more)


@dataclass(frozen=True)
class Row:
    """One line of the report: figures of one setting, and how they compare to the mode's base."""

    mode: str
    setting: str
    figures: dict[str, Any]
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """What modes need.

    Attributes:
        server: Without signatures; has the model ``churn`` and the endpoint ``one``.
        say: Shows progress.
    """

    server: Understudy
    work: Work
    schedule: Schedule
    say: Callable[[str], None]

    def endpoint(self, name: str, *, server: Understudy | None = None, copies: int = 0) -> Started:
        """Return what to aim at to reach an endpoint that serves the churn model."""
        plan = self.work.plan("csv", f"/endpoints/{name}/invocations")
        return (server or self.server).started(plan, copies=copies)


def figures_of(rounds: list[Measurement]) -> dict[str, Any]:
    """Return the medians of some rounds."""
    errors: dict[str, int] = {}
    for one in rounds:
        for kind, count in one.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    roles = {role for one in rounds for role in one.cpu_us_by_role}
    return {
        "per_s": median([one.per_s for one in rounds]),
        "p50_us": median([one.p50_us for one in rounds]),
        "p99_us": median([one.p99_us for one in rounds]),
        "p999_us": median([one.p999_us for one in rounds]),
        "cpu_us": median([one.cpu_us for one in rounds]),
        "cpu_us_by_role": {
            role: round(statistics.median(one.cpu_us_by_role.get(role, 0.0) for one in rounds), 1)
            for role in sorted(roles)
        },
        "rss_bytes": median([one.rss_bytes for one in rounds]),
        "generator_busy": median([one.load["generator_busy"] for one in rounds]),
        "errors": errors,
    }


def in_turn(
    bench: Bench,
    settings: Mapping[str, Callable[[], Measurement]],
    mode: str,
    connections: int,
    bases: Mapping[str, str] | None = None,
    times: int = 1,
) -> Iterator[Row]:
    """Measure settings in turn, round after round.

    Args:
        bases: What each setting is compared with, empty for nothing; without it all but the first with the
            first.
        times: As many rounds as usual; tails need more.
    """
    rounds: dict[str, list[Measurement]] = {name: [] for name in settings}
    for _ in range(times * bench.schedule.rounds):
        for name, once in settings.items():
            rounds[name].append(once())
    first, *_ = rounds
    for name, measured in rounds.items():
        figures = figures_of(measured)
        note = ""
        compared = ("" if name == first else first) if bases is None else bases[name]
        if compared:
            base = rounds[compared]
            ratio = paired_ratio([one.per_s for one in measured], [one.per_s for one in base])
            figures["ratio_per_s"] = None if ratio is None else vars(ratio)
            cpu = paired_ratio([one.cpu_us for one in measured], [one.cpu_us for one in base])
            figures["ratio_cpu"] = None if cpu is None else vars(cpu)
            excess_us = [one.p99_us - other.p99_us for one, other in zip(measured, base, strict=True)]
            figures["p99_excess_us"] = median(excess_us)
            p99 = paired_ratio([one.p99_us for one in measured], [one.p99_us for one in base])
            figures["ratio_p99"] = None if p99 is None else vars(p99)
            low, middle, high = (
                one / 1000 for one in (min(excess_us), statistics.median(excess_us), max(excess_us))
            )
            note = f"req/s × {ratio}, CPU × {cpu}, p99 {middle:+.2f} ms ({low:+.2f} to {high:+.2f})"
        yield Row(mode, f"{name}, {connections} connections", figures, note)


# --- modes -------------------------------------------------------------------------------------------


def ab(bench: Bench) -> Iterator[Row]:
    """Two variants 50/50 against one variant with as many workers."""
    bench.server.deploy("pair", Variant("A", "churn", instances=2))
    bench.server.deploy("ab", Variant("A", "churn"), Variant("B", "churn"))
    pair, both = bench.endpoint("pair"), bench.endpoint("ab")
    try:
        for connections in (16, 64):
            load = bench.schedule.load(connections)
            settings = {
                "one variant, 2 instances": partial(measure, pair, load),
                "A/B 50/50, 1 instance each": partial(measure, both, load),
            }
            yield from in_turn(bench, settings, "A/B", connections)
    finally:
        bench.server.delete("pair")
        bench.server.delete("ab")


def signatures(bench: Bench) -> Iterator[Row]:
    """Signed against unsigned; and boto3's headers without a check, to tell the two apart."""
    signed = Understudy(auth="sigv4")
    try:
        signed.create_churn_model("churn", bench.work)
        signed.deploy("one", Variant("A", "churn"))
        plain, headers = bench.endpoint("one"), bench.endpoint("one", copies=COPIES)
        checked = bench.endpoint("one", server=signed, copies=COPIES)
        for connections in (16, 64):
            load = bench.schedule.load(connections)
            settings = {
                "unsigned": partial(measure, plain, load),
                "boto3's headers, unchecked": partial(measure, headers, load),
                "signed": partial(measure, checked, load),
            }
            yield from in_turn(bench, settings, "signatures", connections)
    finally:
        signed.stop()


def open_loop(bench: Bench) -> Iterator[Row]:
    """Latency at half and four fifths of capacity, from the moment at which each request was due."""
    target = bench.endpoint("one")
    yield from at_part_of_capacity(bench.schedule, target, "open loop")


def at_part_of_capacity(schedule: Schedule, target: Started, mode: str) -> Iterator[Row]:
    """Measure the capacity at 16 connections, then latencies at parts of it."""
    peak = measure(target, schedule.load(16))
    for percent in (50, 80):
        rate = peak.per_s * percent / 100.0
        one = measure(target, schedule.load(64, rate_per_s=rate))
        late_us = one.load["lateness"]["p99_us"]
        note = f"offered {rate:,.0f}/s; the generator sent {late_us / 1000:.2f} ms late (p99)"
        yield Row(mode, f"{percent} % of {peak.per_s:,.0f}/s", figures_of([one]), note)


def overload(bench: Bench) -> Iterator[Row]:
    """Three times what a model of 1 ms CPU can do: goodput, refusals, the control API meanwhile.

    With the churn model the generator would need more CPU than the server: both share the machine.
    """
    bench.server.create_script_model("slow", SLOW, {"SERVICE_MS": "1"})
    bench.server.deploy("slow", Variant("A", "slow"))
    try:
        body = Request("/endpoints/slow/invocations", "x" * 64, {"Content-Type": "application/octet-stream"})
        plan = bench.work.folder / "plan-slow.jsonl"
        write_plan(plan, [body])
        target = bench.server.started(plan)
        peak = measure(target, bench.schedule.load(64))
        yield Row("overload", "peak, closed loop, 64 connections", figures_of([peak]))
        seconds = max(2.0, bench.schedule.seconds)
        # The queue must be full when the window opens: what counts is the steady state.
        load = Load("", 0, 64, seconds, 2.0, rate_per_s=OVERLOAD * peak.per_s, timeout_s=20.0)
        with calling(bench.server) as control_ms:
            one = measure(target, load, allow_refusals=True)
        refused, figures = one.load["refused"], figures_of([one])
        figures |= {
            "goodput_fraction": one.per_s / peak.per_s if peak.per_s else 0.0,
            "refused": refused,
            "control_p99_ms": sorted(control_ms)[int(len(control_ms) * 0.99)] if control_ms else None,
            "control_calls": len(control_ms),
        }
        control = figures["control_p99_ms"]
        note = (
            f"goodput {100 * figures['goodput_fraction']:.0f} % of peak; {refused['count']} refused, "
            f"p99 {refused['p99_us'] / 1000:.1f} ms; control API p99 "
            + ("no answer" if control is None else f"{control:.0f} ms")
        )
        yield Row("overload", f"{OVERLOAD:g} × peak, open loop", figures, note)
        after = measure(target, bench.schedule.load(64, rate_per_s=0.5 * peak.per_s))
        yield Row("overload", "afterwards, half of peak", figures_of([after]))
    finally:
        bench.server.delete("slow")


@contextmanager
def calling(server: Understudy) -> Iterator[list[float]]:
    """Call the control API all the while; gives the milliseconds that each call took."""
    took_ms: list[float] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.wait(0.1):
            started_s = time.perf_counter()
            server.sagemaker.describe_endpoint(EndpointName="one")
            took_ms.append((time.perf_counter() - started_s) * 1e3)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield took_ms
    finally:
        stop.set()
        thread.join()


def bodies(bench: Bench) -> Iterator[Row]:
    """256 KB of JSON and 6 MB of bytes through a model that echoes: every byte is compared."""
    bench.server.create_script_model("echo", ECHO)
    bench.server.deploy("echo", Variant("A", "echo"))
    try:
        dice = random.Random(1)
        numbers: list[float] = []
        while len(json.dumps(numbers)) < BODY_256_KB:
            numbers += [dice.random() for _ in range(500)]
        text = json.dumps(numbers)[:BODY_256_KB]
        text = json.dumps(json.loads(text[: text.rindex(",")] + "]"))
        for name, content, media, connections in (
            ("256 KB JSON", text.encode(), "application/json", 4),
            ("6 MB bytes", dice.randbytes(BODY_6_MB), "application/octet-stream", 2),
        ):
            body = bench.work.folder / f"body-{len(content)}"
            body.write_bytes(content)
            plan = bench.work.folder / f"plan-{len(content)}.jsonl"
            path = "/endpoints/echo/invocations"
            write_plan(plan, [Request(path, headers={"Content-Type": media}, body_file=str(body))])
            one = measure(bench.server.started(plan), bench.schedule.load(connections))
            note = f"{one.per_s * len(content) / 1e6:,.0f} MB/s each way, byte-exact"
            yield Row("bodies", f"{name}, {connections} connections", figures_of([one]), note)
    finally:
        bench.server.delete("echo")


def crowd(bench: Bench) -> Iterator[Row]:
    """1,000 idle and 1,000 slow connections beside traffic."""
    target, load = bench.endpoint("one"), bench.schedule.load(16)

    def beside() -> Measurement:
        with holding(bench.server, 1000, 1000):
            return measure(target, load)

    settings: dict[str, Callable[[], Measurement]] = {
        "alone": partial(measure, target, load),
        "beside 1,000 idle + 1,000 slow": beside,
    }
    yield from in_turn(bench, settings, "crowd", 16)


@contextmanager
def holding(server: Understudy, idle: int, slow: int) -> Iterator[None]:
    """Hold connections open from another process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.loadgen.holders", server.host, str(server.port), str(idle), str(slow)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the connections could not be opened")
        yield
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def variants(bench: Bench) -> Iterator[Row]:
    """One variant against many, with as many workers."""
    many = bench.schedule.many
    bench.server.deploy("wide", Variant("A", "churn", instances=many))
    bench.server.deploy("many", *(Variant(f"V{number}", "churn") for number in range(many)))
    wide, split = bench.endpoint("wide"), bench.endpoint("many")
    load = bench.schedule.load(64)
    try:
        settings = {
            f"1 variant × {many} instances": partial(measure, wide, load),
            f"{many} variants × 1 instance": partial(measure, split, load),
        }
        yield from in_turn(bench, settings, "variants", 64)
    finally:
        bench.server.delete("wide")
        bench.server.delete("many")


def endpoints(bench: Bench) -> Iterator[Row]:
    """A router's cost per request with 1 to 1,000 endpoints in its table, one worker behind all."""
    rigs: dict[int, RouterRig] = {}
    try:
        for count in (1, 10, 100, 1000):
            rigs[count] = RouterRig(count, bench.work.rows[0])
        load = bench.schedule.load(64)
        settings = {
            f"{count:,} endpoints (router alone)": partial(measure, rig.started, load)
            for count, rig in rigs.items()
        }
        yield from in_turn(bench, settings, "endpoints", 64)
    finally:
        for rig in rigs.values():
            rig.stop()


def served(bench: Bench) -> Iterator[Row]:
    """Cost per request of a server that has served a million requests, against a fresh one in turn.

    (Before against after would measure what the machine's other work has changed meanwhile.)
    """
    servers = [Understudy()]
    try:
        used = _serving_churn(bench, servers[0])
        done = 0
        per_s = measure(used, bench.schedule.load(64)).per_s
        while done < bench.schedule.served:
            seconds = max(1.0, (bench.schedule.served - done) / max(1.0, per_s))
            one = measure(used, Load("", 0, 64, min(seconds, 30.0)))
            done, per_s = done + one.load["in_window"], one.per_s
        servers.append(Understudy())
        fresh = _serving_churn(bench, servers[1])
        load = bench.schedule.load(64)
        after = f"after {done:,} requests"
        settings = {"fresh server": partial(measure, fresh, load), after: partial(measure, used, load)}
        for row in in_turn(bench, settings, "served", 64):
            yield replace(
                row, figures=row.figures | ({"served": done} if row.setting.startswith(after) else {})
            )
    finally:
        for server in servers:
            server.stop()


def _serving_churn(bench: Bench, server: Understudy) -> Started:
    server.create_churn_model("churn", bench.work)
    server.deploy("one", Variant("A", "churn"))
    return bench.endpoint("one", server=server)
