"""Finding the server of a data directory: where it listens and with which keys.

Reads ``DATA/run/server.json`` and ``DATA/credentials.json``, writes nothing.  Stdlib only, so that it
costs nothing in a notebook.  Main function: :func:`find_server`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT_DATA_DIR = ".understudy"
DATA_DIR_VARIABLE = "UNDERSTUDY_DATA_DIR"


class ServerNotFound(Exception):
    """No server to talk to; the text says what to do."""


@dataclass(frozen=True)
class Server:
    """What a client needs to know of a running server.

    Attributes:
        data_dir: Its data directory, absolute; None when only the environment named the server.
        time_anchor_s, time_scale: The server's clock shows ``anchor + (now - anchor) * scale``.
    """

    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str
    data_dir: Path | None = None
    pid: int | None = None
    time_anchor_s: float = 0.0
    time_scale: float = 1.0

    def now_s(self) -> float:
        """Tell the server's time: Unix seconds, faster than the wall under ``--time-scale``."""
        wall_s = time.time()  # noqa: TID251 - a client of the server's clock, not of core.ports
        return self.time_anchor_s + (wall_s - self.time_anchor_s) * self.time_scale


def find_server(data_dir: str | Path | None, environment: Mapping[str, str]) -> Server:
    """Find the server to talk to.

    In this order: the data directory given; the one that ``UNDERSTUDY_DATA_DIR`` names; the address and
    keys in the environment (as ``understudy env`` prints them, perhaps on another machine);
    ``./.understudy``.

    Args:
        data_dir: As given by the user, or None.
        environment: Normally the process's own.

    Raises:
        ServerNotFound: nothing runs there.
    """
    if data_dir is not None:
        return read_server(Path(data_dir))
    named = environment.get(DATA_DIR_VARIABLE)
    if named is None:
        return read_server(Path(DEFAULT_DATA_DIR))
    try:
        return read_server(Path(named))
    except ServerNotFound:
        remote = _from_environment(environment) if not Path(named).exists() else None
        if remote is None:
            raise
        return remote


def read_server(data_dir: Path) -> Server:
    """Read the facts of the server that runs on a data directory.

    Raises:
        ServerNotFound: none runs there.
    """
    data_dir = data_dir.resolve()
    facts = _read_json(data_dir / "run" / "server.json")
    if facts is None or not _is_alive(facts.get("pid")):
        raise ServerNotFound(
            f"No Understudy server runs on {data_dir}. Start one with "
            f"`understudy serve --data-dir {data_dir}`, or name a running one's directory with --data-dir."
        )
    credentials = _read_json(data_dir / "credentials.json")
    if credentials is None:
        raise ServerNotFound(
            f"{data_dir / 'credentials.json'} is missing: the server makes it at its start. "
            "Restart the server."
        )
    settings = facts.get("settings", {})
    return Server(
        endpoint_url=facts["endpoint_url"],
        access_key_id=credentials["access_key_id"],
        secret_access_key=credentials["secret_access_key"],
        region=credentials.get("region", settings.get("region", "us-east-1")),
        data_dir=data_dir,
        pid=facts["pid"],
        time_anchor_s=float(facts.get("time_anchor_s", 0.0)),
        time_scale=float(settings.get("time_scale", 1.0)),
    )


def _from_environment(environment: Mapping[str, str]) -> Server | None:
    url = environment.get("AWS_ENDPOINT_URL")
    key_id = environment.get("AWS_ACCESS_KEY_ID")
    secret = environment.get("AWS_SECRET_ACCESS_KEY")
    if not (url and key_id and secret):
        return None
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    return Server(endpoint_url=url, access_key_id=key_id, secret_access_key=secret, region=region)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ServerNotFound(
            f"{path} belongs to another user: run this as the user who started the server."
        ) from error
    except ValueError as error:
        raise ServerNotFound(f"{path} is damaged ({error}). Restart the server.") from error
    return value if isinstance(value, dict) else None


def _is_alive(pid: object) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
