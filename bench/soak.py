"""``make soak``: is memory flat under steady load?  ``python -m bench.soak --minutes 10``.

Owns one server, an open loop at half of its capacity and control calls beside it; reads the resident memory
of every process all the while.  Refuses to call a run good when any role's memory rises, an answer was wrong
or a request failed.  Main function: :func:`main`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

from bench.loadgen.engine import Load
from bench.measuring import measure
from bench.modes import calling
from bench.run import RESULTS
from bench.understudy import Understudy, Variant
from bench.work import prepare

# The first part warms caches, pools and arenas; what must not rise is what comes after.
SETTLING_FRACTION = 0.25
ALLOWED_RISE_FRACTION = 0.02
ALLOWED_RISE_BYTES = 2 * 1024 * 1024
CAPACITY_FRACTION = 0.5


def rise(samples: list[tuple[float, float]]) -> float:
    """Return by how much memory rises over the samples' time, in bytes, by the median of all slopes.

    Theil and Sen's estimate: single peaks do not move it.

    >>> round(rise([(0.0, 10.0), (1.0, 11.0), (2.0, 12.0), (3.0, 90.0), (4.0, 14.0)]))
    4
    """
    slopes = [
        (later - earlier) / (later_s - earlier_s)
        for at, (earlier_s, earlier) in enumerate(samples)
        for later_s, later in samples[at + 1 :]
        if later_s > earlier_s
    ]
    return statistics.median(slopes) * (samples[-1][0] - samples[0][0]) if slopes else 0.0


def verdicts(samples: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, Any]]:
    """Judge each role's memory after settling."""
    found = {}
    for role, all_of_it in samples.items():
        kept = all_of_it[int(len(all_of_it) * SETTLING_FRACTION) :]
        if len(kept) < 2:
            found[role] = {"flat": False, "why": "too few samples"}
            continue
        rose = rise(kept)
        level = statistics.median(value for _, value in kept)
        allowed = max(ALLOWED_RISE_BYTES, ALLOWED_RISE_FRACTION * level)
        found[role] = {
            "flat": rose <= allowed, "rose_bytes": round(rose), "level_bytes": round(level),
            "allowed_bytes": round(allowed),
        }  # fmt: skip
    return found


def main(argv: list[str]) -> int:
    """Soak; return 0 when all is flat, 1 when not."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args(argv)
    duration_s = options.minutes * 60.0
    work = prepare()
    server = Understudy()
    try:
        server.create_churn_model("churn", work)
        server.deploy("one", Variant("A", "churn"), Variant("B", "churn"))
        target = server.started(work.plan("csv", "/endpoints/one/invocations"))
        peak = measure(target, Load("", 0, 16, min(5.0, duration_s / 4), 1.0))
        rate = CAPACITY_FRACTION * peak.per_s
        print(f"capacity {peak.per_s:,.0f}/s; {options.minutes:g} minutes at {rate:,.0f}/s", flush=True)
        samples: dict[str, list[tuple[float, float]]] = {}
        stop = threading.Event()
        every_s = min(5.0, duration_s / 20.0)

        def sample() -> None:
            started_s = time.monotonic()
            while not stop.wait(every_s):
                now_s = time.monotonic() - started_s
                line = []
                for role, value in sorted(server.running.usage().rss_bytes_by_role().items()):
                    samples.setdefault(role, []).append((now_s, float(value)))
                    line.append(f"{role} {value / 1e6:.1f}")
                print(f"[{now_s:5.0f} s] RSS MB: " + ", ".join(line), flush=True)

        watching = threading.Thread(target=sample)
        watching.start()
        try:
            with calling(server) as control_ms:
                load = Load("", 0, 64, duration_s, 1.0, rate_per_s=rate)
                one = measure(target, load)
        finally:
            stop.set()
            watching.join()
        later = measure(target, Load("", 0, 16, min(5.0, duration_s / 4), 1.0))
    finally:
        server.stop()
    judged = verdicts(samples)
    for role, verdict in judged.items():
        print(f"{role}: {'flat' if verdict['flat'] else 'RISES'} {verdict}")
    print(
        f"{one.load['ok']:,} requests, p50 {one.p50_us / 1000:.2f} ms, p99 {one.p99_us / 1000:.2f} ms, "
        f"errors {one.errors or 0}; {len(control_ms)} control calls, "
        f"slowest {max(control_ms, default=0):.0f} ms"
    )
    print(f"CPU per request at 16 connections: {peak.cpu_us:.1f} µs before, {later.cpu_us:.1f} µs after")
    RESULTS.mkdir(parents=True, exist_ok=True)
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    facts = {
        "minutes": options.minutes,
        "load": one.as_json(),
        "before": peak.as_json(),
        "after": later.as_json(),
        "verdicts": judged,
        "samples": samples,
    }
    (RESULTS / f"soak-{moment}.json").write_text(json.dumps(facts, indent=1))
    return 0 if not one.errors and all(verdict["flat"] for verdict in judged.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
