"""A server for the demo: a real ``understudy serve`` in a process of its own.

Owns that process and its log.  Main function: :func:`start_server`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from understudy.sdk.servers import Server, ServerNotFound, read_server

USUAL_PORT = 8080
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 60.0
POLL_S = 0.05
TAIL_LINES = 30


class ServerFailed(Exception):
    """The server did not come up; the text has the end of its log."""


@dataclass
class DemoServer:
    """A server that the demo started."""

    server: Server
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """Give the end of what it printed."""
        return _tail(self.log)

    def stop(self) -> int:
        """Ask it to end, wait until it has, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start_server(data_dir: Path, *, log: Path, ephemeral: bool, environment: Mapping[str, str]) -> DemoServer:
    """Start a server and wait until it answers.

    Args:
        data_dir: Its data directory; made when missing.
        log: File for what it prints.
        ephemeral: It removes its data directory at its end.
        environment: The present one.

    Raises:
        ServerFailed: it ended, or did not answer within a minute.
    """
    command = [sys.executable, "-m", "understudy.cli", "serve", "--data-dir", str(data_dir)]
    command += ["--host", "127.0.0.1", "--port", str(_port())]
    if ephemeral:
        command.append("--ephemeral")
    data_dir.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            # Ctrl-C is the demo's to handle; with --keep the server outlives the terminal's group.
            start_new_session=True,
        )
    try:
        return DemoServer(_wait_until_it_answers(process, data_dir, log), process, log)
    except BaseException:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_PATIENCE_S)
        raise


def _wait_until_it_answers(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> Server:
    deadline_s = time.monotonic() + START_PATIENCE_S
    why = "it printed nothing"
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise ServerFailed(f"The server ended with code {process.returncode}:\n{_tail(log)}")
        try:
            server = read_server(data_dir)
            if server.pid == process.pid and _is_healthy(server.endpoint_url):
                return server
        except (ServerNotFound, OSError) as error:
            why = str(error)
        time.sleep(POLL_S)
    raise ServerFailed(f"The server did not answer within {START_PATIENCE_S:g} s ({why}):\n{_tail(log)}")


def _is_healthy(endpoint_url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(endpoint_url + "/healthz", timeout=2.0) as response:
            # A router answers 200 "degraded" while the controller is still starting.
            return bool(json.load(response)["status"] == "ok")
    except urllib.error.HTTPError:
        return False


def _port() -> int:
    """Give the usual port when it is free, else 0: the server takes any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
