"""``python -m bench.loadgen SPEC.json``: makes one load and prints its result as the last line of stdout.

Before it come ``window open`` and ``window closed``, when the warm-up ends and when the load ends, so that
whoever started it reads the server's CPU time at the same moments.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from bench.loadgen.engine import Load, run
from bench.loadgen.plans import read_plan, sign_plan


def main(argv: list[str]) -> int:
    """Run the load that a file describes."""
    fields = json.loads(Path(argv[0]).read_text())
    plan_path, core, signer = fields.pop("plan"), fields.pop("core", None), fields.pop("sign", None)
    if core is not None:
        os.sched_setaffinity(0, {core})
    plan = read_plan(Path(plan_path), f"{fields['host']}:{fields['port']}")
    if signer is not None:
        plan = sign_plan(plan, f"{fields['host']}:{fields['port']}", **signer)
    result = run(Load(**fields), plan, tell=lambda text: print(text, flush=True))
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
