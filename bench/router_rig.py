"""A router alone, with as many endpoints as wanted, before one worker that answers at once.

Owns what a thousand endpoints would cost if each had a worker: nothing of it.  The router starts from a
routing table on disk, as it does when there is no controller, and every endpoint's only instance is the same
worker.  Main class: :class:`RouterRig`.  Run as a program it is that worker.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from bench.contestants import Started, answers_rightly
from bench.environments import OWN_CODE, ROOT
from bench.loadgen.plans import Request, read_plan, write_plan
from bench.processes import Running, start, wait_until
from understudy.control.publisher import write_table
from understudy.core.routing import EndpointRoute, InstanceRoute, RoutingTable, VariantRoute
from understudy.worker import wire

ANSWER = "0.5"
START_PATIENCE_S = 20.0


class RouterRig:
    """A router process and its worker.

    Args:
        endpoints: How many the table names; requests go round all of them.
        row: What is sent.
    """

    def __init__(self, endpoints: int, row: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bench-router-", ignore_cleanup_errors=True)
        place = Path(self._folder.name)
        (place / "w").mkdir()
        credentials = {"access_key_id": "AKIABENCH", "secret_access_key": "none", "region": "us-east-1"}
        (place / "credentials.json").write_text(json.dumps({**credentials, "account_id": "123456789012"}))
        names = [f"endpoint-{number:04d}" for number in range(endpoints)]
        instance = (InstanceRoute("shared/A/0/1-0", "w/shared.sock"),)
        routes = {name: EndpointRoute(name, (VariantRoute("A", 1.0, name, instance),)) for name in names}
        write_table(place / "table.json", RoutingTable(1, routes))
        plan = place / "plan.jsonl"
        paths = (f"/endpoints/{name}/invocations" for name in names)
        write_plan(plan, [Request(path, row, {"Content-Type": "text/csv"}, expect=ANSWER) for path in paths])
        python_path = {"PYTHONPATH": os.pathsep.join((str(ROOT), *OWN_CODE.values()))}
        self._worker: Running = start(
            [sys.executable, "-m", "bench.router_rig", str(place / "w" / "shared.sock")],
            folder=place,
            log=place / "worker.log",
            environment=python_path,
        )
        wait_until((place / "w" / "shared.sock").exists, self._worker, START_PATIENCE_S)
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        lifeline_read, self._lifeline_write = os.pipe()
        os.set_inheritable(lifeline_read, True)
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, "-m", "understudy.dataplane", "--router", "0", "--auth", "none"]
        command += ["--listen-fd", str(listener.fileno()), "--lifeline-fd", str(lifeline_read)]
        command += ["--run-dir", str(place), "--credentials", str(place / "credentials.json")]
        command += ["--time-scale", "1", "--time-anchor", str(time.time())]
        port = listener.getsockname()[1]
        self._router: Running = start(
            command,
            folder=place,
            log=place / "router.log",
            environment=OWN_CODE,
            descriptors=(listener.fileno(), lifeline_read),
        )
        listener.close()
        os.close(lifeline_read)
        self.started = Started(self._router, "127.0.0.1", port, plan, self._folder)
        first = read_plan(plan, "localhost")[0]
        try:
            wait_until(lambda: answers_rightly("127.0.0.1", port, first), self._router, START_PATIENCE_S)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both."""
        os.close(self._lifeline_write)
        self._router.stop()
        self._worker.stop()
        self._folder.cleanup()


class _Worker(asyncio.Protocol):
    """Answers every request at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._splitter = wire.FrameSplitter()

    def data_received(self, data: bytes) -> None:
        for kind, payload in self._splitter.feed(data):
            if kind == wire.PING:
                self._transport.write(wire.PONG_FRAME)  # type: ignore[attr-defined]
            elif kind == wire.REQUESTS:
                answers = [
                    (request.request_id, 200, b"text/csv", ANSWER.encode())
                    for request in wire.decode_requests(payload)
                ]
                self._transport.write(wire.encode_responses(answers))  # type: ignore[attr-defined]


async def _serve(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Worker, path)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
