"""Records, clocks and places for the tests of capture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.capture.frames import pack_frame
from understudy.capture.records import CaptureRecord, moment_of, render_line

AT_S = 1_612_498_500.871  # 2021-02-05T04:15:00.871Z


class SetClock:
    """Shows what it is set to."""

    def __init__(self, at_s: float = AT_S) -> None:
        self.at_s = at_s

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class CountingEntropy:
    """Every token is another, and the same in every run."""

    def __init__(self, seed: str = "") -> None:
        self._seed = seed
        self._count = 0

    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        self._count += 1
        return hashlib.sha256(f"{self._seed}{self._count}".encode()).hexdigest()[: 2 * length_bytes]


def record(event_id: str = "e-1", **changes: Any) -> CaptureRecord:
    """A record like AWS's example."""
    facts: dict[str, Any] = {
        "destination": "s3://box/data/capture",
        "endpoint": "churn",
        "variant": "AllTraffic",
        "event_id": event_id,
        "inference_id": None,
        "custom_attributes": None,
        "at_s": AT_S,
        "input_type": "text/csv",
        "input_body": b"61,0,260.0",
        "output_type": "text/csv; charset=utf-8",
        "output_body": b"0.5217539072036743",
        "csv_types": ("text/csv",),
        "json_types": ("application/json",),
    }
    return CaptureRecord(**{**facts, **changes})


def frame(one: CaptureRecord) -> bytes:
    """A record as it lies in a segment."""
    where = one.destination, one.endpoint, one.variant, moment_of(one.at_s)
    return b"".join(pack_frame(*where, [render_line(one)]))


@pytest.fixture
def make_record() -> Callable[..., CaptureRecord]:
    return record


@pytest.fixture
def make_frame() -> Callable[[CaptureRecord], bytes]:
    return frame


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def make_entropy() -> Callable[[str], CountingEntropy]:
    return CountingEntropy


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder
