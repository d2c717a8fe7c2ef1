"""What a shadow costs production: throughput and latency, in turn with no shadow, and beside nginx's mirror.

Per case four servers take turns in each round: Understudy without and with the shadow, nginx without and
with a mirror whose target is ill in the same way.  A healthy shadow costs the processor time that its answers
take; one that hangs, is dead, crashes, resets connections, answers megabytes, runs out of memory or burns
processors must cost nothing that a caller could see.
Main function: :func:`sick`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.contestants import PEERS, Peer, Started, start_peer
from bench.environments import NotInstalled
from bench.measuring import measure
from bench.modes import Bench, Row, in_turn
from bench.processes import StartFailed
from bench.understudy import Variant

A = Variant("A", "churn")
HALF, TENTH = 50, 10  # per cent of capacity

_MODEL = """import os, socket, threading, time
{start}

def model_fn(model_dir):
    return begin()


def transform_fn(model, body, content_type, accept):
{answer}
"""
_NOTHING = "def begin():\n    return None\n"
_ONCE = """
def begin():
    open(os.environ["ONCE"], "x").close()
"""
_SECOND = """
def begin():
    return threading.Timer(1.0, os._exit, [3])
"""
_COUNTDOWN = """    if model.ident is None:  # before the first copy it is well, and gets deployed
        model.start()
    return "1", "text/csv\""""
_BURN = """
def burn():
    while True:
        pass

def begin():
    threading.Thread(target=burn, daemon=True).start()
"""
_RESET = """    for name in os.listdir("/proc/self/fd"):
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
            connection.getpeername()
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    return "1", "text/csv\""""
_EAT = """    held.append(bytearray(64 << 20))
    return "1", "text/csv\""""
_SLOW = """    until = time.thread_time() + 0.002
    while time.thread_time() < until:
        pass
    return "1", "text/csv\""""


@dataclass(frozen=True)
class Case:
    """One way for a shadow to be.

    Attributes:
        start, answer: Code of its model; empty: it is well, and serves production's own.
        mirror: What nginx mirrors to (``peers/nginx/sick.py``); empty: a healthy one.
        percent: Of capacity at which latency is measured.
        ceiling: ``understudy:shadow-cpu-percent``; 0: none.
    """

    what: str
    answer: str
    mirror: str
    start: str = _NOTHING
    percent: int = HALF
    ceiling: int = 0

    @property
    def mode(self) -> str:
        """Name of the rows: what may cost the processor something, and what may not."""
        return "sick shadow" if self.percent == HALF else "busy shadow"


CASES = (
    Case("hangs", "    time.sleep(3600)", "hangs"),
    Case("is dead", "    os._exit(3)", "dead", _ONCE),
    Case("crashes at every copy", "    os._exit(3)", "crashes-copy"),
    Case("crashes every second", _COUNTDOWN, "crashes-second", _SECOND),
    Case("resets connections", _RESET, "resets"),
    Case("answers 6 MB", '    return "1" * 6_000_000, "text/csv"', "answers"),
    Case("runs out of memory", _EAT, "memory", "held = []\n" + _NOTHING),
    Case("is healthy", "", "", percent=TENTH),
    Case("is 10 × slower", _SLOW, "slow", percent=TENTH),
    Case("burns a processor", '    return "1", "text/csv"', "slow", _BURN, TENTH),
    Case("burns, ceiling 25 %", '    return "1", "text/csv"', "slow", _BURN, TENTH, 25),
)


def sick(bench: Bench) -> Iterator[Row]:
    """100 % of production copied to shadows that are well or sick in different ways."""
    for case in CASES:
        yield from one_case(bench, case)


def one_case(bench: Bench, case: Case) -> Iterator[Row]:
    """Measure one kind of shadow: a closed loop for throughput, an open one for latency."""
    name = "sick-" + "-".join(re.findall(r"[A-Za-z0-9]+", case.what))
    deploy(bench, case, name)
    try:
        with ExitStack() as ends:
            plain, beside = bench.endpoint("one"), bench.endpoint(name)
            closed = bench.schedule.load(16)
            targets = {"no shadow": plain, f"shadow {case.what}": beside}
            bases = {"no shadow": "", f"shadow {case.what}": "no shadow"}
            mirrors = _mirrors(bench, case, ends)
            if isinstance(mirrors, str):
                yield Row(case.mode, f"nginx, mirror {case.what}", {}, f"not measured: {mirrors}")
            else:
                targets |= {"nginx, no mirror": mirrors[0], f"nginx, mirror {case.what}": mirrors[1]}
                bases |= {"nginx, no mirror": "", f"nginx, mirror {case.what}": "nginx, no mirror"}
            settings = {key: partial(measure, target, closed) for key, target in targets.items()}
            yield from in_turn(bench, settings, case.mode, 16, bases)
            # What nothing but time does to a p99 is measured as well: no shadow, once more.
            again = "no shadow, once more"
            targets = {"no shadow": plain, f"shadow {case.what}": beside, again: plain}
            bases = dict.fromkeys(targets, "no shadow") | {"no shadow": ""}
            capacity_per_s = measure(plain, closed).per_s
            opened = bench.schedule.load(64, rate_per_s=capacity_per_s * case.percent / 100)
            settings = {key: partial(measure, target, opened) for key, target in targets.items()}
            mode = f"{case.mode}, {case.percent} % of capacity"
            yield from in_turn(bench, settings, mode, 64, bases, times=2)
    finally:
        bench.server.delete(name)


def deploy(bench: Bench, case: Case, name: str) -> None:
    """Deploy the benchmark's model with this shadow beside it."""
    shadow = A.model
    if case.answer:
        shadow = name
        once = Path(bench.server.data_dir).parent / f"once-{name}"
        script = _MODEL.format(start=case.start, answer=case.answer)
        bench.server.create_script_model(shadow, script, {"ONCE": str(once)})
    bench.server.deploy(name, A, shadow=Variant("S", shadow), shadow_cpu_percent=case.ceiling)


def _mirrors(bench: Bench, case: Case, ends: ExitStack) -> tuple[Started, Started] | str:
    """Start nginx without and with the mirror; or say why it can't be had."""
    (peer,) = (one for one in PEERS if one.group == "nginx mirror")
    started = []
    for shadow in ("none", case.mirror):
        try:
            started.append(start_peer(_with_shadow(peer, shadow), bench.work))
        except (NotInstalled, StartFailed) as error:
            return " ".join(str(error).split())[-200:]
        ends.callback(started[-1].stop)
    return started[0], started[1]


def _with_shadow(peer: Peer, shadow: str) -> Peer:
    return replace(peer, environment={**peer.environment, "SHADOW": shadow})
