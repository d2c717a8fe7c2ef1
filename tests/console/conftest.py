"""The console's face over stores in memory and the real operations."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from understudy.aws.gateway import Gateway
from understudy.aws.own_calls import OwnCalls
from understudy.console.face import ConsoleFace
from understudy.console.files import ConsoleFiles
from understudy.console.live import Live
from understudy.console.sessions import Sessions
from understudy.control.totals import VariantTotals
from understudy.core.names import Place
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.operations.understudy.registry import OWN_CALLS
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_logs import MemoryLogs
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.memory_series import MemorySeries
from understudy.system import RealEntropy

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


AsgiClient = _load("asgi_client").AsgiClient


@dataclass
class MovableClock:
    """Time that tests move."""

    at_s: float = 1_700_000_000.0

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


@dataclass
class Scene:
    """A face and everything behind it."""

    services: Services
    clock: MovableClock
    secret_path: Path
    threads: ThreadPoolExecutor
    keys: dict[str, str] = field(default_factory=lambda: {KEY: SECRET})
    totals: dict[tuple[str, str], VariantTotals] = field(default_factory=dict)
    sent: list[dict[str, str]] = field(default_factory=list)
    stopping: bool = False

    def face(self, mode: str = "on", *, open_: bool = False) -> ConsoleFace:
        gateway = Gateway(self.services, OPERATIONS, lambda: self.keys)
        return ConsoleFace(
            mode=mode,
            files=ConsoleFiles(),
            sessions=Sessions(
                self.secret_path, None if open_ else lambda: self.keys, self.clock, RealEntropy()
            ),
            services=self.services,
            call=gateway.perform_json,
            own_call=OwnCalls(
                self.services, OWN_CALLS, lambda: self.keys, "sigv4", self.clock
            ).perform_checked,
            describe=self.describe,
            live=Live(lambda: self.totals, self.describe, self.clock, self.threads, lambda: self.stopping),
            invoker=cast(Any, self),
            time_scale=1.0,
            threads=self.threads,
        )

    def describe(self) -> dict[str, Any]:
        variants = [{"name": variant, "shadow": False} for _, variant in self.totals]
        return {"processes": [], "endpoints": [{"name": "churn", "variants": variants}]}

    def invoke(self, request: dict[str, str]) -> dict[str, Any]:
        """Stands in for the invoker."""
        self.sent.append(request)
        return {"status": 200, "headers": {}, "text": "0.5", "bytes": 3, "took_ms": 1.0}

    def client(self, mode: str = "on", *, open_: bool = False) -> Any:
        return AsgiClient(self.face(mode, open_=open_))

    def signed_in(self, mode: str = "on") -> Any:
        client = self.client(mode)
        told = client.post("sign-in", {"access_key_id": KEY, "secret_access_key": SECRET})
        assert told.status == 200, told
        client.csrf = told.json["csrf"]
        return client


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    clock, objects = MovableClock(), MemoryObjects(MovableClock())
    services = Services(
        records=MemoryRecords(),
        buckets=objects,
        objects=objects,
        series=MemorySeries(),
        logs=MemoryLogs(),
        stages=cast(Any, None),
        evidence=cast(Any, None),
        assignments=cast(Any, None),
        outcomes=cast(Any, None),
        clock=clock,
        entropy=RealEntropy(),
        place=Place(),
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )
    with ThreadPoolExecutor(2) as threads:
        yield Scene(services, clock, tmp_path / "console.key", threads)
