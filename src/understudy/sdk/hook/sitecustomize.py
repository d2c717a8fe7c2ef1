"""Runs at the start of every Python below ``understudy exec``: redirects, then makes way.

Owns nothing: it loads ``understudy_redirect`` beside it, takes its folder off ``sys.path`` again, and
runs the ``sitecustomize`` that the interpreter would have run without it.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys


def _redirect(here: str) -> None:
    path = os.path.join(here, "understudy_redirect.py")  # noqa: PTH118 - pathlib is slow to import here
    spec = importlib.util.spec_from_file_location("understudy_redirect", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules["understudy_redirect"] = module
    spec.loader.exec_module(module)
    module.activate_from_environment()


def _make_way(here: str) -> None:
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != here]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
_redirect(_here)
_make_way(_here)
