"""The pages of the documentation, and the journeys' server to run their blocks against."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A fixture is found in conftest files above a test only; this server is the journeys' own.
_spec = importlib.util.spec_from_file_location(
    "journeys_conftest_for_docs", ROOT / "tests" / "journeys" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
_journeys = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _journeys  # dataclasses look their module up
_spec.loader.exec_module(_journeys)

server = _journeys.server
server_options = _journeys.server_options
