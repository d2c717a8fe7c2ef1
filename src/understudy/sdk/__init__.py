"""Code written for AWS, run against Understudy unchanged: :func:`activate`.

What ``understudy exec`` does for a command, ``activate`` does inside a process (a notebook, a test session).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from understudy.sdk.environment import HOOK_DIR, exec_environment
from understudy.sdk.servers import Server, ServerNotFound, find_server

__all__ = ["Server", "ServerNotFound", "activate"]


def activate(data_dir: str | Path | None = None) -> Server:
    """Send every AWS call of this process, and of Python processes it starts, to a running server.

    Call it before clients are made: a boto3 client keeps the keys it was made with.  The SageMaker SDK's
    ``get_execution_role()`` and ``Session()`` work from then on.

    Args:
        data_dir: The server's data directory; by default ``UNDERSTUDY_DATA_DIR``, then ``./.understudy``.

    Returns:
        The server that gets the calls.

    Raises:
        ServerNotFound: none runs there.
    """
    present = os.environ  # noqa: TID251 - this function's very purpose is to change it
    server = find_server(data_dir, present)
    child = exec_environment(server, present)
    for name in set(present) - set(child):
        del present[name]
    present.update(child)
    redirect = _redirect()
    redirect.activate(
        redirect.Target(server.endpoint_url, server.access_key_id, server.secret_access_key, server.region)
    )
    boto3 = sys.modules.get("boto3")
    if boto3 is not None:
        # The default session has resolved its keys and region from what the environment was before.
        boto3.__dict__["DEFAULT_SESSION"] = None
    return server


def _redirect() -> ModuleType:
    """Load the hook's module, the same one that ``understudy exec`` may have put into this process."""
    name = "understudy_redirect"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, HOOK_DIR / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"{HOOK_DIR / name}.py is missing: install understudy-ml again")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
