"""A process that collects a spool into objects on disk; the tests kill it."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from understudy.capture.collector import Collector
from understudy.stores.objects import DiskObjects
from understudy.system import RealClock, RealEntropy


def main() -> None:
    spool, objects, counts = map(Path, sys.argv[1:])
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    clock, entropy = RealClock(), RealEntropy()
    store = DiskObjects(objects, clock, entropy)
    receiver = os.open(counts, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(source: str, number: int, by_variant: Mapping[tuple[str, str], int]) -> None:
        rendered = json.dumps({variant: count for (_, variant), count in by_variant.items()})
        os.write(receiver, f"{source} {number} {rendered}\n".encode())

    collector = Collector(spool, store, store, clock, entropy, report)
    while not stopping:
        collector.collect_once()
    store.close()


main()
