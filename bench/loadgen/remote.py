"""Starts the load generator as a process of its own and reads the server's CPU time at the right moments.

Main function: :func:`run_load`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.loadgen.engine import Load

ROOT = Path(__file__).resolve().parents[2]


class GeneratorFailed(Exception):
    """The generator itself broke; the text has its last words."""


def generator_core() -> int | None:
    """Return the core to pin the generator to: the last one; None where there is just one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1] if len(cores) > 1 else None


def run_load(
    load: Load,
    plan: Path,
    *,
    sign: dict[str, Any] | None = None,
    at_open: Callable[[], None] = lambda: None,
    at_close: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Make one load from another process.

    Args:
        plan: File of :func:`bench.loadgen.plans.write_plan`.
        sign: Arguments of :func:`bench.loadgen.plans.sign_plan`; None sends as it stands.
        at_open: Called when the warm-up is over.
        at_close: Called when the load is over.
    Raises:
        GeneratorFailed: it broke.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        spec = Path(folder) / "spec.json"
        spec.write_text(
            json.dumps({**asdict(load), "plan": str(plan), "sign": sign, "core": generator_core()})
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.loadgen", str(spec)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        last = ""
        try:
            for line in process.stdout:
                last = line
                if line == "window open\n":
                    at_open()
                elif line == "window closed\n":
                    at_close()
            complaint = process.stderr.read()
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdout.close()
            process.stderr.close()
            code = process.wait()
    if code != 0 or not last.startswith("{"):
        raise GeneratorFailed(f"the load generator ended with {code}: {complaint[-2000:]}")
    result: dict[str, Any] = json.loads(last)
    return result
