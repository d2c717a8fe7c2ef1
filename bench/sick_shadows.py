"""What a sick shadow costs production: throughput, and latency at half of capacity, in turn with no shadow.

A healthy shadow costs the processor time that its answers take (``bench.copying``); one that hangs, crashes,
answers megabytes or burns processors must cost nothing that a caller could see.
Main function: :func:`sick`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.measuring import measure
from bench.modes import Bench, Row, in_turn
from bench.understudy import Variant

A = Variant("A", "churn")

_MODEL = """import os, threading, time


def model_fn(model_dir):
{start}
    return None


def transform_fn(model, body, content_type, accept):
{answer}
"""
_BURN = """    def burn():
        while True:
            pass
    threading.Thread(target=burn, daemon=True).start()"""
SICK = {
    "hangs": ("", "    time.sleep(3600)"),
    "crashes at every copy": ("", "    os._exit(3)"),
    "answers 6 MB": ("", '    return "1" * 6_000_000, "text/csv"'),
    "burns a processor": (_BURN, '    return "1", "text/csv"'),
}


def sick(bench: Bench) -> Iterator[Row]:
    """100 % of production copied to shadows that are sick in different ways."""
    plain = bench.endpoint("one")
    half = 0.5 * measure(plain, bench.schedule.load(16)).per_s
    for what, (start, answer) in SICK.items():
        name = "sick-" + what.partition(" ")[0]
        bench.server.create_script_model(name, _MODEL.format(start=start, answer=answer))
        bench.server.deploy(name, A, shadow=Variant("S", name))
        try:
            beside = bench.endpoint(name)
            closed = bench.schedule.load(16)
            settings = {
                "no shadow": partial(measure, plain, closed),
                f"shadow {what}": partial(measure, beside, closed),
            }
            yield from in_turn(bench, settings, "sick shadow", 16)
            opened = bench.schedule.load(64, rate_per_s=half)
            settings = {
                "half of capacity, no shadow": partial(measure, plain, opened),
                f"half of capacity, shadow {what}": partial(measure, beside, opened),
            }
            yield from in_turn(bench, settings, "sick shadow", 64)
        finally:
            bench.server.delete(name)
