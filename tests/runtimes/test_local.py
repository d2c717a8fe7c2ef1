"""LocalRuntime with real processes: what it gives a worker, what it sees, what it leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from runtime_bench import Bench, archive, eventually, make_spec

from understudy.core.models import Container
from understudy.core.ports import InstanceStatus
from understudy.runtimes import local
from understudy.runtimes.back_seats import BACK_SEAT, leave_back_seat, may_raise_priority, take_back_seat
from understudy.runtimes.cpu_groups import CpuGroups
from understudy.runtimes.processes import MARKER, Sample, Usage, identify, kill_family, marked

PREPARING, STARTING, READY = InstanceStatus.PREPARING, InstanceStatus.STARTING, InstanceStatus.READY
FAILED, STOPPED = InstanceStatus.FAILED, InstanceStatus.STOPPED


def _processes_of(bench: Bench) -> list[int]:
    """Find every process that a worker of this bench started, by the spec file or the scratch directory."""
    root = str(bench.directory / "run")
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        texts = [*(process.info["cmdline"] or []), (process.info["environ"] or {}).get("HOME", "")]
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(root in text for text in texts):
            found.append(process.pid)
    return found


def _left(bench: Bench) -> list[str]:
    return sorted(path.name for path in (bench.directory / "run" / "w").iterdir())


def test_a_worker_gets_what_the_contract_promises(bench: Bench) -> None:
    spec = bench.spec(SOME_SETTING="x")
    bench.runtime.start(spec)
    told = bench.ask(bench.wait(spec.instance_id, READY))
    given = told["spec"]
    assert given["instance_id"] == spec.instance_id
    assert given["title"] == "understudy worker churn/Blue/1"
    assert (given["endpoint_name"], given["variant_name"]) == ("churn", "Blue")
    assert (given["region"], given["account_id"]) == ("us-east-1", "123456789012")
    assert given["limits"]["max_body_bytes"] == 25 * 1024**2
    [container] = given["containers"]
    assert container["hostname"] == "primary"
    assert container["loader"] == "script"
    assert container["environment"]["SOME_SETTING"] == "x"
    assert Path(container["model_dir"]).is_dir()
    assert container["code_dir"] is None
    assert Path(container["python"]).is_file()
    assert told["argv"][-2:] == ["--title", "understudy worker churn/Blue/1"]
    assert Path(told["cwd"]).parent == bench.directory / "run" / "w"


def test_a_worker_gets_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr")
    monkeypatch.setenv("SOMETHING_OF_THE_SERVER", "1")
    bench = Bench(tmp_path)
    try:
        spec = bench.spec(OMP_NUM_THREADS="1")
        bench.runtime.start(spec)
        environ = bench.ask(bench.wait(spec.instance_id, READY))["environ"]
        assert "AWS_SECRET_ACCESS_KEY" not in environ
        assert "SOMETHING_OF_THE_SERVER" not in environ
        assert environ["OMP_NUM_THREADS"] == "1"  # the container's own word wins
        assert environ["MKL_NUM_THREADS"] == str(min(2, len(os.sched_getaffinity(0))))
        assert environ["TMPDIR"] == environ["HOME"] != os.environ["HOME"]
        assert environ["SM_MODEL_DIR"]
    finally:
        bench.close()


def test_limits_and_priorities(bench: Bench) -> None:
    plain, shadow = bench.spec(), bench.spec(shadow=True)
    bench.runtime.start(plain)
    bench.runtime.start(shadow)
    one, two = bench.wait(plain.instance_id, READY), bench.wait(shadow.instance_id, READY)
    assert one.pid is not None and two.pid is not None
    limits = Path(f"/proc/{one.pid}/limits").read_text()
    assert f"Max data size             {2 * 1024**3}" in limits
    assert "Max core file size        0" in limits
    assert Path(f"/proc/{one.pid}/oom_score_adj").read_text().strip() == "500"
    assert psutil.Process(one.pid).nice() == 0
    assert Path(f"/proc/{two.pid}/oom_score_adj").read_text().strip() == "800"
    assert psutil.Process(two.pid).nice() == 19
    # A session is its own group to the scheduler, and a nice value alone counts within the group only.
    autogroup = Path(f"/proc/{two.pid}/autogroup")
    if autogroup.exists() and Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "1":
        assert autogroup.read_text().split()[-1] == "19"
        assert Path(f"/proc/{one.pid}/autogroup").read_text().split()[-1] == "0"


def _priority(pid: int) -> tuple[int, set[int]]:
    """The value of the autogroup (0 where there is none), and the nice values of all threads."""
    autogroup = Path(f"/proc/{pid}/autogroup")
    tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
    return (
        int(autogroup.read_text().split()[-1]) if autogroup.exists() else 0,
        {os.getpriority(os.PRIO_PROCESS, task) for task in tasks},
    )


def _back_seat() -> tuple[int, set[int]]:
    autogroups = Path("/proc/self/autogroup").exists()
    return (BACK_SEAT if autogroups else 0, {BACK_SEAT if may_raise_priority() else 0})


def test_a_worker_for_which_others_answer_yields_until_it_is_ready(bench: Bench) -> None:
    gate = bench.directory / "gate"
    patient = bench.spec(patient=True, STANDIN="slow", STANDIN_GATE=str(gate))
    needed = bench.spec(STANDIN="slow", STANDIN_GATE=str(gate))
    bench.runtime.start(patient)
    bench.runtime.start(needed)
    one, two = bench.wait(patient.instance_id, STARTING), bench.wait(needed.instance_id, STARTING)
    assert one.pid is not None and two.pid is not None
    assert _priority(one.pid) == _back_seat()
    assert _priority(two.pid) == (0, {0})
    gate.touch()
    bench.wait(patient.instance_id, READY)
    eventually(lambda: _priority(one.pid) == (0, {0}), "the ordinary priority")


def test_a_worker_that_loads_long_yields_only_for_a_part_of_its_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_BACK_SEAT_PART", 0.0)
    spec = bench.spec(patient=True, STANDIN="slow", STANDIN_GATE=str(bench.directory / "gate"))
    bench.runtime.start(spec)
    pid = bench.wait(spec.instance_id, STARTING).pid
    assert pid is not None
    eventually(lambda: _priority(pid) == (0, {0}), "the ordinary priority")
    assert bench.wait(spec.instance_id, STARTING).pid == pid, "it still loads"


def test_whoever_adopts_a_worker_that_yields_gives_it_its_priority_back(bench: Bench) -> None:
    gate = bench.directory / "gate"
    spec = bench.spec(patient=True, STANDIN="slow", STANDIN_GATE=str(gate))
    bench.runtime.start(spec)
    pid = bench.wait(spec.instance_id, STARTING).pid
    assert pid is not None and _priority(pid) == _back_seat()
    bench.runtime.close()
    bench.runtime = bench.new_runtime()
    gate.touch()
    bench.wait(spec.instance_id, READY)
    eventually(lambda: _priority(pid) == (0, {0}), "the ordinary priority")


def test_what_a_loading_model_has_started_gets_its_priority_back_too(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={MARKER: "m1"})
    try:
        take_back_seat(child.pid)
        assert _priority(child.pid) == _back_seat()
        eventually(lambda: child.pid in marked("m1"), "the child")
        assert leave_back_seat(child.pid, "m1")
        assert _priority(child.pid) == (0, {0})
        assert leave_back_seat(child.pid, "m1"), "doing it twice is doing it once"
    finally:
        child.kill()
        child.wait()


def test_shadows_have_control_groups_and_yield_while_they_replace_or_burn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, root = bench.directory / "proc", bench.directory / "groups"
    process.mkdir()
    root.mkdir()
    (process / "cgroup").write_text("4:cpu:/\n")
    (process / "mountinfo").write_text(f"30 20 0:26 / {root} rw - cgroup cgroup rw,cpu\n")
    bench.runtime.close()
    bench.runtime = bench.new_runtime(cpu_groups=CpuGroups(process))
    monkeypatch.setattr(Usage, "sample", lambda _self, _roots: {})
    gate = bench.directory / "gate"
    plain = bench.spec()
    slow = {"STANDIN": "slow", "STANDIN_GATE": str(gate)}
    replacing, awaited = bench.spec(shadow=True, patient=True, **slow), bench.spec(shadow=True, **slow)
    for spec in (plain, replacing, awaited):
        bench.runtime.start(spec)
    pids = {
        spec.instance_id: bench.wait(spec.instance_id, STARTING, READY).pid for spec in (replacing, awaited)
    }
    folders = {int((folder / "cgroup.procs").read_text()): folder for folder in root.iterdir()}
    assert set(folders) == set(pids.values()), "a shadow has a group, production has none"
    one, two = (folders[pids[spec.instance_id] or 0] for spec in (replacing, awaited))
    assert (one / "cpu.idle").read_text() == "1" and not (two / "cpu.idle").exists()
    gate.touch()
    for spec in (replacing, awaited):
        bench.wait(spec.instance_id, READY)
    for folder in (one, two):
        assert ((folder / "cpu.idle").read_text(), (folder / "cpu.shares").read_text()) == ("0", "15")
    calm_s = local._CALM_S
    uses: list[tuple[float | None, float, str]] = [
        (10.0, 0, "0"), (180.0, 0, "1"), (40.0, 0, "1"), (None, 0, "1"), (3.0, 0, "1"),
        (3.0, calm_s - 1, "1"), (20.0, 1, "1"), (9.9, calm_s - 1, "1"), (9.9, 1, "0"),
    ]  # fmt: skip
    now_s = time.monotonic()
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=time.sleep))
    for percent, later_s, idle in uses:
        now_s += later_s
        sampled = {pid: Sample(percent, 1) for pid in pids.values() if pid}
        monkeypatch.setattr(Usage, "sample", lambda _self, _roots, told=sampled: told)
        bench.runtime.observe()
        assert (one / "cpu.idle").read_text() == (two / "cpu.idle").read_text() == idle


def test_an_adopted_worker_whose_group_is_gone_is_held_by_pausing(bench: Bench) -> None:
    process, root = bench.directory / "proc", bench.directory / "groups"
    process.mkdir()
    root.mkdir()
    (process / "cgroup").write_text("4:cpu:/\n")
    (process / "mountinfo").write_text(f"30 20 0:26 / {root} rw - cgroup cgroup rw,cpu\n")
    bench.runtime.close()
    bench.runtime = bench.new_runtime(cpu_groups=CpuGroups(process))
    spec = bench.spec(shadow=True, cpu_percent=50)
    bench.runtime.start(spec)
    pid = bench.wait(spec.instance_id, READY).pid
    bench.runtime.close()
    (folder,) = root.iterdir()
    (folder / "cgroup.procs").unlink()
    bench.runtime = bench.new_runtime()
    assert bench.wait(spec.instance_id, READY).pid == pid
    assert (folder / "cgroup.procs").read_text() == str(pid), "it is in its group again"
    bench.runtime.close()
    shutil.rmtree(folder)
    bench.runtime = bench.new_runtime()
    assert bench.wait(spec.instance_id, READY).pid == pid
    assert any(thread.name == "ceilings" for thread in threading.enumerate())


def test_memory_of_the_instance_type_is_the_limit(bench: Bench) -> None:
    spec = bench.spec(STANDIN="memory")
    bench.runtime.start(spec)
    reason = bench.wait(spec.instance_id, FAILED).reason
    assert "MemoryError" in reason
    assert "exit code 1 (out of memory? The instance type has 2 GiB)" in reason


def test_images_are_resolved_and_usage_is_measured(bench: Bench) -> None:
    spec = bench.spec()
    bench.runtime.start(spec)
    bench.wait(spec.instance_id, READY)
    state = eventually(lambda: (s := bench.state(spec.instance_id)) and s.cpu_percent is not None and s)
    [(image, resolved, at_s)] = state.images
    assert (image, resolved) == ("python", f"python (python 3.{sys.version_info.minor})")
    assert at_s > 1.6e9
    assert 0 <= state.cpu_percent <= 400
    assert 0 < state.memory_percent < 50
    assert 0 < state.disk_percent <= 100


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("fail", "code/inference.py line 7: NameError: name 'xg' is not defined"),
        (
            "exit",
            "ended while it loaded the model: exit code 3. Its log ends: stand-in says hello | Traceback:",
        ),
        ("segfault", "killed by signal 11 (SIGSEGV)"),
    ],
)
def test_a_load_that_fails_says_why(bench: Bench, behaviour: str, told: str) -> None:
    spec = bench.spec(STANDIN=behaviour)
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, FAILED)
    assert told in state.reason
    assert len(state.reason) <= 900
    assert state.address == ""
    eventually(lambda: not _processes_of(bench), "no process is left of it")


def test_a_worker_that_never_gets_ready_is_killed(bench: Bench) -> None:
    spec = bench.spec(STANDIN="hang", startup_timeout_s=1)
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, FAILED)
    assert "did not pass its health check within 1 s" in state.reason
    assert "stand-in says hello" in state.reason
    eventually(lambda: not _processes_of(bench), "no process is left of it")


def test_progress_is_told(bench: Bench) -> None:
    spec = bench.spec(STANDIN="slow", STANDIN_GATE=str(bench.directory / "gate"))
    bench.runtime.start(spec)
    eventually(lambda: (s := bench.state(spec.instance_id)) and s.detail == "reading the stand-in model")
    assert bench.wait(spec.instance_id, STARTING).address == ""
    (bench.directory / "gate").touch()
    bench.wait(spec.instance_id, READY)


def test_a_crash_is_seen_and_explained(bench: Bench) -> None:
    gate = bench.directory / "gate"
    spec = bench.spec(STANDIN="crash_later", STANDIN_GATE=str(gate), STANDIN_CHILD="1")
    bench.runtime.start(spec)
    bench.wait(spec.instance_id, READY)
    gate.touch()
    state = bench.wait(spec.instance_id, FAILED)
    assert "killed by signal 9 (SIGKILL: out of memory? The instance type has 2 GiB)" in state.reason
    assert "out of luck" in state.reason
    eventually(lambda: not _processes_of(bench), "the child is gone too")


def test_stop_leaves_nothing(bench: Bench) -> None:
    specs = [bench.spec(STANDIN_CHILD="1"), bench.spec(STANDIN="deaf", STANDIN_CHILD="1")]
    for spec in specs:
        bench.runtime.start(spec)
    for spec in specs:
        bench.wait(spec.instance_id, READY)
    assert len(_processes_of(bench)) == 4
    for status in list((bench.directory / "run" / "w").glob("*.status")):  # as a pipeline's containers have
        for name in (f"{status.name}.0", f"{status.name}.0.spec.json", f"{status.name}.1.77.partial"):
            (status.parent / name).write_text("{}")
    for spec in specs:
        bench.runtime.stop(spec.instance_id, 0.2)
    assert {s.status for s in bench.runtime.observe()} <= {STOPPED}
    eventually(lambda: not bench.runtime.observe(), "all are forgotten")
    assert _processes_of(bench) == []
    assert _left(bench) == []


def test_a_frozen_worker_is_stopped_too(bench: Bench) -> None:
    spec = bench.spec()
    bench.runtime.start(spec)
    pid = bench.wait(spec.instance_id, READY).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    bench.runtime.stop(spec.instance_id, 0.1)
    eventually(lambda: not bench.runtime.observe(), "it is forgotten")
    assert identify(pid) is None


def test_stop_during_preparation(bench: Bench) -> None:
    spec = bench.spec()
    bench.runtime.start(spec)
    bench.runtime.stop(spec.instance_id, 1.0)
    eventually(lambda: not bench.runtime.observe(), "it is forgotten")
    assert _left(bench) == []


def test_a_stopped_worker_may_finish_within_its_grace(bench: Bench) -> None:
    spec = bench.spec()
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, READY)
    began_s = time.monotonic()
    bench.runtime.stop(spec.instance_id, 60.0)
    eventually(lambda: not bench.runtime.observe(), "it is forgotten")
    assert time.monotonic() - began_s < 50  # SIGTERM was heard; the grace was not waited out
    assert state.pid is not None and identify(state.pid) is None


class TestAdoption:
    """A controller that was killed and came back."""

    def test_running_workers_are_taken_over(self, bench: Bench) -> None:
        spec = bench.spec(STANDIN_CHILD="1")
        bench.runtime.start(spec)
        before = bench.wait(spec.instance_id, READY)
        bench.runtime.close()
        bench.runtime = bench.new_runtime()
        after = bench.state(spec.instance_id)
        assert after is not None
        assert (after.pid, after.address, after.images) == (before.pid, before.address, before.images)
        assert after.status is READY
        assert bench.ask(after)["spec"]["instance_id"] == spec.instance_id
        bench.runtime.start(spec)
        again = bench.state(spec.instance_id)
        assert again is not None and (again.pid, again.status) == (after.pid, after.status)
        bench.runtime.stop(spec.instance_id, 5.0)
        eventually(lambda: not bench.runtime.observe(), "it is forgotten")
        assert _processes_of(bench) == []
        assert _left(bench) == []

    def test_a_death_of_an_adopted_one_is_seen(self, bench: Bench) -> None:
        spec = bench.spec()
        bench.runtime.start(spec)
        pid = bench.wait(spec.instance_id, READY).pid
        bench.runtime.close()
        bench.runtime = bench.new_runtime()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert "ended" in bench.wait(spec.instance_id, FAILED).reason

    def test_a_death_while_nobody_looked_is_told(self, bench: Bench) -> None:
        spec = bench.spec(STANDIN_CHILD="1")
        bench.runtime.start(spec)
        pid = bench.wait(spec.instance_id, READY).pid
        bench.runtime.close()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        bench.runtime = bench.new_runtime()
        state = bench.state(spec.instance_id)
        assert state is not None and state.status is FAILED
        assert _processes_of(bench) == []

    def test_another_process_of_the_same_id_is_left_alone(self, bench: Bench) -> None:
        spec = bench.spec()
        bench.runtime.start(spec)
        pid = bench.wait(spec.instance_id, READY).pid
        bench.runtime.close()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
            [record] = (bench.directory / "run" / "w").glob("*.json")
            record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": stranger.pid}))
            bench.runtime = bench.new_runtime()
            assert bench.wait(spec.instance_id, FAILED)
            bench.runtime.stop(spec.instance_id, 0.0)
            eventually(lambda: not bench.runtime.observe(), "it is forgotten")
            assert stranger.poll() is None
            stranger.kill()

    def test_a_worker_spawned_but_not_noted_is_found_by_its_marker(self, bench: Bench) -> None:
        spec = bench.spec()
        bench.runtime.start(spec)
        pid = bench.wait(spec.instance_id, READY).pid
        bench.runtime.close()
        [record] = (bench.directory / "run" / "w").glob("*.json")
        record.write_text(json.dumps(json.loads(record.read_text()) | {"pid": 0, "start_ticks": 0}))
        bench.runtime = bench.new_runtime()
        assert bench.wait(spec.instance_id, READY).pid == pid

    def test_failures_are_remembered(self, bench: Bench) -> None:
        spec = bench.spec(STANDIN="fail")
        bench.runtime.start(spec)
        before = bench.wait(spec.instance_id, FAILED)
        bench.runtime.close()
        bench.runtime = bench.new_runtime()
        after = bench.state(spec.instance_id)
        assert after is not None and (after.status, after.reason) == (FAILED, before.reason)

    def test_rubbish_is_swept(self, bench: Bench) -> None:
        bench.runtime.close()
        directory = bench.directory / "run" / "w"
        (directory / "ab.d").mkdir()
        (directory / "ab.sock").touch()
        (directory / "cd.json").write_text("{")
        bench.runtime = bench.new_runtime()
        assert bench.runtime.observe() == []
        assert _left(bench) == []


def test_builds_that_hang_hold_up_nobody_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as index:  # accepts and never answers
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        bench = Bench(tmp_path, UV_DEFAULT_INDEX=url, UV_INDEX="", UV_CACHE_DIR=str(tmp_path / "cache"))
        hanging = [make_spec(f"e/V/f1/{n}-1", Container(f"xgboost:{n}")) for n in ("1.0", "1.2", "1.3")]
        for spec in hanging:
            bench.runtime.start(spec)
        eventually(lambda: index.accept(), "a build is under way")
        good = bench.spec()
        bench.runtime.start(good)
        bench.wait(good.instance_id, READY)
        details = [(s.status, s.detail) for s in bench.runtime.observe() if s.instance_id.startswith("e/")]
        assert {status for status, _ in details} == {PREPARING}
        assert any("building environment xgboost" in detail for _, detail in details)
        bench.runtime.stop(good.instance_id, 1.0)
        for spec in hanging:
            bench.runtime.stop(spec.instance_id, 0.0)
        bench.runtime.close()
        eventually(lambda: not bench.runtime.observe(), "preparations end with the runtime")
        assert not list((tmp_path / "environments").glob("building-*"))
        os.close(bench.lifeline_read)
        os.close(bench.lifeline_write)


def test_without_its_supervisor_a_worker_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    spec = bench.spec()
    bench.runtime.start(spec)
    bench.wait(spec.instance_id, READY)
    os.close(bench.lifeline_write)
    bench.lifeline_write = os.open(os.devnull, os.O_RDONLY)
    assert "exit code 0" in bench.wait(spec.instance_id, FAILED).reason
    bench.close()


def test_the_data_directory_may_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-directory-with-a-long-name"] * 8)
    deep.mkdir(parents=True)
    bench = Bench(deep)
    try:
        spec = bench.spec()
        bench.runtime.start(spec)
        state = bench.wait(spec.instance_id, READY)
        assert state.address.startswith("w/") and len(state.address) < 20
        assert bench.ask(state)
    finally:
        bench.close()


def test_routers_may_connect_before_the_model_is_loaded(bench: Bench) -> None:
    spec = bench.spec(STANDIN="slow", STANDIN_GATE=str(bench.directory / "gate"))
    bench.runtime.start(spec)
    bench.wait(spec.instance_id, STARTING)
    [path] = (bench.directory / "run" / "w").glob("*.sock")
    with bench.connect(f"w/{path.name}") as connection:
        connection.sendall(b"spec")
        (bench.directory / "gate").touch()
        assert connection.recv(10)


def test_data_and_code_reach_the_worker(bench: Bench) -> None:
    files = {"model.bin": b"weights", "code/inference.py": b"def model_fn(d): ...\n"}
    bench.objects.put("models", "a/model.tar.gz", [archive(**files)])
    bench.objects.put("models", "a/source.tar.gz", [archive(**{"serve.py": b"..."})])
    url = "s3://models/a/model.tar.gz"
    submitted = {"SAGEMAKER_SUBMIT_DIRECTORY": "s3://models/a/source.tar.gz", "SAGEMAKER_PROGRAM": "serve.py"}
    mounted = {"SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code", "SAGEMAKER_PROGRAM": "inference.py"}
    variants: list[dict[str, str]] = [{}, submitted, mounted]
    specs = [
        make_spec(f"data/Blue/f1/{n}-1", Container("python", url, environment=environment))
        for n, environment in enumerate(variants)
    ]
    for spec in specs:
        bench.runtime.start(spec)
    told = [bench.ask(bench.wait(spec.instance_id, READY))["spec"]["containers"][0] for spec in specs]
    assert {one["model_dir"] for one in told} == {told[0]["model_dir"]}  # one copy for all
    assert (Path(told[0]["model_dir"]) / "model.bin").read_bytes() == b"weights"
    assert told[0]["code_dir"] == told[2]["code_dir"] == told[0]["model_dir"] + "/code"
    assert (Path(told[1]["code_dir"]) / "serve.py").read_bytes() == b"..."
    assert told[1]["environment"]["SAGEMAKER_SUBMIT_DIRECTORY"] == told[1]["code_dir"]


@pytest.mark.parametrize(
    ("container", "told"),
    [
        (
            Container("nobody/knows:1"),
            "No environment is known for image 'nobody/knows:1'. Known short names: ",
        ),
        (
            Container("python", "s3://models/none.tar.gz"),
            "Could not find model data at s3://models/none.tar.gz.",
        ),
        (Container("python", "s3://no-bucket/x"), "Could not find model data at s3://no-bucket/x."),
        (Container("python", "file:///etc/passwd"), "lies outside the directories"),
        (
            Container("python", environment={"SAGEMAKER_SUBMIT_DIRECTORY": "/etc"}),
            "SAGEMAKER_SUBMIT_DIRECTORY",
        ),
    ],
)
def test_a_preparation_that_fails_says_why(bench: Bench, container: Container, told: str) -> None:
    spec = make_spec("bad/Blue/f1/0-1", container)
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, FAILED)
    assert told in state.reason
    assert told in bench.log_text()
    assert state.pid is None


def test_a_pipeline_runs_on_the_servers_own_python(bench: Bench) -> None:
    spec = make_spec("pipe/Blue/f1/0-1", Container("python", hostname="a"), Container("python", hostname="b"))
    bench.runtime.start(spec)
    state = bench.wait(spec.instance_id, READY)
    assert [c["hostname"] for c in bench.ask(state)["spec"]["containers"]] == ["a", "b"]
    assert len(state.images) == 2
    assert state.pid is not None and psutil.Process(state.pid).cmdline()[0] == sys.executable


def test_the_log_has_the_workers_words_and_a_last_line_end(bench: Bench) -> None:
    spec = bench.spec(STANDIN="exit")
    bench.runtime.start(spec)
    bench.wait(spec.instance_id, FAILED)
    assert bench.logs.index_once(1000)
    messages = [event.message for event in bench.logs.read("/aws/sagemaker/Endpoints/churn", "Blue/f1-1-1")]
    assert "stand-in says hello" in messages
    assert "Traceback: the model is broken" in messages
    assert any(message.startswith("understudy: The worker of variant Blue ended") for message in messages)


def test_a_process_that_left_its_session_is_found_by_its_marker(tmp_path: Path) -> None:
    environ = {**os.environ, MARKER: "m" + tmp_path.name}
    with subprocess.Popen(["setsid", "sleep", "1000"], env=environ) as child:
        eventually(lambda: marked("m" + tmp_path.name), "the marker is seen")
        kill_family(None, "m" + tmp_path.name)
        assert child.wait(10) == -signal.SIGKILL


def _burner_of(bench: Bench, pid: int) -> psutil.Process:
    return next(iter(psutil.Process(pid).children(recursive=True)))


def test_a_ceiling_holds_for_all_processes_and_over_a_new_controller(bench: Bench) -> None:
    spec = bench.spec(shadow=True, cpu_percent=20, STANDIN_BURN="1")
    bench.runtime.start(spec)
    pid = bench.wait(spec.instance_id, READY).pid
    assert pid is not None
    burner = eventually(lambda: psutil.Process(pid).children() and _burner_of(bench, pid))
    for _ in range(2):
        before_s, started_s = sum(burner.cpu_times()[:2]), time.monotonic()
        time.sleep(2.0)
        used = (sum(burner.cpu_times()[:2]) - before_s) / (time.monotonic() - started_s)
        assert used < 0.20 * 1.25 + 0.05
        # The second time around: the ceiling of a controller that was killed while all were stopped.
        bench.runtime.close()
        burner.suspend()
        psutil.Process(pid).suspend()
        bench.runtime = bench.new_runtime()
        assert bench.wait(spec.instance_id, READY).pid == pid
    bench.runtime.stop(spec.instance_id, 600.0)  # longer than anybody waits for it to end
    eventually(lambda: not bench.runtime.observe(), "SIGTERM reaches a worker that is held", 240.0)


def test_the_lower_of_both_ceilings_counts_and_production_has_none(bench: Bench) -> None:
    bench.runtime.close()
    bench.runtime = bench.new_runtime(shadow_cpu_percent=50)
    for shadow, own, expected in ((True, 0, 50), (True, 30, 30), (True, 80, 50), (False, 0, 0)):
        spec = bench.spec(shadow=shadow, cpu_percent=own)
        bench.runtime.start(spec)
        address = bench.wait(spec.instance_id, READY).address
        record = bench.directory / "run" / address.replace(".sock", ".json")
        assert json.loads(record.read_text())["cpu_percent"] == expected
