"""LocalRuntime: each instance is a worker process on this machine.

Owns ``DATA/run/w``: per instance a socket, a spec, a status file, a scratch directory and a record
(``NAME.json``), by which a runtime in a new controller finds the workers that still run and adopts them.
Preparations leave no record: after a controller's death they are unknown and control starts them again.
Refuses to decide anything: what starts and stops is control's, what is routed the router's.
Main class: :class:`LocalRuntime`; a worker's environment is made in
:mod:`understudy.runtimes.containers`.

Timeouts are real seconds, not those of a scaled clock: a model loads no faster when bakes do.
Limits per process: RLIMIT_DATA = the instance type's memory, no core files, a higher OOM score than the
server's.  Everything runs as the server's user: a worker is kept apart by process, not by privilege.
"""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from understudy.core.names import Place
from understudy.core.ports import Clock, Entropy, InstanceSpec, InstanceState, InstanceStatus
from understudy.runtimes.artifacts import said_of
from understudy.runtimes.back_seats import leave_back_seat, take_back_seat
from understudy.runtimes.ceilings import Ceilings
from understudy.runtimes.containers import ContainerPreparation, Prepared, clean_environment
from understudy.runtimes.cpu_groups import CpuGroups, join_group, kill_group, remove_group, set_idle
from understudy.runtimes.failures import Cancelled, PreparationFailed
from understudy.runtimes.instances import Facts, Instance, exit_text, limit_process, reap, write_private
from understudy.runtimes.processes import (
    MARKER,
    Usage,
    identify,
    is_alive,
    kill_family,
    kill_marked,
    lower_priority,
    marked,
)

WORKER_MAIN = Path(__file__).parents[1] / "worker" / "__main__.py"
REASON_CHARACTERS = 900  # FailureReason takes 1024
_LOADING_POLL_S = 0.03
_IDLE_POLL_S = 1.0
_BUSY_PERCENT = 20  # of one processor, for a shadow: more than that production's tail feels
_CALM_S = 20.0  # of little use until it counts again: bursts would have its weight at each beginning
_HUNT_S = 20.0  # how long latecomers of an ended instance are looked for
_HUNT_EVERY_S = 1.0
_BACK_SEAT_PART = 0.25  # of the time to start: on a machine that is full nobody is to fail for yielding
_log = logging.getLogger(__name__)


class LogFiles(Protocol):
    """Where workers write; ``stores.logs.FileLogs`` is one."""

    def path(self, endpoint_name: str, variant_name: str, instance_name: str) -> Path:
        """Name the file of one instance, its directory made."""
        ...

    def finish(self, endpoint_name: str, variant_name: str, instance_name: str) -> None:
        """Hear that nothing more will be written to it."""
        ...


class LocalRuntime:
    """Runs instances as processes; see ``core.ports.Runtime``.

    Args:
        run_directory: ``DATA/run``; addresses are relative to it.
        preparation: Makes containers runnable (artifacts, environments, images).
        logs: Where workers' output goes.
        clock: For the time at which an image was resolved; not for timeouts.
        entropy: Names of sockets.
        place: Account and region told to workers.
        lifeline_fd: Read end of the supervisor's lifeline, inherited by workers.
        worker_main: Program of the worker.
        python: Interpreter of pipeline conductors: the server's own.
        max_body_bytes: Of one request, told to workers.
        shadow_cpu_percent: Ceiling of every shadow's instances, 100 is one processor; 0: none but their own.
        cpu_groups: Hold ceilings and keep shadows behind everybody else; None: ceilings are held by pausing,
            and shadows have low priorities only.
    """

    def __init__(
        self,
        run_directory: Path,
        *,
        preparation: ContainerPreparation,
        logs: LogFiles,
        clock: Clock,
        entropy: Entropy,
        place: Place,
        lifeline_fd: int,
        worker_main: Path = WORKER_MAIN,
        python: str = sys.executable,
        max_body_bytes: int = 25 * 1024**2,
        shadow_cpu_percent: int = 0,
        cpu_groups: CpuGroups | None = None,
    ) -> None:
        self._directory = run_directory.absolute() / "w"
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._preparation = preparation
        self._logs = logs
        self._clock = clock
        self._entropy = entropy
        self._place = place
        self._lifeline_fd = lifeline_fd
        self._server = os.fstat(lifeline_fd).st_ino
        self._worker_main = worker_main
        self._python = python
        self._max_body_bytes = max_body_bytes
        self._shadow_cpu_percent = shadow_cpu_percent
        self._cpu_groups = cpu_groups
        self._ceilings = Ceilings()
        self._usage = Usage()
        self._lock = threading.RLock()
        self._instances: dict[str, Instance] = {}
        self._closed = False
        self._ended: dict[str, float] = {}  # marker of an ended instance -> until when to look for latecomers
        self._groups_left: set[str] = set()
        self._hunt_at_s = 0.0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._adopt()
        self._watcher = threading.Thread(target=self._watch, name="runtime watcher", daemon=True)
        self._watcher.start()

    # --- the port --------------------------------------------------------------------------------------

    def start(self, spec: InstanceSpec) -> None:
        with self._lock:
            if self._closed or spec.instance_id in self._instances:
                return
            facts = Facts(
                instance_id=spec.instance_id,
                name=self._entropy.token(4),
                endpoint_name=spec.endpoint_name,
                variant_name=spec.variant_name,
                vcpus=spec.vcpus,
                memory_bytes=spec.memory_bytes,
                startup_timeout_s=spec.startup_timeout_s,
                shadow=spec.shadow,
                cpu_percent=self._ceiling(spec),
                marker=self._entropy.token(8),
                server=self._server,
            )
            instance = Instance(facts, InstanceStatus.PREPARING, detail="waiting", preparing=True)
            self._instances[spec.instance_id] = instance
        threading.Thread(
            target=self._prepare, args=(instance, spec), name=f"prepare {spec.instance_id}", daemon=True
        ).start()

    def _ceiling(self, spec: InstanceSpec) -> int:
        """Say how much an instance may use: the lower of its own ceiling and the server's for shadows."""
        given = [spec.cpu_percent, self._shadow_cpu_percent if spec.shadow else 0]
        return min((percent for percent in given if percent), default=0)

    def stop(self, instance_id: str, grace_s: float) -> None:
        with self._lock:
            instance = self._instances.get(instance_id)
            if instance is None or instance.stopping:
                return
            instance.stopping = True
            instance.status = InstanceStatus.STOPPED
            instance.reason = instance.detail = "stopping"
            if instance.preparing:
                return  # its thread sees the flag and forgets it
        threading.Thread(
            target=self._end, args=(instance, grace_s), name=f"stop {instance_id}", daemon=True
        ).start()

    def observe(self) -> Sequence[InstanceState]:
        with self._lock:
            instances = list(self._instances.values())
            running = (InstanceStatus.STARTING, InstanceStatus.READY)
            samples = self._usage.sample([i.facts.pid for i in instances if i.status in running])
            states = []
            for instance in instances:
                facts = instance.facts
                sample = samples.get(facts.pid) if instance.status in running else None
                if sample is not None and instance.status is InstanceStatus.READY:
                    _yield_if_busy(instance, sample.cpu_percent)
                states.append(
                    InstanceState(
                        instance_id=facts.instance_id,
                        status=instance.status,
                        reason=instance.reason,
                        address=facts.address if instance.status is InstanceStatus.READY else "",
                        detail=instance.detail,
                        pid=facts.pid or None,
                        images=tuple(facts.images),
                        artifacts=tuple(facts.artifacts),
                        cpu_percent=None if sample is None else sample.cpu_percent,
                        memory_percent=None
                        if sample is None
                        else min(100.0, 100 * sample.memory_bytes / facts.memory_bytes),
                        disk_percent=None if sample is None else self._disk_percent(),
                    )
                )
            return states

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._preparation.close()
        self._wake()
        self._watcher.join()
        self._ceilings.close()
        with self._lock:
            for folder in self._groups_left:
                remove_group(folder)
            for instance in self._instances.values():
                if instance.pidfd is not None and not instance.stopping:
                    os.close(instance.pidfd)
                    instance.pidfd = None
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- preparing and starting ------------------------------------------------------------------------

    def _prepare(self, instance: Instance, spec: InstanceSpec) -> None:
        """Fetch, build, spawn; runs in a thread of its own, waiting in line for fetches and builds only."""
        facts = instance.facts
        failure = ""
        try:
            self._say(instance, f"preparing {facts.instance_id}")
            prepared: list[Prepared] = []
            for container in spec.containers:
                prepared.append(
                    self._preparation.prepare(
                        container,
                        timeout_s=spec.download_timeout_s,
                        progress=lambda phrase: self._progress(instance, phrase),
                        check=lambda: self._check_wanted(instance),
                    )
                )
            now_s = self._clock.now_s()
            facts.images = [
                (container.image, one.environment.resolved, now_s)
                for container, one in zip(spec.containers, prepared, strict=True)
            ]
            facts.artifacts = [(one.digest, *said_of(one.model_dir)) for one in prepared]
            with self._lock:
                self._check_wanted(instance)
                self._spawn(instance, spec, prepared)
        except Cancelled:
            pass
        except PreparationFailed as error:
            failure = error.reason
            if error.log:
                self._say(instance, error.log)
        except OSError as error:
            failure = f"The worker could not be started: {error.strerror or error}"
            failure += f" ({Path(os.fsdecode(error.filename)).name})." if error.filename else "."
        except Exception as error:  # noqa: BLE001 - a thread's end; the instance must not stay Preparing for ever
            _log.exception("preparing %s", facts.instance_id)
            failure = f"Understudy failed to prepare the instance: {type(error).__name__}: {error}"
        if failure:
            self._say(instance, failure)
        with self._lock:
            instance.preparing = False
            if failure and not instance.stopping:
                instance.status = InstanceStatus.FAILED
                instance.reason = failure[:REASON_CHARACTERS]
                instance.detail = ""
                self._logs.finish(facts.endpoint_name, facts.variant_name, facts.log_name)
            if instance.stopping or (self._closed and instance.identity is None):
                self._forget(instance)
        self._wake()

    def _check_wanted(self, instance: Instance) -> None:
        if instance.stopping or self._closed:
            raise Cancelled

    def _progress(self, instance: Instance, phrase: str) -> None:
        self._check_wanted_softly(instance)
        if not phrase.startswith("uv: "):
            instance.detail = phrase
        self._say(instance, phrase)

    def _check_wanted_softly(self, instance: Instance) -> None:
        """Leave a build that others may share running: only the runtime's end cancels it."""
        if self._closed:
            raise Cancelled

    def _spawn(self, instance: Instance, spec: InstanceSpec, prepared: Sequence[Prepared]) -> None:
        facts = instance.facts
        scratch = self._path(facts, "d")
        scratch.mkdir(mode=0o700)
        listener = self._listen(facts)
        try:
            containers = [
                one.spec(facts.vcpus, scratch, {MARKER: facts.marker}, self._place) for one in prepared
            ]
            document: dict[str, Any] = {
                "instance_id": spec.instance_id,
                "title": spec.title,
                "endpoint_name": spec.endpoint_name,
                "variant_name": spec.variant_name,
                "region": self._place.region,
                "account_id": self._place.account_id,
                "listen_fd": listener.fileno(),
                "lifeline_fd": self._lifeline_fd,
                "status_path": str(self._path(facts, "status")),
                "vcpus": spec.vcpus,
                "memory_bytes": spec.memory_bytes,
                "direct": spec.direct,
                "shadow": spec.shadow,
                "limits": {"max_body_bytes": self._max_body_bytes},
                "containers": containers,
            }
            spec_path = self._path(facts, "spec")
            write_private(spec_path, json.dumps(document))
            if len(prepared) == 1:
                python, environment = prepared[0].environment.python, containers[0]["environment"]
            else:
                python = self._python
                environment = clean_environment(self._python, facts.vcpus, scratch) | {MARKER: facts.marker}
            if (spec.shadow or facts.cpu_percent) and self._cpu_groups is not None:
                facts.cpu_group = self._cpu_groups.make(facts.marker, facts.cpu_percent) or ""
            facts.back_seat = spec.patient and not spec.shadow
            self._record(facts)  # before the process: whoever adopts finds it by its marker
            with self._log_file(facts) as log:
                child = subprocess.Popen(
                    [python, "-u", str(self._worker_main), "--spec", str(spec_path), "--title", spec.title],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=scratch,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(listener.fileno(), self._lifeline_fd),
                )
        finally:
            listener.close()
        limit_process(child.pid, spec.memory_bytes)
        lower_priority(child.pid, shadow=spec.shadow)
        if facts.back_seat:
            take_back_seat(child.pid)
        if facts.cpu_group and not join_group(facts.cpu_group, child.pid):
            remove_group(facts.cpu_group)
            facts.cpu_group = ""
        if spec.shadow and spec.patient:
            _set_idle(instance, True)
        identity = identify(child.pid)
        facts.pid = child.pid
        facts.start_ticks = 0 if identity is None else identity.start_ticks
        facts.spawned_monotonic_s = time.monotonic()
        instance.child = child
        instance.pidfd = os.pidfd_open(child.pid)
        instance.status = InstanceStatus.STARTING
        instance.detail = "loading the model"
        self._record(facts)
        self._hold_below_ceiling(facts)

    def _hold_below_ceiling(self, facts: Facts) -> None:
        """Keep a worker that runs below its ceiling, where no control group does."""
        if facts.cpu_percent and not facts.cpu_group:
            self._ceilings.hold(facts.marker, facts.pid, facts.cpu_percent)

    def _listen(self, facts: Facts) -> socket.socket:
        """Bind and listen before the worker lives, so that routers may connect early."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By way of the descriptor the path is short, however deep the data directory lies.
            listener.bind(f"/proc/self/fd/{directory}/{facts.name}.sock")
            listener.listen(1024)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(directory)
        return listener

    # --- watching --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See exits as they happen and status files within a moment, until :meth:`close`."""
        while not self._closed:
            try:
                self._watch_once()
            except Exception:  # noqa: BLE001 - a full disk or the like must not leave the instances unwatched
                _log.exception("watching instances")
                time.sleep(_IDLE_POLL_S)

    def _watch_once(self) -> None:
        """Wait for something to happen, at most a moment, and look."""
        with self._lock:
            if self._closed:
                return
            watched = {
                instance.pidfd: instance
                for instance in self._instances.values()
                if instance.pidfd is not None and not instance.stopping
            }
            loading = any(i.status is InstanceStatus.STARTING or i.facts.back_seat for i in watched.values())
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        for pidfd in watched:
            poller.register(pidfd, select.POLLIN)
        ready = poller.poll(1000 * (_LOADING_POLL_S if loading else _IDLE_POLL_S))
        with self._lock:
            for descriptor, _ in ready:
                if descriptor == self._wake_read:
                    with suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif (instance := watched[descriptor]).pidfd == descriptor and not instance.stopping:
                    self._exited(instance)
            for instance in list(self._instances.values()):
                if instance.status is InstanceStatus.STARTING and instance.pidfd is not None:
                    self._look_at_status(instance)
                if instance.facts.back_seat and instance.pidfd is not None and not instance.stopping:
                    self._give_front_seat(instance)
        self._hunt()

    def _give_front_seat(self, instance: Instance) -> None:
        """End the low priority of a worker that is ready, or has had it long enough to be late by it."""
        facts = instance.facts
        waited_s = time.monotonic() - facts.spawned_monotonic_s
        if (
            instance.status is InstanceStatus.STARTING
            and waited_s < _BACK_SEAT_PART * facts.startup_timeout_s
        ):
            return
        if leave_back_seat(facts.pid, facts.marker):
            facts.back_seat = False
            self._record(facts)

    def _hunt(self) -> None:
        """Kill latecomers of ended instances: what was in the middle of a fork or exec when they ended.

        On a busy machine such a process may show up seconds after nothing more was to be seen of it.
        """
        now_s = time.monotonic()
        with self._lock:
            if not self._ended or now_s < self._hunt_at_s:
                return
            self._hunt_at_s = now_s + _HUNT_EVERY_S
            self._ended = {marker: until_s for marker, until_s in self._ended.items() if until_s > now_s}
            markers = list(self._ended)
            self._groups_left = {folder for folder in self._groups_left if not remove_group(folder)}
        kill_marked(markers)

    def _look_at_status(self, instance: Instance) -> None:
        facts = instance.facts
        status = self._read_status(instance)
        if status is not None:
            instance.detail = str(status.get("detail", "")) or instance.detail
            if status.get("state") == "ready":
                instance.status, instance.detail = InstanceStatus.READY, ""
                _set_idle(instance, False)
                return
            if status.get("state") == "failed":
                self._fail(instance, failure_text(status))
                return
        waited_s = time.monotonic() - facts.spawned_monotonic_s
        if waited_s > facts.startup_timeout_s:
            last = self._last_words(facts)
            self._fail(
                instance,
                f"The container of variant {facts.variant_name} did not pass its health check within "
                f"{facts.startup_timeout_s:g} s (ContainerStartupHealthCheckTimeoutInSeconds)."
                + (f" Its log ends: {last}" if last else ""),
            )

    def _read_status(self, instance: Instance) -> dict[str, Any] | None:
        """Read the status file if it is another one than last time."""
        path = self._path(instance.facts, "status")
        try:
            facts = path.stat()
            if (facts.st_ino, facts.st_mtime_ns) == instance.status_seen:
                return None
            status = json.loads(path.read_text("utf-8", "replace"))
        except FileNotFoundError:
            return None
        except ValueError:
            _log.warning("%s has a status file that is no JSON", instance.facts.instance_id)
            return None
        instance.status_seen = (facts.st_ino, facts.st_mtime_ns)
        return status if isinstance(status, dict) else None

    def _exited(self, instance: Instance) -> None:
        """Say why a worker that nobody stopped is gone."""
        facts = instance.facts
        instance.status_seen = (0, 0)
        status = self._read_status(instance) or {}
        before = instance.status
        self._ceilings.lift(facts.marker)
        # The family first: as long as the leader is not reaped, its id is nobody else's.
        self._kill(instance)
        code = reap(instance)
        if status.get("state") == "failed" and status.get("reason"):
            self._fail(instance, failure_text(status))
            return
        last = self._last_words(facts)
        loading = (
            before is InstanceStatus.STARTING and status.get("state") != "ready"
        )  # adopted ones are STARTING
        what = "ended while it loaded the model" if loading else "ended"
        reason = f"The worker of variant {facts.variant_name} {what}: {exit_text(code, last, facts)}."
        self._fail(instance, reason + (f" Its log ends: {last}" if last else " Its log is empty."))

    def _fail(self, instance: Instance, reason: str) -> None:
        """Mark as failed and make sure that nothing of it runs; its files stay until :meth:`stop`."""
        facts = instance.facts
        self._ceilings.lift(facts.marker)
        self._kill(instance)
        reap(instance)
        if instance.pidfd is not None:
            os.close(instance.pidfd)
            instance.pidfd = None
        instance.status = InstanceStatus.FAILED
        instance.reason = facts.failed = reason[:REASON_CHARACTERS]
        instance.detail = ""
        self._say(instance, reason)
        self._record(facts)
        self._logs.finish(facts.endpoint_name, facts.variant_name, facts.log_name)

    # --- stopping --------------------------------------------------------------------------------------

    def _end(self, instance: Instance, grace_s: float) -> None:
        """SIGTERM, wait, SIGKILL what is left of the family, remove the files."""
        facts = instance.facts
        self._ceilings.lift(facts.marker)  # a stopped process hears no SIGTERM
        if instance.pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(instance.pidfd, signal.SIGTERM)
            poller = select.poll()
            poller.register(instance.pidfd, select.POLLIN)
            poller.poll(max(0.0, grace_s) * 1000)
        self._kill(instance)
        reap(instance)
        with self._lock:
            if instance.pidfd is not None:
                os.close(instance.pidfd)
                instance.pidfd = None
            self._logs.finish(facts.endpoint_name, facts.variant_name, facts.log_name)
            self._forget(instance)

    def _kill(self, instance: Instance) -> None:
        """End every process of an instance: by its group, which knows them all, or by looking around."""
        facts = instance.facts
        if facts.cpu_group and kill_group(facts.cpu_group):
            kill_marked([facts.marker])  # started by somebody who was not in the group yet
            return
        kill_family(instance.identity, facts.marker)
        with self._lock:
            self._ended[facts.marker] = time.monotonic() + _HUNT_S

    def _forget(self, instance: Instance) -> None:
        self._ceilings.lift(instance.facts.marker)
        if instance.facts.cpu_group and not remove_group(instance.facts.cpu_group):
            self._groups_left.add(instance.facts.cpu_group)  # a latecomer is in it
        # The record first: what is left without one is cleared away by whoever adopts.
        self._path(instance.facts, "json").unlink(missing_ok=True)
        for pattern in ("{}.*", ".{}.*"):  # a pipeline's containers have files of their own
            for path in self._directory.glob(pattern.format(instance.facts.name)):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        self._instances.pop(instance.facts.instance_id, None)

    # --- adopting --------------------------------------------------------------------------------------

    def _adopt(self) -> None:
        """Take over what an earlier controller's runtime left."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                facts = Facts(**json.loads(path.read_text("utf-8")))
            except (ValueError, TypeError) as error:
                _log.warning("%s is no record of an instance (%s); removed", path.name, error)
                path.unlink()
                continue
            facts.images = [(image, resolved, at_s) for image, resolved, at_s in facts.images]
            facts.artifacts = [(digest, name, version) for digest, name, version in facts.artifacts]
            if facts.server != self._server:
                self._clear_away(facts)
                continue
            if not facts.pid:  # the controller died between spawning and noting the process
                for pid in marked(facts.marker, str(self._path(facts, "spec"))):
                    identity = identify(pid)
                    if identity is not None and os.getsid(pid) == pid:
                        facts.pid, facts.start_ticks = pid, identity.start_ticks
                        facts.spawned_monotonic_s = time.monotonic()
                        self._record(facts)
            instance = Instance(facts, InstanceStatus.STARTING, detail="adopted")
            if not facts.pid and not facts.failed:
                # Never spawned, or forked and not yet itself.  Without its spec such a latecomer ends, and
                # whoever read the spec before is marked by now.
                self._path(facts, "spec").unlink(missing_ok=True)
                kill_family(None, facts.marker)
                self._ended[facts.marker] = time.monotonic() + _HUNT_S
                self._forget(instance)
                continue
            self._instances[facts.instance_id] = instance
            if facts.failed:
                instance.status, instance.reason, instance.detail = InstanceStatus.FAILED, facts.failed, ""
                continue
            identity = instance.identity
            if identity is not None and is_alive(identity):
                try:
                    instance.pidfd = os.pidfd_open(identity.pid)
                except ProcessLookupError:
                    self._exited(instance)
                    continue
                # The controller may have died before the worker was in its group.
                if facts.cpu_group and not join_group(facts.cpu_group, facts.pid):
                    facts.cpu_group = ""
                self._hold_below_ceiling(facts)
                self._look_at_status(instance)
            else:
                self._exited(instance)
        names = {instance.facts.name for instance in self._instances.values()}
        for path in self._directory.iterdir():
            if path.name.removeprefix(".").partition(".")[0] not in names:  # half-made, never recorded
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _clear_away(self, facts: Facts) -> None:
        """Forget an instance of an earlier life of the server: it ended with it, and if not, it ends now.

        A worker that was stopped or stuck when the server died has not seen the end of its lifeline yet.
        """
        instance = Instance(facts, InstanceStatus.STOPPED)
        self._kill(instance)
        self._logs.finish(facts.endpoint_name, facts.variant_name, facts.log_name)
        self._forget(instance)

    # --- files -----------------------------------------------------------------------------------------

    def _path(self, facts: Facts, suffix: str) -> Path:
        return self._directory / f"{facts.name}.{suffix}"

    def _record(self, facts: Facts) -> None:
        write_private(self._path(facts, "json"), json.dumps(asdict(facts)))

    def _log_file(self, facts: Facts) -> Any:
        path = self._logs.path(facts.endpoint_name, facts.variant_name, facts.log_name)
        return path.open("ab", buffering=0)

    def _say(self, instance: Instance, text: str) -> None:
        """Add the runtime's own lines to the instance's log."""
        try:
            with self._log_file(instance.facts) as log:
                log.write("".join(f"understudy: {line}\n" for line in text.splitlines()).encode())
        except OSError as error:  # a full disk is no reason to lose sight of the instance
            _log.warning("log of %s: %s", instance.facts.instance_id, error)

    def _last_words(self, facts: Facts) -> str:
        """Return the end of the worker's own output in one line."""
        path = self._logs.path(facts.endpoint_name, facts.variant_name, facts.log_name)
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        own = [line.strip() for line in lines if line.strip() and not line.startswith("understudy: ")]
        return " | ".join(own[-4:])[-600:]

    def _disk_percent(self) -> float:
        usage = shutil.disk_usage(self._directory)
        return 100 * usage.used / usage.total

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")


def _yield_if_busy(instance: Instance, cpu_percent: float | None) -> None:
    """Have a shadow that uses much run only while nobody else wants the processor, and for a while after.

    One that uses little is better off with its weight: on a busy machine there may be no idle moment.
    """
    if cpu_percent is None:
        return
    now_s = time.monotonic()
    if cpu_percent >= _BUSY_PERCENT:
        instance.busy_at_s = now_s
        _set_idle(instance, True)
    elif cpu_percent < _BUSY_PERCENT / 2 and now_s - instance.busy_at_s >= _CALM_S:
        _set_idle(instance, False)


def _set_idle(instance: Instance, idle: bool) -> None:
    facts = instance.facts
    if facts.shadow and facts.cpu_group and instance.idle is not idle:
        instance.idle = idle
        set_idle(facts.cpu_group, idle)


def failure_text(status: dict[str, Any]) -> str:
    """Make one text of what a worker says of its failure: what happened, then where (file and line)."""
    reason = str(status.get("reason", "")) or "The worker failed to load its model."
    detail = str(status.get("detail", ""))
    return f"{reason.rstrip('.')}. {detail}" if detail and detail not in reason else reason
