"""The model without any server: ``loop.py WORK.json SECONDS``.  Prints rows/s alone and 64 at a time.

A limit, not a server: nobody that answers one row per prediction can be faster than the first figure
on one core.
"""

import json
import sys
import time
from pathlib import Path

from bench_model import answer, answers


def timed(function, inputs, expected, seconds):
    """Call in turn for a while; return microseconds per call, sorted."""
    took_us = []
    until = time.perf_counter() + seconds
    at = 0
    while (start := time.perf_counter()) < until:
        if function(inputs[at]) != expected[at]:
            raise SystemExit(f"wrong answer for input {at}")
        took_us.append((time.perf_counter() - start) * 1e6)
        at = (at + 1) % len(inputs)
    return sorted(took_us)


def main(work, seconds):
    """Measure and print JSON."""
    facts = json.loads(Path(work).read_text())
    texts = [row.encode() for row in facts["rows"]]
    right = [text.encode() for text in facts["expected"]]
    groups = [texts[at : at + 64] for at in range(0, 192, 64)]
    right_groups = [right[at : at + 64] for at in range(0, 192, 64)]
    timed(answer, texts, right, 0.2)
    one = timed(answer, texts, right, seconds)
    many = timed(answers, groups, right_groups, seconds)
    figures = {
        "rows_per_s": len(one) / (sum(one) / 1e6),
        "p50_us": one[len(one) // 2],
        "p99_us": one[len(one) * 99 // 100],
        "rows_per_s_by_64": 64 * len(many) / (sum(many) / 1e6),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
