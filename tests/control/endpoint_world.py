"""An endpoint loop with real records' semantics, a scripted runtime and a router over the real channel."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from understudy.control.endpoints import EndpointLoop
from understudy.control.publisher import Publisher
from understudy.core.endpoints import Endpoint, EndpointStatus, Fleet, FleetVariant, PendingUpdate
from understudy.core.models import Container
from understudy.core.names import Place
from understudy.core.ports import Put
from understudy.runtimes.memory import MemoryRuntime
from understudy.stores.memory import MemoryRecords
from understudy.system import RealEntropy

ARN = Place().arn("endpoint", "e")


class FakeClock:
    def __init__(self) -> None:
        self.at_s = 1_000.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class AckingRouter:
    """Acknowledges every table at once, and remembers them."""

    def __init__(self, run_dir: Path) -> None:
        self.tables: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(run_dir / "control.sock"))
        self._send({"type": "hello", "router": 0, "boot": "b", "pid": 1, "version": 0})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        self._socket.sendall(struct.pack("!I", len(body)) + body)

    def _run(self) -> None:
        file = self._socket.makefile("rb")
        with file, contextlib.suppress(OSError):  # the test is over when the channel closes
            while header := file.read(4):
                table = json.loads(file.read(struct.unpack("!I", header)[0]))["table"]
                self.tables.append(table)
                self._send({"type": "ack", "version": table["version"], "draining": []})

    def weights(self) -> dict[str, float]:
        (endpoint,) = self.tables[-1]["endpoints"]
        return {v["name"]: v["weight"] for v in endpoint["variants"] if v["instances"]}


class World:
    def __init__(self, run_dir: Path, records: MemoryRecords | None = None) -> None:
        self.records = records or MemoryRecords()
        self.runtime = MemoryRuntime()
        self.clock = FakeClock()
        self.publisher = Publisher(
            run_dir, 1, on_metrics=lambda *_: None, on_change=lambda: None, on_suspect=lambda *_: None
        )
        self.router = AckingRouter(run_dir)
        self.loop = self.new_loop()

    def new_loop(self, time_scale: float = 1.0) -> EndpointLoop:
        return EndpointLoop(
            self.records,
            self.runtime,
            self.publisher,
            self.clock,
            RealEntropy(),
            Place(),
            time_scale=time_scale,
        )

    def endpoint(self) -> Endpoint | None:
        stored = self.records.get(Endpoint, "e")
        return stored.value if stored is not None else None

    def change(self, change: Callable[[Endpoint], Endpoint]) -> None:
        stored = self.records.get(Endpoint, "e")
        assert stored is not None
        self.records.commit([Put(change(stored.value), stored.version)])

    def until(self, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 10
        while not condition():
            self.loop.tick(reread=True)
            assert time.monotonic() < deadline_s, self.endpoint()

    def until_status(self, status: EndpointStatus) -> Endpoint:
        self.until(lambda: (e := self.endpoint()) is not None and e.status is status)
        endpoint = self.endpoint()
        assert endpoint is not None
        return endpoint


def fleet(number: int, **counts: int) -> Fleet:
    containers = (Container("xgboost:1.7-1", "s3://b/m.tar.gz"),)
    return Fleet(
        f"f{number}",
        f"config-{number}",
        tuple(FleetVariant(n, "m", containers, desired_count=c) for n, c in counts.items()),
    )


def create(world: World, *shadows: str, **counts: int) -> None:
    made = fleet(1, **counts)
    variants = tuple(replace(variant, shadow=variant.name in shadows) for variant in made.variants)
    update = PendingUpdate("create", 1_000.0, fleet=replace(made, variants=variants))
    endpoint = Endpoint("e", ARN, "config-1", EndpointStatus.CREATING, 1.0, 1.0, update=update, next_fleet=2)
    world.records.commit([Put(endpoint, 0)])
