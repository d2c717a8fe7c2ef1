"""Failpoints: each has a name, kills as often as it is armed for, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from understudy.control.failpoints import FAILPOINTS, Failpoints, UnknownFailpoint, arm
from understudy.core.rollout_terms import EVENTS, ROUTING_EVENTS

CORE = Path(__file__).resolve().parents[2] / "src" / "understudy" / "core"


def test_every_event_of_a_decision_has_its_boundaries() -> None:
    sources = "".join((CORE / name).read_text() for name in ("rollouts.py", "guarded_updates.py"))
    saved = set(re.findall(r'"((?:[A-Z][a-z]+){2,})"', sources))
    assert saved == set(EVENTS)
    for event in EVENTS:
        for step in ("before-intent", "after-intent", "after-effect"):
            assert f"{event}/{step}" in FAILPOINTS
        assert (f"{event}/mid-effect" in FAILPOINTS) is (event in ROUTING_EVENTS)
    assert set(EVENTS) >= ROUTING_EVENTS
    assert len(set(FAILPOINTS)) == len(FAILPOINTS)


def test_an_armed_one_kills_as_often_as_it_says_over_all_processes(tmp_path: Path) -> None:
    deaths: list[str] = []
    for _ in range(3):  # three controllers, one after the other
        armed = Failpoints({"StartInstance/after-effect": 2}, tmp_path / "f.json", lambda: deaths.append("x"))
        armed.reach("StartInstance", "before-effect")
        armed.reach("StartInstance", "after-effect")
    assert len(deaths) == 2


def test_nothing_is_armed_without_the_variable(tmp_path: Path) -> None:
    for value in (None, "", " , "):
        unarmed = arm(value, tmp_path / "f.json")
        for name in FAILPOINTS:
            unarmed.reach(*name.split("/"))
    assert not (tmp_path / "f.json").exists()


@pytest.mark.parametrize("value", ["Nothing/here", "TrafficShifting", "TrafficShifting/mid-effect:x"])
def test_what_is_not_registered_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(UnknownFailpoint):
        arm(value, tmp_path / "f.json")
