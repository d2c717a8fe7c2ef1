"""The contract of the port Runtime, held against every implementation."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from understudy.core.models import Container
from understudy.core.ports import InstanceSpec, InstanceState, InstanceStatus, Runtime
from understudy.runtimes.memory import MemoryRuntime

_BENCH = Path(__file__).parents[1] / "runtimes" / "runtime_bench.py"
_FOUND = importlib.util.spec_from_file_location("runtime_bench", _BENCH)
assert _FOUND is not None and _FOUND.loader is not None
bench_module: Any = sys.modules.get("runtime_bench") or importlib.util.module_from_spec(_FOUND)
if "runtime_bench" not in sys.modules:
    sys.modules["runtime_bench"] = bench_module
    _FOUND.loader.exec_module(bench_module)


class Stage(Protocol):
    """A runtime and the means to make its instances behave."""

    runtime: Runtime

    def good(self, instance_id: str) -> InstanceSpec: ...
    def bad(self, instance_id: str) -> InstanceSpec: ...
    def crash(self, instance_id: str) -> None: ...


class _MemoryStage:
    def __init__(self) -> None:
        self.runtime = MemoryRuntime(lambda spec: "no good" if spec.variant_name == "Bad" else "")

    def good(self, instance_id: str) -> InstanceSpec:
        made: InstanceSpec = bench_module.make_spec(instance_id, Container("python"))
        return made

    bad = good

    def crash(self, instance_id: str) -> None:
        self.runtime.set_failed(instance_id, "it crashed")


class _LocalStage:
    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.runtime: Runtime = bench.runtime

    def _spec(self, instance_id: str, behaviour: str) -> InstanceSpec:
        gate = self.bench.directory / instance_id.replace("/", "-")
        environment = {"STANDIN": behaviour, "STANDIN_GATE": str(gate)}
        made: InstanceSpec = bench_module.make_spec(instance_id, Container("python", environment=environment))
        return made

    def good(self, instance_id: str) -> InstanceSpec:
        return self._spec(instance_id, "crash_later")

    def bad(self, instance_id: str) -> InstanceSpec:
        return self._spec(instance_id, "fail")

    def crash(self, instance_id: str) -> None:
        (self.bench.directory / instance_id.replace("/", "-")).touch()


@pytest.fixture(params=["memory", "local"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param == "memory":
        yield _MemoryStage()
        return
    bench = bench_module.Bench(tmp_path)
    yield _LocalStage(bench)
    bench.close()


def _state(stage: Stage, instance_id: str) -> InstanceState | None:
    found = [state for state in stage.runtime.observe() if state.instance_id == instance_id]
    assert len(found) <= 1
    return found[0] if found else None


def _wait(stage: Stage, instance_id: str, status: InstanceStatus) -> InstanceState:
    def look() -> InstanceState | None:
        state = _state(stage, instance_id)
        return state if state is not None and state.status is status else None

    eventually: Callable[..., InstanceState] = bench_module.eventually
    return eventually(look, f"{instance_id} is {status}")


def test_nothing_is_there_at_first(stage: Stage) -> None:
    assert list(stage.runtime.observe()) == []


def test_an_instance_becomes_ready(stage: Stage) -> None:
    stage.runtime.start(stage.good("e/Good/f1/0-1"))
    assert _state(stage, "e/Good/f1/0-1") is not None, "known as soon as start returned"
    state = _wait(stage, "e/Good/f1/0-1", InstanceStatus.READY)
    assert state.address
    assert state.reason == ""
    assert [image for image, _, _ in state.images] == ["python"]


def test_a_failure_has_a_reason_and_stays_until_stopped(stage: Stage) -> None:
    stage.runtime.start(stage.bad("e/Bad/f1/0-1"))
    state = _wait(stage, "e/Bad/f1/0-1", InstanceStatus.FAILED)
    assert state.reason
    assert state.address == ""
    stage.runtime.start(stage.bad("e/Bad/f1/0-1"))
    assert _state(stage, "e/Bad/f1/0-1") == state, "a known one is left as it is"
    stage.runtime.stop("e/Bad/f1/0-1", 0.0)
    bench_module.eventually(lambda: _state(stage, "e/Bad/f1/0-1") is None)


def test_starting_twice_is_starting_once(stage: Stage) -> None:
    spec = stage.good("e/Good/f1/0-1")
    stage.runtime.start(spec)
    first = _wait(stage, spec.instance_id, InstanceStatus.READY)
    stage.runtime.start(spec)
    again = _state(stage, spec.instance_id)
    assert again is not None
    assert (again.pid, again.address, again.status) == (first.pid, first.address, first.status)


def test_a_crash_after_ready_is_a_failure(stage: Stage) -> None:
    spec = stage.good("e/Good/f1/0-1")
    stage.runtime.start(spec)
    _wait(stage, spec.instance_id, InstanceStatus.READY)
    stage.crash(spec.instance_id)
    assert _wait(stage, spec.instance_id, InstanceStatus.FAILED).reason


def test_stop_forgets(stage: Stage) -> None:
    spec = stage.good("e/Good/f1/0-1")
    stage.runtime.start(spec)
    _wait(stage, spec.instance_id, InstanceStatus.READY)
    stage.runtime.stop(spec.instance_id, 5.0)
    stage.runtime.stop(spec.instance_id, 5.0)
    state = _state(stage, spec.instance_id)
    assert state is None or state.status is InstanceStatus.STOPPED, "never routed to again"
    bench_module.eventually(lambda: _state(stage, spec.instance_id) is None)


def test_stopping_what_is_unknown_is_no_error(stage: Stage) -> None:
    stage.runtime.stop("e/None/f1/0-1", 1.0)
    assert list(stage.runtime.observe()) == []


def test_instances_are_told_apart(stage: Stage) -> None:
    names = [f"e/Good/f1/{number}-1" for number in range(3)]
    for name in names:
        stage.runtime.start(stage.good(name))
    addresses = {_wait(stage, name, InstanceStatus.READY).address for name in names}
    assert len(addresses) == 3
    stage.runtime.stop(names[1], 0.0)
    bench_module.eventually(lambda: _state(stage, names[1]) is None)
    assert {state.instance_id for state in stage.runtime.observe()} == {names[0], names[2]}


def test_after_close_nothing_starts(stage: Stage) -> None:
    stage.runtime.close()
    stage.runtime.close()
    stage.runtime.start(stage.good("e/Good/f1/0-1"))
    assert list(stage.runtime.observe()) == []
