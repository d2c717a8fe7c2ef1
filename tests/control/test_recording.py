"""Exactly once into the series, and totals that go on over a restart of the controller, over real stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.console.prometheus import UnderstudyCollector, render
from understudy.control.recording import Recorder
from understudy.control.totals import VariantTotals
from understudy.core.metrics import Summary
from understudy.core.ports import Series
from understudy.runtimes.memory import MemoryRuntime
from understudy.stores.memory import MemoryRecords
from understudy.stores.memory_evidence import MemoryEvidence
from understudy.stores.memory_series import MemorySeries
from understudy.stores.series import SqliteSeries

NOW_S = 1_700_000_000


class FixedClock:
    def now_s(self) -> float:
        return float(NOW_S)

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Series]]:
    """Opens the series as a controller does that has just started."""
    opened: list[Series] = []
    memory = MemorySeries()

    def open_series() -> Series:
        for series in opened:
            series.close()
        opened[:] = [memory if request.param == "memory" else SqliteSeries(tmp_path / "series.db")]
        return opened[0]

    yield open_series
    for series in opened:
        series.close()


def served(endpoint: str = "e", variant: str = "v", at_s: int = NOW_S, **members: Any) -> dict[str, Any]:
    latency = Summary.of([100.0, 300.0]).to_json()
    item = {"endpoint": endpoint, "variant": variant, "config": "c", "at_s": at_s, "invocations": 2}
    errors = {"errors_4xx": 0, "errors_5xx": 1, "model_errors": 1, "per_instance": 2.0}
    return {**item, **errors, "model_latency_us": latency, "overhead_latency_us": latency, **members}


def outcomes(kind: str, endpoint: str = "e", variant: str = "s", **counts: int) -> dict[str, Any]:
    return {"endpoint": endpoint, "variant": variant, "at_s": NOW_S, kind: counts}


def comparable(totals: dict[tuple[str, str], VariantTotals]) -> dict[tuple[str, str], Any]:
    return {
        key: (
            one.invocations,
            one.errors_4xx,
            one.errors_5xx,
            one.model_errors,
            one.model_latency_us.to_json(),
            one.overhead_latency_us.to_json(),
            dict(one.shadow),
            dict(one.capture),
        )
        for key, one in totals.items()
    }


def test_totals_add_up_once_each_and_survive_the_controller(reopen: Callable[[], Series]) -> None:
    recorder = Recorder(reopen(), FixedClock(), MemoryEvidence())
    first = [served(), outcomes("shadow", mirrored=3, queue=1), outcomes("capture", variant="v", sampling=2)]
    recorder.on_metrics("boot", 1, first)
    recorder.on_metrics("boot", 1, first)  # sent again: the acknowledgement was lost
    recorder.on_metrics("boot", 2, [outcomes("shadow", mirrored=4, breaker=1), served(at_s=NOW_S + 90)])
    recorder.on_metrics("other", 1, [outcomes("capture", variant="v", disk=1)])
    for _ in range(2):  # the controller was killed before it noted that it had told
        recorder.on_captured("capture-1", 7, {("e", "v"): 5, ("f", "v"): 1})
    totals, _ = recorder.totals()
    assert totals["e", "s"].shadow == {"mirrored": 7, "queue": 1, "breaker": 1}
    assert totals["e", "v"].capture == {"sampling": 2, "disk": 1, "captured": 5}
    assert (totals["e", "v"].invocations, totals["e", "v"].errors_5xx) == (4, 2)

    restarted = Recorder(reopen(), FixedClock(), MemoryEvidence())
    assert restarted.totals()[0] == {}
    restarted.follow({"e", "f"})
    restarted.on_captured("capture-1", 7, {("e", "v"): 5, ("f", "v"): 1})
    assert comparable(restarted.totals()[0]) == comparable(totals)
    restarted.on_metrics("other", 1, [outcomes("capture", variant="v", disk=1)])  # known from before
    restarted.on_metrics("other", 2, [outcomes("capture", variant="v", disk=1)])
    assert restarted.totals()[0]["e", "v"].capture == {"sampling": 2, "disk": 2, "captured": 5}


def test_an_endpoint_first_heard_of_through_a_delta_is_read_back_with_it(
    reopen: Callable[[], Series],
) -> None:
    Recorder(reopen(), FixedClock(), MemoryEvidence()).on_metrics("boot", 1, [outcomes("shadow", mirrored=3)])
    restarted = Recorder(reopen(), FixedClock(), MemoryEvidence())
    restarted.on_metrics("boot", 2, [outcomes("shadow", mirrored=1), outcomes("shadow", "f", sampling=1)])
    totals, _ = restarted.totals()
    assert {key: dict(one.shadow) for key, one in totals.items()} == {
        ("e", "s"): {"mirrored": 4},
        ("f", "s"): {"sampling": 1},
    }


def test_endpoints_that_are_gone_are_not_shown_and_go_on_when_made_again(
    reopen: Callable[[], Series],
) -> None:
    recorder = Recorder(reopen(), FixedClock(), MemoryEvidence())
    recorder.on_metrics("boot", 1, [outcomes("shadow", name, mirrored=1) for name in ("e", "f")])
    recorder.follow({"f"})
    assert set(recorder.totals()[0]) == {("f", "s")}
    recorder.follow({"e", "f"})
    recorder.on_metrics("boot", 2, [outcomes("shadow", mirrored=1)])
    assert recorder.totals()[0]["e", "s"].shadow == {"mirrored": 2}


def test_many_endpoints_are_read_back_bit_by_bit(reopen: Callable[[], Series]) -> None:
    names = {f"e{number}" for number in range(50)}
    Recorder(reopen(), FixedClock(), MemoryEvidence()).on_metrics("boot", 1, [served(name) for name in names])
    restarted = Recorder(reopen(), FixedClock(), MemoryEvidence())
    for _ in range(50):
        restarted.follow(names)
    assert {name for name, _ in restarted.totals()[0]} == names


@pytest.mark.parametrize("counts", [{"mirrored": -1}, {"mirrored": float("nan")}, {"mirrored": "x"}])
def test_a_malformed_delta_leaves_no_trace(reopen: Callable[[], Series], counts: dict[str, Any]) -> None:
    recorder = Recorder(reopen(), FixedClock(), MemoryEvidence())
    with pytest.raises(ValueError, match=r"count is not negative|not a finite number"):
        recorder.on_metrics("boot", 1, [served(), outcomes("shadow", **counts)])
    assert recorder.totals()[0] == {}
    recorder.on_metrics("boot", 1, [outcomes("shadow", mirrored=1)])
    assert recorder.totals()[0]["e", "s"].shadow == {"mirrored": 1}


def test_metrics_show_every_outcome(reopen: Callable[[], Series]) -> None:
    recorder = Recorder(reopen(), FixedClock(), MemoryEvidence())
    refused = {"endpoint": "", "variant": "", "at_s": NOW_S, "refused": {"AccessDenied": 2}}
    recorder.on_metrics("b", 1, [outcomes("shadow", mirrored=3), outcomes("capture", queue=1), refused])
    recorder.on_captured("capture-1", 1, {("e", "s"): 2})
    text = render(UnderstudyCollector(recorder, MemoryRecords(), MemoryRuntime())).decode()
    shown = [line for line in text.splitlines() if line.startswith(("understudy_shadow", "understudy_capt"))]
    assert shown == [
        f'understudy_shadow_requests_total{{endpoint="e",outcome="{outcome}",variant="s"}} {n}'
        for outcome, n in (
            ("mirrored", 3.0),
            ("sampling", 0.0),
            ("queue", 0.0),
            ("breaker", 0.0),
            ("size", 0.0),
            ("shutdown", 0.0),
        )
    ] + [
        f'understudy_capture_records_total{{endpoint="e",outcome="{outcome}",variant="s"}} {n}'
        for outcome, n in (
            ("captured", 2.0),
            ("sampling", 0.0),
            ("queue", 1.0),
            ("disk", 0.0),
            ("shutdown", 0.0),
        )
    ]
    assert 'understudy_refused_requests_total{code="AccessDenied"} 2.0' in text
