"""Runs blocks of Python, one JSON line each, in one namespace; answers one JSON line each."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import traceback
from typing import Any

namespace: dict[str, Any] = {"__name__": "__main__"}
for line in sys.stdin:
    block = json.loads(line)
    output = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(compile(block["code"], block["name"], "exec"), namespace)
        except (Exception, SystemExit):  # noqa: BLE001 - whatever a block raises is its outcome
            traceback.print_exc(file=output)
            code = 1
    print(json.dumps({"code": code, "output": output.getvalue()}), flush=True)
