"""Every target is judged by the worst of what was measured, and none is left out."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from bench.catalogue import MODES
from bench.contestants import PEERS
from bench.measuring import Measurement
from bench.modes import Row, Schedule
from bench.progress import Progress
from bench.report import Duel
from bench.run import _measure_modes, _measure_peers
from bench.targets import AGAINST_PEERS, OF_MODES, target_table

from bench import progress

SCHEDULE = Schedule(rounds=1, seconds=1.0, warm_up_s=0.0, connections=(16,), edges=(), many=2)


def one(per_s: float, p99_us: float = 100.0, errors: dict[str, int] | None = None) -> Measurement:
    return Measurement(per_s, 50.0, p99_us, 200.0, 10.0, {"router": 5.0}, 1, errors or {}, {})


def line(text: str, table: str) -> list[str]:
    (found,) = (row for row in table.splitlines() if row.startswith(f"| {text} "))
    return [cell.strip() for cell in found.strip("|").split("|")]


def duel(peer: str, group: str, connections: int, ours: Measurement, theirs: Measurement) -> Duel:
    return Duel(peer, group, False, connections, [ours], [theirs])


def test_nothing_measured_is_said_of_every_target(tmp_path: Path) -> None:
    table = target_table([], [], tmp_path)
    assert table.count("not measured") == len(AGAINST_PEERS) + len(OF_MODES) + 1
    assert "met" not in table.replace("not met", "")


def test_the_better_setting_of_a_peer_counts(tmp_path: Path) -> None:
    duels = [
        duel("mosec, plain", "mosec", 64, one(100.0), one(20.0)),
        duel("mosec, batch", "mosec", 64, one(100.0), one(60.0)),
    ]
    assert line("req/s ≥ 2 × mosec", target_table(duels, [], tmp_path))[2:] == [
        "1.67 (1.67–1.67)", "**missed**",
    ]  # fmt: skip


def test_p99_is_held_against_every_peer_but_not_against_limits(tmp_path: Path) -> None:
    duels = [
        duel("a", "a", 64, one(1.0, 90.0), one(1.0, 100.0)),
        Duel("limit", "limit", True, 64, [one(1.0, 90.0)], [one(1.0, 10.0)]),
    ]
    assert line("p99 below every peer's", target_table(duels, [], tmp_path))[3] == "met"
    duels.append(duel("b", "b", 64, one(1.0, 90.0), one(1.0, 90.0)))
    found = line("p99 below every peer's", target_table(duels, [], tmp_path))
    assert found[3] == "**missed**" and found[2].endswith("of 2 the nearest: b")


def test_what_is_beyond_a_limit_is_said_to_be(tmp_path: Path) -> None:
    duels = [duel("Ray", "Ray Serve HAProxy", 16, one(1000.0), one(100.0))]
    text = "req/s ≥ 60 × Ray Serve by HAProxy (opt-in)"
    assert line(text, target_table(duels, [], tmp_path))[2] == "10.00 (10.00–10.00)"
    duels.append(Duel("nginx", "nginx return", True, 16, [one(1000.0)], [one(5999.0)]))
    found = line(text, target_table(duels, [], tmp_path))
    assert found[2:] == ["10.00 (10.00–10.00); that is 6,000/s, and nginx gives 5,999/s", "**missed**"]


def test_a_peer_with_errors_proves_nothing(tmp_path: Path) -> None:
    duels = [duel("mosec", "mosec", 64, one(100.0), one(20.0, errors={"timeout": 1}))]
    assert line("req/s ≥ 2 × mosec", target_table(duels, [], tmp_path))[2] == "not measured"


@pytest.mark.parametrize(("worst", "said"), [(19.9, "met"), (20.1, "**missed**")])
def test_the_worst_row_of_a_mode_counts(tmp_path: Path, worst: float, said: str) -> None:
    rows = [
        Row("signatures", setting, {"cpu_us_by_role": {"router": router}})
        for setting, router in (("unsigned", 99.0), ("boto3's, 16", worst), ("boto3's, 64", 1.0))
    ]
    assert line("router's CPU ≤ 20 µs, unsigned boto3", target_table([], rows, tmp_path))[3] == said


@pytest.mark.parametrize(("served", "said"), [(999_999, "not measured"), (1_000_000, "1.05 (after)")])
def test_fewer_than_a_million_requests_tell_nothing_of_a_million(
    tmp_path: Path, served: int, said: str
) -> None:
    ratio = {"median": 1.05, "low": 1.0, "high": 1.1}
    rows = [Row("served", "fresh", {}), Row("served", "after", {"ratio_cpu": ratio, "served": served})]
    table = target_table([], rows, tmp_path)
    assert line("1 request to 1,000,000: CPU ≤ 1.1 ×", table)[2] == said


def test_what_a_quick_run_leaves_out_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FILE", tmp_path / "unfinished.json")
    made = Progress(SCHEDULE, resume=False)
    nothing: Any = None
    _measure_modes(Namespace(modes=""), nothing, made, lambda name: f"no {name}")
    assert [(row.mode, row.note) for row in made.rows] == [
        (name, f"not measured: no {name}") for name in MODES
    ]
    _measure_peers(Namespace(only=""), nothing, SCHEDULE, nothing, made, lambda name: f"no {name}", nothing)
    assert made.missing == {peer.name: f"no {peer.name}" for peer in PEERS}
    assert not made.done


@pytest.mark.parametrize(
    ("ratio", "excess_us", "said"),
    [(1.04, 9000.0, "met"), (3.0, 499.0, "met"), (1.06, 501.0, "**missed**"), (0.5, -900.0, "met")],
)
def test_a_shadow_may_cost_a_part_or_a_moment(
    tmp_path: Path, ratio: float, excess_us: float, said: str
) -> None:
    ours = {"ratio_p99": {"median": ratio, "low": ratio, "high": ratio}, "p99_excess_us": excess_us}
    rows = [
        Row("sick shadow, 50 % of capacity", "shadow hangs, 64 connections", ours),
        Row(
            "sick shadow, 50 % of capacity",
            "nginx, mirror hangs, 64 connections",
            {**ours, "p99_excess_us": 1e9},
        ),
    ]
    found = line("sick shadow, half of capacity: p99 + ≤ 5 % or 0.5 ms", target_table([], rows, tmp_path))
    assert found[3] == said


@pytest.mark.parametrize(
    ("minutes", "flat", "said"),
    [(10, True, "met"), (10, False, "**missed**"), (1, True, "too short to tell")],
)
def test_the_newest_soak_counts(tmp_path: Path, minutes: float, flat: bool, said: str) -> None:
    for name, is_flat in (("soak-1", not flat), ("soak-2", flat)):
        facts = {"minutes": minutes, "verdicts": {"router": {"flat": is_flat}}}
        (tmp_path / f"{name}.json").write_text(json.dumps(facts))
    assert line("memory flat over ten minutes (`make soak`)", target_table([], [], tmp_path))[3] == said


def test_a_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FILE", tmp_path / "unfinished.json")
    begun = Progress(SCHEDULE, resume=False)
    begun.duels.append(duel("a", "a", 16, one(2.0), one(1.0)))
    begun.rows.append(Row("A/B", "x", {"per_s": 1.0}, "note"))
    begun.missing["b"] = "why"
    begun.finish("a")

    def kept(schedule: Schedule, **options: Any) -> Progress:
        return Progress(schedule, **options)

    again = kept(SCHEDULE, resume=True)
    assert (again.duels, again.rows, again.missing, again.done) == (
        begun.duels, begun.rows, {"b": "why"}, ["a"],
    )  # fmt: skip
    assert not kept(SCHEDULE, resume=False).done
    other = Schedule(rounds=2, seconds=1.0, warm_up_s=0.0, connections=(16,), edges=(), many=2)
    assert not kept(other, resume=True).done
    again.forget()
    assert not kept(SCHEDULE, resume=True).done
