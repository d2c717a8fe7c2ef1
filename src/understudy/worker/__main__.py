"""The worker's start: ``python -u <dir>/worker/__main__.py --spec spec.json --title "..."``.

Loads its own directory as the package ``understudy_worker`` (the model's environment need not know our
project), then hands over to ``running``. Owns nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path


def _load_own_package() -> None:
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    spec = importlib.util.spec_from_file_location(
        "understudy_worker", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["understudy_worker"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    _load_own_package()
    running = importlib.import_module("understudy_worker.running")
    sys.exit(running.main(sys.argv[1:], Path(__file__).resolve()))
