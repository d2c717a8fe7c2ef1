"""wrk as a second opinion on closed loops, where it is installed.

Owns nothing but the call.  It takes less CPU than our generator and checks no answers, so it only goes where
ours has been before.  Main function: :func:`run_wrk`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.contestants import Started
from bench.loadgen.plans import read_plan

_PER_S = re.compile(r"Requests/sec:\s+([\d.]+)")
_FAULTS = re.compile(r"Non-2xx or 3xx responses: (\d+)|(?:connect|read|write|timeout) (\d+)")


def has_wrk() -> bool:
    """Tell whether wrk is on PATH."""
    return shutil.which("wrk") is not None


def run_wrk(target: Started, connections: int, seconds: float) -> dict[str, Any]:
    """Run wrk with one thread over the target's plan, unsigned.

    Returns:
        ``per_s`` and ``faults`` (answers other than 2xx, socket errors).
    Raises:
        RuntimeError: wrk broke.
    """
    host = f"{target.host}:{target.port}"
    texts = [json.dumps(item.data.decode("ascii")) for item in read_plan(target.plan, host)]
    script = "local all = {\n" + ",\n".join(texts) + "\n}\nlocal at = 0\n"
    script += "request = function()\n  at = at % #all + 1\n  return all[at]\nend\n"
    with tempfile.TemporaryDirectory(prefix="bench-wrk-") as folder:
        path = Path(folder) / "plan.lua"
        path.write_text(script)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(path)]
        done = subprocess.run(
            [*command, f"http://{host}/"], capture_output=True, text=True, check=False, timeout=seconds + 60
        )
    found = _PER_S.search(done.stdout)
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stderr[-500:]}")
    faults = sum(int(one or other) for one, other in _FAULTS.findall(done.stdout))
    return {"per_s": float(found[1]), "faults": faults}
