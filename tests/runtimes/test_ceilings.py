"""Ceilings of processor time: the bucket, and real families of processes that burn all they get."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_bench import eventually

from understudy.runtimes.ceilings import BURST_S, Bucket, Ceilings
from understudy.runtimes.cpu_groups import CpuGroups, join_group, kill_group, remove_group, set_idle
from understudy.runtimes.processes import MARKER, family_of, identify, kill_family

BURNER = Path(__file__).with_name("cpu_burner.py")
WATCHED_S = 3.0


@given(
    cores=st.floats(0.05, 8.0),
    steps=st.lists(st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 4.0)), max_size=60),
)
def test_what_runs_between_pauses_stays_below_the_ceiling(
    cores: float, steps: list[tuple[float, float]]
) -> None:
    """Whatever is used while it may run: the sum exceeds the share by a burst and the last step at most."""
    bucket, now_s, used_s, last_s, paused = Bucket(cores, 0.0), 0.0, 0.0, 0.0, False
    for elapsed_s, wanted_s in steps:
        now_s += elapsed_s
        last_s = 0.0 if paused else wanted_s
        used_s += last_s
        paused = bucket.must_pause(now_s, last_s)
        assert used_s - last_s <= cores * (now_s + BURST_S) + max([0.0, *(w for _, w in steps)]) + 1e-9


@contextmanager
def burning(processes: int, *arguments: str) -> Iterator[tuple[int, str]]:
    """Start a family that burns; yield its leader and its marker."""
    marker = f"test-{os.getpid()}-{time.monotonic_ns()}"
    with subprocess.Popen(
        [sys.executable, str(BURNER), str(processes), *arguments],
        env={**os.environ, MARKER: marker},
        start_new_session=True,
    ) as leader:
        try:
            eventually(lambda: len(family_of(leader.pid, marker)) == processes, "all burn")
            yield leader.pid, marker
        finally:
            kill_family(identify(leader.pid), marker)
            leader.wait()


def used_s(leader: int, marker: str) -> float:
    """Sum up the processor time of a family."""
    ticks = 0
    for pid in family_of(leader, marker):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def cores_used(leader: int, marker: str) -> float:
    """Measure for some seconds how many processors a family uses."""
    before_s, started_s = used_s(leader, marker), time.monotonic()
    time.sleep(WATCHED_S)
    return (used_s(leader, marker) - before_s) / (time.monotonic() - started_s)


def states(leader: int, marker: str) -> set[str]:
    found = set()
    for pid in family_of(leader, marker):
        found.add(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def test_pausing_holds_a_family_below_its_ceiling(tmp_path: Path) -> None:
    life = tmp_path / "life"
    ceilings = Ceilings()
    with burning(3, str(life)) as (leader, marker):
        ceilings.hold(marker, leader, 30)
        try:
            assert cores_used(leader, marker) < 0.30 * 1.25 + 0.05
            lived = len(life.read_text().splitlines())
            eventually(lambda: len(life.read_text().splitlines()) > lived, "it goes on between pauses")
        finally:
            ceilings.close()
        eventually(lambda: "T" not in states(leader, marker), "nobody stays stopped")


def test_whoever_takes_over_continues_what_was_stopped() -> None:
    with burning(2) as (leader, marker):
        for pid in family_of(leader, marker):
            os.kill(pid, signal.SIGSTOP)
        eventually(lambda: states(leader, marker) == {"T"}, "all are stopped")
        ceilings = Ceilings()
        ceilings.hold(marker, leader, 6400)
        eventually(lambda: "T" not in states(leader, marker), "all go on")
        ceilings.close()


def test_a_control_group_holds_a_family_below_its_ceiling() -> None:
    groups = CpuGroups()
    folder = groups.make(f"test-{os.getpid()}", 30)
    if folder is None:
        pytest.skip("needs the right to make control groups")
    try:
        with burning(1) as (leader, marker):
            assert join_group(folder, leader)
            assert not remove_group(folder), "somebody is in it"
            assert cores_used(leader, marker) < 0.30 * 1.25 + 0.05
        eventually(lambda: remove_group(folder), "it is empty")
    finally:
        remove_group(folder)


def test_a_groups_processes_end_together() -> None:
    folder = CpuGroups().make(f"test-{os.getpid()}-kill")
    if folder is None:
        pytest.skip("needs the right to make control groups")
    try:
        with burning(3) as (leader, marker):
            assert all(join_group(folder, pid) for pid in family_of(leader, marker))
            assert kill_group(folder)
            eventually(lambda: not family_of(leader, marker), "all end")
        assert kill_group(folder), "nobody is left"
        eventually(lambda: remove_group(folder), "it is empty")
        assert not kill_group(folder), "it is gone"
    finally:
        remove_group(folder)


def test_without_the_right_to_make_groups_there_is_none(tmp_path: Path) -> None:
    assert CpuGroups(tmp_path).make("x", 50) is None
    (tmp_path / "cgroup").write_text("0::/user.slice\n1:cpu,cpuacct:/\n")
    (tmp_path / "mountinfo").write_text(f"30 20 0:26 / {tmp_path}/none rw - cgroup2 cgroup rw\n")
    assert CpuGroups(tmp_path).make("x", 50) is None


def test_groups_of_both_versions_get_their_limits(tmp_path: Path) -> None:
    """The kernel's files are real ones here: what is written to them is what counts."""
    for version, line, mount in (
        (1, "4:cpu,cpuacct:/box/own\n", "cgroup cgroup rw,cpu,cpuacct"),
        (2, "0::/box/own\n", "cgroup2 cgroup rw"),
    ):
        process, root = tmp_path / f"proc{version}", tmp_path / f"fs{version}"
        process.mkdir()
        (root / "own").mkdir(parents=True)
        (process / "cgroup").write_text(line)
        (process / "mountinfo").write_text(f"30 20 0:26 /box {root} rw,relatime - {mount}\n")
        if version == 2:
            (root / "own" / "cgroup.subtree_control").write_text("")
        folder = CpuGroups(process).make("w1", 150)
        assert folder == str(root / "own" / f"understudy-{os.getpid()}-w1")
        written = {path.name: path.read_text() for path in Path(folder).iterdir()}
        if version == 1:
            assert written == {
                "cpu.cfs_period_us": "50000",
                "cpu.cfs_quota_us": "75000",
                "cpu.shares": "110",
            }
        else:
            assert written == {"cpu.max": "75000 50000", "cpu.weight": "10"}
        unlimited = CpuGroups(process).make("w2")
        assert unlimited is not None
        written = {path.name: path.read_text() for path in Path(unlimited).iterdir()}
        assert written == ({"cpu.shares": "110"} if version == 1 else {"cpu.weight": "10"})
        assert set_idle(unlimited, True)
        assert (Path(unlimited) / "cpu.idle").read_text() == "1"
        assert set_idle(unlimited, False)
        weight = {"cpu.shares": "15"} if version == 1 else {"cpu.weight": "1"}
        written = {path.name: path.read_text() for path in Path(unlimited).iterdir()}
        assert written == {**weight, "cpu.idle": "0"}


def test_groups_of_dead_servers_are_removed(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:cpu:/\n")
    (tmp_path / "mountinfo").write_text(f"30 20 0:26 / {tmp_path} rw - cgroup cgroup rw,cpu\n")
    names = ["understudy-999999999-a", f"understudy-{os.getpid()}-b", "somebody-999999999-c"]
    for name in names:
        (tmp_path / name).mkdir()
    CpuGroups(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == sorted(names[1:])
