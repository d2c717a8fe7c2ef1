"""Time for waiting: the wall may jump, a bake may not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from understudy.control.steady import SteadyClock


@dataclass
class Machine:
    wall_s: float = 1_000_000.0
    uptime_s: float = 50.0

    def now_s(self) -> float:
        return self.wall_s

    def monotonic_s(self) -> float:
        return self.uptime_s

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.uptime_s += seconds


@pytest.mark.parametrize("jump_s", [3_600.0, -3_600.0, 86_400.0, -86_400.0])
def test_a_jump_changes_nothing_here_nor_for_the_next_process(tmp_path: Path, jump_s: float) -> None:
    machine = Machine()
    clock = SteadyClock(machine, tmp_path / "steady.json", "boot")
    machine.passes(10.0)
    machine.wall_s += jump_s
    assert clock.now_s() == 1_000_010.0
    machine.passes(5.0)
    assert SteadyClock(machine, tmp_path / "steady.json", "boot").now_s() == 1_000_015.0


def test_when_nobody_waits_it_follows_the_wall(tmp_path: Path) -> None:
    machine = Machine()
    clock = SteadyClock(machine, tmp_path / "steady.json", "boot")
    machine.wall_s += 0.5
    clock.follow_wall()
    assert clock.now_s() == 1_000_000.0, "clocks are slewed all the time"
    machine.wall_s += 3_600.0
    clock.follow_wall()
    assert clock.now_s() == machine.wall_s
    assert SteadyClock(machine, tmp_path / "steady.json", "boot").now_s() == machine.wall_s


@pytest.mark.parametrize("kept", ["another boot", "another scale", "no JSON", "no facts"])
def test_an_anchor_that_does_not_fit_is_not_used(tmp_path: Path, kept: str) -> None:
    path = tmp_path / "steady.json"
    machine = Machine()
    if kept.startswith("another"):
        SteadyClock(machine, path, "before" if "boot" in kept else "boot", 2.0 if "scale" in kept else 1.0)
    else:
        path.write_text("{" if "JSON" in kept else "{}")
    machine.wall_s += 100.0
    assert SteadyClock(machine, path, "boot").now_s() == machine.wall_s
