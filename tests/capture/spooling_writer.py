"""A process that spools records and tells of each what became of it; the tests kill it."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

from understudy.capture.records import CaptureRecord
from understudy.capture.spool import SpoolWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("spool", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--boot", default="b0")
    parser.add_argument("--file-limit", type=int)
    options = parser.parse_args()
    if options.file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    sheds: Counter[str] = Counter()

    def shed(endpoint: str, variant: str, outcome: str, count: int) -> None:
        sheds[outcome] += count

    writer = SpoolWriter(options.spool, 0, options.boot, on_shed=shed, wall_s=time.time)

    def teller(event_id: str):  # type: ignore[no-untyped-def]
        return lambda kept: print("kept" if kept else "shed", event_id, flush=True)

    for number in range(options.count):
        event_id = f"{options.boot}-{number}"
        record = CaptureRecord(
            "s3://box/data", "churn", "AB"[number % 2], event_id, None, None, time.time(),
            "text/csv", b"1,2,3," * (number % 60), "text/csv", b"0.5", ("text/csv",), (),
        )  # fmt: skip
        while writer.queued_bytes > 1 << 18:
            time.sleep(0.001)
        writer.offer(record, teller(event_id))
    writer.close(30.0)
    print("sheds", *(f"{outcome}={count}" for outcome, count in sheds.items()), file=sys.stderr)


main()
