"""The recording server of tests/sdk, for the commands too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).parents[1] / "sdk" / "conftest.py"
_spec = importlib.util.spec_from_file_location("sdk_recorder", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["sdk_recorder"] = _module  # dataclasses look their module up
_spec.loader.exec_module(_module)

recorder = _module.recorder
