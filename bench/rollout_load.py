"""The raw load of :mod:`bench.rollout_world` in a process of its own.

Latencies that are measured beside what else a script does (polling, parsing, judging) are the script's.
``python -m bench.rollout_load PORT`` sends until its standard input ends, and writes what it saw as JSON
lines.
Main class: :class:`LoadProcess`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

from bench.environments import ROOT
from bench.rollout_world import RawLoad

EVERY_S = 0.05


class LoadProcess:
    """Constant load without any retry; the attributes are those of :class:`~bench.rollout_world.RawLoad`."""

    def __init__(self, port: int) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        self.answers: list[tuple[float, str, str]] = []
        self.latencies_s: list[tuple[float, float]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.rollout_load", str(port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            for at_s, variant, body in told["answers"]:
                self.seen[variant, body] += 1
                self.answers.append((at_s, variant, body))
            self.latencies_s += [(at_s, took_s) for at_s, took_s in told["latencies_s"]]
            self.failures += told["failures"]

    def __enter__(self) -> LoadProcess:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._reader.join(60)


def main(port: int) -> None:
    """Send until standard input ends."""
    sys.setswitchinterval(0.0001)  # its threads' turns of 5 ms would be the tail that is measured
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    told = {"answers": 0, "latencies_s": 0, "failures": 0}
    with RawLoad(port) as load:
        while not over.wait(EVERY_S):
            _tell(load, told)
    _tell(load, told)


def _tell(load: RawLoad, told: dict[str, int]) -> None:
    """Write what came since the last time."""
    fresh: dict[str, Any] = {}
    for name, count in told.items():
        fresh[name] = getattr(load, name)[count:]
        told[name] = count + len(fresh[name])
    print(json.dumps(fresh), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
